"""Structures of arrays: what ranking reads, as numpy columns that grow by doubling.

``Columns`` is one set of named columns of the same length; ``Offers`` is the index of one model: which rows of the
view offer it, and on what terms.  Neither knows what a peer is.  Who calls it: ``peerview``, which keeps them current.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from protocol.adverts import ModelOffer, ModelState

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

#: Rows of a fresh set of columns (guess: most networks are small).
_FIRST_ROWS: Final = 16
#: An index forgets kinds that nobody offers any more once it knows twice as many as it has rows, and this many.
_SPARE_KINDS: Final = 16

#: What two offers of one model may differ in beyond numbers: capabilities and quantization.
Kind = tuple[tuple[str, ...], str]


class Columns:
    """Named columns; ``columns["rtt"][row]``.  Rows are given out by the owner."""

    __slots__ = ("_arrays", "_defaults", "capacity")

    def __init__(self, defaults: Mapping[str, tuple[type[np.generic], float]]) -> None:
        self._defaults = dict(defaults)
        self.capacity = _FIRST_ROWS
        self._arrays: dict[str, npt.NDArray[Any]] = {
            name: np.full(self.capacity, default, kind) for name, (kind, default) in self._defaults.items()
        }

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._arrays[name]

    def reserve(self, rows: int) -> None:
        """Make room for ``rows`` rows."""
        while self.capacity < rows:
            for name, (kind, default) in self._defaults.items():
                self._arrays[name] = np.concatenate((self._arrays[name], np.full(self.capacity, default, kind)))
            self.capacity *= 2

    def clear(self, row: int) -> None:
        """Put a row's defaults back."""
        for name, (_, default) in self._defaults.items():
            self._arrays[name][row] = default

    def move(self, source: int, target: int) -> None:
        """Copy one row over another."""
        for array in self._arrays.values():
            array[target] = array[source]


_OFFER_COLUMNS: Final[dict[str, tuple[type[np.generic], float]]] = {
    "rows": (np.int64, 0),
    "state": (np.int8, 0),
    "context": (np.int64, 0),
    "price_in": (np.float64, 0.0),
    "price_out": (np.float64, 0.0),
    "need_mib": (np.float64, 0.0),
    "weight_bytes": (np.float64, 0.0),
    "kind": (np.int64, 0),
}


class Offers:
    """Who offers one model: parallel columns, one place per peer, no order that anybody may rely on."""

    __slots__ = ("_columns", "_places", "kinds", "size")

    def __init__(self) -> None:
        self._columns = Columns(_OFFER_COLUMNS)
        self._places: dict[int, int] = {}
        self.kinds: dict[Kind, int] = {}
        self.size = 0

    def column(self, name: str) -> npt.NDArray[Any]:
        """One column, as long as the index; a view, valid until the next change."""
        array: npt.NDArray[Any] = self._columns[name][: self.size]
        return array

    @property
    def rows(self) -> IntArray:
        """Rows of the peer view."""
        return self.column("rows")

    def place(self, row: int) -> int | None:
        """Where a row of the view is in this index."""
        return self._places.get(row)

    def put(self, row: int, offer: ModelOffer, need_mib: float, weight_bytes: float) -> None:
        """Add a peer's offer, or bring it up to date."""
        place = self._places.get(row)
        if place is None:
            place = self._places[row] = self.size
            self.size += 1
            self._columns.reserve(self.size)
        columns = self._columns
        columns["rows"][place] = row
        columns["state"][place] = offer.state
        columns["context"][place] = offer.context
        columns["price_in"][place] = offer.price_in
        columns["price_out"][place] = offer.price_out
        columns["need_mib"][place] = need_mib
        columns["weight_bytes"][place] = weight_bytes
        columns["kind"][place] = self._kind(offer)

    def drop(self, row: int) -> None:
        """The peer does not offer the model any more; the last one takes its place."""
        place = self._places.pop(row)
        self.size -= 1
        if place != self.size:
            self._columns.move(self.size, place)
            self._places[int(self._columns["rows"][place])] = place

    def warm(self) -> BoolArray:
        """Which of them have the model resident."""
        return np.equal(self.column("state"), int(ModelState.RESIDENT))

    def _kind(self, offer: ModelOffer) -> int:
        kind = (offer.capabilities, offer.quantization)
        number = self.kinds.get(kind)
        if number is None:
            if len(self.kinds) >= 2 * self.size + _SPARE_KINDS:
                self._forget_unused_kinds()
            number = self.kinds[kind] = len(self.kinds)
        return number

    def _forget_unused_kinds(self) -> None:
        used, renumbered = np.unique(self.column("kind"), return_inverse=True)
        names = list(self.kinds)
        self.kinds = {names[old]: new for new, old in enumerate(used.tolist())}
        self.column("kind")[:] = renumbered
