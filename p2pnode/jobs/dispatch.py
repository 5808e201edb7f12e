"""Runs this node's own jobs: it performs the effects of the entry's machine, and streams the answer to the caller.

One ``_Job`` drives one ``protocol.jobs.entry.Entry``.  Results of look-ups, updates of the attempt and timers go in;
look-ups, attempts, aborts and the end come out.  The caller's own task does it, inside :meth:`Dispatch.submit` and
:meth:`Answer.receive`.  While the caller does not receive, nothing is read, and the worker stops when its credit is
used up.  Leaving the block of ``submit`` cancels the job wherever it runs.

Not here: the choice of peers and the reaction to failures (``protocol.jobs``), the frames of peers (``attempts``).
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from p2pnode.engine.base import CHAT, COMPLETIONS, EMBEDDINGS
from p2pnode.jobs.attempts import Attempting, AttemptUpdate, LocalAttempt, RemoteAttempt
from p2pnode.jobs.engine_slots import EngineSlots
from p2pnode.jobs.model_listing import listed
from p2pnode.jobs.records import (
    CANCELLED,
    COMPLETED,
    FAILED,
    RUNNING,
    AttemptRecord,
    JobBook,
    JobFailed,
    JobRecord,
    JobSpec,
)
from p2pnode.json_types import JsonObject
from protocol.effects import Found, SetTimer
from protocol.events import TimerFired
from protocol.ids import PeerId, peer_text
from protocol.jobs.cascade import TIMER
from protocol.jobs.cascade_events import (
    Abort,
    Attempt,
    AttemptFailed,
    CallerGone,
    Commit,
    Finish,
    GiveUp,
    Observe,
    Paused,
    Progress,
    Resumed,
)
from protocol.jobs.entry import Entry, EntryEffect, EntryEvent, EntryState, LookUp, Submit
from protocol.routing.catalog import anything, catalog
from protocol.routing.ranking import JobQuery, Ranking, rank
from protocol.settings import NodeSettings

if TYPE_CHECKING:
    from p2pnode.engine.base import Engine
    from p2pnode.swarm.swarm import Swarm
    from protocol.rng import Rng

_STOPPING: Final = "This node is stopping: ask another one."
_CANCELLED: Final = "The job was cancelled by its owner."
#: The field that holds the prompt.
_PROMPTS: Final = {CHAT: "messages", COMPLETIONS: "prompt"}
#: In a body: tools are on offer, so the engine may hold back a call of one until it is whole.
_TOOLS: Final = b'"tools"'
#: Milliseconds in a second.
MS: Final = 1000.0


class Answer:
    """A job that has begun to answer; valid inside the block of ``submit``."""

    status = 200

    def __init__(self, job: _Job) -> None:
        self._job = job

    @property
    def peer(self) -> PeerId:
        """The answering peer."""
        return self._job.peer

    @property
    def attempts(self) -> int:
        """The number of peers asked, this one included."""
        return self._job.entry.asked

    @property
    def route(self) -> str:
        """``local`` or ``direct``."""
        return self._job.route

    async def receive(self) -> list[bytes]:
        """All pieces that have arrived; an empty list when the answer is complete.  It may be cancelled and repeated.

        Raises:
          JobFailed: the answer broke off; the received pieces are incomplete.
        """
        return await self._job.receive()


class Dispatch:
    """See the module's docstring.

    ``slots`` are the engine's, shared with the ``worker``; ``observe`` gets every measured attempt; ``trusted`` are the
    peers that the zones ``mine`` and ``trusted`` allow; ``decided`` gets the duration of each ranking in seconds.
    """

    def __init__(
        self,
        swarm: Swarm,
        engine: Engine | None,
        policy: str,
        settings: NodeSettings,
        rng: Rng,
        book: JobBook,
        slots: EngineSlots | None = None,
        observe: Callable[[Observe], None] | None = None,
        trusted: frozenset[PeerId] = frozenset(),
        decided: Callable[[float], object] = lambda _: None,
    ) -> None:
        self.swarm = swarm
        self.engine = engine
        self.settings = settings
        self.book = book
        self.slots = slots or (EngineSlots(engine, settings.admission) if engine is not None else None)
        self.observe = observe
        self.entry_state = EntryState(swarm.view, self._rank, settings.cascade, rng, trio.current_time())
        self._policy = policy
        self._rng = rng
        self._trusted = trusted
        self._decided = decided
        self._draining = False

    @asynccontextmanager
    async def submit(self, spec: JobSpec) -> AsyncIterator[Answer]:
        """Run a job.  Entering returns when the first piece of a stream, or a complete answer, has arrived.

        Raises:
          JobFailed: no peer could do it, and the caller has not received anything.
        """
        if self._draining:
            raise JobFailed(503, "no_capacity", _STOPPING, retry_after=1.0)
        problem: Exception | None = None
        async with trio.open_nursery() as nursery:
            job = _Job(self, spec, nursery)
            try:
                await job.begin()
                yield Answer(job)
            except Exception as error:
                problem = error  # raised below, because the nursery would wrap it into a group
            finally:
                job.leave()
                nursery.cancel_scope.cancel()
        if problem is not None:
            raise problem

    def explain(self, query: JobQuery) -> Ranking:
        """The explained ranking of a query; nothing is sent."""
        return self._rank(query, trio.current_time(), explain=True)

    def models(self) -> list[JsonObject]:
        """The models on offer, for ``/v1/models``."""
        return [listed(summary) for summary in catalog(self.swarm.view, trio.current_time())]

    def anything(self) -> bool:
        """Whether any model is on offer."""
        return anything(self.swarm.view, trio.current_time())

    def drain(self) -> None:
        """Take no more jobs; running ones may finish."""
        self._draining = True

    def _rank(self, query: JobQuery, now: float, explain: bool) -> Ranking:
        if query.zone in ("mine", "trusted"):
            query = replace(query, trusted=query.trusted | self._trusted)
        began, most = time.perf_counter(), self.settings.cascade.ranked
        experience = self.entry_state.experience
        ranking = rank(self.swarm.view, query, self._policy, self._rng, now, most, explain, experience)
        if not explain:
            self._decided(time.perf_counter() - began)
            self.swarm.routed(query)
        return ranking


class _Search:
    """The look-up of one job, which may outlive it."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._found: Found | None = None
        self._over = trio.Event()

    def on_found(self, found: Found) -> None:
        """The look-up is over; called by another task."""
        if self._entry.state == "searching":
            self._found = found
            self._over.set()
        else:
            self._entry.handle(found, trio.current_time())  # which keeps it for the next job

    async def next_update(self) -> AttemptUpdate:
        """The result as an event for the machine."""
        await self._over.wait()
        assert self._found is not None, "the event says so"
        return AttemptUpdate([self._found])


class _Job:
    """One job and its machine."""

    def __init__(self, dispatch: Dispatch, spec: JobSpec, nursery: trio.Nursery) -> None:
        self._dispatch = dispatch
        self._spec = spec
        self._nursery = nursery
        self._began = trio.current_time()
        self.entry = Entry(dispatch.entry_state, spec.deadline)
        self.peer = PeerId(b"")
        self._search = _Search(self.entry)
        self._attempt: Attempting | None = None
        self._timer = math.inf
        self._wait = trio.CancelScope()
        self._pieces: list[bytes] = []
        self._paused = False
        self._finished = False
        self._failure: JobFailed | None = None
        self._record: JobRecord = dispatch.book.begin(spec, self.cancel)

    @property
    def route(self) -> str:
        return "local" if self.peer == self._dispatch.swarm.me else "direct"

    # --- for the caller ------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Run until the caller may have the answer; raises ``JobFailed``."""
        self._feed(self._submission())
        while not self.entry.committed and self._failure is None:
            await self._step()
        if not self.entry.committed and self._failure is not None:
            raise self._failure
        self._pause()

    async def receive(self) -> list[bytes]:
        """See ``Answer.receive``."""
        while not self._pieces:
            if self._failure is not None:
                raise self._failure
            if self._finished:
                await trio.lowlevel.checkpoint()
                return []
            if self._paused:
                self._paused = False
                self._feed(Resumed())
            await self._step()
        pieces, self._pieces = self._pieces, []
        self._pause()
        return pieces

    def cancel(self) -> None:
        """Cancel the job for its owner; called by another task."""
        if self._failure is None and not self._finished:
            self._feed(CallerGone())
            self._record.state = CANCELLED
            self._failure = JobFailed(499, "cancelled", _CANCELLED, should_retry=False)
            self._wait.cancel()

    def leave(self) -> None:
        """End the job, for whatever reason, and complete its record."""
        record, failure = self._record, self._failure
        self._feed(CallerGone())
        if failure is not None and record.state != CANCELLED:
            record.state, record.status = FAILED, failure.status
            record.code, record.message = failure.code, failure.message
        elif failure is None:
            record.state = COMPLETED if self._finished else CANCELLED
        record.timings.total_ms = self._since(self._began)
        if self._attempt is not None and self._attempt.tokens is not None:
            record.tokens_in, record.tokens_out = self._attempt.tokens
        self._dispatch.book.end(record)

    # --- driving the machine -------------------------------------------------------------------------------------

    def _submission(self) -> Submit:
        spec, engine = self._spec, self._dispatch.engine
        return Submit(
            spec.query,
            spec.stream,
            len(spec.body),
            # An embedding is complete when the prompt is processed.
            max(1, spec.prompt_tokens) if spec.path == EMBEDDINGS else spec.max_tokens,
            _PROMPTS.get(spec.path, "input"),
            has_engine=engine is not None,
            engine_starting=engine is not None and engine.state == "starting",
            holds_back=_TOOLS in spec.body,
        )

    async def _step(self) -> None:
        """Wait for an update or the timer, and handle it."""
        update: AttemptUpdate | None = None
        with trio.CancelScope(deadline=self._timer) as self._wait:
            if self.entry.state == "pausing":
                await trio.sleep_forever()
            update = await (self._search if self._attempt is None else self._attempt).next_update()
        if self._failure is not None:
            return
        if update is None:
            self._feed(TimerFired(TIMER))
            return
        events = update.events
        if not self.entry.committed and any(isinstance(event, AttemptFailed) for event in events):
            # The caller has no piece of it yet, so another peer can give the whole answer.
            events = [event for event in events if not isinstance(event, Progress)]
        else:
            self._pieces += update.pieces
        for event in events:
            self._feed(event)

    def _pause(self) -> None:
        if self.entry.state == "flowing" and not self._paused:
            self._paused = True
            self._feed(Paused())

    def _feed(self, event: EntryEvent) -> None:
        for effect in self.entry.handle(event, trio.current_time()):
            self._perform(effect)

    def _perform(self, effect: EntryEffect) -> None:
        match effect:
            case LookUp(model):
                self._dispatch.swarm.seek_providers(model, self._search.on_found)
            case Attempt():
                self._try(effect)
            case SetTimer(_, at):
                self._timer = at
            case Abort(_, code):
                if self._attempt is not None:
                    self._attempt.abort(code)
            case Commit():
                self._record.timings.committed_ms = self._since(self._began)
            case Finish():
                self._finished = True
            case GiveUp():
                self._failure = JobFailed(
                    effect.status,
                    effect.code,
                    effect.message,
                    effect.param,
                    effect.retry_after,
                    should_retry=effect.retry_after is not None,
                )
            case Observe():
                self._observe(effect)

    def _try(self, attempt: Attempt) -> None:
        dispatch, spec, record = self._dispatch, self._spec, self._record
        self.peer = peer = attempt.peer
        self._pieces.clear()
        if peer == dispatch.swarm.me and dispatch.engine is not None and dispatch.slots is not None:
            self._attempt = LocalAttempt(dispatch.engine, dispatch.slots, peer, spec)
        else:
            most_bytes = dispatch.settings.cascade.answer_bytes
            self._attempt = RemoteAttempt(dispatch.swarm, attempt, spec, self.entry.end, most_bytes)
        record.state, record.route, record.peer = RUNNING, self.route, peer_text(peer)
        since = trio.current_time() - self._began
        record.attempts.append(AttemptRecord(record.peer, record.created + since))
        self._nursery.start_soon(self._attempt.run)

    def _observe(self, seen: Observe) -> None:
        dispatch, attempt = self._dispatch, self._record.attempts[-1]
        attempt.outcome, attempt.code = str(seen.outcome), seen.detail
        attempt.blamed, attempt.pieces = seen.blame, seen.pieces
        attempt.ms = _ms(seen.asked_at, seen.ended_at)
        attempt.accepted_ms = _ms(seen.asked_at, seen.accepted_at)
        attempt.first_ms = _ms(seen.asked_at, seen.first_at)
        if dispatch.observe is not None:
            dispatch.observe(seen)

    def _since(self, then: float) -> float:
        elapsed: float = MS * (trio.current_time() - then)
        return round(elapsed, 3)


def _ms(start: float, end: float | None) -> float | None:
    return None if end is None else round(MS * (end - start), 3)
