"""The filters, which exclude peers before a policy orders the rest, and explain each exclusion.

A filter is a name and two functions.  The first returns a mask of the excluded candidates, or ``None`` if it cannot
exclude any; the second explains one exclusion.  The table at the end defines the order; a peer is reported under the
first filter that excludes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from protocol import PROTOCOL_VERSION
from protocol.arrays import BoolArray
from protocol.errors import InvalidPeerId
from protocol.ids import PeerId, base58_decode, libp2p_bytes, peer_from_text
from protocol.membership.peer_record import PeerRecord
from protocol.perf.gpu_catalog import least_capability
from protocol.routing.candidate_table import CandidateTable
from protocol.statements.adverts import Load, Status

#: Characters of a short id (``ids.short``), and the number of different ones.
_SHORT: Final = 8
_SHORT_RANGE: Final = 58**_SHORT
#: The value of ``quantizations`` for an offer without one (OpenRouter's word).
_UNKNOWN: Final = "unknown"


class Case:
    """One candidate, for its explanation."""

    def __init__(self, table: CandidateTable, place: int) -> None:
        self.table = table
        self.place = place
        self.query = table.query
        self.now = table.now
        self.record = table.record(place)
        self.offer = table.offer(place)


@dataclass(frozen=True, slots=True)
class Filter:
    """One reason not to ask a peer.  ``closed``: the view's column ``open_until`` already includes it."""

    reason: str
    removes: Callable[[CandidateTable], BoolArray | None]
    detail: Callable[[Case], str]
    closed: bool = False


class Named:
    """Peers that a caller named by id, by short id, or by the label that they chose."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        self._texts = {text: place for place, text in reversed(tuple(enumerate(texts)))}
        self._peers: dict[PeerId, int] = {}
        self._shorts: dict[int, int] = {}
        for text, place in self._texts.items():
            try:
                peer = peer_from_text(text)
            except InvalidPeerId:
                if len(text) == _SHORT and (number := _short_number(text)) is not None:
                    self._shorts[number] = place
            else:
                self._peers[peer] = place

    def place(self, record: PeerRecord) -> int | None:
        """The first index at which the list names this peer."""
        found = [self._peers.get(record.peer), self._texts.get(record.advert.name) if record.advert else None]
        if self._shorts:
            found.append(self._shorts.get(int.from_bytes(libp2p_bytes(record.peer), "big") % _SHORT_RANGE))
        return min((place for place in found if place is not None), default=None)

    def places(self, table: CandidateTable) -> list[int | None]:
        """The same for all candidates of a table."""
        return [self.place(table.record(place)) for place in range(len(table))]


def _short_number(text: str) -> int | None:
    try:
        return int.from_bytes(base58_decode(text), "big")
    except InvalidPeerId:
        return None


def _are(table: CandidateTable, peers: frozenset[PeerId]) -> BoolArray:
    are = np.zeros(len(table), np.bool_)
    rows = [record.row for peer in peers if (record := table.view.get(peer)) is not None]
    if rows:
        are |= np.isin(table.offers.rows, rows)
    return are


def _tried(table: CandidateTable) -> BoolArray | None:
    return _are(table, table.query.exclude) if table.query.exclude else None


def _zone(table: CandidateTable) -> BoolArray | None:
    query = table.query
    if query.zone == "anyone":
        return None
    allowed: BoolArray = table.column("me")
    if query.zone in ("mine", "trusted"):
        allowed = allowed | _are(table, query.trusted)
    return ~allowed


def _named(texts: tuple[str, ...], table: CandidateTable) -> BoolArray:
    return np.array([place is not None for place in Named(texts).places(table)], np.bool_)


def _ignored(table: CandidateTable) -> BoolArray | None:
    return _named(table.query.ignore, table) if table.query.ignore else None


def _not_named(table: CandidateTable) -> BoolArray | None:
    return ~_named(table.query.only, table) if table.query.only else None


def _version(table: CandidateTable) -> BoolArray:
    other: BoolArray = table.column("protocol") != PROTOCOL_VERSION
    return other


def _gone(table: CandidateTable) -> BoolArray:
    gone: BoolArray = table.column("alive") == 0
    return gone


def _stale_advert(table: CandidateTable) -> BoolArray:
    stale: BoolArray = table.column("advert_until") <= table.now
    return stale


def _stale_load(table: CandidateTable) -> BoolArray:
    stale: BoolArray = table.column("load_until") <= table.now
    return stale


def _leaving(table: CandidateTable) -> BoolArray:
    leaving: BoolArray = table.column("status") >= int(Status.DRAINING)
    return leaving


def _implausible(table: CandidateTable) -> BoolArray:
    absurd: BoolArray = table.column("absurd")
    return absurd


def _absent(table: CandidateTable) -> BoolArray:
    absent: BoolArray = table.column("absent_until") > table.now
    return absent


def _capability(table: CandidateTable) -> BoolArray | None:
    wanted = table.query.capabilities
    if not wanted:
        return None
    lacks = np.array([not wanted.issubset(capabilities) for capabilities, _ in table.offers.kinds], np.bool_)
    removed: BoolArray = lacks[table.offered("kind")]
    return removed


def _quantization(table: CandidateTable) -> BoolArray | None:
    accepted = {text.lower() for text in table.query.quantizations}
    if not accepted:
        return None
    other = np.array([(label.lower() or _UNKNOWN) not in accepted for _, label in table.offers.kinds], np.bool_)
    removed: BoolArray = other[table.offered("kind")]
    return removed


def _unable(table: CandidateTable) -> BoolArray:
    unable: BoolArray = table.offered("unable") > 0
    return unable


def _context(table: CandidateTable) -> BoolArray:
    short: BoolArray = table.offered("context") < table.query.prompt_tokens + table.query.max_tokens
    return short


def _memory(table: CandidateTable) -> BoolArray | None:
    if table.all_warm:
        return None
    tight: BoolArray = ~table.warm & (table.column("vram") > 0) & (table.offered("need_mib") > table.column("free"))
    return tight


def _price(table: CandidateTable) -> BoolArray | None:
    if table.query.max_price is None:
        return None
    dear: BoolArray = table.offered("price_out") > table.query.max_price
    return dear


def _needs(case: Case) -> str:
    need, free = case.table.offered("need_mib")[case.place], case.table.column("free")[case.place]
    return f"needs {need:.0f} MiB to load, {free:.0f} are free"


def _load_says(case: Case) -> str:
    load = case.record.load or Load()
    word = Status(load.status).name.lower()
    return f"{word}: {load.running} running, {load.waiting} waiting in {load.slots} places"


def _gone_for(case: Case) -> str:
    return f"{case.record.state} for {case.now - case.record.state_since:.0f} s"


def _advert_age(case: Case) -> str:
    return f"expired {case.now - case.record.advert_until:.1f} s ago"


def _load_age(case: Case) -> str:
    return f"expired {case.now - case.record.load_until:.1f} s ago"


def _unreachable_for(case: Case) -> str:
    left_s = case.table.column("absent_until")[case.place] - case.now
    return f"the last dial failed; it is dialled again in {left_s:.0f} s at the earliest"


def _lacks(case: Case) -> str:
    return "lacks " + ", ".join(sorted(case.query.capabilities.difference(case.offer.capabilities)))


def _other_version(case: Case) -> str:
    return f"speaks version {case.table.column('protocol')[case.place]}, we {PROTOCOL_VERSION}"


def _no_kernels(case: Case) -> str:
    label = case.offer.quantization or case.offer.name
    advert = case.record.advert
    cards = ", ".join(gpu.model for gpu in advert.gpus) if advert is not None else ""
    return f"{cards} cannot run {label}, which needs compute capability {least_capability(label)}"


def _too_long(case: Case) -> str:
    return f"holds {case.offer.context} tokens, the job needs {case.query.prompt_tokens + case.query.max_tokens}"


def _too_dear(case: Case) -> str:
    return f"asks {case.offer.price_out:g} USD per million tokens, at most {case.query.max_price:g}"


#: First the caller's restrictions, then the state of the peer, then its fit for the job.
FILTERS: Final = (
    Filter("already_tried", _tried, lambda _: "this job was tried there"),
    Filter("zone", _zone, lambda case: f"outside the zone {case.query.zone!r}"),
    Filter("ignored", _ignored, lambda _: "named by `ignore`"),
    Filter("not_named", _not_named, lambda case: f"not among the {len(case.query.only)} that `only` names"),
    Filter("protocol", _version, _other_version, closed=True),
    Filter("not_alive", _gone, _gone_for, closed=True),
    Filter("stale_advert", _stale_advert, _advert_age, closed=True),
    Filter("stale_load", _stale_load, _load_age, closed=True),
    Filter("leaving", _leaving, _load_says, closed=True),
    Filter("implausible", _implausible, lambda case: case.record.absurd, closed=True),
    Filter("unreachable", _absent, _unreachable_for),
    Filter("capability", _capability, _lacks),
    Filter("quantization", _quantization, lambda case: f"serves {case.offer.quantization or _UNKNOWN}"),
    Filter("hardware", _unable, _no_kernels),
    Filter("context", _context, _too_long),
    Filter("memory", _memory, _needs),
    Filter("price", _price, _too_dear),
)

_OPEN: Final = tuple(each for each in FILTERS if not each.closed)


def removed_by(table: CandidateTable) -> list[BoolArray | None]:
    """The masks of all filters, for a caller that needs no reasons: ``open_until`` replaces the ``closed`` ones."""
    closed: BoolArray = table.column("open_until") <= table.now
    return [closed, *(each.removes(table) for each in _OPEN)]
