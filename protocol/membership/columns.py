"""Structures of arrays: the figures that ranking reads, as numpy columns that grow by an eighth.

``Columns`` is one set of named columns of the same length.  ``Offers`` is the index of one model: the rows of the view
that offer it, and their terms.  Not here: the peers themselves (``peer_record``).
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from protocol.arrays import BoolArray, IntArray
from protocol.perf.offer_costs import COSTS, offer_costs
from protocol.statements.adverts import Gpu, ModelOffer, ModelState

#: Rows of a fresh set of columns (guess: most networks are small).
_FIRST_ROWS: Final = 16
#: An index forgets unused kinds once it knows twice as many kinds as it has rows, and at least this many.
_SPARE_KINDS: Final = 16

#: The value in the column ``context`` for an offer without a limit.
_ANY_LENGTH: Final = (1 << 63) - 1

#: What two offers of one model may differ in beyond numbers: capabilities and quantization.
Kind = tuple[tuple[str, ...], str]


class Columns:
    """Named columns; ``columns["rtt"][row]``.  Rows are given out by the owner.

    They lie in memory row by row: columns written together (:meth:`packer`, :meth:`at`) are one write, and a column is
    every so many bytes, which costs numpy nothing that can be measured at the size of a view.
    """

    __slots__ = ("_bytes", "_default", "_dtype", "_table", "_words", "capacity")

    def __init__(self, defaults: Mapping[str, tuple[type[np.generic], float]]) -> None:
        self._dtype, self._default = _layout(tuple(defaults.items()))
        self.capacity = 0
        self._bytes = bytearray()
        self._grow(_FIRST_ROWS)

    def _grow(self, rows: int) -> None:
        self._bytes = self._bytes + self._default * (rows - self.capacity)
        self.capacity = rows
        self._table = np.frombuffer(self._bytes, self._dtype)
        self._words = np.frombuffer(self._bytes, np.uint64).reshape(rows, -1)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        column: npt.NDArray[Any] = self._table[name]  # made when asked for: all of them are as large as 20 rows
        return column

    def rows(self, rows: IntArray) -> npt.NDArray[np.void]:
        """A copy of these rows, with all columns as its fields."""
        # As words, because numpy copies records field by field.
        return self._words.take(rows, axis=0).view(self._dtype)[:, 0]

    def reserve(self, rows: int) -> None:
        """Make room for ``rows`` rows."""
        if self.capacity < rows:
            self._grow(max(rows, self.capacity + max(_FIRST_ROWS // 2, self.capacity // 8)))

    def packer(self, *names: str) -> struct.Struct:
        """For :meth:`at`: columns of 64-bit floats that were named one after the other."""
        start = self.offset(names[0])
        assert [self.offset(name) - start for name in names] == [8 * place for place in range(len(names))]
        return struct.Struct(f"={len(names)}d")

    def offset(self, name: str) -> int:
        """Where a column begins in a row, bytes."""
        fields = self._dtype.fields
        assert fields is not None, "made of fields"
        return int(fields[name][1])

    def at(self, row: int, offset: int) -> tuple[bytearray, int]:
        """Where to pack the columns of a packer, the first of which is at ``offset``; valid until rows are reserved."""
        return self._bytes, row * len(self._default) + offset

    def clear(self, row: int) -> None:
        """Put a row's defaults back."""
        size = len(self._default)
        self._bytes[row * size : (row + 1) * size] = self._default

    def move(self, source: int, target: int) -> None:
        """Copy one row over another."""
        size = len(self._default)
        self._bytes[target * size : (target + 1) * size] = self._bytes[source * size : (source + 1) * size]


@functools.lru_cache
def _layout(defaults: tuple[tuple[str, tuple[type[np.generic], float]], ...]) -> tuple[np.dtype[Any], bytes]:
    """A row: its type, columns in the given order, as long as whole words; and one that holds the defaults."""
    sizes = [np.dtype(kind).itemsize for _, (kind, _) in defaults]
    offsets = [sum(sizes[:place]) for place in range(len(sizes))]
    names, kinds = [name for name, _ in defaults], [kind for _, (kind, _) in defaults]
    whole = -(-sum(sizes) // 8) * 8
    dtype = np.dtype({"names": names, "formats": kinds, "offsets": offsets, "itemsize": whole})
    row = np.zeros(1, dtype)
    for name, (_, value) in defaults:
        row[name] = value
    return dtype, row.tobytes()


#: What was learned of a model at a peer: written at once.
LEARNED: Final = ("prompt_log", "prompt_count", "token_log", "token_count", "seen_at")
NOTHING_LEARNED: Final[tuple[float, ...]] = (0.0, 0.0, 0.0, 0.0, 0.0)  # no tuple of C floats where this is compiled

_OFFER_COLUMNS: Final[dict[str, tuple[type[np.generic], float]]] = {
    # The costs of an offer, written at once.
    **dict.fromkeys(COSTS, (np.float64, 0.0)),
    **dict.fromkeys(LEARNED, (np.float64, 0.0)),
    # What follows from it for a job now: computed for all offers at once.
    "prompt_factor": (np.float64, 1.0),
    "token_factor": (np.float64, 1.0),
    "sigma": (np.float64, 0.0),
    "corrected": (np.bool_, 0),
    "rows": (np.int64, 0),
    "context": (np.int64, 0),
    "price_in": (np.float64, 0.0),
    "price_out": (np.float64, 0.0),
    "kind": (np.int32, 0),
    "state": (np.int8, 0),
}


def _place(columns: Columns, row: int, count: int) -> int:
    """Where a row of the view is among the first ``count``: looked for, since that is needed once per advert."""
    return int(np.flatnonzero(columns["rows"][:count] == row)[0])


class Offers:
    """The offers of one model as parallel columns, one place per peer; do not rely on their order.

    The columns are made at the first query for the model, and kept current from then on: a peer may name 64 models
    that no job ever asks for.
    """

    __slots__ = ("_columns", "_costs", "_gpus", "_kinds", "_learned", "_learned_pack", "offers", "projected_at")

    def __init__(self) -> None:
        #: The offer of each row of the view.
        self.offers: dict[int, ModelOffer] = {}
        self._gpus: dict[int, tuple[Gpu, ...]] = {}
        self._learned: dict[int, tuple[float, ...]] = {}
        #: When the columns that follow from what was learned were computed last.
        self.projected_at = -math.inf
        self._columns: Columns | None = None
        self._kinds: dict[Kind, int] = {}

    def __len__(self) -> int:
        return len(self.offers)

    def column(self, name: str) -> npt.NDArray[Any]:
        """One column, as long as the index; a view, valid until the next change."""
        columns = self._columns
        if columns is None:
            columns = self._columns = Columns(_OFFER_COLUMNS)
            columns.reserve(len(self.offers))
            self._costs, self._learned_pack = columns.packer(*COSTS), columns.packer(*LEARNED)
            for place, (row, offer) in enumerate(self.offers.items()):
                self._write(columns, place, row, offer)
        column: npt.NDArray[Any] = columns[name][: len(self.offers)]
        return column

    @property
    def rows(self) -> IntArray:
        """Rows of the peer view."""
        return self.column("rows")

    @property
    def warm(self) -> BoolArray:
        """Which of them have the model resident."""
        warm: BoolArray = self.column("state") == int(ModelState.RESIDENT)
        return warm

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Capabilities and quantization by the number in the column ``kind``."""
        return tuple(self._kinds)

    def backlog_token_s(self, row: int) -> float:
        """Seconds for which a token of a prompt delays other jobs at a peer."""
        return offer_costs(self.offers[row], self._gpus[row]).backlog_s

    def put(
        self, row: int, offer: ModelOffer, gpus: tuple[Gpu, ...], learned: tuple[float, ...] = NOTHING_LEARNED
    ) -> None:
        """Add a peer's offer, or bring it up to date; ``gpus`` are those that it would run on."""
        columns, known = self._columns, row in self.offers
        self.offers[row], self._gpus[row], self._learned[row] = offer, gpus, learned
        if columns is not None:
            place = _place(columns, row, len(self.offers)) if known else len(self.offers) - 1
            self._write(columns, place, row, offer)

    def learn(self, row: int, learned: tuple[float, ...]) -> None:
        """Something was learned of a peer that is here."""
        self._learned[row] = learned
        if self._columns is not None:
            self._write_learned(self._columns, _place(self._columns, row, len(self.offers)), learned)

    def _write_learned(self, columns: Columns, place: int, learned: tuple[float, ...]) -> None:
        self._learned_pack.pack_into(*columns.at(place, columns.offset(LEARNED[0])), *learned)

    def drop(self, row: int) -> None:
        """The peer does not offer the model any more; the last one takes its place."""
        columns = self._columns
        if columns is not None:
            place, last = _place(columns, row, len(self.offers)), len(self.offers) - 1
            if place != last:
                columns.move(last, place)
        del self.offers[row], self._gpus[row], self._learned[row]

    def _write(self, columns: Columns, place: int, row: int, offer: ModelOffer) -> None:
        columns.reserve(place + 1)
        columns["rows"][place] = row
        columns["state"][place] = offer.state
        columns["context"][place] = offer.context or _ANY_LENGTH
        columns["price_in"][place] = offer.price_in
        columns["price_out"][place] = offer.price_out
        buffer, start = columns.at(place, columns.offset(COSTS[0]))
        self._costs.pack_into(buffer, start, *offer_costs(offer, self._gpus[row]))
        self._write_learned(columns, place, self._learned[row])
        kind = (offer.capabilities, offer.quantization)
        columns["kind"][place] = 0
        number = self._kinds.get(kind)
        if number is None:
            if len(self._kinds) >= 2 * len(self.offers) + _SPARE_KINDS:
                self._forget_unused_kinds(columns["kind"][: max(place + 1, len(self.offers))])
            number = self._kinds[kind] = len(self._kinds)
        columns["kind"][place] = number

    def _forget_unused_kinds(self, column: IntArray) -> None:
        used, renumbered = np.unique(column, return_inverse=True)
        names = list(self._kinds)
        self._kinds = {names[old]: new for new, old in enumerate(used.tolist())}
        column[:] = renumbered
