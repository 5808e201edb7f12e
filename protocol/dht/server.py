"""The serving side of the DHT: answers the queries of other peers and stores the statements that their authors bring.

Not here: the store itself (``record_store``), the queries of this node (``active_lookups``).
"""

from __future__ import annotations

from typing import Final

from protocol.dht.links import DhtLink
from protocol.dht.own_records import OwnRecords
from protocol.dht.record_store import RecordStore, validate
from protocol.dht.routing_table import RoutingTable
from protocol.effects import Effect, Penalise, Send
from protocol.errors import BadEnvelope, RemoteProtocolError
from protocol.ids import PeerId
from protocol.rng import Rng
from protocol.settings import DhtSettings
from protocol.statements.envelope import Envelope, parse_again
from protocol.token_bucket import TokenBucket
from protocol.wire.messages import Contact, DhtQuery, DhtReply, DhtStore

#: Values and their bytes in one reply; with 20 contacts it stays below the longest message.
_MOST_VALUES: Final = 20
_MOST_VALUE_BYTES: Final = 32 * 1024
#: Queries and statements of one peer that are dealt with, per second and at once (guess: a look-up asks one peer once,
#: and a new link brings two statements for each of 64 models), and of all peers together (measured: 10 % of a core).
_SERVED_PER_S: Final = 100
_SERVED_AT_ONCE: Final = 200
_SERVED_IN_ALL_PER_S: Final = 1000


def blame(peer: PeerId, error: RemoteProtocolError) -> list[Effect]:
    """Penalise a peer for an invalid message, unless the error is no fault of the peer."""
    return [Penalise(peer, error.blame, str(error))] if error.blame else []


class DhtServer:
    """What one node does for others."""

    def __init__(
        self, settings: DhtSettings, rng: Rng, table: RoutingTable, records: RecordStore, own: OwnRecords
    ) -> None:
        self._settings = settings
        self._rng = rng
        self._table = table
        self._records = records
        self._own = own
        self._served = TokenBucket(_SERVED_IN_ALL_PER_S, _SERVED_IN_ALL_PER_S, 0.0)

    def serve(self, peer: PeerId, link: DhtLink, message: DhtQuery | DhtStore, now: float, wall: float) -> list[Effect]:
        """Answer a query or keep a statement, unless the peer, or all together, have asked too often."""
        if link.served is None:
            link.served = TokenBucket(_SERVED_PER_S, _SERVED_AT_ONCE, now)
        if not (link.served.spend(1, now) and self._served.spend(1, now)):
            return []
        if isinstance(message, DhtQuery):
            return self._answer(peer, message, now)
        return self._keep(peer, link, message, now, wall)

    def _answer(self, peer: PeerId, query: DhtQuery, now: float) -> list[Effect]:
        near = self._table.closest(query.target, self._settings.k + 1)
        contacts = [Contact(contact.peer, contact.addrs) for contact in near if contact.peer != peer]
        values = self._values(query.target, now) if query.values else ()
        return [Send(peer, DhtReply(query.query, tuple(contacts[: min(self._settings.k, 20)]), values))]

    def _values(self, target: bytes, now: float) -> tuple[bytes, ...]:
        """The known statements under a key; a random part of too many, so that each provider is named at times."""
        known = self._known(target, now)
        if len(known) > _MOST_VALUES:
            known = self._rng.sample(known, _MOST_VALUES)
        wires: list[bytes] = []
        room = _MOST_VALUE_BYTES
        for envelope in known:
            room -= len(envelope.wire)
            if room >= 0:
                wires.append(envelope.wire)
        return tuple(wires)

    def _known(self, target: bytes, now: float) -> list[Envelope]:
        known = self._records.get(target, now)
        own = self._own.get(target, now)
        return known if own is None else [*known, own]

    def _keep(self, peer: PeerId, link: DhtLink, store: DhtStore, now: float, wall: float) -> list[Effect]:
        try:
            envelope = parse_again(store.value)
            if envelope.author != peer:
                raise BadEnvelope("brought by somebody else than its author")
            left = validate(store.target, envelope, wall, self._settings.skew_s)
        except RemoteProtocolError as error:
            return blame(peer, error)
        self._records.put(store.target, envelope, link.group, now, now + left)
        return []
