"""What is noted while a run goes on: every job once, every breach of its life as a sentence."""

from __future__ import annotations

import pytest

from protocol.effects import PeerState, Penalise
from protocol.ids import PeerId
from protocol.jobs.cascade_events import Observe, Outcome
from simulations.sim.job_log import Recorder
from simulations.sim.jobs import Attempt, Job, Truth
from tests.simulations.worlds import BareMachine, bare


def made() -> tuple[Recorder, list[BareMachine]]:
    network, peers = bare(3)
    recorder = Recorder(network.kernel, (10.0, 20.0))
    recorder.by_peer_id = {peer.peer_id: peer for peer in peers}
    return recorder, peers


def job(number: int = 1) -> Job:
    return Job(number, "m", 10, 20, True, (), 0, 0.0)


def attempt(recorder: Recorder, peers: list[BareMachine], number: int = 1, worker: int = 1) -> Attempt:
    return Attempt(recorder.next_attempt(), job(number), Truth(5), peers[0], peers[worker])


def seen(outcome: Outcome, first_at: float | None, ended_at: float) -> Observe:
    return Observe(PeerId(b""), outcome, False, 0.0, 0.0, first_at, ended_at, 0, 0.0, "")


def test_a_job_goes_its_way() -> None:
    recorder, peers = made()
    recorder.arrived(peers[0], job(), 5)
    one = attempt(recorder, peers)
    recorder.attempted(one)
    recorder.execution(one)
    recorder.kernel.run(3.0)
    recorder.committed(job())
    recorder.kernel.run(4.0)
    note = recorder.open[1]
    recorder.finished(job())
    assert (note.committed_at, note.ended_at, note.end, note.worker, note.tokens) == (3.0, 4.0, "completed", 1, 5)
    assert (recorder.submitted, recorder.completed, recorder.failed, recorder.open) == (1, 1, 0, {})
    assert recorder.violations == []


def test_only_what_comes_in_the_window_is_measured_and_it_is_followed_to_its_end() -> None:
    recorder, peers = made()
    for number, at in enumerate((5.0, 10.0, 19.9, 20.0), 1):
        recorder.kernel.run(at)
        recorder.arrived(peers[0], job(number), 5)
    assert [note.number for note in recorder.measured] == [2, 3]
    assert recorder.measured_open == 2
    recorder.kernel.run(100.0)
    for number in (1, 2, 3):
        recorder.gave_up(job(number), "cancelled")
    assert (recorder.measured_open, recorder.failed, len(recorder.open)) == (0, 3, 1)
    assert [note.end for note in recorder.measured] == ["cancelled"] * 2
    assert recorder.ends == {"cancelled": 3}


def test_what_must_not_be_is_noted() -> None:
    recorder, peers = made()

    def breaches() -> list[str]:
        told, recorder.violations = recorder.violations, []
        return [what.split(":")[0] for what in told]

    recorder.arrived(peers[0], job(), 5)
    recorder.committed(job())
    assert breaches() == ["I3"]  # answered before anybody ran it
    recorder.committed(job())
    assert breaches() == ["I2"]  # twice
    recorder.execution(attempt(recorder, peers))
    assert breaches() == ["I2"]  # run, though nobody was asked
    one = attempt(recorder, peers)
    recorder.attempted(one)
    assert breaches() == []
    recorder.attempted(attempt(recorder, peers))
    assert breaches() == ["I11"]  # the same worker again
    recorder.finished(job())
    recorder.gave_up(job(), "x")
    assert breaches() == ["I1"]  # it has ended
    recorder.attempted(one)
    assert breaches() == ["I3"]
    recorder.execution(one)
    assert breaches() == []  # the word of the end may be under way
    assert recorder.late_executions == 1
    assert (recorder.completed, recorder.failed) == (1, 0)
    recorder.arrived(peers[0], job(2), 5)
    recorder.finished(job(2))
    assert breaches() == ["I3"]  # ended and never answered


def test_work_is_wasted_from_the_first_token_of_what_came_to_nothing() -> None:
    recorder, _peers = made()
    recorder.observed(seen(Outcome.COMPLETED, 1.0, 9.0))
    recorder.observed(seen(Outcome.BROKEN, 1.0, 4.0))
    recorder.observed(seen(Outcome.BUSY, None, 2.0))
    recorder.observed(seen(Outcome.CANCELLED, 2.0, 2.5))
    assert recorder.wasted_s == pytest.approx(3.5)
    assert recorder.outcomes == {"completed": 1, "broken": 1, "busy": 1, "cancelled": 1}


def test_a_death_is_true_or_false() -> None:
    recorder, peers = made()
    dead = PeerState(peers[1].peer_id, "dead")
    recorder.state(peers[0], dead)
    assert (recorder.false_deaths, recorder.true_deaths) == (1, [])
    peers[1].die(silently=True)
    recorder.died_at[peers[1].peer_id] = recorder.kernel.now
    recorder.kernel.run(30.0)
    recorder.state(peers[0], PeerState(peers[1].peer_id, "suspect"))
    recorder.state(peers[0], dead)
    assert (recorder.false_deaths, recorder.true_deaths) == (1, [30.0])


def test_blame_between_honest_nodes_is_a_breach_and_of_others_is_not() -> None:
    recorder, peers = made()
    peers[2].honest = False
    recorder.penalty(peers[0], Penalise(peers[2].peer_id, 1, "forged"))
    recorder.penalty(peers[2], Penalise(peers[0].peer_id, 1, "forged"))
    assert (recorder.penalised_honest, recorder.violations) == (0, [])
    recorder.penalty(peers[0], Penalise(peers[1].peer_id, 1, "forged"))
    assert recorder.penalised_honest == 1
    assert recorder.violations[0].startswith("I10")
    assert recorder.penalties == {"forged": 3}
    recorder.ban(peers[0], peers[2].peer_id)
    recorder.ban(peers[2], peers[0].peer_id)
    assert recorder.bans == {2: 1}
