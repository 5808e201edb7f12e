"""One simulated machine: its processor, its lives, what its disk remembers."""

from __future__ import annotations

import weakref

import msgspec
import pytest

from protocol.events import DialFailed
from protocol.ids import PeerId
from protocol.membership.connections import NOT_NOW, DialQueue
from protocol.node import NodeSnapshot
from simulations.run import Run
from simulations.scenario import Measure, Scenario, Topology, Workload


@pytest.fixture
def world() -> Run:
    topology = Topology(nodes=3, seeds=1, latency="uniform", settled=True, join_s=0.0, clock_skew_s=0.0)
    made = Run(
        Scenario(
            name="one", topology=topology, workload=Workload(kind="none"), measure=Measure(invariants_every_s=0.0)
        ),
        1,
    )
    made.prepare()
    made.loop.run(10.0)
    return made


def test_what_comes_while_it_is_busy_waits_its_turn(world: Run) -> None:
    peer, seen = world.peers[0], []
    peer.spend(1.0)
    for number in range(3):
        peer.run(lambda number=number: (peer.spend(1.0), seen.append((number, world.loop.now))))
    assert seen == []
    assert peer.backlog == 3
    start = world.loop.now
    world.loop.run(start + 10.0)
    assert [number for number, _ in seen] == [0, 1, 2]
    assert [at - start for _, at in seen] == pytest.approx([1.0, 2.0, 3.0], abs=0.1)


def test_a_crash_forgets_what_waited_and_a_new_life_is_not_busy(world: Run) -> None:
    peer, seen = world.peers[0], []
    peer.spend(100.0)
    peer.run(seen.append, "old")
    peer.stop(silently=False)
    world.start(peer)
    peer.run(seen.append, "new")
    world.loop.run(world.loop.now + 120.0)
    assert seen == ["new"]


def test_what_comes_for_a_process_that_has_ended_does_not_hold_up_the_next_one(world: Run) -> None:
    peer, seen = world.peers[0], []
    peer.spend(100.0)
    peer.stop(silently=True)
    peer.run(seen.append, "between two lives")
    world.start(peer)
    world.loop.run(world.loop.now + 5.0)
    peer.run(seen.append, "new")
    world.loop.run(world.loop.now + 120.0)
    assert seen == ["new"]


def test_every_life_has_a_higher_incarnation_even_if_the_clock_went_back(world: Run) -> None:
    peer = world.peers[0]
    before = peer.inc
    peer.wall_error = -5000.0
    peer.stop(silently=True)
    world.start(peer)
    assert peer.inc == before + 1
    peer.stop(silently=True, forgets=True)
    world.start(peer)
    assert peer.inc < before  # nothing is left to know better by: as the daemon on an empty disk


def test_a_full_disk_is_not_written_to(world: Run) -> None:
    peer = world.peers[0]
    peer.disk_full = 1
    peer.stop(silently=True)
    assert peer._kept == (NodeSnapshot(), 0)
    peer.disk_full = 0
    world.start(peer)
    world.loop.run(world.loop.now + 5.0)
    peer.stop(silently=True)
    kept, inc = peer._kept
    assert inc == peer.inc
    assert kept.marks
    assert isinstance(kept.known, tuple)


def test_of_a_daemon_that_has_ended_only_its_disk_and_its_counts_are_left(world: Run) -> None:
    peer = world.peers[0]
    counts, table = peer.node.gossip.counts, dict(peer.node.snapshot().marks)
    node = weakref.ref(peer.node)
    peer.stop(silently=True)
    assert node() is None  # nothing in it refers to itself: the collector is off while a run goes on
    marks = peer._kept[0].marks
    assert dict(marks.items()) == table
    assert (len(marks), list(marks)) == (len(table), list(table))
    assert [marks[key] for key in marks] == list(table.values())
    assert peer.node.gossip.counts is counts
    assert counts.records_in > 0
    assert len(peer.node.view) == 0


def test_goodbye_comes_before_the_end(world: Run) -> None:
    peer = world.peers[2]
    peer.leave()
    assert peer.up
    world.loop.run(world.loop.now + 2.0)
    assert not peer.up
    assert not peer.vanished


def test_dials_wait_for_their_turn_and_too_many_fail_at_once(world: Run) -> None:
    peer, target, came = world.peers[0], world.peers[2], []
    limits = msgspec.structs.replace(peer.settings.connections, dial_again_s=0.0)  # all dials go to one address
    peer._dials = DialQueue(limits)
    for number in range(limits.dials_wanted):
        peer.connect(PeerId(number.to_bytes(32, "big")), (target.addr,), lambda link, _why: came.append(link))
    assert peer.sizes()["connections"] == len(peer.links) + limits.dials
    peer.connect(PeerId(b"x" * 32), (target.addr,), lambda _link, why: came.append(why))
    peer.perform_dial(PeerId(b"y" * 32), (target.addr,))
    world.loop.run(world.loop.now + 0.01)
    assert came == [NOT_NOW]
    world.loop.run(world.loop.now + 60.0)
    assert came == [NOT_NOW, *[None] * limits.dials_wanted]
    assert peer.sizes()["dials"] == 0


def test_the_machine_hears_of_every_failed_dial_once(world: Run) -> None:
    peer, target, stranger, heard = world.peers[0], world.peers[2], PeerId(b"x" * 32), []
    peer.feed = heard.append  # type: ignore[method-assign]
    world.loop.run(world.loop.now + peer.settings.connections.dial_again_s)  # its address was dialled before
    for asked in (False, True):
        peer.connect(stranger, (target.addr,), lambda link, _why: heard.append(link))
        if asked:
            peer.perform_dial(stranger, (target.addr,))
        world.loop.run(world.loop.now + peer.settings.connections.dial_again_s)
        failed = [event for event in heard if isinstance(event, DialFailed)]
        assert [event.reason for event in failed] == ["somebody else answered"] * (1 + asked)
        assert None in heard
