"""The fuzzer: what a seed means, that failures are written down, and that what failed once is made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from protocol.settings import ConnectionSettings
from simulations.attackers import KINDS as ATTACKERS
from simulations.experiment import fuzz
from simulations.experiment.run_pool import Made, Planned
from simulations.run import Run
from simulations.sim.topology import latencies


class Silent:
    """An audience that says nothing."""

    def begins(self, index: int, planned: Planned) -> None:
        """A run begins."""

    def goes(self, index: int, word: Any) -> None:
        """A run is so far."""

    def ends(self, index: int, made: Made | None) -> None:
        """A run is over."""

    def stopping(self) -> None:
        """Everybody was asked to stop."""


def test_a_seed_means_one_scenario() -> None:
    assert fuzz.scenario_of(1) == fuzz.scenario_of(1) != fuzz.scenario_of(2)


def test_seeds_reach_everything_and_always_end_in_quiet() -> None:
    scenarios = [fuzz.scenario_of(seed) for seed in range(200)]
    assert {attack.kind for each in scenarios for attack in each.attacks} == set(ATTACKERS)
    assert {each.topology.latency for each in scenarios} == {"planetlab490", "seattle99", "regions8", "uniform"}
    assert {each.churn.model for each in scenarios} == {"none", "exponential", "weibull", "bimodal"}
    assert {each.topology.settled for each in scenarios} == {True, False}
    for each in scenarios:
        assert each.chaos
        assert each.topology.nodes == 30
        assert each.duration_s == 300.0
        assert each.quiet_s >= each.measure.liveness_s > 0
        assert sum(attack.share for attack in each.attacks) <= fuzz.BAD_SHARE
        assert all(attack.until_s <= each.duration_s - each.quiet_s for attack in each.attacks)


@pytest.mark.parametrize("duration_s", [180.0, 200.0, 600.0])
def test_however_short_a_run_is_it_has_to_heal_and_nothing_begins_while_it_does(duration_s: float) -> None:
    for each in (fuzz.scenario_of(seed, 30, duration_s) for seed in range(100)):
        quiet_at = each.duration_s - each.quiet_s
        assert each.quiet_s >= each.measure.liveness_s > 0
        assert all(attack.from_s < attack.until_s == quiet_at for attack in each.attacks)
        assert each.churn.crowd_at_s < quiet_at
    with pytest.raises(ValueError, match=r"179 s are too few: 125 s are for healing \(I9\), so write 180s or more"):
        fuzz.scenario_of(1, 30, 179.0)


def test_nobody_is_out_of_reach_of_all_bootstrap_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "HANDSHAKE_TRIPS", 7.0)  # with fewer, all of these seeds reach the first bootstrap node
    monkeypatch.setattr(fuzz, "PROOF_TRIPS", 4.5)
    more = {seed: fuzz.scenario_of(seed).topology for seed in (90, 106, 143)}
    assert {seed: topology.seeds for seed, topology in more.items()} == {90: 9, 106: 2, 143: 20}
    one_way_s = latencies(more[106], 106).one_way_s
    trips = [7.0 * (one_way_s(22, seed) + one_way_s(seed, 22)) for seed in range(2)]
    assert trips[0] > ConnectionSettings().dial_s > trips[1]


def test_the_command_repeats_a_seed() -> None:
    assert " ".join(fuzz.command(7, 30, 300.0)) == "p2pnode sim fuzz --from-seed 7 --seeds 1 --nodes 30 --time 5m"
    assert fuzz.command(7, 30, 45.0)[-1] == "45s"


def broken(planned: Planned) -> Made:
    breach = {"invariant": "I5", "at_s": 1.0, "what": 'a "made up" one', "repeat": fuzz.repeat(planned)}
    return Made({"seed": planned.seed, "breach": breach, "error": None}, {"cpu_s": 1.5})


def test_failures_are_written_down_once_and_made_first(tmp_path: Path) -> None:
    path = tmp_path / "regressions.toml"
    assert fuzz.regressions(path) == []
    plan = [*fuzz.planned([5], 30), *fuzz.planned([4, 5], 6, 180.0)]  # the same seed means two runs
    good = Made({"seed": 4, "breach": None, "error": None}, {"cpu_s": 1.0})
    fuzzed = fuzz.Fuzzed([good, broken(plan[2])])
    assert fuzzed.cpu_s == 2.5
    assert fuzz.remember(fuzzed, plan, path) == 1
    assert fuzz.remember(fuzzed, plan, path) == 0
    again = fuzz.regressions(path)
    assert [each.seed for each in again] == [5]
    assert again[0].scenario == plan[2].scenario
    first = fuzz.failed_first(plan, path)
    assert [(each.seed, fuzz.len_of(each)) for each in first] == [(5, 6), (5, 30), (4, 6)]


def test_the_regressions_that_are_kept_can_be_read() -> None:
    assert all(each.scenario.topology.nodes <= 100 for each in fuzz.regressions())


@pytest.mark.slow
def test_a_breach_comes_with_the_command_that_repeats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Run.prepare

    def prepare(world: Run) -> None:
        real(world)
        world.loop.at(20.0, lambda: setattr(world.job_log, "submitted", -1))

    monkeypatch.setattr(Run, "prepare", prepare)
    fuzzed = fuzz.run(fuzz.planned([1], 6, 180.0), 0, Silent())
    (failure,) = fuzzed.failures
    assert failure["breach"]["invariant"] == "I1"
    assert failure["breach"]["repeat"] == "p2pnode sim fuzz --from-seed 1 --seeds 1 --nodes 6 --time 3m"


@pytest.mark.slow
def test_a_few_small_ones_break_nothing() -> None:
    fuzzed = fuzz.run(fuzz.planned(range(3), 8, 180.0), 0, Silent())
    assert fuzzed.failures == []
    assert len(fuzzed.made) == 3
