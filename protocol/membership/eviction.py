"""Eviction from the peer view: which record is removed to make room for another one.

Theory of operation
===================

A view has at most ``size`` records, and at most ``per_group`` from one network group (a /24, a /48), so that
identities, which cost nothing, do not buy a place.  A group is that of the link if there is one, else the one that the
advert claims; peers of loopback, private or unknown addresses share a quarter of the view per group.  Records give way
in this order::

    expired                no statement of it is in force
    dead, left             as the failure detector or the peer itself said
    unproven, newest first to a link, or to a peer that offers a *wanted* model and the other does not; else a newcomer
                           is itself the newest of the unproven, and is refused

These never give way: this node, peers with a link, with a job of ours, or with a completed job of ours.  A link
always finds room, above ``size`` or its group's part if necessary: links are limited where they are accepted.

Not here: the records themselves, and which models are wanted (``peer_view``).
"""

from __future__ import annotations

import functools
import hashlib
import math
from typing import Final

import numpy as np

from protocol.arrays import BoolArray, IntArray
from protocol.membership.columns import Columns
from protocol.membership.peer_record import PeerRecord
from protocol.subnet import limited

#: Peers of one loopback, private or unknown group may take this share of the view (guess: a whole LAN is one /24).
_UNLIMITED_SHARE: Final = 4
#: Network groups whose numbers are remembered (guess: those of two full views).
_GROUPS: Final = 8192


@functools.lru_cache(_GROUPS)
def _group_number(name: str) -> int:
    """The value of the column ``group`` for a network group: a hash of its name, 63 bits."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


class Eviction:
    """The room in one view, whose ``columns`` it reads.  It names rows that give way; the view removes them."""

    def __init__(self, columns: Columns, size: int, per_group: int) -> None:
        self._columns = columns
        self._size = size
        self._per_group = per_group
        self._members: dict[str, int] = {}  # of each group
        #: Until then no record is gone that may give way.
        self._sure_until = -math.inf

    def expires(self, until: float) -> None:
        """A record is in force until then."""
        self._sure_until = min(self._sure_until, until)

    def doubt(self) -> None:
        """A record may be gone, or may give way, that did not before."""
        self._sure_until = -math.inf

    # --- groups --------------------------------------------------------------------------------------------------

    def join(self, record: PeerRecord, group: str) -> None:
        """A record belongs to a group from now on."""
        self._members[group] = self._members.get(group, 0) + 1
        record.group = group
        self._columns["group"][record.row] = _group_number(group)

    def leave(self, record: PeerRecord) -> None:
        """A record belongs to its group no more."""
        self._members[record.group] -= 1
        if not self._members[record.group]:
            del self._members[record.group]

    def rows_of(self, group: str) -> IntArray:
        """The rows of a group's members."""
        return np.flatnonzero(self._columns["used"] & (self._columns["group"] == _group_number(group)))

    def group_has_place(self, group: str) -> bool:
        """Whether a group may have one more record."""
        return self._members.get(group, 0) < self._part(group)

    def group_fits(self, group: str) -> bool:
        """Whether a group has no more records than it may have."""
        return self._members[group] <= self._part(group)

    def _part(self, group: str) -> int:
        """How many records of one group there may be."""
        return self._per_group if limited(group) else max(self._per_group, self._size // _UNLIMITED_SHARE)

    # --- which row gives way -------------------------------------------------------------------------------------

    def for_group(self, group: str, now: float) -> int | None:
        """The row that gives way to one more record of a group."""
        columns = self._columns
        rows = np.flatnonzero((columns["group"] == _group_number(group)) & self._may_go())
        return self._gone(rows, now)

    def for_newcomer(self, now: float, wanted: bool) -> int | None:
        """The row that gives way to an unproven newcomer; ``wanted``: it offers a model that is wanted."""
        row = self._gone_of_all(now)
        return self._newest(~self._columns["wanted"]) if row is None and wanted else row

    def for_link(self, now: float) -> int | None:
        """The row that gives way to a peer with a link."""
        row, wanted = self._gone_of_all(now), self._columns["wanted"]
        for which in (~wanted, wanted):
            row = self._newest(which) if row is None else row
        return row

    def _may_go(self) -> BoolArray:
        may_go: BoolArray = self._columns["used"] & ~self._columns["kept"]
        return may_go

    def _newest(self, which: BoolArray) -> int | None:
        """The newest of the unproven among these."""
        rows = np.flatnonzero(which & self._may_go())
        return int(rows[np.argmax(self._columns["first_seen"][rows])]) if rows.size else None

    def _gone_of_all(self, now: float) -> int | None:
        """The row that gives way to every other one.

        A full view asks this for each stranger, so a search in vain is not repeated before its answer can change.
        """
        if now < self._sure_until:
            return None
        may_go = self._may_go()
        row = self._gone(np.flatnonzero(may_go), now)
        if row is None:
            self._sure_until = float(self._columns["until"].min(initial=math.inf, where=may_go))
        return row

    def _gone(self, rows: IntArray, now: float) -> int | None:
        """The first of these rows that is expired, or else dead."""
        for gone in (self._columns["until"][rows] <= now, self._columns["alive"][rows] == 0):
            if gone.any():
                return int(rows[np.argmax(gone)])
        return None
