"""What a node keeps of its experience over a restart: plain rows.

A row is evidence about a peer in one dimension, the counts of its jobs, or evidence about the newcomers of a network
group.  ``model`` is "" for what holds for all models.  A restore ignores rows that this version does not know.

Not here: storage, and the ages of rows on the clock of another life (the driver).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Generic, NamedTuple, TypeVar

from protocol.ids import PeerId

#: Changes that are remembered until they are written: several stores of peers (guess; a disk may fail for long).
MOST_CHANGES: Final = 1 << 16

T = TypeVar("T")

#: Peer, model (or network group), and dimension (or phase).
Key = tuple[PeerId, str, str]
#: The dimension of the counts of jobs (completed, failed), which do not decay.
JOBS: Final = "jobs"
#: The dimension of newcomers.  Such a row has the network group ("" for all) in place of the model, and ``NOBODY`` in
#: place of the peer.
NEWCOMERS: Final = "newcomers"
NOBODY: Final = PeerId(bytes(32))


class Pair(NamedTuple):
    """Good and bad at the monotonic second ``at``."""

    good: float
    bad: float
    at: float


class Factor(NamedTuple):
    """A learned log factor, its variance, and the observations behind it, at the monotonic second ``at``."""

    mean: float
    variance: float
    amount: float
    at: float


class ExperienceSnapshot(NamedTuple):
    """Rows by key.  ``peers``: rows of these peers which are not here are gone; all others are as they were."""

    evidence: Mapping[Key, Pair] = MappingProxyType({})
    corrections: Mapping[Key, Factor] = MappingProxyType({})
    peers: frozenset[PeerId] = frozenset()


class Changes(Generic[T]):
    """Which things changed, the latest last; of more than ``MOST_CHANGES`` the oldest are forgotten."""

    def __init__(self) -> None:
        self._at: OrderedDict[T, int] = OrderedDict()

    def note(self, thing: T, event: int) -> None:
        """It changed at this event; events rise."""
        self._at[thing] = event
        self._at.move_to_end(thing)
        if len(self._at) > MOST_CHANGES:
            self._at.popitem(last=False)

    def since(self, event: int) -> frozenset[T]:
        """What changed after an event.  What did not is forgotten: it was written."""
        while self._at and next(iter(self._at.values())) <= event:
            self._at.popitem(last=False)
        return frozenset(self._at)
