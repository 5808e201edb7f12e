"""Each kind of fault does what it says, and everything is as it was when it is over."""

from __future__ import annotations

from typing import Any

import pytest

from simulations.faults.chaos import AMOUNTS, drawn
from simulations.faults.faults import KINDS
from simulations.run import Run
from simulations.scenario import Fault, Measure, Scenario, Topology, Workload
from simulations.sim.host import WALL
from simulations.sim.node import SimNode


def scenario(*faults: Fault, rate: float = 0.0, **more: Any) -> Scenario:
    return Scenario(
        name="broken",
        duration_s=80.0,
        warmup_s=1.0,
        topology=Topology(nodes=6, seeds=2, latency="uniform", settled=True, join_s=0.0, clock_skew_s=0.0),
        workload=Workload(kind="poisson", rate_per_s=rate) if rate else Workload(kind="none"),
        measure=Measure(invariants_every_s=2.0),
        faults=faults,
        **more,
    )


def world_of(*faults: Fault, rate: float = 0.0, **more: Any) -> Run:
    world = Run(scenario(*faults, rate=rate, **more), 5)
    world.prepare()
    return world


def one(kind: str, **more: Any) -> Fault:
    return Fault(kind=kind, at_s=10.0, for_s=20.0, **{"nodes": (3,), **more})


def linked(a: SimNode, b: SimNode) -> bool:
    link = a.links.get(b.peer_id)
    return link is not None and link.whole


def test_a_kind_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"no fault 'nonsense'; there are bandwidth_cap, clock_jump"):
        world_of(one("nonsense"))


def test_no_fault_may_begin_in_the_quiet_phase_and_none_lasts_into_it() -> None:
    with pytest.raises(ValueError, match="quiet phase"):
        world_of(one("crash"), quiet_s=75.0)
    world = world_of(one("crash"), quiet_s=60.0)
    world.loop.run(19.9)
    assert not world.peers[3].up
    world.loop.run(20.1)
    assert world.peers[3].up


def test_every_kind_says_which_fields_count() -> None:
    assert all("``" in (kind.__doc__ or "") or "No field" in (kind.__doc__ or "") for kind in KINDS.values())


@pytest.mark.parametrize(
    ("kind", "silent", "kept"), [("crash", True, True), ("crash_forget", True, False), ("restart", False, True)]
)
def test_processes_end_and_come_back(kind: str, silent: bool, kept: bool) -> None:
    world = world_of(one(kind))
    world.loop.run(9.0)
    peer = world.peers[3]
    inc = peer.inc
    world.loop.run(11.0)
    assert not peer.up
    assert peer.vanished is silent
    assert bool(peer._kept[0].marks) is kept
    world.loop.run(31.0)
    assert peer.up
    assert peer.life == 2
    assert peer.inc > inc or not kept


def test_a_crash_without_a_word_is_noticed_later_than_a_restart() -> None:
    crashed, restarted = world_of(one("crash")), world_of(one("restart"))
    for world in (crashed, restarted):
        world.loop.run(12.0)
    at_crashed = [peer for peer in crashed.peers if peer.up and crashed.peers[3].peer_id in peer.links]
    at_restarted = [peer for peer in restarted.peers if peer.up and restarted.peers[3].peer_id in peer.links]
    assert at_crashed
    assert not at_restarted


def test_leaving_is_told() -> None:
    world = world_of(one("leave"))
    world.loop.run(15.0)
    assert not world.peers[3].up
    states = {peer.node.failure_detector.state(world.peers[3].peer_id) for peer in world.peers if peer.up}
    assert states == {"left"}
    world.loop.run(32.0)
    assert world.peers[3].up


def test_two_faults_hold_one_node_down_until_the_later_ends() -> None:
    world = world_of(one("crash"), Fault(kind="restart", at_s=15.0, for_s=30.0, nodes=(3,)))
    world.loop.run(31.0)
    assert not world.peers[3].up
    world.loop.run(46.0)
    assert world.peers[3].up


def test_the_seeds_can_go() -> None:
    world = world_of(one("seeds_down"))
    world.loop.run(11.0)
    assert [peer.up for peer in world.peers] == [False, False, True, True, True, True]


def test_a_frozen_process_loses_its_links_and_goes_on() -> None:
    world = world_of(one("freeze"))
    peer = world.peers[3]
    world.loop.run(29.0)
    assert peer.up
    assert peer.life == 1
    assert not any(peer.peer_id in other.links for other in world.peers if other is not peer)
    in_time = peer.node.gossip.counts.records_in
    world.loop.run(50.0)
    assert peer.node.gossip.counts.records_in > in_time
    assert any(linked(peer, other) for other in world.peers)


def test_a_slow_processor_takes_longer() -> None:
    slow, well = world_of(one("slow_cpu", amount=20.0)), world_of()
    took = []
    for world in (slow, well):
        world.loop.run(10.0)
        before = world.peers[3].cpu_s
        world.loop.run(30.0)
        took.append(world.peers[3].cpu_s - before)
    assert took[0] == pytest.approx(20 * took[1], rel=0.2)
    slow.loop.run(31.0)
    assert slow.peers[3].slowness == 1.0


def test_a_clock_jumps_and_jumps_back() -> None:
    world = world_of(one("clock_jump", amount=1000.0))
    world.loop.run(11.0)
    assert world.peers[3].wall_error == 1000.0
    world.loop.run(31.0)
    assert world.peers[3].wall_error == 0.0


def test_a_full_disk_keeps_what_was_there() -> None:
    world = world_of(one("disk_full"), Fault(kind="crash", at_s=20.0, for_s=5.0, nodes=(3,)))
    world.loop.run(11.0)
    at_first = world.peers[3]._kept
    world.loop.run(21.0)
    assert world.peers[3]._kept is at_first
    world.loop.run(31.0)
    world.peers[3].save()
    assert world.peers[3]._kept is not at_first


@pytest.mark.parametrize(("groups", "sides"), [((0.5, 0.5), 2), ((0.34, 0.33, 0.33), 3)])
def test_a_partition_cuts_its_sides_off_and_heals(groups: tuple[float, ...], sides: int) -> None:
    world = world_of(one("partition", groups=groups))
    world.loop.run(29.0)
    cut = world.network.cut
    assert cut is not None
    apart = [[peer for peer in world.peers if not cut(first, peer)] for first in world.peers]
    assert {len(side) for side in apart} == {6 // sides}
    assert not any(linked(a, b) for a in world.peers for b in world.peers if a is not b and cut(a, b))
    world.loop.run(31.0)
    assert world.network.cut is None
    world.loop.run(70.0)
    assert any(linked(side[0], other) for side in apart for other in world.peers if other not in side)


def test_a_partition_one_way_has_a_direction_and_a_bridge_sees_all() -> None:
    world = world_of(one("partition", one_way=True, amount=1.0))
    world.loop.run(11.0)
    cut = world.network.cut
    assert cut is not None
    pairs = [(a, b) for a in world.peers for b in world.peers if cut(a, b)]
    assert pairs
    assert not any(cut(b, a) for a, b in pairs)
    touched = {peer.index for pair in pairs for peer in pair}
    assert len(touched) == 5


def test_a_side_that_is_not_heard_hears_until_its_links_are_given_up() -> None:
    world = world_of(one("partition", one_way=True))
    world.loop.run(10.5)
    cut = world.network.cut
    assert cut is not None
    mute = {a.index for a in world.peers for b in world.peers if cut(a, b)}
    assert 0 < len(mute) < 6
    cut_at = WALL + 11.0  # what was under way has arrived by then

    def loads_across(hearing: bool) -> list[float]:
        pairs = ((a, b) for a in world.peers for b in world.peers if (a.index in mute) is hearing)
        records = (a.node.view.get(b.peer_id) for a, b in pairs if (b.index in mute) is not hearing)
        return [record.load_env.issued for record in records if record is not None and record.load_env is not None]

    world.loop.run(24.0)
    assert max(loads_across(hearing=True)) > cut_at
    assert max(loads_across(hearing=False)) <= cut_at
    world.loop.run(29.0)
    assert not any(linked(a, b) for a in world.peers for b in world.peers if a is not b and cut(a, b))


def test_a_partition_by_region() -> None:
    made = scenario(one("partition", regions=("nowhere",)))
    world = Run(made, 5)
    world.prepare()
    world.loop.run(11.0)
    assert not any(world.network.cut(a, b) for a in world.peers for b in world.peers)  # type: ignore[misc]
    region = world.peers[0].machine.region
    world = Run(scenario(one("partition", regions=(region,))), 5)
    world.prepare()
    world.loop.run(11.0)
    inside = {peer.index for peer in world.peers if peer.machine.region == region}
    for a in world.peers:
        for b in world.peers:
            assert world.network.cut(a, b) is ((a.index in inside) != (b.index in inside))  # type: ignore[misc]


def test_held_messages_come_later_and_the_links_stay() -> None:
    world = world_of(one("hold", amount=4.0))
    world.loop.run(9.0)
    before = {other.index for other in world.peers if linked(world.peers[3], other)}
    world.loop.run(13.0)
    waiting = sum(len(link.waiting) for link in world.peers[3].links.values())
    assert before
    assert waiting
    world.loop.run(14.5)
    assert not any(link.waiting for link in world.peers[3].links.values())
    assert before <= {other.index for other in world.peers if linked(world.peers[3], other)}


@pytest.mark.parametrize("kind", ["loss", "drop"])
def test_losses_come_and_go(kind: str) -> None:
    world = world_of(one(kind, amount=0.3))
    world.loop.run(11.0)
    assert getattr(world.network, kind) == pytest.approx(0.3)
    world.loop.run(31.0)
    assert getattr(world.network, kind) == 0.0


def test_a_detour_and_a_cap() -> None:
    world = world_of(one("latency_spike", amount=2.0), one("bandwidth_cap", amount=0.8))
    a, b, c = world.peers[3], world.peers[4], world.peers[5]
    full = a.up_bytes_s
    world.loop.run(11.0)
    assert world.network.delay_s(a, b) > 2.0 > world.network.delay_s(b, c)
    assert a.up_bytes_s == a.down_bytes_s == 1e5
    world.loop.run(31.0)
    assert world.network.delay_s(a, b) < 2.0
    assert a.up_bytes_s == full


def test_a_hot_gpu_is_slower_a_hanging_engine_silent() -> None:
    world = world_of(one("throttle", amount=0.5), one("hanging_engine", nodes=(4,)))
    world.loop.run(11.0)
    hot, hanging = world.peers[3].worker, world.peers[4].worker
    assert hot is not None
    assert hanging is not None
    assert hot.engine.load(11.0).clock_percent == 50
    assert hanging.broken
    world.loop.run(31.0)
    assert hot.engine.load(31.0).clock_percent == 100
    assert not hanging.broken


def overlapping(kind: str, *amounts: float) -> Run:
    """The same kind twice: from 5 to 15 s, and from 6 to 36 s."""
    first, second = amounts or (0.0, 0.0)
    faults = (Fault(kind=kind, at_s=5.0, for_s=10.0, nodes=(3,), amount=first),)
    return world_of(*faults, Fault(kind=kind, at_s=6.0, for_s=30.0, nodes=(3,), amount=second))


def test_two_caps_do_not_end_each_other() -> None:
    world = overlapping("bandwidth_cap", 0.8, 1.6)
    peer = world.peers[3]
    full = (peer.up_bytes_s, peer.down_bytes_s)
    for at, most in ((5.5, 1e5), (10.0, 1e5), (20.0, 2e5)):
        world.loop.run(at)
        assert (peer.up_bytes_s, peer.down_bytes_s) == (most, most), at
    world.loop.run(37.0)
    assert (peer.up_bytes_s, peer.down_bytes_s) == full


def test_two_reasons_to_hang_do_not_end_each_other() -> None:
    world = overlapping("hanging_engine")
    worker = world.peers[3].worker
    assert worker is not None
    for at, hangs in ((10.0, True), (20.0, True), (37.0, False)):
        world.loop.run(at)
        assert bool(worker.broken) is hangs, at


def test_two_full_disks_do_not_empty_each_other() -> None:
    world = overlapping("disk_full")
    for at, full in ((10.0, True), (20.0, True), (37.0, False)):
        world.loop.run(at)
        assert bool(world.peers[3].disk_full) is full, at


def test_a_hot_gpu_stays_hot_for_whatever_else_slows_it() -> None:
    world = overlapping("throttle", 0.5, 0.8)
    worker = world.peers[3].worker
    assert worker is not None
    worker.throttle(0.5, world)  # as a machine that is slower than it says
    for at, percent in ((4.0, 50), (5.5, 25), (10.0, 20), (20.0, 40), (37.0, 50)):
        world.loop.run(at)
        assert worker.engine.load(at).clock_percent == percent, at
    worker.throttle(1.0, world)
    assert worker.engine.load(37.0).clock_percent == 100


def test_an_engine_that_breaks_down_fails_its_jobs_and_loads_again() -> None:
    world = world_of(*(one("engine_crash", nodes=(index,)) for index in range(6)), rate=6.0)
    world.loop.run(9.9)
    busy = [peer for peer in world.peers if peer.worker is not None and peer.worker.running]
    world.loop.run(10.2)
    assert busy
    assert world.job_log.outcomes["failed"] or world.job_log.ends["peer_failed"]
    world.loop.run(79.0)
    assert sum(peer.worker.engine.cold_loads for peer in world.peers if peer.worker is not None) >= len(busy)


def test_chaos_is_drawn_from_the_seed_and_ends_before_the_quiet() -> None:
    made = scenario(chaos=True, quiet_s=30.0)
    assert drawn(made, 1) == drawn(made, 1) != drawn(made, 2)
    faults = [fault for seed in range(60) for fault in drawn(made, seed)]
    assert {fault.kind for fault in faults} == set(KINDS)
    assert all(fault.at_s + fault.for_s <= 50.0 + 1e-9 for fault in faults)
    for fault in faults:
        if fault.kind in AMOUNTS:
            assert AMOUNTS[fault.kind][0] <= fault.amount <= AMOUNTS[fault.kind][1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_in_a_whole_run(kind: str) -> None:
    faults = tuple(Fault(kind=kind, at_s=at, for_s=15.0, share=0.4) for at in (10.0, 20.0))
    outcome = Run(scenario(*faults, rate=3.0, quiet_s=5.0), 2).run()
    assert outcome.breach is None
