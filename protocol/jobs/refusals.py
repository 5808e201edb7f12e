"""The refusals of one job that blame the request itself: whether the caller has to accept them, and what it is told.

A refusal with ``final`` says that every other peer would refuse as well.  One peer that lies about that, or one engine
that can do less than the others, must not end a request.  So the claim needs a second voice.

Theory of operation
-------------------
``heard`` notes one refusal and says whether the matter is settled.  It is settled if

* this node's own check found the same fault (``Refused.checked``; the words are then this node's own),
* the peer says that the request is too long and this node's own estimate of its length says so too, or
* a second peer blames the request as well; its reason may differ, because engines name one fault differently.

Otherwise the cascade asks on.  If no peer is left and nothing but a queue or an address stood in the way of the others,
the one refusal is the best answer there is: the caller gets it with a text that says that one peer says so.

A peer chooses neither status nor code: both come from closed sets, so that no peer can make a caller doubt its key.

Not here: refusals for now and failures of the engine (``cascade``), the check of the body itself (the driver).
"""

from __future__ import annotations

from typing import Final

from protocol.ids import PeerId, short
from protocol.jobs.cascade_events import GiveUp, Refused
from protocol.wire.messages import Refuse

#: Statuses with which a peer may end a request; any other becomes 400.
_STATUSES: Final = frozenset({400, 404, 413, 415, 422})
#: Codes that a peer may give for it; any other becomes ``_OTHER``.
_TOO_LONG: Final = frozenset({"context_length_exceeded", "request_too_large"})
_CODES: Final = _TOO_LONG | {
    "invalid_json",
    "invalid_parameter",
    "unsupported_media_type",
    "unsupported_parameter",
}
_OTHER: Final = "invalid_parameter"


class Refusals:
    """See the module's docstring.  ``too_long``: by this node's own estimate the request may be too long."""

    def __init__(self, *, too_long: bool = False) -> None:
        self._too_long = too_long
        self._peers: list[PeerId] = []
        self._last: Refuse | None = None
        self._checked = False

    def heard(self, event: Refused) -> bool:
        """A peer blames the request; whether the caller has to accept that."""
        self._peers.append(event.peer)
        self._last = event.refuse
        self._checked = event.checked
        return event.checked or len(self._peers) > 1 or self._estimate_agrees

    def __bool__(self) -> bool:
        """Whether a peer has blamed the request."""
        return self._last is not None

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """The peers that blamed the request."""
        return tuple(self._peers)

    @property
    def _estimate_agrees(self) -> bool:
        return self._too_long and self._last is not None and self._last.code in _TOO_LONG

    def answer(self) -> GiveUp:
        """The answer for the caller, after at least one refusal."""
        refuse = self._last
        assert refuse is not None, "only a refusal can be told"
        status = refuse.status if refuse.status in _STATUSES else 400
        code = refuse.code if refuse.code in _CODES else _OTHER
        return GiveUp(status, code, self._message(refuse), refuse.param)

    def _message(self, refuse: Refuse) -> str:
        if self._checked:
            return refuse.message
        if len(self._peers) > 1:
            names = " and ".join(map(short, self._peers))
            return f'The peers {names} refuse the request. The last one says: "{refuse.message}".'
        said = f'The peer {short(self._peers[0])} refuses the request. It says: "{refuse.message}".'
        if self._estimate_agrees:
            return said
        return f"{said} No other peer could be asked, so the fault may be that peer's: ask again to try others."
