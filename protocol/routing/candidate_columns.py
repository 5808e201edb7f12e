"""The columns of the peers that offer one model: what the view and the offers say of them, for one decision.

A column is gathered on first use, so a policy pays only for the columns that it reads.  Not here: what is predicted
from them (``candidate_table``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from protocol.arrays import BoolArray, FloatArray
from protocol.membership.columns import Offers
from protocol.membership.peer_record import PeerRecord
from protocol.membership.peer_view import PeerView
from protocol.reputation.experience import Experience
from protocol.routing.job_query import JobQuery
from protocol.routing.standing import Standing
from protocol.statements.adverts import ModelOffer

#: Constants of splitmix64 (Steele, Lea, Flood 2014), which gives a thousand random numbers in one numpy call.
_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_WORD: Final = (1 << 64) - 1


#: The first steps of every sequence, computed once; longer sequences are computed on demand.
_STEPS: Final = np.arange(1, 1025, dtype=np.uint64) * _GAMMA
_30, _27, _31, _12 = (np.uint64(bits) for bits in (30, 27, 31, 12))

T = TypeVar("T")


class once(Generic[T]):  # noqa: N801 - a decorator
    """A property that is computed on first use.

    ``functools.cached_property`` takes a lock for each one, which costs a tenth of a decision.
    """

    def __init__(self, work_out: Callable[[Any], T]) -> None:
        self._work_out = work_out
        self._name = work_out.__name__
        self.__doc__ = work_out.__doc__

    def __get__(self, table: Any, owner: type) -> T:
        value = table.__dict__[self._name] = self._work_out(table)
        return value


def noise(seed: int, size: int) -> FloatArray:
    """``size`` numbers between 0 and 1, both excluded, that depend on ``seed`` only."""
    steps = _STEPS[:size] if size <= len(_STEPS) else np.arange(1, size + 1, dtype=np.uint64) * _GAMMA
    state = steps + np.uint64(seed & _WORD)
    state = (state ^ (state >> _30)) * _MIX[0]
    state = (state ^ (state >> _27)) * _MIX[1]
    bits = (state ^ (state >> _31)) >> _12
    uniform: FloatArray = (bits.astype(np.float64) + 0.5) * 2.0**-52
    return uniform


class CandidateColumns:
    """The peers that offer ``query.model``, at one moment; a place is an index into all arrays."""

    def __init__(
        self,
        view: PeerView,
        offers: Offers,
        query: JobQuery,
        now: float,
        seed: int = 0,
        experience: Experience | None = None,
    ) -> None:
        self.view = view
        self.offers = offers
        self.query = query
        self.now = now
        self._seed = seed
        self._rows = offers.rows
        self._gathered: dict[str, npt.NDArray[Any]] = {}
        #: The peers as this node has seen them; None where that does not count.
        self.standing = None if experience is None else Standing(self, experience)

    def __len__(self) -> int:
        return len(self.offers)

    def offer(self, place: int) -> ModelOffer:
        """The offer of the peer at a place."""
        return self.offers.offers[int(self.offers.rows[place])]

    def record(self, place: int) -> PeerRecord:
        """The record of the peer at a place."""
        return self.view.at(int(self._rows[place]))

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column of the peer view, for these peers."""
        column = self._gathered.get(name)
        if column is None:
            column = self._gathered[name] = self._table[name]
        return column

    @once
    def _table(self) -> npt.NDArray[np.void]:
        """Their rows of the view.  A row is contiguous, so copying it costs as little as copying one field."""
        return self.view.columns.rows(self._rows)

    def offered(self, name: str) -> npt.NDArray[Any]:
        """A column of their offers."""
        return self.offers.column(name)

    @once
    def warm(self) -> BoolArray:
        """Whether a peer has the model resident."""
        return self.offers.warm

    @once
    def all_warm(self) -> bool:
        """Whether all peers have the model resident."""
        return bool(self.warm.all())

    @once
    def noise(self) -> FloatArray:
        """One random number per peer."""
        return noise(self._seed, len(self))

    @once
    def jobs(self) -> FloatArray:
        """Running and waiting jobs: those of the load, corrected by our own jobs since it arrived."""
        inflight = self.column("inflight")
        jobs: FloatArray = np.maximum(inflight, self.column("jobs") + inflight - self.column("covered"))
        return jobs

    @once
    def slots(self) -> FloatArray:
        """Slots for jobs; a default if the peer reports none."""
        return self.column("places")

    @once
    def rtt(self) -> FloatArray:
        """Round trip, seconds: 0 for this node, a default if it was never measured."""
        return self.column("way")
