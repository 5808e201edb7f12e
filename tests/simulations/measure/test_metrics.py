"""Plain numbers from what was seen: quantiles, fairness, curves with those that got nothing, what served well is."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.measure.metrics import (
    COLUMNS,
    POINTS,
    _heat,
    _jobs,
    _series,
    _spreading,
    _views,
    cdf,
    jain,
    quantiles,
    rounded,
    ttfts,
)
from simulations.run import Run, run
from simulations.scenario import Churn, Workload
from simulations.sim.job_log import JobNote
from simulations.sim.jobs import STAGES
from tests.simulations.small_networks import busy, scenario, world

some = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=60)


def note(number: int, asked: float, first: float | None, ended: float | None, end: str, **more: Any) -> JobNote:
    return JobNote(number, asked, 0, "m", True, committed_at=first, ended_at=ended, end=end, **more)


def counted(notes: list[JobNote], window: tuple[float, float] = (0.0, 10.0), **workload: Any) -> dict[str, Any]:
    """The figures of these jobs, as of a run that ended at 20 s."""
    made = Run(scenario(2, workload=Workload(kind="none", **workload)), 1)
    made.loop.now = 20.0
    job_log = made.job_log
    job_log.window = window
    job_log.measured = notes
    job_log.submitted = len(notes)
    return _jobs(made)


# --- numbers -------------------------------------------------------------------------------------------------------


QUANTILES = ("p50", "p90", "p95", "p99", "max")


def test_results_keep_six_digits() -> None:
    assert rounded(1.23456789) == 1.23457
    assert rounded(123456789.0) == 123457000.0
    assert rounded(0.0) == 0.0


def test_quantiles_of_a_hundred() -> None:
    found = quantiles(float(value) for value in range(101))
    assert found == {"n": 101, "mean": 50.0, "p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "max": 100.0}
    assert quantiles([]) is None
    assert quantiles([3.0]) == {"n": 1, **dict.fromkeys(("mean", *QUANTILES), 3.0)}


def test_what_is_infinite_counts_for_the_quantiles() -> None:
    found = quantiles([1.0, 2.0, 3.0, 4.0], infinite=1)
    never = dict.fromkeys(QUANTILES, math.inf)
    assert found == {"n": 4, "mean": 2.5} | never | {"p50": 3.0}
    assert quantiles([1.0, 2.0], infinite=2) == {"n": 2, "mean": 1.5} | never
    hundred = quantiles([float(value) for value in range(1000)], infinite=1)
    assert hundred is not None
    assert (hundred["p50"], hundred["p99"], hundred["max"]) == (500.0, 990.0, math.inf)
    assert quantiles([], infinite=3) == {"n": 0, "mean": math.inf} | never


def test_to_drop_jobs_makes_no_wait_shorter() -> None:
    served = [note(number, 0.0, 1.0, 2.0, "completed", tokens=11) for number in range(95)]
    late = [note(number, 0.0, 9.0, 10.0, "completed", tokens=11) for number in range(95, 100)]
    dropped = [note(number, 0.0, None, 1.0, "no_capacity", tokens=11) for number in range(95, 100)]
    assert counted(served + late)["ttft_s"]["p99"] == 9.0
    found = counted(served + dropped)
    assert (found["ttft_s"]["n"], found["ttft_s"]["mean"], found["ttft_s"]["p50"]) == (95, 1.0, 1.0)
    assert found["ttft_s"]["p99"] == math.inf


@given(some)
def test_quantiles_are_in_order(values: list[float]) -> None:
    found = quantiles(values)
    assert found is not None
    ordered = [found[name] for name in QUANTILES]
    assert ordered == sorted(ordered)
    assert found["max"] == rounded(max(values))
    assert found["n"] == len(values)


@given(some)
def test_fairness_lies_between_one_for_all_and_all_for_one(values: list[float]) -> None:
    assert 1 / len(values) - 1e-9 <= jain(values) <= 1 + 1e-9
    assert jain([2.5 * value for value in values]) == pytest.approx(jain(values))


def test_fairness_at_its_ends() -> None:
    assert jain([4.0, 4.0, 4.0]) == pytest.approx(1.0)
    assert jain([9.0, 0.0, 0.0]) == pytest.approx(1 / 3)
    assert jain([0.0, 0.0]) == jain([]) == 1.0


@given(some, st.integers(0, 40))
def test_who_got_nothing_lowers_the_curve(values: list[float], unserved: int) -> None:
    curve = cdf(values, len(values) + unserved)
    assert curve[-1][1] == pytest.approx(len(values) / (len(values) + unserved), rel=1e-5)
    assert curve[-1][0] == rounded(max(values))
    assert len(curve) <= POINTS
    assert [x for x, _ in curve] == sorted(x for x, _ in curve)
    assert [y for _, y in curve] == sorted(y for _, y in curve)
    for x, share in curve:  # the share of those that are not above x, exactly
        below = sum(rounded(value) <= x for value in values)
        assert share * (len(values) + unserved) <= below + 1e-3


def test_a_curve_of_nothing_is_none() -> None:
    assert cdf([]) == []
    assert cdf([], 12) == []


# --- jobs ----------------------------------------------------------------------------------------------------------


def test_served_well_is_a_first_token_in_time_and_a_pace_that_holds() -> None:
    notes = [
        note(1, 0.0, 1.0, 2.0, "completed", tokens=11),  # 1 s, then 0.1 s a token: well
        note(2, 0.0, 2.5, 3.0, "completed", tokens=11),  # too late
        note(3, 0.0, 1.0, 2.5, "completed", tokens=11),  # too slow
        note(4, 0.0, 1.0, 1.5, "peer_failed", tokens=11),  # broke off
        note(5, 0.0, None, 4.0, "queue_full", tokens=11),
        note(6, 0.0, None, None, "", tokens=11),  # still open
        note(7, 0.0, 2.0, 2.0, "completed", tokens=1),  # one token, at the last moment
    ]
    found = counted(notes, slo_ttft_s=2.0, slo_itl_s=0.1)
    assert found["goodput_per_s"] == pytest.approx(2 / 10)
    assert found["within_slo"] == pytest.approx(2 / 7, rel=1e-5)
    assert found["success_rate"] == pytest.approx(4 / 7, rel=1e-5)
    assert found["jobs_unserved"] == 2
    assert found["jobs_measured"] == 7
    assert found["offered_per_s"] == pytest.approx(0.7)
    assert found["ttft_s"]["n"] == 5
    assert found["e2e_s"]["n"] == 4
    assert found["itl_s"]["n"] == 3
    assert found["itl_s"]["max"] == pytest.approx(0.15)


def test_the_pace_is_the_time_between_tokens_after_the_first_of_whole_answers() -> None:
    notes = [
        note(1, 0.5, 1.0, 2.0, "completed", tokens=11),  # 1.0 s for ten tokens after the first
        note(2, 0.0, 3.0, 5.0, "completed", tokens=6),  # 2.0 s for five
        note(3, 0.0, 1.0, 1.7, "completed", tokens=2),  # 0.7 s for one
        note(4, 0.0, 1.0, 1.0, "completed", tokens=1),  # there is nothing between
        note(5, 0.0, 1.0, 2.0, "completed", tokens=0),
        note(6, 0.0, 1.0, 21.0, "peer_failed", tokens=11),  # broke off
        note(7, 0.0, 1.0, None, "", tokens=11),  # still open
    ]
    assert counted(notes)["itl_s"] == {
        "n": 3,
        "mean": 0.4,
        "p50": 0.4,
        "p90": 0.64,
        "p95": 0.67,
        "p99": 0.694,
        "max": 0.7,
    }


def test_utilisation_is_the_share_of_all_engine_seconds_that_were_busy() -> None:
    """Two engines for 20 s, of which one computed for 9 s and the other for 6 s."""
    made = Run(scenario(2, workload=Workload(kind="none")), 1)
    made.loop.now = 20.0
    made.job_log.measured = [note(1, 0.0, 1.0, 2.0, "completed", tokens=11)]
    made.watch.busy_s = lambda: 9.0 + 6.0  # type: ignore[method-assign]
    assert _jobs(made)["utilisation"] == pytest.approx(15 / 40)


def test_views_are_told_where_they_were_looked_at() -> None:
    made = Run(scenario(2, workload=Workload(kind="none")), 1)
    assert _views(made) == {}
    made.watch.completeness = [0.5, 1.0]
    made.watch.found_s, made.watch.found = [0.1, 0.2, 0.3, 0.4], 3
    found = _views(made)
    assert set(found) == {"view_completeness", "dht_lookups", "dht_found_share", "dht_s"}
    assert found["view_completeness"]["mean"] == 0.75
    assert (found["dht_lookups"], found["dht_found_share"]) == (4, 0.75)


def test_what_comes_after_the_end_dilutes_nothing() -> None:
    made = Run(busy(3, 3.0, 20.0), 1)
    made.run()
    found = _jobs(made)
    made.loop.now += 600.0  # as if a last long answer had taken so long
    again = _jobs(made)
    assert found["utilisation"] > 0
    assert again == found


def test_the_pace_of_what_comes_whole_is_not_looked_at() -> None:
    whole = [note(1, 0.0, 1.0, 9.0, "completed", tokens=2)]
    assert counted(whole, streamed=1.0)["within_slo"] == 0.0
    assert counted(whole, streamed=0.0)["within_slo"] == 1.0


def test_several_attempts_and_executions_are_counted() -> None:
    notes = [
        note(1, 0.0, 1.0, 2.0, "completed", attempts=1, executions=1),
        note(2, 0.0, 1.0, 2.0, "completed", attempts=3, executions=2),
        note(3, 0.0, None, 2.0, "no_capacity", attempts=2, executions=0),
    ]
    found = counted(notes)
    assert (found["attempts_per_job"], found["cascades"], found["duplicates"]) == (2.0, 2, 1)
    assert found["jobs_duplicated_share"] == pytest.approx(1 / 3, rel=1e-5)


def test_without_jobs_there_are_no_shares_of_them() -> None:
    found = counted([])
    assert "success_rate" not in found
    assert found["jobs_submitted"] == 0


def test_a_wait_is_from_the_asking_to_the_first_piece() -> None:
    assert ttfts([note(1, 3.0, 4.5, 9.0, "completed"), note(2, 3.0, None, 9.0, "x")]) == [1.5]


# --- spreading -----------------------------------------------------------------------------------------------------


def spread(*each: tuple[int, list[float], float]) -> dict[str, Any]:
    followed = [
        SimpleNamespace(nodes=nodes, arrivals=times, missing=[None] * (nodes - len(times)), born=born)
        for nodes, times, born in each
    ]
    fake: Any = SimpleNamespace(watch=SimpleNamespace(tracked=followed), loop=SimpleNamespace(now=100.0))
    return _spreading(fake)


def test_coverage_is_when_so_many_have_it() -> None:
    times = [0.1 * number for number in range(1, 101)]
    found = spread((100, list(reversed(times)), 10.0))
    assert found["coverage_t50_s"] == pytest.approx(5.0)
    assert found["coverage_t99_s"] == pytest.approx(9.9)
    assert found["coverage_t100_s"] == pytest.approx(10.0)
    assert found["coverage_share"] == 1.0


def test_what_never_came_is_not_left_out() -> None:
    found = spread((10, [1.0] * 9, 10.0), (10, [1.0] * 9, 20.0), (10, [1.0] * 10, 30.0))
    assert found["coverage_t99_s"] == math.inf  # most of them never had all
    assert found["coverage_t99_s_worst"] == math.inf
    assert found["coverage_t50_s"] == 1.0
    assert found["coverage_share"] == pytest.approx(28 / 30, rel=1e-5)
    recent = spread((10, [1.0] * 9, 95.0), (10, [2.0] * 10, 30.0))
    assert recent["coverage_t99_s"] == 2.0  # the other is on its way yet
    assert spread() == spread((0, [], 10.0)) == {}


# --- pictures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, COLUMNS, COLUMNS + 1, 1000])
def test_long_series_are_thinned_to_means(samples: int) -> None:
    made = Run(scenario(2), 1)
    series = made.watch.series
    for name in series:
        series[name] = [float(number) for number in range(1, samples + 1)]
    made.watch.heat = [[1.0, 0.0]] * samples
    made.job_log.submitted = 1
    made.watch.heat_rows = made.peers[:2]
    thin = _series(made)
    step = math.ceil(samples / COLUMNS)
    assert len(thin["t"]) == math.ceil(samples / step) <= COLUMNS
    assert thin["t"][0] == step
    assert thin["alive"][0] == pytest.approx((step + 1) / 2)
    whole = sum(mean * len(series["t"][at * step : (at + 1) * step]) for at, mean in enumerate(thin["alive"]))
    assert whole == pytest.approx(sum(series["alive"]), rel=1e-4)
    heat = _heat(made)
    assert [len(row) for row in heat["values"]] == [len(thin["t"])] * 2 == [len(heat["t"])] * 2
    assert heat["values"][0] == [1.0] * len(thin["t"])


def test_both_sides_of_a_partition_are_drawn() -> None:
    made = Run(scenario(2, workload=Workload(kind="none")), 1)
    for name in made.watch.series:
        made.watch.series[name] = [1.0, 2.0]
    made.watch.sides = [[0.25, 0.5], [0.75, 1.0]]
    assert _series(made)["sides"] == [[0.25, 0.5], [0.75, 1.0]]


# --- a run ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_figures_of_a_run_fit_together() -> None:
    outcome = run(busy(8, 4.0, 25.0), 1)
    found = outcome.metrics
    assert outcome.breach is None
    assert not outcome.partial
    assert found["jobs_submitted"] == found["jobs_completed"] + found["jobs_failed"] + found["jobs_open"]
    assert found["ttft_s"]["n"] + found["jobs_unserved"] == found["jobs_measured"] <= found["jobs_submitted"]
    assert found["offered_per_s"] == pytest.approx(4.0, rel=0.35)
    assert 0 < found["goodput_per_s"] <= found["offered_per_s"]
    assert found["ttft_s"]["p50"] < found["e2e_s"]["p50"]
    assert outcome.curves["ttft_cdf"][-1][1] == 1.0
    assert len(outcome.series["t"]) == 25
    assert sum(outcome.series["completed_per_s"]) <= found["jobs_completed"]


@pytest.mark.slow
def test_the_stages_of_every_wait_add_up_to_it() -> None:
    churn = Churn(model="exponential", mean_session_s=60.0, mean_off_s=5.0)
    jobs = msgspec.structs.replace(busy(8, 12.0, 25.0).workload, streamed=0.5)
    made = Run(msgspec.structs.replace(busy(8, 12.0, 25.0), churn=churn, workload=jobs), 1)
    found = made.run().metrics
    served = [note for note in made.job_log.measured if note.committed_at is not None]
    assert len(served) > 100
    assert sum(note.attempts > 1 for note in served) > 3
    for note in served:
        assert sum(note.stages) == pytest.approx(note.committed_at - note.asked_at, abs=1e-9)
        assert min(note.stages) >= 0.0
    assert sum(found[f"ttft_{stage}_s"]["mean"] for stage in STAGES) == pytest.approx(found["ttft_s"]["mean"], rel=1e-4)
    slowest = sorted(ttfts(served))[-math.ceil(len(served) / 20) :]
    tail = sum(found[f"ttft_{stage}_slowest_s"] for stage in STAGES)
    assert tail == pytest.approx(sum(slowest) / len(slowest), rel=1e-4)
    assert tail > found["ttft_s"]["mean"]


def test_what_a_world_says_before_anything_happened() -> None:
    made = world(scenario(2), until=0.0)
    assert _jobs(made)["jobs_submitted"] == 0
    assert _spreading(made) == {}
