"""What was learned of peers, kept for the columns of the view: whether a peer is in the view or not.

Not here: what is learned, and when it is forgotten (``reputation.experience``).
"""

from __future__ import annotations

import math
from typing import Final

from protocol.ids import PeerId
from protocol.membership.columns import NOTHING_LEARNED, Columns, Offers
from protocol.membership.eviction import Eviction
from protocol.membership.peer_record import PeerRecord

#: The columns of a peer, and those of the newcomers in its network group; written at once.
OF_A_PEER: Final = (
    *("good", "bad", "judged_at", "barred_until"),
    *("prompt_log", "prompt_count", "token_log", "token_count", "log_variance", "seen_at"),
)
OF_A_GROUP: Final = ("group_good", "group_bad", "group_at")
_NO_PEER: Final = (0.0, 0.0, 0.0, -math.inf, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
_NO_GROUP: Final = (0.0, 0.0, 0.0)


class Learned:
    """The figures of peers and network groups, and their copies in the columns of the view."""

    def __init__(
        self,
        columns: Columns,
        records: dict[PeerId, PeerRecord],
        models: dict[str, Offers],
        eviction: Eviction,
    ) -> None:
        self._columns = columns
        self._records = records
        self._models = models
        self._eviction = eviction
        self._pack = columns.packer(*OF_A_PEER)
        self._offset = columns.offset(OF_A_PEER[0])
        self._peers: dict[PeerId, tuple[float, ...]] = {}
        self._groups: dict[str, tuple[float, ...]] = {}
        self._offers: dict[PeerId, dict[str, tuple[float, ...]]] = {}

    def learn(self, peer: PeerId, figures: tuple[float, ...]) -> None:
        """Set the figures of a peer, the columns ``OF_A_PEER``."""
        self._peers[peer] = figures
        self._write(peer, figures)

    def learn_of_offer(self, peer: PeerId, model: str, figures: tuple[float, ...]) -> None:
        """Set the figures of one model of a peer, the columns ``columns.LEARNED`` of its offer."""
        self._offers.setdefault(peer, {})[model] = figures
        record, offers = self._records.get(peer), self._models.get(model)
        if record is not None and offers is not None and record.row in offers.offers:
            offers.learn(record.row, figures)

    def of_offer(self, peer: PeerId, model: str) -> tuple[float, ...]:
        """The figures of one model of a peer."""
        models = self._offers.get(peer)
        return NOTHING_LEARNED if models is None else models.get(model, NOTHING_LEARNED)

    def forget(self, peer: PeerId) -> None:
        """Remember nothing of a peer any more."""
        self._peers.pop(peer, None)
        self._offers.pop(peer, None)
        self._write(peer, _NO_PEER)

    def learn_of_group(self, group: str, figures: tuple[float, ...]) -> None:
        """Set the figures of a network group, the columns ``OF_A_GROUP`` of its members."""
        self._groups[group] = figures
        rows = self._eviction.rows_of(group)
        for name, figure in zip(OF_A_GROUP, figures, strict=True):
            self._columns[name][rows] = figure

    def forget_group(self, group: str) -> None:
        """Remember nothing of a network group any more; its members in the view keep their figures."""
        self._groups.pop(group, None)

    def joined(self, record: PeerRecord) -> None:
        """A peer came into the view, or into another group."""
        self._write(record.peer, self._peers.get(record.peer, _NO_PEER))
        for name, figure in zip(OF_A_GROUP, self._groups.get(record.group, _NO_GROUP), strict=True):
            self._columns[name][record.row] = figure

    def _write(self, peer: PeerId, figures: tuple[float, ...]) -> None:
        record = self._records.get(peer)
        if record is not None:
            self._pack.pack_into(*self._columns.at(record.row, self._offset), *figures)
