"""The statements that one neighbour lacks, in sending order, and the other state that gossip keeps of its link.

Theory of operation
===================

A list names authors (their marks), not bytes: a node always sends the newest version, so a slow link skips versions and
never queues them up.  If the list exceeds the budget, our own statements and goodbyes go first, then the newest.  A
load that is left behind is replaced by the next one of its author, which serves as well.  An advert has no successor
for minutes: behind a steady flow of new loads it would wait for a digest (simulated: with 1,000 nodes one in a thousand
heard of an advert after a minute or later).  So an advert becomes *due* once it has been left behind for long enough.
The neighbour is then told that we have it (a tenth of its bytes) and requests it if it is missing.  If due adverts were
sent in full, each link would carry each advert, although nearly every node has it by then (simulated with 300 nodes:
6.8 uploads of each instead of 4.5, and loads a third older for it).

Not here: which statements a neighbour lacks, its share of the budget, and when an advert is due (``gossip``).
"""

from __future__ import annotations

import math
from typing import Final

from protocol.ids import PeerId
from protocol.statements.envelope import Envelope, Mark
from protocol.token_bucket import TokenBucket

#: Bytes around a statement in ``Records``, and around ``Records`` in a frame.
ITEM_BYTES: Final = 3
FRAME_BYTES: Final = 16
#: The empty list; never filled, so all queues may share it (most links carry no gossip).
_NOTHING: Final[dict[Mark, float]] = {}
#: When something is due that goes first.
NOW: Final = -math.inf


class SendQueue:
    """See the module's docstring.  Dicts, because they keep their order and forget at once."""

    __slots__ = ("_due", "_first", "_lacks")

    def __init__(self) -> None:
        #: All of it, newest last; what of it goes first; the adverts of it, with the time from when each is due.
        self._lacks = _NOTHING
        self._first = _NOTHING
        self._due = _NOTHING

    def __len__(self) -> int:
        return len(self._lacks)

    def __contains__(self, mark: Mark) -> bool:
        return mark in self._lacks

    def marks(self) -> list[Mark]:
        """All of it, newest last."""
        return list(self._lacks)

    def add(self, mark: Mark, due: float = math.inf) -> None:
        """The neighbour lacks the new statement of ``mark``.  ``due`` at ``NOW`` goes before all others."""
        self.discard(mark)
        if self._lacks is _NOTHING:
            self._lacks = {}
        self._lacks[mark] = due
        if due == NOW:
            self._first = self._first or {}
            self._first[mark] = due
        elif due < math.inf:
            self._due = self._due or {}
            self._due[mark] = due

    def discard(self, mark: Mark) -> None:
        """The neighbour has the statement, or this node no longer holds it."""
        due = self._lacks.pop(mark, math.inf)
        if due == NOW:
            del self._first[mark]
        elif due < math.inf:
            del self._due[mark]

    def prune(self, now: float) -> None:
        """Forget the statements that expired or are no longer held."""
        for mark in self.marks():
            if mark.envelope is None or not mark.lives(now):
                self.discard(mark)

    def take(self, room: float, now: float) -> list[Envelope]:
        """Take as much off the list as fits into ``room`` bytes, first things first.

        Statements behind one that is too large wait with it: otherwise it would never have its turn.
        """
        taken: list[Envelope] = []
        off: dict[Mark, None] = {}
        room -= FRAME_BYTES
        for marks in (reversed(self._first), reversed(self._lacks)):
            for mark in marks:
                envelope = mark.envelope
                if envelope is not None and mark.lives(now) and mark not in off:
                    room -= len(envelope.wire) + ITEM_BYTES
                    if room < 0:
                        break
                    taken.append(envelope)
                off[mark] = None
            if room < 0:
                break
        for mark in off:
            self.discard(mark)
        self._shrink()
        return taken

    def take_due(self, now: float, most: int) -> list[Mark]:
        """Take up to ``most`` adverts off the list that have been left behind for long enough."""
        found: list[Mark] = []
        for mark in [mark for mark, due in self._due.items() if due <= now]:
            self.discard(mark)
            if mark.envelope is not None and mark.lives(now):
                found.append(mark)
                if len(found) == most:
                    break
        self._shrink()
        return found

    def _shrink(self) -> None:
        """An empty dict is as large as it ever was."""
        self._lacks = self._lacks or _NOTHING
        self._first = self._first or _NOTHING
        self._due = self._due or _NOTHING


class Neighbour:
    """What gossip keeps of a link."""

    __slots__ = ("asked", "checks", "digests", "guest", "introduced", "lacks", "peer", "standing", "told", "wants")

    def __init__(self, peer: PeerId, checks: tuple[TokenBucket, ...], now: float) -> None:
        self.peer = peer
        #: The allowances of signatures that it spends from: its own, and that of all links that others have made.
        self.checks = checks
        self.guest = len(checks) > 1
        self.standing = False
        self.lacks = SendQueue()
        self.told = now  # when it last got a HAVE, or the link came up
        self.digests = self.wants = 0  # looked at, and asked for because it told us, since the last round
        self.asked = self.introduced = False  # asked: an exchange was opened with it since the last round
