"""Records a run: the life of every job, states and penalties.  ``metrics`` evaluates the records at its end.

This module counts jobs (submitted = completed + failed + open), and ``invariants`` checks the sum.  Only jobs that
arrived in the measured window count for the figures, and each is followed to its end.  A job that never got an answer
counts as unserved, because leaving it out would hide exactly the worst cases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from protocol.effects import PeerState, Penalise
from protocol.jobs.cascade_events import Observe
from simulations.event_loop import EventLoop
from simulations.sim.endpoint import Endpoint
from simulations.sim.jobs import Job, SimAttempt


@dataclass(slots=True)
class JobNote:
    """One job as it went.  Times are virtual seconds; None where it did not come to that."""

    number: int
    asked_at: float
    entry: int
    model: str
    measured: bool
    attempts: int = 0
    executions: int = 0
    committed_at: float | None = None
    ended_at: float | None = None
    tokens: int = 0
    worker: int = -1
    first_try_at: float = 0.0
    #: The newest attempt while the job is open, and the seconds of ``STAGES`` once it has its first piece.
    attempt: SimAttempt | None = None
    stages: Sequence[float] = ()
    #: GPU seconds of its ended attempts.
    gpu_s: float = 0.0
    #: All nodes that were asked.
    asked: list[int] = field(default_factory=list)
    #: ``completed``, the code of what the caller was told, or empty while it is open.
    end: str = ""
    bad: bool = False
    #: Whether the last worker said that the job is done, and had not done it.
    wrong: bool = False
    #: How many jobs had come to this entry before it.
    earlier: int = 0


@dataclass(slots=True)
class JobLog:
    """See the module's docstring.  Jobs that arrive in ``window`` are measured."""

    loop: EventLoop
    window: tuple[float, float]
    submitted: int = 0
    completed: int = 0
    failed: int = 0
    open: dict[int, JobNote] = field(default_factory=dict)
    #: Measured jobs that are open.
    measured_open: int = 0
    measured: list[JobNote] = field(default_factory=list)
    attempts: int = 0
    executions: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    #: Attempts at each node since the last sample, and in all.
    arrivals: Counter[int] = field(default_factory=Counter)
    arrivals_all: Counter[int] = field(default_factory=Counter)
    attempts_at_bad: int = 0
    #: Attempts that were begun in the measured window, by worker.
    attempt_log: list[tuple[float, int]] = field(default_factory=list)
    #: GPU seconds of attempts whose answer did not reach the caller.
    wasted_s: float = 0.0
    late_executions: int = 0
    false_deaths: int = 0
    true_deaths: list[float] = field(default_factory=list)
    died_at: dict[bytes, float] = field(default_factory=dict)
    penalties: Counter[str] = field(default_factory=Counter)
    penalised_honest: int = 0
    #: The nodes that honest nodes have banned, and how often.
    bans: Counter[int] = field(default_factory=Counter)
    by_peer_id: dict[bytes, Endpoint] = field(default_factory=dict)
    #: Jobs that came to each entry.
    at_entry: Counter[int] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    _attempts_made: int = 0

    # --- jobs ----------------------------------------------------------------------------------------------------

    @property
    def undecided(self) -> bool:
        """Whether an open measured job has not reached its first attempt."""
        return any(note.measured and not note.attempts for note in self.open.values())

    def next_attempt(self) -> int:
        """A number for an attempt, never used before."""
        self._attempts_made += 1
        return self._attempts_made

    def arrived(self, peer: Endpoint | None, job: Job, output_tokens: int) -> None:
        """A caller asked ``peer``; None if the caller found no node to ask."""
        self.submitted += 1
        entry = -1 if peer is None else peer.index
        note = JobNote(
            job.number,
            self.loop.now,
            entry,
            job.model,
            self.window[0] <= self.loop.now < self.window[1],
            tokens=output_tokens,
            earlier=self.at_entry[entry],
        )
        self.at_entry[entry] += 1
        self.open[job.number] = note
        if note.measured:
            self.measured.append(note)
            self.measured_open += 1

    def attempted(self, attempt: SimAttempt) -> None:
        """A worker is asked."""
        self.attempts += 1
        worker = attempt.worker
        self.arrivals[worker.index] += 1
        self.arrivals_all[worker.index] += 1
        note = self.open.get(attempt.job.number)
        if note is None:
            self.violations.append(f"I3: job {attempt.job.number} was sent to a worker after its end")
            return
        attempt.tried_at = self.loop.now
        note.first_try_at = note.first_try_at if note.attempts else self.loop.now
        note.attempts += 1
        note.worker = worker.index
        note.attempt = attempt
        if worker.index in note.asked:
            self.violations.append(f"I11: job {note.number} came to node {worker.index} twice")
        note.asked.append(worker.index)
        note.wrong = False
        if not worker.honest:
            self.attempts_at_bad += 1
            note.bad = True
        if note.measured:
            self.attempt_log.append((self.loop.now, worker.index))

    def execution(self, attempt: SimAttempt) -> None:
        """An engine begins a job."""
        self.executions += 1
        note = self.open.get(attempt.job.number)
        if note is None:
            self.late_executions += 1  # its caller is gone, the word of it under way
            return
        note.executions += 1
        if note.executions > note.attempts:
            self.violations.append(f"I2: job {note.number} ran {note.executions} times in {note.attempts} attempts")

    def left_engine(self, attempt: SimAttempt) -> None:
        """An attempt leaves its engine, finished or not."""
        note = self.open.get(attempt.job.number)
        if note is None:
            self.wasted_s += attempt.gpu_s  # the job has ended before
        else:
            note.gpu_s += attempt.gpu_s

    def lied(self, attempt: SimAttempt) -> None:
        """A worker ends an answer that looks right and is not; only this file knows."""
        note = self.open.get(attempt.job.number)
        if note is not None and note.worker == attempt.worker.index:
            note.wrong = True

    def committed(self, job: Job) -> None:
        """The first piece goes to the caller."""
        note = self.open.get(job.number)
        if note is None or note.committed_at is not None:
            self.violations.append(f"I2: job {job.number} was answered twice")
            return
        note.committed_at = self.loop.now
        if note.attempt is not None:
            note.stages = note.attempt.stages(note.asked_at, note.first_try_at, self.loop.now)
        if note.executions == 0 and self.by_peer_id and not note.bad:
            self.violations.append(f"I3: job {job.number} was answered before it ran")

    def finished(self, job: Job) -> None:
        """The answer is whole."""
        note = self._close(job, "completed")
        if note is not None:
            self.completed += 1
            if note.committed_at is None:
                self.violations.append(f"I3: job {job.number} ended before it was answered")

    def gave_up(self, job: Job, code: str) -> None:
        """The caller was told that it failed, or went away."""
        if self._close(job, code) is not None:
            self.failed += 1

    def _close(self, job: Job, end: str) -> JobNote | None:
        note = self.open.pop(job.number, None)
        if note is None:
            self.violations.append(f"I1: job {job.number} ended twice")
            return None
        answered_s = note.attempt.gpu_s if end == "completed" and note.attempt is not None else 0.0
        self.wasted_s += note.gpu_s - answered_s
        note.end, note.ended_at, note.attempt = end, self.loop.now, None
        self.measured_open -= note.measured
        self.ends[end] += 1
        return note

    def observed(self, seen: Observe) -> None:
        """The result of one attempt."""
        self.outcomes[str(seen.outcome)] += 1

    # --- the network ---------------------------------------------------------------------------------------------

    def state(self, _peer: Endpoint, effect: PeerState) -> None:
        """``peer`` has made up its mind about another."""
        if effect.state != "dead":
            return
        other = self.by_peer_id.get(effect.peer)
        if other is None:
            return
        if other.up:
            self.false_deaths += 1
        elif effect.peer in self.died_at:
            self.true_deaths.append(self.loop.now - self.died_at[effect.peer])

    def penalty(self, peer: Endpoint, effect: Penalise) -> None:
        """``peer`` holds something against another."""
        self.penalties[effect.reason] += 1
        other = self.by_peer_id.get(effect.peer)
        if other is not None and other.honest and peer.honest:
            self.penalised_honest += 1
            self.violations.append(f"I10: node {peer.index} blames node {other.index}: {effect.reason}")

    def ban(self, peer: Endpoint, whom: bytes) -> None:
        """``peer`` will have nothing to do with another for a while."""
        other = self.by_peer_id.get(whom)
        if other is not None and peer.honest:
            self.bans[other.index] += 1
