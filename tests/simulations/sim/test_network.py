"""The way between two nodes: streams keep their order, cuts heal or kill, a slow sender delays nobody else."""

from __future__ import annotations

from typing import Any

import pytest

from simulations.run import Run
from simulations.scenario import Measure, Scenario, Topology, Workload

#: One-way seconds between any two.
WAY = 0.1


@pytest.fixture
def world() -> Run:
    topology = Topology(nodes=4, seeds=1, latency="uniform", latency_s=WAY, jitter=0.0, settled=True, join_s=0.0)
    made = Run(
        Scenario(
            name="net", topology=topology, workload=Workload(kind="none"), measure=Measure(invariants_every_s=0.0)
        ),
        1,
    )
    made.prepare()
    made.loop.run(10.0)
    return made


def link_of(world: Run, a: int, b: int) -> Any:
    """A link between two, made if there is none."""
    one, other = world.peers[a], world.peers[b]
    if other.peer_id not in one.links:
        one.perform_dial(other.peer_id, (other.addr,))
        world.loop.run(world.loop.now + 5.0)
    return one.links[other.peer_id]


def test_a_message_takes_its_way_and_its_bytes(world: Run) -> None:
    link, seen = link_of(world, 0, 1), []
    a, b = world.peers[0], world.peers[1]
    a.up_bytes_s = b.down_bytes_s = 1e6  # what else goes on is little against a million bytes
    start = max(world.loop.now, a.cpu_until, a.up_until)
    world.network.carry(link, a, 10**6, lambda: seen.append(world.loop.now - start))
    world.loop.run(start + 5.0)
    assert seen == [pytest.approx(1.0 + WAY + 1.0, abs=0.3)]


def test_a_stream_keeps_its_order(world: Run) -> None:
    link, seen = link_of(world, 0, 1), []
    world.network.loss = 0.2
    for number in range(50):
        world.network.carry(link, world.peers[0], 10, seen.append, number)
    world.loop.run(world.loop.now + 60.0)
    assert seen == list(range(50))


def test_a_slow_sender_delays_nobody_else(world: Run) -> None:
    slow, well, seen = link_of(world, 0, 2), link_of(world, 1, 2), []
    world.peers[0].cpu_until = world.loop.now + 100.0
    world.network.carry(slow, world.peers[0], 10, seen.append, "slow")
    world.network.carry(well, world.peers[1], 10, seen.append, "well")
    world.loop.run(world.loop.now + 2.0)
    assert seen == ["well"]


def test_what_a_cut_holds_comes_when_it_ends_in_time(world: Run) -> None:
    link, seen = link_of(world, 0, 1), []
    world.network.cut = lambda a, b: {a.index, b.index} == {0, 1}
    world.network.carry(link, world.peers[0], 10, seen.append, "held")
    world.loop.run(world.loop.now + 5.0)
    assert seen == []
    world.network.cut = None
    world.network.reconsider()
    world.loop.run(world.loop.now + 1.0)
    assert seen == ["held"]
    assert link.up


def test_a_cut_that_lasts_kills_the_link(world: Run) -> None:
    link = link_of(world, 0, 1)
    world.network.cut = lambda a, b: {a.index, b.index} == {0, 1}
    world.network.reconsider()
    world.loop.run(world.loop.now + world.peers[0].settings.link.dead_s + 0.1)
    assert not link.up
    assert world.peers[1].peer_id not in world.peers[0].links


def test_a_new_life_hears_nothing_of_what_was_sent_to_the_last(world: Run) -> None:
    link, seen = link_of(world, 0, 1), []
    world.network.carry(link, world.peers[0], 10, seen.append, "old")
    world.peers[1].stop(silently=True)
    world.start(world.peers[1])
    world.loop.run(world.loop.now + 3.0)
    assert seen == []


def test_a_new_life_replaces_the_links_of_the_last(world: Run) -> None:
    old = link_of(world, 0, 1)
    world.peers[1].stop(silently=True)
    assert world.peers[0].links[world.peers[1].peer_id] is old
    world.start(world.peers[1])
    world.peers[1].perform_dial(world.peers[0].peer_id, (world.peers[0].addr,))
    world.loop.run(world.loop.now + 3.0)
    new = world.peers[0].links[world.peers[1].peer_id]
    assert new is not old
    assert new.up
    assert not old.up
    world.loop.run(world.loop.now + 20.0)
    assert world.peers[1].peer_id in world.peers[0].node.overlay.linked


def test_only_what_is_not_a_job_vanishes(world: Run) -> None:
    link, seen = link_of(world, 0, 1), []
    world.network.drop = 1.0
    world.network.carry(link, world.peers[0], 10, seen.append, "a frame of a job")
    counts = world.peers[1].node.gossip.counts
    world.loop.run(world.loop.now + 1.0)  # what was under way arrives
    before = counts.records_in
    world.loop.run(world.loop.now + 20.0)
    assert seen == ["a frame of a job"]
    assert counts.records_in == before


@pytest.mark.parametrize(("silently", "seconds"), [(False, 0.3), (True, 15.1)])
def test_nobody_there_is_a_refusal_nobody_answering_a_timeout(world: Run, silently: bool, seconds: float) -> None:
    source, target, seen = world.peers[0], world.peers[3], []
    target.stop(silently=silently)
    start = world.loop.now
    world.network.dial(source, target.peer_id, (target.addr,), lambda link, why: seen.append(world.loop.now - start))
    world.loop.run(start + 20.0)
    assert seen[0] == pytest.approx(seconds, abs=0.15)
