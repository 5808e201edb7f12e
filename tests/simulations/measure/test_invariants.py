"""Every invariant can fail: a run is tampered with in the one way that it forbids, and the breach is seen."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from protocol.effects import Penalise
from protocol.perf.gpu_catalog import MIB
from protocol.statements.envelope import seal
from protocol.statements.keys import LOAD, Ed25519Signer
from simulations import run as worlds
from simulations.measure import invariants
from simulations.measure.breach import Breach
from simulations.measure.convergence import islands_of
from simulations.run import Run
from simulations.scenario import Measure, Scenario, Topology, Workload
from simulations.sim.jobs import Job, SimAttempt, Truth

SCENARIO = Scenario(
    name="checked",
    duration_s=20.0,
    warmup_s=1.0,
    quiet_s=12.0,
    topology=Topology(nodes=4, seeds=2, latency="uniform", settled=True, join_s=1.0),
    workload=Workload(rate_per_s=2.0),
    measure=Measure(invariants_every_s=2.0, liveness_s=10.0),
)


def world_at(seconds: float, scenario: Scenario = SCENARIO) -> Run:
    world = Run(scenario, 1)
    world.prepare()
    world.loop.run(seconds)
    return world


def breach(look: Callable[[], object]) -> str:
    with pytest.raises(Breach) as caught:
        look()
    return caught.value.invariant


def attempt(world: Run, number: int = 10**6) -> SimAttempt:
    job = Job(number, "llama-3.1-8b-instruct", 10, 10, True, (), 0, world.loop.now)
    entry = world.peers[0].entry
    assert entry is not None
    made = SimAttempt(number, job, Truth(5), world.peers[0], world.peers[1], entry.heard, entry.heard_end)
    made.entry_life = world.peers[0].life
    return made


def test_a_run_that_nobody_tampers_with_breaks_nothing() -> None:
    world = Run(SCENARIO, 1)
    outcome = world.run()
    assert outcome.breach is None
    assert outcome.metrics["heal_s"] == 1.0
    assert outcome.metrics["jobs_completed"] > 10


def test_i1_a_job_that_is_lost_is_missed() -> None:
    world = world_at(5.0)
    world.job_log.submitted += 1
    assert breach(world.checks.look) == "I1"


def test_i1_a_job_that_its_entry_has_lost_is_missed() -> None:
    world = world_at(5.0)
    entry: Any = next(peer.entry for peer in world.peers if peer.entry is not None and peer.entry.under_way)
    entry._runs.clear()
    assert breach(world.checks.whole) == "I1"


def test_i1_a_job_cannot_end_twice() -> None:
    world = world_at(5.0)
    world.job_log.gave_up(attempt(world).job, "made up")
    assert breach(world.checks.look) == "I1"


def test_i2_a_job_cannot_be_answered_twice() -> None:
    world = world_at(5.0)
    world.job_log.committed(attempt(world).job)
    assert breach(world.checks.look) == "I2"


def test_i2_more_executions_than_attempts_are_noticed() -> None:
    world = world_at(5.0)
    number, note = next(iter(world.job_log.open.items()))
    for _ in range(note.attempts + 1):
        world.job_log.execution(attempt(world, number))
    assert breach(world.checks.look) == "I2"


def test_i2_work_for_nobody_is_found_when_its_grace_is_over() -> None:
    world = world_at(5.0)
    worker: Any = world.peers[1].worker
    orphan = attempt(world)
    worker._tasks[orphan.number] = orphan
    worker._admission._running[orphan.number] = None
    world.checks.engine(world.peers[1])  # not yet
    world.loop.now += invariants.GRACE_S + 1
    worker._wake_at = worker.engine._wake = float("inf")
    assert breach(lambda: world.checks.engine(world.peers[1])) == "I2"


def test_i2_what_a_flooder_asks_for_is_for_somebody() -> None:
    """Its jobs are in nobody's books, and it is there."""
    world = world_at(5.0)
    worker: Any = world.peers[1].worker
    flood = attempt(world)
    worker._tasks[flood.number] = flood
    worker._admission._running[flood.number] = None
    worker._wake_at = worker.engine._wake = float("inf")
    world.peers[0].honest = False
    for _ in range(2):
        world.checks.engine(world.peers[1])
        world.loop.now += invariants.GRACE_S + 1
    world.peers[0].honest = True
    world.checks.engine(world.peers[1])  # for nobody from now on
    world.loop.now += invariants.GRACE_S + 1
    assert breach(lambda: world.checks.engine(world.peers[1])) == "I2"


def test_i3_an_attempt_after_the_end_is_noticed() -> None:
    world = world_at(5.0)
    world.job_log.attempted(attempt(world))
    assert breach(world.checks.look) == "I3"


def test_i3_times_have_their_order() -> None:
    world = world_at(8.0)
    note = next(note for note in world.job_log.measured if note.end == "completed")
    assert note.committed_at is not None
    note.committed_at = note.asked_at - 1.0
    world.checks._judged = 0
    assert breach(world.checks.look) == "I3"


def test_i4_time_does_not_go_back() -> None:
    world = world_at(5.0)
    world.checks.look()
    world.loop.now = 4.0
    assert breach(world.checks.look) == "I4"


def test_i4_a_timer_of_a_dead_life_is_noticed() -> None:
    world = world_at(5.0)
    peer = world.peers[0]
    peer._fired(peer.life - 1, ("gossip", "tick"))
    assert breach(world.checks.look) == "I4"


def test_i4_a_message_to_a_node_that_is_down_is_noticed() -> None:
    world = world_at(5.0)
    world.peers[0].stop(silently=True)
    world.peers[0].received(world.peers[1].peer_id, None)  # type: ignore[arg-type]
    assert breach(world.checks.look) == "I4"


def test_i4_a_node_does_not_speak_under_an_incarnation_of_before() -> None:
    world = world_at(5.0)
    world.peers[0].inc += 1
    assert breach(world.checks.whole) == "I4"


@pytest.mark.parametrize(
    "tamper",
    [
        lambda worker: worker._admission._guests.update({1: None}),  # waits though a slot is free
        lambda worker: setattr(worker, "_wake_at", 1e9),  # its timer is lost
        lambda worker: setattr(worker.engine._kv, "pinned_bytes", -1.0 * MIB),  # less than nothing
        lambda worker: worker._tasks.update({1: None}),  # a job that was never admitted
        lambda worker: worker._admission._running.update(dict.fromkeys(range(999))),
    ],
)
def test_i5_engines(tamper: Callable[[Any], object]) -> None:
    world = world_at(5.0)
    worker = world.peers[1].worker
    assert worker is not None
    tamper(worker)
    assert breach(lambda: world.checks.engine(world.peers[1])) == "I5"


def test_i6_a_statement_by_somebody_else_is_noticed() -> None:
    world = world_at(5.0)
    viewer = world.peers[0]
    first, second = viewer.node.view.records()[1:3]
    first.advert_env = second.advert_env
    assert breach(lambda: world.checks.statements(viewer)) == "I6"


def test_i6_a_statement_that_was_not_signed_is_noticed() -> None:
    world = world_at(5.0)
    viewer = world.peers[0]
    record = viewer.node.view.records()[1]
    assert record.load_env is not None
    record.load_env._verified = False
    assert breach(lambda: world.checks.statements(viewer)) == "I6"


def test_i6_an_older_statement_than_before_is_noticed() -> None:
    world = world_at(1.0)
    viewer = world.peers[0]
    old = viewer.node.view.records()[1].load_env
    world.loop.run(15.0)
    world.checks.statements(viewer)
    record = viewer.node.view.records()[1]
    assert old is not None
    assert record.load_env is not None
    assert old.version < record.load_env.version
    record.load_env = old
    assert breach(lambda: world.checks.statements(viewer)) == "I6"


def test_i7_a_job_that_tells_how_long_its_answer_will_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    leaky = dataclasses.make_dataclass("Leaky", [("output_tokens", int)])
    monkeypatch.setattr(invariants, "Job", leaky)
    assert breach(Run(SCENARIO, 1).prepare) == "I7"


def test_i7_only_the_worker_reads_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """The truth is a trap that only a worker may step into."""
    readers: set[str] = set()

    class Trap:
        @property
        def output_tokens(self) -> int:
            readers.add(sys._getframe(1).f_globals["__name__"])
            return 20

    real = worlds.job_of
    monkeypatch.setattr(worlds, "job_of", lambda number, arrival: (real(number, arrival)[0], Trap()))
    world_at(8.0)
    assert readers == {"simulations.sim.worker"}


def test_i8_lists_have_an_end() -> None:
    world = world_at(5.0)
    peer = world.peers[0]
    peer._timers.update({("made", "up", number): 0.0 for number in range(invariants.MOST_TIMERS + 1)})  # type: ignore[misc]
    assert breach(lambda: world.checks.bounded(peer)) == "I8"


def test_i8_a_view_has_an_end() -> None:
    small = world_at(5.0)
    peer = small.peers[0]
    gossip = msgspec.structs.replace(peer.settings.gossip, view_size=0)
    peer.settings = msgspec.structs.replace(peer.settings, gossip=gossip)
    peer.node.overlay._links.clear()
    assert breach(lambda: small.checks.bounded(peer)) == "I8"


def cut_in_two(world: Run, at: float, until: float | None = None) -> None:
    """Nothing gets from the one half of the network to the other."""
    world.loop.at(at, lambda: setattr(world.network, "cut", lambda a, b: (a.index < 2) != (b.index < 2)))
    world.loop.at(at, world.network.reconsider)
    if until is not None:
        world.loop.at(until, lambda: setattr(world.network, "cut", None))
        world.loop.at(until, world.network.reconsider)


@pytest.mark.parametrize("at", [8.5, 9.5])
def test_i9_a_network_that_does_not_heal_is_found(at: float) -> None:
    """Whether it was never whole, or was so once and did not stay so."""
    world = Run(msgspec.structs.replace(SCENARIO, duration_s=30.0, quiet_s=22.0, measure=Measure(liveness_s=20.0)), 1)
    cut_in_two(world, at)
    outcome = world.run()
    assert outcome.breach is not None
    assert outcome.breach["invariant"] == "I9"
    assert outcome.breach["at_s"] == pytest.approx(28.0)


def test_i9_a_short_lapse_does_not_count() -> None:
    world = Run(SCENARIO, 1)
    cut_in_two(world, 13.5, until=18.5)  # and it is looked at for the last time at 18 s
    outcome = world.run()
    assert outcome.breach is None
    assert outcome.metrics["heal_s"] == 1.0


def test_i9_a_view_that_lacks_somebody_is_not_whole() -> None:
    world = world_at(5.0)
    assert not world.checks.healing.wrong()
    world.peers[0].node.view.remove(world.peers[1].peer_id)
    assert "no advert" in world.checks.healing.wrong()


def test_i9_a_view_that_takes_somebody_for_dead_is_not_whole() -> None:
    world = world_at(5.0)
    world.peers[0].node.view.set_state(world.peers[1].peer_id, "dead", 5.0)
    assert "dead" in world.checks.healing.wrong()


def test_i9_an_old_statement_is_not_whole() -> None:
    world = world_at(5.0)
    record = world.peers[0].node.view.get(world.peers[1].peer_id)
    assert record is not None
    assert record.load_env is not None
    signer, old = Ed25519Signer(bytes(32)), record.load_env
    record.load_env = seal(signer, LOAD, (1, 1), old.issued - 1000.0, old.ttl, old.payload)
    assert "a load of" in world.checks.healing.wrong()


def test_i9_islands_are_counted() -> None:
    world = world_at(5.0)
    assert islands_of(world.peers) == 1
    for link in list(world.peers[3].links.values()):
        world.network.break_link(link, "cut off")
    assert islands_of(world.peers) == 2


def test_i9_a_job_that_was_forgotten_is_found() -> None:
    world = world_at(5.0)
    assert world.job_log.open
    world.loop.now += 1000.0
    assert breach(world.checks.forgotten) == "I9"


def test_i10_blame_among_the_honest_is_noticed() -> None:
    world = world_at(5.0)
    world.job_log.penalty(world.peers[0], Penalise(world.peers[1].peer_id, 10, "made up"))
    assert breach(world.checks.look) == "I10"


def test_i10_a_ban_of_an_honest_node_is_noticed() -> None:
    world = world_at(5.0)
    world.peers[0].limiter.ban(world.peers[1].peer_id, "", 100.0)
    assert breach(world.checks.whole) == "I10"
    world.peers[1].honest = False
    world.checks.whole()


def test_i11_a_job_does_not_come_to_a_worker_twice() -> None:
    world = world_at(5.0)
    number = next(iter(world.job_log.open))
    for _ in range(2):
        world.job_log.attempted(attempt(world, number))
    assert breach(world.checks.look) == "I11"


def test_i11_a_job_does_not_come_to_more_workers_than_may_be_asked() -> None:
    world = world_at(5.0)
    next(iter(world.job_log.open.values())).attempts = 99
    assert breach(world.checks.whole) == "I11"


@pytest.mark.slow
def test_i9_nodes_behind_seeds_that_are_full_find_other_neighbours() -> None:
    """Everybody chooses the seeds; whom they have no room for was told nothing and looked for nobody else."""
    topology = Topology(nodes=50, seeds=5, latency="uniform")
    made = msgspec.structs.replace(SCENARIO, topology=topology, workload=Workload(kind="none"))
    world = Run(msgspec.structs.replace(made, duration_s=60.0, quiet_s=20.0), 1)
    assert world.run().breach is None
    for peer in world.alive[5:]:
        mutual = [
            other
            for other in peer.node.overlay.standing()
            if world.network.by_peer[other].node.overlay.is_standing(peer.peer_id)
        ]
        assert len(mutual) >= 2
