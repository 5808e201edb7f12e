"""A job at the entry: performs the effects of ``protocol.jobs.entry`` on the simulated network.

Not here: the choice of workers (``protocol.jobs``), the worker's side (``worker``), the caller (``workload``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Final

from protocol.effects import Found, SetTimer
from protocol.errors import RemoteProtocolError
from protocol.events import FindPeer, FindProviders, TimerFired
from protocol.ids import ModelId, PeerId
from protocol.jobs.admission import NO_ENGINE
from protocol.jobs.cascade import TIMER
from protocol.jobs.cascade_events import (
    Abort,
    Attempt,
    AttemptFailed,
    CallerGone,
    CascadeEvent,
    Commit,
    Completed,
    Finish,
    GiveUp,
    Observe,
    Progress,
    Refused,
    Searching,
)
from protocol.jobs.entry import Entry, EntryEvent, EntryState, LookUp, Submit
from protocol.jobs.providers import addresses_in
from protocol.jobs.reach import FindAddrs, Reach, ReachEffect, Unreached
from protocol.membership.connections import NOT_NOW
from protocol.reputation.experience import Experience
from protocol.reputation.outcomes import Outcome
from protocol.reputation.snapshot import ExperienceSnapshot
from protocol.routing.link_pool import routed
from protocol.routing.policies import DEFAULT, SORTS
from protocol.routing.ranking import JobQuery, Ranking, rank
from protocol.wire.end_signature import read_end
from simulations.sim.endpoint import Endpoint, SimLink
from simulations.sim.host import Host
from simulations.sim.jobs import REQ_BYTES, RST_BYTES, Job, SimAttempt, Truth, job_id
from simulations.sim.network import REFUSED
from simulations.sim.worker import Worker

#: Ranks the peers for a job that came to a node; the last argument asks for the reasons of those left out.
Choose = Callable[[Host, JobQuery, bool, Experience | None], Ranking]
_FIRED: Final = TimerFired(TIMER)


class _Run:
    """One job on its way."""

    __slots__ = ("attempt", "entry", "job", "link", "timer", "truth")

    def __init__(self, job: Job, truth: Truth, entry: Entry) -> None:
        self.job = job
        self.truth = truth
        self.entry = entry
        self.attempt: SimAttempt | None = None
        self.link: SimLink | None = None
        self.timer = math.inf


class SimEntry:
    """The jobs that arrive at one node."""

    def __init__(self, peer: Host, choose: Choose, workers: Mapping[PeerId, Worker]) -> None:
        self.peer = peer
        self.loop = peer.loop
        self._choose = choose
        self._workers = workers
        #: The state that the jobs of one life share; None before the first of them.
        self._state: EntryState | None = None
        #: What the last life has learned of its peers.
        self._learned = ExperienceSnapshot()
        self._runs: dict[int, _Run] = {}
        self._coming: dict[int, Job] = {}

    @property
    def experience(self) -> Experience | None:
        """What this life has learned from its jobs; None before the first of them."""
        return None if self._state is None else self._state.experience

    @property
    def under_way(self) -> int:
        """Jobs that are here and have not ended."""
        return len(self._coming) + len(self._runs)

    # --- beginning -----------------------------------------------------------------------------------------------

    def arrives(self, job: Job, truth: Truth) -> None:
        """A caller asks; he is heard when the processor is free for him."""
        self._coming[job.number] = job
        self.peer.run(self.submit, job, truth)

    def submit(self, job: Job, truth: Truth) -> None:
        """A caller is heard."""
        peer = self.peer
        if self._coming.pop(job.number, None) is None:
            return  # the caller did not wait
        peer.spend(
            peer.costs.job_entry_s + peer.costs.decision_s + peer.costs.decision_peer_s * offered(peer, job.model)
        )
        if self._state is None:
            self._state = EntryState(peer.node.view, self._rank, peer.settings.cascade, peer.entry_rng, peer.started_at)
            self._state.experience.restore(self._learned, self.loop.now)
        run = self._runs[job.number] = _Run(job, truth, Entry(self._state))
        query = JobQuery(job.model, job.prompt_tokens, job.max_tokens)
        has_engine = peer.machine.serves
        self._feed(run, Submit(query, job.streamed, job.body_bytes, job.max_tokens, has_engine=has_engine))

    def _rank(self, query: JobQuery, _now: float, explain: bool) -> Ranking:
        event = None if explain else routed(query)
        if event is not None:
            self.peer.feed(event)
        return self._choose(self.peer, query, explain, self.experience)

    def _look_up(self, run: _Run, model: ModelId) -> None:
        self.peer.ask(lambda number: FindProviders(number, model), lambda found: self._found(run, found))

    def _found(self, run: _Run, found: Found) -> None:
        self._feed(run, found)  # the machine keeps what comes too late for the next job

    # --- replies -------------------------------------------------------------------------------------------------

    def heard(self, attempt: SimAttempt, event: CascadeEvent) -> None:
        """A worker said something of an attempt."""
        run = self._runs.get(attempt.job.number)
        if run is None or run.attempt is not attempt or attempt.aborted or attempt.entry_life != self.peer.life:
            return
        if isinstance(event, Progress):
            self.peer.spend(event.pieces * self.peer.costs.token_entry_s)
        self._feed(run, event)

    def heard_end(self, attempt: SimAttempt, payload: bytes, said: bytes) -> None:
        """The END of an attempt as it came over the wire, after ``said``; checked as the daemon does."""
        worker = attempt.worker
        try:
            read_end(worker.peer_id, job_id(attempt.job), payload, sha256(said).digest())
        except RemoteProtocolError as error:
            self.heard(attempt, AttemptFailed(worker.peer_id, Outcome.MISBEHAVED, str(error)))
        else:
            self.heard(attempt, Completed(worker.peer_id))

    def caller_gone(self, number: int) -> None:
        """The caller does not want the answer any more."""
        run = self._runs.get(number)
        if run is not None:
            self._feed(run, CallerGone())
            self._end(run)
            self.peer.job_log.gave_up(run.job, "cancelled")
        elif (job := self._coming.pop(number, None)) is not None:
            self.peer.job_log.gave_up(job, "cancelled")

    def link_down(self, other: Endpoint) -> None:
        """Every attempt at that peer is lost."""
        for run in [run for run in self._runs.values() if run.attempt is not None and run.attempt.worker is other]:
            if run.link is not None and not run.link.up:
                run.link = None
                self._feed(run, AttemptFailed(other.peer_id, Outcome.BROKEN, "the link broke"))

    def crashed(self, *, saves: bool = True, forgets: bool = False) -> None:
        """The process is gone with all its open jobs; its callers get no answer.  What it learned is on its disk."""
        if forgets:
            self._learned = ExperienceSnapshot()
        elif saves and self._state is not None:
            self._learned = self._state.experience.snapshot()
        for run in list(self._runs.values()):
            self._not_coming(run)
            self.peer.job_log.gave_up(run.job, "entry_crashed")
        for job in self._coming.values():
            self.peer.job_log.gave_up(job, "entry_crashed")
        self._coming.clear()
        self._runs.clear()
        self._state = None

    # --- the machine ---------------------------------------------------------------------------------------------

    def _feed(self, run: _Run, event: EntryEvent) -> None:
        for effect in run.entry.handle(event, self.loop.now):
            if isinstance(effect, SetTimer):
                self._set_timer(run, effect.at)
            elif isinstance(effect, LookUp):
                self._look_up(run, effect.model)
            elif isinstance(effect, Attempt):
                self._try(run, effect)
            elif isinstance(effect, Abort):
                self._abort(run)
            elif isinstance(effect, Commit):
                self.peer.job_log.committed(run.job)
            elif isinstance(effect, Observe):
                self._not_coming(run)
                self.peer.job_log.observed(effect)
            elif isinstance(effect, Finish):
                self._end(run)
                self.peer.job_log.finished(run.job)
            elif isinstance(effect, GiveUp):
                self._end(run)
                self.peer.job_log.gave_up(run.job, effect.code)

    def _set_timer(self, run: _Run, at: float) -> None:
        if at < run.timer or run.timer <= self.loop.now:
            self.loop.at(at, self._fire, run, at, self.peer.life)
        run.timer = at

    def _fire(self, run: _Run, at: float, life: int) -> None:
        if life != self.peer.life or run.job.number not in self._runs:
            return
        if run.timer > at:
            # It was moved: the newest time counts.
            if run.timer < math.inf:
                self.loop.at(run.timer, self._fire, run, run.timer, life)
            return
        if run.timer == at:
            self.peer.run(self._fired, run)

    def _fired(self, run: _Run) -> None:
        if run.job.number in self._runs:
            self._feed(run, _FIRED)

    def _end(self, run: _Run) -> None:
        self._runs.pop(run.job.number, None)
        self._release(run)

    def _release(self, run: _Run) -> None:
        if run.link is not None:
            run.link.jobs -= 1
            run.link = None

    def _try(self, run: _Run, effect: Attempt) -> None:
        peer, peer_id = self.peer, effect.peer
        self._release(run)
        other, worker = peer.network.by_peer[peer_id], self._workers.get(peer_id)
        number = peer.job_log.next_attempt()
        attempt = SimAttempt(number, run.job, run.truth, peer, other, self.heard, self.heard_end)
        attempt.entry_life = peer.life
        run.attempt = attempt
        peer.job_log.attempted(attempt)
        if worker is not None:
            worker.coming[attempt.number] = attempt
        if other is peer:
            assert worker is not None, "a node without an engine does not ask itself"
            peer.run(worker.requested, attempt)
            return
        record = peer.node.view.get(peer_id)
        known = record.advert.addrs if record is not None and record.advert is not None else ()
        reach = Reach((*known, *effect.addrs), last=effect.last)
        if peer_id in peer.links:
            peer.connect(peer_id, (), lambda link, _: self._connected(run, attempt, link, ""))
        else:
            self._reach(run, attempt, reach, reach.begin())

    def _reach(self, run: _Run, attempt: SimAttempt, reach: Reach, step: ReachEffect) -> None:
        """Perform a step of ``protocol.jobs.reach``."""
        if run.attempt is not attempt or attempt.aborted:
            return
        peer, peer_id = self.peer, attempt.worker.peer_id
        if isinstance(step, Unreached):
            self._connected(run, attempt, None, step.problem)
        elif isinstance(step, FindAddrs):
            self._feed(run, Searching(peer_id))
            peer.ask(
                lambda number: FindPeer(number, peer_id),
                lambda found: self._reach(run, attempt, reach, reach.found(addresses_in(found, peer_id))),
            )
        else:
            peer.connect(peer_id, step.addrs, lambda link, why: self._dialled(run, attempt, reach, link, why))

    def _dialled(self, run: _Run, attempt: SimAttempt, reach: Reach, link: SimLink | None, why: str) -> None:
        if link is not None and link.up:
            self._connected(run, attempt, link, "")
        else:
            self._reach(run, attempt, reach, reach.failed(why))

    def _connected(self, run: _Run, attempt: SimAttempt, link: SimLink | None, why: str) -> None:
        if run.attempt is not attempt or attempt.aborted:
            return
        if link is None or not link.up:
            peer, answered, tried = attempt.worker.peer_id, why == REFUSED, why != NOT_NOW
            self._feed(run, AttemptFailed(peer, Outcome.UNREACHABLE, why or "no link", answered, tried))
            return
        run.link = link
        attempt.linked_at = self.loop.now
        link.jobs += 1
        worker = self._workers.get(attempt.worker.peer_id)
        size = REQ_BYTES + attempt.job.body_bytes
        if worker is None:
            self._feed(run, Refused(attempt.worker.peer_id, NO_ENGINE))
        else:
            self.peer.network.carry(link, self.peer, size, worker.requested, attempt)

    def _not_coming(self, run: _Run) -> None:
        """Its attempt is no longer on its way."""
        attempt = run.attempt
        if attempt is not None and attempt.worker.peer_id in self._workers:
            self._workers[attempt.worker.peer_id].coming.pop(attempt.number, None)

    def _abort(self, run: _Run) -> None:
        attempt, link = run.attempt, run.link
        assert attempt is not None, "an abort follows an attempt"
        attempt.aborted = True
        worker = self._workers.get(attempt.worker.peer_id)
        if worker is None:
            return
        if attempt.worker is self.peer:
            worker.cancelled(attempt)
        elif link is not None and link.up:
            self.peer.network.carry(link, self.peer, RST_BYTES, worker.cancelled, attempt)


def offered(peer: Host, model: str) -> int:
    """The number of nodes in the view that claim the model; the cost of a decision grows with it."""
    offers = peer.node.view.offers(model)
    return len(offers) if offers is not None else 0


def by_policy(policy: str) -> Choose:
    """The daemon's way to choose: the ranking of its own view, by a named policy or as a caller may sort it."""
    named = DEFAULT if policy in SORTS else policy

    def choose(peer: Host, query: JobQuery, explain: bool, experience: Experience | None) -> Ranking:
        if policy in SORTS:
            query = replace(query, sort=policy)
        most = peer.settings.cascade.ranked
        view, now = peer.node.view, peer.loop.now
        return rank(view, query, named, peer.entry_rng, now, limit=most, explain=explain, experience=experience)

    return choose
