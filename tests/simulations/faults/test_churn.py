"""Nodes that come and go: how often, how, and that all are there in the quiet phase."""

from __future__ import annotations

from typing import Any

import pytest

from simulations.run import Run
from simulations.scenario import Churn, Measure, Scenario, Topology, Workload


def scenario(nodes: int = 6, **churn: Any) -> Scenario:
    return Scenario(
        name="churned",
        duration_s=60.0,
        warmup_s=1.0,
        quiet_s=20.0,
        topology=Topology(nodes=nodes, seeds=2, latency="uniform", settled=True, join_s=0.0),
        workload=Workload(kind="none"),
        measure=Measure(invariants_every_s=0.0),
        churn=Churn(**churn),
    )


def world_of(made: Scenario) -> Run:
    world = Run(made, 3)
    world.prepare()
    return world


def departures(world: Run, until: float) -> list[tuple[int, float]]:
    """Who went when: seen from outside, every tenth of a second."""
    gone: list[tuple[int, float]] = []
    up = {peer.index: peer.up for peer in world.peers}
    while world.loop.now < until:
        world.loop.run(world.loop.now + 0.1)
        for peer in world.peers:
            if up.get(peer.index) and not peer.up:
                gone.append((peer.index, world.loop.now))
            up[peer.index] = peer.up
    return gone


@pytest.mark.parametrize("model", ["exponential", "weibull"])
def test_sessions_end_and_nodes_come_back(model: str) -> None:
    world = world_of(scenario(model=model, mean_session_s=10.0, mean_off_s=3.0))
    gone = departures(world, 39.0)
    assert len(gone) >= 6
    assert max(peer.life for peer in world.peers) >= 2


def test_everybody_is_back_in_the_quiet_phase() -> None:
    world = world_of(scenario(model="exponential", mean_session_s=5.0, mean_off_s=500.0))
    world.loop.run(39.0)
    assert sum(peer.up for peer in world.peers) < 6
    world.loop.run(42.0)
    assert all(peer.up for peer in world.peers)
    assert departures(world, 60.0) == []


def test_the_stable_of_a_bimodal_network_stay() -> None:
    world = world_of(scenario(model="bimodal", stable=1.0, mean_session_s=1.0))
    assert departures(world, 30.0) == []
    world = world_of(scenario(model="bimodal", stable=0.0, mean_session_s=1.0))
    assert departures(world, 30.0)


def test_the_seeds_can_be_spared_and_a_time_can_be_set() -> None:
    made = scenario(
        model="exponential", mean_session_s=3.0, mean_off_s=3.0, spare_seeds=True, from_s=10.0, until_s=20.0
    )
    gone = departures(world_of(made), 39.0)
    assert gone
    assert all(index >= 2 and 10.0 <= at <= 20.1 for index, at in gone)


@pytest.mark.parametrize(("amnesia", "kept"), [(0.0, True), (1.0, False)])
def test_amnesia_is_what_a_crash_may_cost(amnesia: float, kept: bool) -> None:
    made = scenario(model="exponential", mean_session_s=4.0, mean_off_s=100.0, crash_share=1.0, amnesia=amnesia)
    world = world_of(made)
    world.loop.run(30.0)
    gone = [peer for peer in world.peers if not peer.up]
    assert gone
    assert all(peer.vanished and bool(peer._kept[0].marks) is kept for peer in gone)


def test_whoever_does_not_crash_says_goodbye() -> None:
    world = world_of(scenario(model="exponential", mean_session_s=8.0, mean_off_s=100.0, crash_share=0.0))
    world.loop.run(30.0)
    gone = [peer for peer in world.peers if not peer.up]
    stayed = next(peer for peer in world.peers if peer.up)
    assert gone
    assert not any(peer.vanished for peer in gone)
    assert {stayed.node.failure_detector.state(peer.peer_id) for peer in gone} <= {"left", None}


def test_newcomers_and_a_crowd_join() -> None:
    world = world_of(scenario(newcomers_per_s=0.2, from_s=5.0))
    world.loop.run(40.0)
    assert len(world.peers) > 8
    assert all(peer.up for peer in world.peers)
    world = world_of(scenario(crowd_factor=2.0, crowd_at_s=10.0, crowd_over_s=4.0))
    world.loop.run(9.0)
    assert len(world.peers) == 6
    world.loop.run(15.0)
    assert len(world.peers) == 18


def test_a_node_more_does_not_change_the_fate_of_the_others() -> None:
    few = dict(departures(world_of(scenario(5, model="exponential", mean_session_s=20.0, mean_off_s=100.0)), 39.0))
    more = dict(departures(world_of(scenario(6, model="exponential", mean_session_s=20.0, mean_off_s=100.0)), 39.0))
    assert few
    assert {index: at for index, at in more.items() if index < 5} == pytest.approx(few)
