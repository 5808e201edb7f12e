"""What one neighbour lacks, in the order in which it is sent.

Theory of operation
===================

A list names authors (their marks), not bytes: what goes out is always the newest, so a slow link skips versions and
never queues them up.  When not all of it fits into the budget, this goes first: what we say of ourselves, then what is
*urgent* (adverts and goodbyes), then loads; the newest first in each.  A load that has to wait for too long is
overtaken by the next one of its author, which is as good.  An advert has no next one for minutes: behind loads, of
which newer ones always come, it would wait for a digest (simulated: with 1,000 nodes one in a thousand heard of an
advert after a minute or later).

Not here: what a neighbour lacks and how much it may get (``gossip``).  Who calls it: ``gossip``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from protocol.freshness import Mark
from protocol.signing import Envelope

#: Bytes around a statement in ``Records``, and around ``Records`` in a frame.
ITEM_BYTES: Final = 3
FRAME_BYTES: Final = 16
#: What a list is that has nothing on it; never filled, so all may share it (most links carry no gossip).
_NOTHING: Final[dict[Mark, None]] = {}


class Backlog:
    """See the module's docstring.  Two dicts, newest last, because they keep their order and forget at once."""

    __slots__ = ("_rest", "_urgent")

    def __init__(self) -> None:
        self._urgent = _NOTHING
        self._rest = _NOTHING

    def __len__(self) -> int:
        return len(self._urgent) + len(self._rest)

    def __contains__(self, mark: Mark) -> bool:
        return mark in self._urgent or mark in self._rest

    def marks(self) -> list[Mark]:
        """All of it, in no order that matters."""
        return [*self._urgent, *self._rest]

    def add(self, mark: Mark, urgent: bool) -> None:
        """It lacks what ``mark`` stands for, and that is new."""
        self.discard(mark)
        if urgent:
            if self._urgent is _NOTHING:
                self._urgent = {}
            self._urgent[mark] = None
        else:
            if self._rest is _NOTHING:
                self._rest = {}
            self._rest[mark] = None

    def discard(self, mark: Mark) -> None:
        """It has that, or nobody holds it any more."""
        if mark in self._rest:
            del self._rest[mark]
        elif mark in self._urgent:
            del self._urgent[mark]

    def prune(self, now: float) -> None:
        """Forget what ran out or is not held any more."""
        for mark in self.marks():
            if mark.envelope is None or not mark.lives(now):
                self.discard(mark)

    def take(self, room: float, now: float, own: Iterable[Mark]) -> list[Envelope]:
        """As much as fits into ``room`` bytes, first things first; it is off the list then.

        Whatever comes after something too large waits with it: it would never have its turn otherwise.
        """
        taken: list[Envelope] = []
        off: dict[Mark, None] = {}
        room -= FRAME_BYTES
        for marks in ([mark for mark in own if mark in self], reversed(self._urgent), reversed(self._rest)):
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
        if not self._rest:
            self._rest = _NOTHING  # an empty one is as large as it ever was
        if not self._urgent:
            self._urgent = _NOTHING
        return taken
