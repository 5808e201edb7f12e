"""What is noted while a run goes on: every job once, every breach of its life as a sentence."""

from __future__ import annotations

from protocol.effects import PeerState, Penalise
from protocol.ids import PeerId
from protocol.jobs.cascade_events import Observe
from protocol.reputation.outcomes import Outcome
from simulations.sim.job_log import JobLog
from simulations.sim.jobs import GpuShare, Job, SimAttempt, Truth
from tests.simulations.small_networks import BareMachine, bare


def unheard(*_said: object) -> None:
    """An entry that does not listen."""


def made() -> tuple[JobLog, list[BareMachine]]:
    network, peers = bare(3)
    job_log = JobLog(network.loop, (10.0, 20.0))
    job_log.by_peer_id = {peer.peer_id: peer for peer in peers}
    return job_log, peers


def job(number: int = 1) -> Job:
    return Job(number, "m", 10, 20, True, (), 0, 0.0)


def attempt(job_log: JobLog, peers: list[BareMachine], number: int = 1, worker: int = 1) -> SimAttempt:
    return SimAttempt(job_log.next_attempt(), job(number), Truth(5), peers[0], peers[worker], unheard, unheard)


def seen(outcome: Outcome, first_at: float | None, ended_at: float) -> Observe:
    return Observe(PeerId(b""), outcome, False, 0.0, 0.0, first_at, ended_at, 0, 0.0, "")


def test_a_job_goes_its_way() -> None:
    job_log, peers = made()
    job_log.arrived(peers[0], job(), 5)
    one = attempt(job_log, peers)
    job_log.attempted(one)
    job_log.execution(one)
    job_log.loop.run(3.0)
    job_log.committed(job())
    job_log.loop.run(4.0)
    note = job_log.open[1]
    job_log.finished(job())
    assert (note.committed_at, note.ended_at, note.end, note.worker, note.tokens) == (3.0, 4.0, "completed", 1, 5)
    assert (job_log.submitted, job_log.completed, job_log.failed, job_log.open) == (1, 1, 0, {})
    assert job_log.violations == []


def test_only_what_comes_in_the_window_is_measured_and_it_is_followed_to_its_end() -> None:
    job_log, peers = made()
    for number, at in enumerate((5.0, 10.0, 19.9, 20.0), 1):
        job_log.loop.run(at)
        job_log.arrived(peers[0], job(number), 5)
    assert [note.number for note in job_log.measured] == [2, 3]
    assert job_log.measured_open == 2
    job_log.loop.run(100.0)
    for number in (1, 2, 3):
        job_log.gave_up(job(number), "cancelled")
    assert (job_log.measured_open, job_log.failed, len(job_log.open)) == (0, 3, 1)
    assert [note.end for note in job_log.measured] == ["cancelled"] * 2
    assert job_log.ends == {"cancelled": 3}


def test_a_measured_job_is_undecided_until_it_is_brought_to_a_worker() -> None:
    job_log, peers = made()
    job_log.arrived(peers[0], job(1), 5)
    assert not job_log.undecided, "it came before the window"
    job_log.loop.run(12.0)
    job_log.arrived(peers[0], job(2), 5)
    assert job_log.undecided
    job_log.attempted(attempt(job_log, peers, 2))
    assert not job_log.undecided


def test_what_must_not_be_is_noted() -> None:
    job_log, peers = made()

    def breaches() -> list[str]:
        told, job_log.violations = job_log.violations, []
        return [what.split(":")[0] for what in told]

    job_log.arrived(peers[0], job(), 5)
    job_log.committed(job())
    assert breaches() == ["I3"]  # answered before anybody ran it
    job_log.committed(job())
    assert breaches() == ["I2"]  # twice
    job_log.execution(attempt(job_log, peers))
    assert breaches() == ["I2"]  # run, though nobody was asked
    one = attempt(job_log, peers)
    job_log.attempted(one)
    assert breaches() == []
    job_log.attempted(attempt(job_log, peers))
    assert breaches() == ["I11"]  # the same worker again
    job_log.finished(job())
    job_log.gave_up(job(), "x")
    assert breaches() == ["I1"]  # it has ended
    job_log.attempted(one)
    assert breaches() == ["I3"]
    job_log.execution(one)
    assert breaches() == []  # the word of the end may be under way
    assert job_log.late_executions == 1
    assert (job_log.completed, job_log.failed) == (1, 0)
    job_log.arrived(peers[0], job(2), 5)
    job_log.finished(job(2))
    assert breaches() == ["I3"]  # ended and never answered


def test_work_is_wasted_unless_it_is_of_the_attempt_that_answered() -> None:
    job_log, peers = made()
    seconds = {"answered": 5.0, "before it": 3.0, "after its end": 2.0, "of a job that failed": 1.5}
    attempts = {name: attempt(job_log, peers, 1, worker) for worker, name in enumerate(("before it", "answered"), 1)}
    attempts["after its end"] = attempt(job_log, peers)
    attempts["of a job that failed"] = attempt(job_log, peers, 2)
    for name, each in attempts.items():
        each.gpu_s = seconds[name]
    for number in (1, 2):
        job_log.arrived(peers[0], job(number), 5)
    for name in ("before it", "answered", "of a job that failed"):
        job_log.attempted(attempts[name])
        job_log.execution(attempts[name])
        job_log.left_engine(attempts[name])
    assert job_log.wasted_s == 0.0, "nobody knows yet"
    job_log.committed(job(1))
    job_log.finished(job(1))
    assert job_log.wasted_s == 3.0
    job_log.left_engine(attempts["after its end"])
    assert job_log.wasted_s == 5.0
    job_log.gave_up(job(2), "cancelled")
    assert job_log.wasted_s == 6.5


def test_the_seconds_of_a_gpu_are_divided_among_the_jobs_in_its_engine() -> None:
    job_log, peers = made()
    gpu, one, two = GpuShare(), attempt(job_log, peers), attempt(job_log, peers, 2)
    gpu.begin(one, 10.0)
    gpu.begin(two, 14.0)
    gpu.end(one, 20.0)
    gpu.end(two, 21.0)
    assert (one.gpu_s, two.gpu_s) == (7.0, 4.0)
    gpu.begin(one, 100.0)
    gpu.end(one, 101.0)
    assert one.gpu_s == 1.0, "idle time is no job's"


def test_outcomes_are_counted() -> None:
    job_log, _peers = made()
    job_log.observed(seen(Outcome.COMPLETED, 1.0, 9.0))
    job_log.observed(seen(Outcome.BROKEN, 1.0, 4.0))
    job_log.observed(seen(Outcome.BUSY, None, 2.0))
    job_log.observed(seen(Outcome.CANCELLED, 2.0, 2.5))
    assert job_log.outcomes == {"completed": 1, "broken": 1, "busy": 1, "cancelled": 1}


def test_a_death_is_true_or_false() -> None:
    job_log, peers = made()
    dead = PeerState(peers[1].peer_id, "dead")
    job_log.state(peers[0], dead)
    assert (job_log.false_deaths, job_log.true_deaths) == (1, [])
    peers[1].rng(silently=True)
    job_log.died_at[peers[1].peer_id] = job_log.loop.now
    job_log.loop.run(30.0)
    job_log.state(peers[0], PeerState(peers[1].peer_id, "suspect"))
    job_log.state(peers[0], dead)
    assert (job_log.false_deaths, job_log.true_deaths) == (1, [30.0])


def test_blame_between_honest_nodes_is_a_breach_and_of_others_is_not() -> None:
    job_log, peers = made()
    peers[2].honest = False
    job_log.penalty(peers[0], Penalise(peers[2].peer_id, 1, "forged"))
    job_log.penalty(peers[2], Penalise(peers[0].peer_id, 1, "forged"))
    assert (job_log.penalised_honest, job_log.violations) == (0, [])
    job_log.penalty(peers[0], Penalise(peers[1].peer_id, 1, "forged"))
    assert job_log.penalised_honest == 1
    assert job_log.violations[0].startswith("I10")
    assert job_log.penalties == {"forged": 3}
    job_log.ban(peers[0], peers[2].peer_id)
    job_log.ban(peers[2], peers[0].peer_id)
    assert job_log.bans == {2: 1}
