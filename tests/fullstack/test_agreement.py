"""The simulator's heap and the whole stack say the same of the same run; and the table that holds them together."""

from __future__ import annotations

import functools
import itertools
import math
from pathlib import Path

import pytest
import trio

from simulations.sim.network import HANDSHAKE_TRIPS
from tests.fullstack.agreement import BOUNDS, Line, averaged, compared, measure, tables
from tests.fullstack.daemons import daemons, repeatable
from tests.fullstack.figures import SPREAD_S, Run, changes
from tests.fullstack.virtualnet import VirtualNet

#: Small enough for a full mesh, where a change takes one way exactly and no graph is luckier than another; and so few
#: jobs that hardly any meets another at its worker, which would be a matter of dice.
SMALL = Run(
    nodes=8, one_way_s=0.03, stagger_s=0.5, warm_s=10.0, time_s=40.0, change_s=4.0, jobs_per_s=1.0, output_tokens=20
)
SEEDS = (1, 2)


def test_a_line_is_judged_by_its_bound() -> None:
    assert Line("x", 1.0, 0.9, 0.15).holds
    assert not Line("x", 1.0, 0.8, 0.15).holds
    assert Line("x", 0.8, 1.0, None).holds
    assert Line("x", 0.0, 0.0, 0.1).apart == 0.0
    assert Line("x", 0.0, 0.1, 0.1).apart == 1.0


def test_a_verdict_that_its_errors_could_turn_is_in_doubt() -> None:
    assert Line("x", 1.0, 0.8, 0.15).sure
    assert Line("x", 1.0, 0.8, 0.15, (0.01, 0.01)).sure
    unsure = Line("x", 1.0, 0.8, 0.15, (0.03, None))
    assert not unsure.sure
    assert str(unsure).endswith("within 15% ✗?")


def test_figures_are_averaged_quantile_by_quantile() -> None:
    one, other = {"a": 1, "q": {"p50": 2.0}, "w": "x", "n": None}, {"a": 2, "q": {"p50": 4.0}, "w": "x", "n": None}
    assert averaged([one, other]) == {"a": 1.5, "q": {"p50": 3.0}, "w": "x", "n": None}


def test_only_what_both_have_is_compared_and_one_miss_is_enough() -> None:
    heap = {"gossip_t50_s": 1.0, "ttft_s": {"p50": 1.0, "p99": 1.0}}
    virtual = {"gossip_t50_s": 1.1, "ttft_s": {"p50": 1.2}, "gossip_t99_s": 1.0}
    assert [(line.name, line.holds) for line in compared(heap, virtual)] == [
        ("gossip_t50_s", True),
        ("ttft_s p50", False),
    ]
    said: list[str] = []
    assert not tables({"heap": heap, "virtual": virtual}, said.append)
    assert any("✗" in line for line in said)
    assert not any("Others" in line for line in said)
    assert tables({"real": {"busy_with_others": 1.5}}, said.append)
    assert "Others kept 1.50" in said[-1]
    assert tables({"heap": heap, "real": virtual}, said.append), "these two are not held against each other"


def test_a_figure_of_several_runs_is_as_sure_as_they_are_alike() -> None:
    one = {"gossip_t50_s": 1.0, "ttft_s": {"p50": 1.0}, "errors": {"gossip_t50_s": 0.1, "ttft_s p50": None}}
    other = {"gossip_t50_s": 3.0, "ttft_s": {"p50": 1.0}, "errors": {"gossip_t50_s": 0.1, "ttft_s p50": None}}
    apart, alike = averaged([one, other])["errors"], averaged([one, one])["errors"]
    assert apart["gossip_t50_s"] == pytest.approx(1.0)
    assert alike["gossip_t50_s"] == pytest.approx(0.1 / math.sqrt(2))
    assert apart["ttft_s p50"] == 0.0
    assert apart["ttft_s p99"] is None
    assert averaged([one])["errors"]["gossip_t50_s"] == 0.1
    assert "±10.0%" in str(compared(one, one)[0])


def test_authors_take_turns_and_each_change_has_time_to_spread() -> None:
    run = Run(nodes=8, time_s=40.0, change_s=1.0)
    found = changes(run)
    assert {change.author for change in found} == set(range(8))
    assert all(SPREAD_S <= change.until - change.at < 10.0 for change in found)
    assert len({change.author for change in changes(Run(nodes=14, time_s=60.0, change_s=1.0))}) == 14
    for author in range(8):
        own = [change for change in found if change.author == author]
        assert all(early.until < late.at for early, late in itertools.pairwise(own))


@pytest.mark.slow
def test_heap_and_whole_stack_agree() -> None:
    heap, virtual = measure("heap", SMALL, SEEDS), measure("virtual", SMALL, SEEDS)
    assert virtual["faults"] == virtual["jobs_failed"] == heap["jobs_failed"] == 0
    assert heap["jobs_completed"] == virtual["jobs_completed"] > 30
    lines = compared(heap, virtual)
    assert {line.name for line in lines if line.bound} == set(BOUNDS)
    assert [str(line) for line in lines if not line.holds] == []


@pytest.mark.slow
def test_a_dial_takes_as_many_round_trips_as_the_simulator_says(tmp_path: Path) -> None:
    async def dialled() -> float:
        net = VirtualNet(0.05)
        async with daemons(1, tmp_path, net=net) as both:
            second = await both.add()
            began = trio.current_time()
            with trio.fail_after(30):
                while not second.daemon.swarm.links():  # noqa: ASYNC110
                    await trio.sleep(0.001)
            return trio.current_time() - began

    assert math.isclose(repeatable(functools.partial(dialled)) / 0.1, HANDSHAKE_TRIPS, abs_tol=0.1)
