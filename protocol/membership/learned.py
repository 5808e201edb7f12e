"""What was learned of peers, kept for the columns of the view: whether a peer is in the view or not.

Not here: what is learned, and when it is forgotten (``reputation.experience``).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from protocol.ids import PeerId
from protocol.membership.columns import NOTHING_LEARNED, Columns, Offers
from protocol.membership.eviction import Eviction
from protocol.membership.peer_record import PeerRecord

#: The columns of a peer, and those of the newcomers in its network group; written at once.
OF_A_PEER: Final = (
    *("good", "bad", "judged_at"),
    *("prompt_log", "prompt_count", "token_log", "token_count", "log_variance", "seen_at"),
)
OF_A_GROUP: Final = ("group_good", "group_bad", "group_at")
_NO_PEER: Final = (0.0,) * len(OF_A_PEER)
_NO_GROUP: Final = (0.0,) * len(OF_A_GROUP)
_COLUMNS: Final[dict[str, tuple[type[np.generic], float]]] = dict.fromkeys((*OF_A_PEER, *OF_A_GROUP), (np.float64, 0.0))


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
        #: By the row of the view: apart from its columns, because no decision reads these, but what follows from them.
        self.past = Columns(_COLUMNS)
        self._pack = self.past.packer(*OF_A_PEER)
        self._offset = self.past.offset(OF_A_PEER[0])
        self._peers: dict[PeerId, tuple[float, ...]] = {}
        self._barred: dict[PeerId, float] = {}
        self._groups: dict[str, tuple[float, ...]] = {}
        self._offers: dict[PeerId, dict[str, tuple[float, ...]]] = {}

    def learn(self, peer: PeerId, figures: tuple[float, ...], barred_until: float) -> None:
        """Set the figures of a peer, the columns ``OF_A_PEER``, and until when it is asked last."""
        self._peers[peer] = figures
        self._barred[peer] = barred_until
        self._write(peer)

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
        for kept in (self._peers, self._barred, self._offers):
            kept.pop(peer, None)
        self._write(peer)

    def learn_of_group(self, group: str, figures: tuple[float, ...]) -> None:
        """Set the figures of a network group, the columns ``OF_A_GROUP`` of its members."""
        self._groups[group] = figures
        rows = self._eviction.rows_of(group)
        for name, figure in zip(OF_A_GROUP, figures, strict=True):
            self.past[name][rows] = figure

    def forget_group(self, group: str) -> None:
        """Remember nothing of a network group any more; its members in the view keep their figures."""
        self._groups.pop(group, None)

    def joined(self, record: PeerRecord) -> None:
        """A peer came into the view, or into another group."""
        self.past.reserve(self._columns.capacity)
        self._write(record.peer)
        for name, figure in zip(OF_A_GROUP, self._groups.get(record.group, _NO_GROUP), strict=True):
            self.past[name][record.row] = figure

    def _write(self, peer: PeerId) -> None:
        record = self._records.get(peer)
        if record is not None:
            figures = self._peers.get(peer, _NO_PEER)
            self._pack.pack_into(*self.past.at(record.row, self._offset), *figures)
            self._columns["barred_until"][record.row] = self._barred.get(peer, -math.inf)
