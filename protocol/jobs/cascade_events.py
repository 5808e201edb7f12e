"""The events and effects of a cascade: frozen values, not to be subclassed.

Not here: how a cascade answers an event (``cascade``), the outcomes of attempts (``reputation.outcomes``).
"""

from __future__ import annotations

import msgspec

from protocol.effects import SetTimer
from protocol.events import TimerFired
from protocol.ids import PeerId
from protocol.perf.forecast import Forecast
from protocol.reputation.outcomes import Outcome
from protocol.wire.messages import Refuse

# --- events ------------------------------------------------------------------------------------------------------


class Begin(msgspec.Struct, frozen=True, gc=False):
    """Run the job on one of ``candidates``, best first.

    ``tokens_before`` is how many tokens are made before the first piece comes: 0 for a stream, else the whole answer.
    ``forecasts`` are the predictions for the candidates, in the same order, and ``addrs`` the addresses that are known
    of those of which nothing else is.  ``too_long``: by this node's own
    estimate the request exceeds the context that they offer.  ``holds_back``: an engine may keep tokens back and send
    them together, so the pieces do not tell the pace.
    """

    candidates: tuple[PeerId, ...]
    stream: bool = True
    body_bytes: int = 0
    tokens_before: float = 0.0
    forecasts: tuple[Forecast | None, ...] = ()
    addrs: tuple[tuple[str, ...], ...] = ()
    too_long: bool = False
    holds_back: bool = False


class Searching(msgspec.Struct, frozen=True, gc=False):
    """The addresses of the peer are being looked up, so it has more time to accept."""

    peer: PeerId


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """The peer took the job and promises the first token after ``promise_s``."""

    peer: PeerId
    promise_s: float = 0.0


class WasBusy(msgspec.Struct, frozen=True, gc=False):
    """The peer cannot take it now; ``retry_s`` is when to ask again, 0 if it did not say."""

    peer: PeerId
    retry_s: float = 0.0


class Refused(msgspec.Struct, frozen=True, gc=False):
    """The peer will not do it, before or after it accepted, and before any piece of the answer.

    ``checked``: this node's own check of the request found the same, and ``refuse`` has its words.
    """

    peer: PeerId
    refuse: Refuse
    checked: bool = False


class Progress(msgspec.Struct, frozen=True, gc=False):
    """``pieces`` of the answer came."""

    peer: PeerId
    pieces: int = 1


class Keepalive(msgspec.Struct, frozen=True, gc=False):
    """The peer is alive and has nothing to say yet."""

    peer: PeerId


class Completed(msgspec.Struct, frozen=True, gc=False):
    """The answer is whole, its end signed and its hash right.  ``tokens``: so many it has by the peer's own count."""

    peer: PeerId
    tokens: int = 0


class AttemptFailed(msgspec.Struct, frozen=True, gc=False):
    """The attempt failed: ``outcome`` says how, ``detail`` is for people.

    ``answered``: the peer or its host said so itself, so this node's own network works.  ``tried``: False if
    nothing was sent to the peer, so that the failure says nothing about it.
    """

    peer: PeerId
    outcome: Outcome
    detail: str = ""
    answered: bool = False
    tried: bool = True


class Paused(msgspec.Struct, frozen=True, gc=False):
    """The caller has all pieces so far and does not read on."""


class Resumed(msgspec.Struct, frozen=True, gc=False):
    """The caller wants more."""


class CallerGone(msgspec.Struct, frozen=True, gc=False):
    """The caller went away, so the answer has no receiver."""


CascadeEvent = (
    Begin
    | Searching
    | Accepted
    | WasBusy
    | Refused
    | Progress
    | Keepalive
    | Completed
    | AttemptFailed
    | Paused
    | Resumed
    | CallerGone
    | TimerFired
)

# --- effects -----------------------------------------------------------------------------------------------------


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """Send the job to ``peer``; it is the ``number``-th that is asked.

    ``addrs`` may lead to it, beside what is known of it otherwise.  ``last``: no other peer is left (``reach``).
    """

    peer: PeerId
    number: int
    addrs: tuple[str, ...] = ()
    last: bool = False


class Abort(msgspec.Struct, frozen=True, gc=False):
    """Cancel the job at ``peer`` at once, with this reset code."""

    peer: PeerId
    code: int


class Commit(msgspec.Struct, frozen=True, gc=False):
    """From now on the answer of ``peer`` may go to the caller."""

    peer: PeerId


class Contradicted(msgspec.Struct, frozen=True, gc=False):
    """``peer`` called the request wrong for every peer, and another one has completed it."""

    peer: PeerId


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The answer is complete."""


class GiveUp(msgspec.Struct, frozen=True, gc=False):
    """The job has failed; carries the answer to the caller.  ``retry_after``: seconds, None if a retry cannot help."""

    status: int
    code: str
    message: str
    param: str = ""
    retry_after: float | None = None


class Observe(msgspec.Struct, frozen=True, gc=False):
    """One measured attempt.  Times are monotonic seconds; ``blame``: whether it counts against the peer."""

    peer: PeerId
    outcome: Outcome
    blame: bool
    asked_at: float
    accepted_at: float | None
    first_at: float | None
    ended_at: float
    pieces: int
    promise_s: float = 0.0
    detail: str = ""
    #: Of a whole answer by the count of the peer; 0 if unknown.
    tokens: int = 0


CascadeEffect = Attempt | Abort | Commit | Contradicted | Finish | GiveUp | Observe | SetTimer
