"""The cascade of one job at its entry: which peer to ask, how long to wait, when to try the next one, when to give up.

Not here: channels, tokens and engines.  The driver (``p2pnode.jobs.dispatch``, or the simulator) reports events of the
wire and performs the effects; of the answer itself the machine hears only milestones.  The candidates come ranked
(``protocol.routing.ranking``).

Theory of operation
-------------------
The cascade tries peers one after the other, best first, none twice.  *Until the first byte has gone to the caller* a
failure is invisible: the next peer gets the job.  The driver sees that moment as ``Commit``: with the first piece of a
stream, or, where the answer is not streamed, with its proven end.  *After it* a failure is final, and the caller is
told.

The cost of an attempt depends on the risk that it carried.  A peer that cannot be reached costs a round trip: it counts
only against ``unreached``, so that identities on paper do not use up the rest.  A peer did no work if it is busy, says
nothing at all, or no longer has the model: it counts only against ``asked``.  (When a network partitions, half of the
peers fall silent at once, and three tries are too few; seen in the simulator.)  A peer that took the job and failed
counts against ``attempts`` as well, so that a request that kills engines kills three of them at most.  A refusal
because of the request itself ends the job once a second voice confirms it (``refusals``); until then the next peer is
asked.

A retry after an attempt that risked something uses the budget of the node, and from the second one on waits a little
(``retries``).

The deadlines of an attempt come from its prediction (``deadlines``).  All of them use one timer, which is moved lazily:
an event only notes its time, and the timer checks again when it fires.  While the caller does not read (``Paused``),
the peer has no deadline.

======= ====================== =========================================================== =======
state   event                  effects                                                     next
======= ====================== =========================================================== =======
idle    Begin                  Attempt, or GiveUp (503) without candidates                 asking
asking  Searching              SetTimer                                                    asking
asking  Accepted               SetTimer                                                    waiting
asking  WasBusy, or Accepted   Abort, Observe, then the next Attempt or GiveUp             asking
        with a promise that is
        too late, others left
asking, Refused, the request   Observe, GiveUp with the peer's words                       over
waiting is at fault, confirmed
asking, Refused otherwise      Observe, then the next Attempt or GiveUp                    asking
waiting
waiting Keepalive              none                                                        waiting
waiting Progress               Commit if it is a stream                                    flowing
flowing Progress, Keepalive    none                                                        flowing
flowing Paused, Resumed        none                                                        flowing
waiting Completed              as AttemptFailed, because the answer is empty               asking
flowing Completed              Commit unless it was, Contradicted for each peer that called   over
                               the request wrong, Observe, Finish
any     AttemptFailed,         Abort, Observe, then the next Attempt; GiveUp if committed  asking
        deadline               or if the retries of the node are spent
        the same, from the     Abort, Observe, SetTimer                                    pausing
        second retry on
pausing TimerFired             the next Attempt                                            asking
any     the whole job's time   Abort, Observe, GiveUp (504)                                over
any     CallerGone             Abort, Observe                                              over
over    any                    none                                                        over
======= ====================== =========================================================== =======

Late events of a peer that was given up are ignored.  Any other event that is not in the table is a defect of the driver
(``LocalProtocolError``).
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, Final

from protocol.effects import SetTimer, TimerKey
from protocol.errors import LocalProtocolError
from protocol.events import TimerFired
from protocol.ids import PeerId, short
from protocol.jobs.cascade_events import (
    Abort,
    Accepted,
    Attempt,
    AttemptFailed,
    Begin,
    CallerGone,
    CascadeEffect,
    CascadeEvent,
    Commit,
    Completed,
    Contradicted,
    Finish,
    GiveUp,
    Keepalive,
    Observe,
    Paused,
    Progress,
    Refused,
    Resumed,
    Searching,
    WasBusy,
)
from protocol.jobs.deadlines import Deadlines
from protocol.jobs.reach import REACH_S
from protocol.jobs.refusals import Refusals
from protocol.jobs.retries import RetryBudget
from protocol.reputation.outcomes import BLAMED, CHEAP, OF_THE_NETWORK, Outcome
from protocol.settings import CascadeSettings
from protocol.wire.mux import ResetCode

#: The one timer of a cascade.
TIMER: Final[TimerKey] = ("cascade",)
#: A worker may enforce the caller's deadline this much before we do, seconds (guess: clocks drift, frames travel).
DEADLINE_SLACK_S: Final = 1.0
#: The least wait that a caller is told, also used where no peer said more, seconds (HTTP knows no fractions).
RETRY_S: Final = 1.0


class OwnNetwork:
    """Suspects our own network: if many different peers fail at once, the fault is probably on our side.

    One for all cascades of a node (Lifeguard's local health, with a threshold instead of a scale).
    """

    def __init__(self, settings: CascadeSettings) -> None:
        self._peers = settings.own_fault_peers
        self._window_s = settings.own_fault_s
        self._failed: OrderedDict[PeerId, float] = OrderedDict()

    def failed(self, peer: PeerId, now: float) -> None:
        """A peer failed in a way that a broken network explains."""
        self._failed.pop(peer, None)
        self._failed[peer] = now
        while next(iter(self._failed.values())) <= now - self._window_s:
            self._failed.popitem(last=False)

    def worked(self) -> None:
        """A peer answered, so the network is there."""
        self._failed.clear()

    def suspected(self, now: float) -> bool:
        """Whether to blame no peers for now."""
        return sum(at > now - self._window_s for at in self._failed.values()) >= self._peers


class Cascade:
    """See the module's docstring.  The whole job has time until ``end``, monotonic seconds."""

    def __init__(self, settings: CascadeSettings, network: OwnNetwork, budget: RetryBudget, end: float) -> None:
        self._settings = settings
        self._network = network
        self._budget = budget
        self._end = end
        self._begin = Begin(())
        self._state = "idle"
        self._committed = False
        self._attempts = 0
        self._outcomes: list[Outcome] = []
        self._waits: list[float] = []
        self._refusals = Refusals()
        # The attempt under way.
        self.asked = self._unreached = 0
        self._search_s = self._resume_at = 0.0
        self._problem = ""
        self._peer = PeerId(b"")
        self._deadlines = Deadlines(settings, self._begin, None)
        self._asked_at = self._heard = self._window = self._first_due = 0.0
        self._accepted_at: float | None = None
        self._first_at: float | None = None
        self._paused_at: float | None = None
        self._longest_pause = self._promise_s = 0.0
        self._pieces = self._window_pieces = 0

    @property
    def state(self) -> str:
        """``idle``, ``asking``, ``waiting``, ``flowing``, ``pausing`` or ``over``."""
        return self._state

    @property
    def committed(self) -> bool:
        return self._committed

    def handle(self, event: CascadeEvent, now: float) -> list[CascadeEffect]:
        """The effects of an event, in their order."""
        peer = getattr(event, "peer", self._peer)
        if self._state == "over" or peer != self._peer:
            return []
        step = _STEPS.get((self._state, type(event)))
        if step is None:
            raise LocalProtocolError(f"{type(event).__name__} while {self._state}")
        return step(self, event, now)

    # --- asking --------------------------------------------------------------------------------------------------

    def _on_begin(self, event: Begin, now: float) -> list[CascadeEffect]:
        self._begin = event
        self._refusals = Refusals(too_long=event.too_long)
        return self._next(now, "nobody offers it")

    def _next(self, now: float, detail: str) -> list[CascadeEffect]:
        if now >= self._end:
            return self._out_of_time()
        if not self._has_more:
            return [self._exhausted(now, detail)]
        begin, place = self._begin, self.asked
        self._state = "asking"
        self._peer = begin.candidates[place]
        self._deadlines = Deadlines(
            self._settings, begin, begin.forecasts[place] if place < len(begin.forecasts) else None
        )
        self.asked += 1
        self._search_s = 0.0
        self._asked_at = self._heard = now
        self._accepted_at = self._first_at = self._paused_at = None
        self._longest_pause = self._promise_s = 0.0
        self._pieces = 0
        addrs = begin.addrs[place] if place < len(begin.addrs) else ()
        return [Attempt(self._peer, self.asked, addrs, last=not self._has_more), self._timer()]

    @property
    def _has_more(self) -> bool:
        """Whether another peer may be asked."""
        settings = self._settings
        spent = self.asked - self._unreached >= settings.asked or self._unreached >= settings.unreached
        return not spent and self._attempts < settings.attempts and self.asked < len(self._begin.candidates)

    def _on_searching(self, _event: Searching, _now: float) -> list[CascadeEffect]:
        self._search_s = REACH_S
        return [self._timer()]

    def _on_accepted(self, event: Accepted, now: float) -> list[CascadeEffect]:
        self._network.worked()
        self._accepted_at = self._heard = now
        self._promise_s = event.promise_s
        if self._has_more and self._deadlines.too_late(event.promise_s):
            self._waits.append(event.promise_s)
            return self._fail(Outcome.BUSY, f"it promises a first token in {event.promise_s:.3g} s", now)
        self._state = "waiting"
        self._first_due = self._deadlines.first_due(now, event.promise_s, last=not self._has_more)
        return [self._timer()]

    def _on_busy(self, event: WasBusy, now: float) -> list[CascadeEffect]:
        self._network.worked()
        self._waits.append(event.retry_s or RETRY_S)
        return self._fail(Outcome.BUSY, "", now)

    def _on_refused(self, event: Refused, now: float) -> list[CascadeEffect]:
        refuse = event.refuse
        self._network.worked()
        if refuse.final and refuse.status < 500:
            if not self._refusals.heard(event):
                return self._fail(Outcome.REFUSED, refuse.message, now)
            self._state = "over"
            return [self._observe(Outcome.REFUSED, False, now, refuse.message), self._refusals.answer()]
        # 503 and similar statuses say "not now"; 500 and 502 that the engine broke on it, which costs an attempt.
        broke = refuse.status >= 500 and refuse.status != 503
        return self._fail(Outcome.FAILED if broke else Outcome.REFUSED, refuse.message, now)

    # --- the answer ----------------------------------------------------------------------------------------------

    def _on_keepalive(self, _event: Keepalive, now: float) -> list[CascadeEffect]:
        self._heard = now
        return []

    def _on_first(self, event: Progress, now: float) -> list[CascadeEffect]:
        self._state = "flowing"
        self._first_at = self._heard = self._window = now
        self._pieces = self._window_pieces = event.pieces
        if not self._begin.stream:
            return [self._timer()]
        self._committed = True
        return [Commit(self._peer), self._timer()]

    def _on_progress(self, event: Progress, now: float) -> list[CascadeEffect]:
        self._heard = now
        self._pieces += event.pieces
        self._window_pieces += event.pieces
        return []

    def _on_paused(self, _event: Paused, now: float) -> list[CascadeEffect]:
        self._paused_at = now
        return []

    def _on_resumed(self, _event: Resumed, now: float) -> list[CascadeEffect]:
        if self._paused_at is not None:
            pause = now - self._paused_at
            self._paused_at = None
            self._longest_pause = max(self._longest_pause, pause)
            self._window += pause
            self._heard = now
        return []

    def _on_wordless(self, _event: Completed, now: float) -> list[CascadeEffect]:
        return self._fail(Outcome.MISBEHAVED, "it said nothing and called it an answer", now)

    def _on_completed(self, event: Completed, now: float) -> list[CascadeEffect]:
        self._state = "over"
        commit: list[CascadeEffect] = [] if self._committed else [Commit(self._peer)]
        self._committed = True
        false = [Contradicted(peer) for peer in self._refusals.peers]
        return [*commit, *false, self._observe(Outcome.COMPLETED, False, now, tokens=event.tokens), Finish()]

    # --- failing -------------------------------------------------------------------------------------------------

    def _on_failed(self, event: AttemptFailed, now: float) -> list[CascadeEffect]:
        outcome = event.outcome
        if outcome is Outcome.DEADLINE:
            if now >= self._end - DEADLINE_SLACK_S:
                return self._too_late(now)
            outcome = Outcome.BROKEN  # it was not the caller's deadline
        if outcome is Outcome.STALLED and self._longest_pause < self._settings.frame_s:
            outcome = Outcome.BROKEN  # the caller did read
        self._unreached += outcome is Outcome.UNREACHABLE
        return self._fail(outcome, event.detail, now, answered=event.answered, tried=event.tried)

    def _on_gone(self, _event: CallerGone, now: float) -> list[CascadeEffect]:
        running = self._state not in ("idle", "pausing")
        self._state = "over"
        if not running:
            return []
        return [Abort(self._peer, ResetCode.CANCELLED), self._observe(Outcome.CANCELLED, False, now)]

    def _on_timer(self, _event: TimerFired, now: float) -> list[CascadeEffect]:
        if now >= self._end:
            return self._too_late(now)
        if now < self._due():
            return [self._timer()]
        return self._overdue(now)

    def _overdue(self, now: float) -> list[CascadeEffect]:
        settings, deadlines = self._settings, self._deadlines
        if self._state == "asking":
            return self._fail(Outcome.NO_ACCEPT, f"no word in {now - self._asked_at:.3g} s", now)
        if now >= self._heard + settings.frame_s:
            return self._fail(Outcome.SILENT, f"silent for {settings.frame_s:.3g} s", now)
        if self._state == "waiting":
            return self._fail(Outcome.NO_ANSWER, f"no first token in {now - self._asked_at:.3g} s", now)
        if self._window_pieces < deadlines.least_pieces:
            if now >= self._heard + settings.frame_s / 2:
                # Perhaps it is not slow but gone, and that is another outcome: the silence will tell.
                self._window = self._heard + settings.frame_s - deadlines.window_s
                return [self._timer()]
            said = f"{self._window_pieces} pieces in {deadlines.window_s:.3g} s"
            return self._fail(Outcome.SLOW, said, now)
        self._window, self._window_pieces = now, 0
        return [self._timer()]

    def _due(self) -> float:
        settings = self._settings
        if self._state == "asking":
            due = self._asked_at + settings.accept_s + self._search_s
        elif self._state == "waiting":
            due = min(self._first_due, self._heard + settings.frame_s)
        elif self._paused_at is None:
            due = min(self._heard + settings.frame_s, self._window + self._deadlines.window_s)
        else:
            due = self._end
        return min(due, self._end)

    def _timer(self) -> SetTimer:
        return SetTimer(TIMER, self._due())

    def _fail(
        self, outcome: Outcome, detail: str, now: float, *, answered: bool = False, tried: bool = True
    ) -> list[CascadeEffect]:
        of_the_network = outcome in OF_THE_NETWORK and tried and not answered
        if of_the_network:
            self._network.failed(self._peer, now)
        blame = outcome in BLAMED and tried and not (of_the_network and self._network.suspected(now))
        effects: list[CascadeEffect] = [
            Abort(self._peer, ResetCode.CANCELLED),
            self._observe(outcome, blame, now, detail),
        ]
        if self._committed:
            self._state = "over"
            return [*effects, self._broken_off(outcome, detail)]
        self._outcomes.append(outcome)
        self._attempts += outcome not in CHEAP
        return effects + self._again(outcome, detail, now)

    def _again(self, outcome: Outcome, detail: str, now: float) -> list[CascadeEffect]:
        """After a failed attempt: the next one, now or after a pause."""
        if outcome in CHEAP or not self._has_more or now >= self._end:
            return self._next(now, detail)
        if not self._budget.take(now):
            self._state = "over"
            message = f"So many jobs of this node fail now that it tries none again; the last: {detail or outcome}."
            return [GiveUp(503, "no_capacity", message, retry_after=RETRY_S)]
        pause_s = self._budget.pause_s(self._attempts)
        if not pause_s:
            return self._next(now, detail)
        self._state, self._peer, self._problem = "pausing", PeerId(b""), detail
        self._resume_at = min(now + pause_s, self._end)
        return [SetTimer(TIMER, self._resume_at)]

    def _on_pause_over(self, _event: TimerFired, now: float) -> list[CascadeEffect]:
        if now < self._resume_at:
            return [SetTimer(TIMER, self._resume_at)]
        return self._next(now, self._problem)

    def _observe(self, outcome: Outcome, blame: bool, now: float, detail: str = "", tokens: int = 0) -> Observe:
        return Observe(
            peer=self._peer,
            outcome=outcome,
            blame=blame,
            asked_at=self._asked_at,
            accepted_at=self._accepted_at,
            first_at=self._first_at,
            ended_at=now,
            pieces=self._pieces,
            promise_s=self._promise_s,
            detail=detail,
            tokens=tokens,
        )

    # --- giving up -----------------------------------------------------------------------------------------------

    @property
    def reached_none(self) -> bool:
        """Whether not one of the peers that were asked could be reached."""
        return bool(self._outcomes) and set(self._outcomes) == {Outcome.UNREACHABLE}

    def _too_late(self, now: float) -> list[CascadeEffect]:
        abort = Abort(self._peer, ResetCode.DEADLINE)
        return [abort, self._observe(Outcome.DEADLINE, False, now), *self._out_of_time()]

    def _out_of_time(self) -> list[CascadeEffect]:
        self._state = "over"
        message = "The answer was not there when its time was over: allow more with x-deadline-ms, or ask for less."
        return [GiveUp(504, "deadline_exceeded", message)]

    def _broken_off(self, outcome: Outcome, detail: str) -> GiveUp:
        if outcome is Outcome.STALLED:
            return GiveUp(408, "slow_reader", "The answer was not read for too long, so it was stopped: ask again.")
        message = f"The peer {short(self._peer)} broke off its answer ({detail or outcome}): ask again."
        return GiveUp(502, "peer_failed", message)

    def _exhausted(self, now: float, detail: str) -> GiveUp:
        self._state = "over"
        asked = f"{self.asked} peers were" if self.asked > 1 else "1 peer was"
        if self._refusals and all(outcome in CHEAP for outcome in self._outcomes):
            return self._refusals.answer()
        retry_after = max(RETRY_S, min(self._waits, default=RETRY_S))
        if self._outcomes and all(outcome is Outcome.BUSY for outcome in self._outcomes):
            message = f"{asked} asked; all are busy and their queues are full: try again in {math.ceil(retry_after)} s."
            return GiveUp(429, "queue_full", message, retry_after=retry_after)
        if not self._outcomes or any(outcome in (Outcome.BUSY, Outcome.REFUSED) for outcome in self._outcomes):
            told = ", ".join(f"{count} {outcome}" for outcome, count in Counter(self._outcomes).items())
            why = f"{asked} asked: {told}; the last: {detail or self._outcomes[-1]}" if told else detail
            message = f"Nobody can take it now ({why}): try again in {math.ceil(retry_after)} s."
            return GiveUp(503, "no_capacity", message, retry_after=retry_after)
        message = f"{asked} tried and failed; the last: {detail or self._outcomes[-1]}."
        if self._network.suspected(now):
            message += " So many at once: this node's own network is probably down; `p2pnode doctor` looks at it."
        return GiveUp(502, "peer_failed", message)


_Step = Callable[[Cascade, Any, float], list[CascadeEffect]]
#: The table of the docstring: a failure, the clock and the caller's leaving are the same in every state of an attempt.
_STEPS: Final[dict[tuple[str, type[CascadeEvent]], _Step]] = {
    ("idle", Begin): Cascade._on_begin,
    ("idle", CallerGone): Cascade._on_gone,
    ("pausing", CallerGone): Cascade._on_gone,
    ("pausing", TimerFired): Cascade._on_pause_over,
    ("asking", Searching): Cascade._on_searching,
    ("asking", Accepted): Cascade._on_accepted,
    ("asking", WasBusy): Cascade._on_busy,
    ("asking", Refused): Cascade._on_refused,
    ("waiting", Refused): Cascade._on_refused,
    ("waiting", Keepalive): Cascade._on_keepalive,
    ("waiting", Progress): Cascade._on_first,
    ("waiting", Completed): Cascade._on_wordless,
    ("flowing", Keepalive): Cascade._on_keepalive,
    ("flowing", Progress): Cascade._on_progress,
    ("flowing", Paused): Cascade._on_paused,
    ("flowing", Resumed): Cascade._on_resumed,
    ("flowing", Completed): Cascade._on_completed,
}
_STEPS.update(
    ((state, kind), step)
    for state in ("asking", "waiting", "flowing")
    for kind, step in (
        (AttemptFailed, Cascade._on_failed),
        (TimerFired, Cascade._on_timer),
        (CallerGone, Cascade._on_gone),
    )
)
