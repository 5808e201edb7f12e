"""The statements that a node publishes in the DHT, and the peers that received them (their replicas).

A statement goes to the ``k`` closest peers that a look-up found.  A new version goes to the closest few of them and to
those with a link.  A look-up finds new replicas when half of the old ones are gone, when it is due again, and when the
network around this node has changed.

Not here: the look-ups (``active_lookups``), the statements stored for others (``record_store``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from protocol.dht.links import DhtLinks
from protocol.dht.lookup import Lookup
from protocol.dht.record_store import record_key
from protocol.dht.routing_table import RoutingTable, as_number, peer_key
from protocol.effects import Effect, Send
from protocol.ids import PeerId
from protocol.settings import DhtSettings
from protocol.statements.envelope import Envelope
from protocol.wire.messages import DhtStore

#: Own statements whose place is looked up at one time (guess: 64 models do not make 200 dials at once).
_MOST_PUBLISHING: Final = 4
#: Replicas without a link that are dialled for a new version of a statement (guess: one of them will be there).
_REPLICAS_DIALLED: Final = 5


@dataclass(slots=True)
class OwnRecord:
    """A statement of this node, and the peers that were given it."""

    envelope: Envelope
    key: bytes
    until: float
    replicas: dict[PeerId, int] = field(default_factory=dict)  # with their distances
    enough: int = 1  # fewer replicas than this call for a new look-up
    placed: float | None = None


class OwnRecords:
    """The statements that one node publishes."""

    def __init__(self, settings: DhtSettings, table: RoutingTable, links: DhtLinks) -> None:
        self.records: dict[bytes, OwnRecord] = {}
        self.publishing: dict[int, bytes] = {}  # look-up -> key
        self._waiting: dict[bytes, None] = {}  # keys that wait for their look-up
        self._settings = settings
        self._table = table
        self._links = links

    def get(self, key: bytes, now: float) -> Envelope | None:
        """Our own statement under a key, while it is in force."""
        own = self.records.get(key)
        return own.envelope if own is not None and own.until > now else None

    def holds(self, key: bytes, envelope: Envelope) -> bool:
        """Whether this very statement is published."""
        own = self.records.get(key)
        return own is not None and own.envelope is envelope

    def restore(self, records: Iterable[OwnRecord]) -> None:
        """Go on with statements that have their replicas."""
        self.records |= {own.key: own for own in records}

    def put(self, envelopes: tuple[Envelope, ...], now: float) -> list[Effect]:
        """Take up new statements; a newer one replaces an older one and goes to its replicas if there are enough."""
        effects: list[Effect] = []
        for envelope in envelopes:
            key = record_key(envelope)
            own = self.records.get(key)
            if own is None:
                own = self.records[key] = OwnRecord(envelope, key, now + envelope.ttl)
            own.envelope, own.until = envelope, now + envelope.ttl
            due = own.placed is None or now >= own.placed + self._settings.republish_s
            if due or len(own.replicas) < own.enough:
                self._waiting[key] = None
            else:
                effects += self._place(own, now)
        return effects

    def take_waiting(self) -> bytes | None:
        """The next key to look up, which waits no more; a few are looked up at a time."""
        while self._waiting and len(self.publishing) < _MOST_PUBLISHING:
            key = next(iter(self._waiting))
            del self._waiting[key]
            if key in self.records and key not in self.publishing.values():
                return key
        return None

    def looked_up(self, number: int, lookup: Lookup, now: float) -> list[Effect]:
        """A look-up is over: if it was for one of our keys, its closest peers are the new replicas."""
        own = self.records.get(self.publishing.pop(number, b""))
        if own is None:
            return []
        own.replicas = {entry.peer: entry.distance for entry in lookup.closest()}
        own.enough = max(1, len(own.replicas) // 2)
        own.placed = now
        return self._place(own, now)

    def network_changed(self, few: int, grown: bool) -> None:
        """Publish all statements anew if the network has grown, else those with fewer replicas than ``few``."""
        self._waiting |= {key: None for key, own in self.records.items() if grown or len(own.replicas) < few}

    def _place(self, own: OwnRecord, now: float) -> list[Effect]:
        """Give a statement to its replicas.

        Replicas with a link get it now.  The closest of the others are dialled and get it when the link stands.
        The rest keep the old version until the next look-up: a new version each minute would cost twenty dials each.
        """
        effects: list[Effect] = []
        for rank, peer in enumerate(sorted(own.replicas, key=lambda replica: own.replicas[replica])):
            link, contact = self._links.up.get(peer), self._table.get(peer)
            if link is not None:
                link.used = now if rank < _REPLICAS_DIALLED else link.used  # others need no link
                effects.append(Send(peer, DhtStore(own.key, own.envelope.wire)))
            elif rank < _REPLICAS_DIALLED and contact is not None:
                effects += self._links.dial(peer, contact.addrs)
        return effects

    def offer(self, peer: PeerId, now: float) -> list[Effect]:
        """Give a peer with a new link the statements that it becomes or is a replica of."""
        busy = set(self.publishing.values())
        effects: list[Effect] = []
        for own in self.records.values():
            if own.until > now and own.key not in busy and self._add_replica(own, peer):
                effects.append(Send(peer, DhtStore(own.key, own.envelope.wire)))
        return effects

    def _add_replica(self, own: OwnRecord, peer: PeerId) -> bool:
        """Make a peer one of the ``k`` replicas of a statement if it is close enough; True if it is one now."""
        if peer in own.replicas:
            return True
        if peer not in self._table:
            return False
        distance = as_number(peer_key(peer)) ^ as_number(own.key)
        if len(own.replicas) >= self._settings.k:
            farthest = max(own.replicas, key=lambda replica: own.replicas[replica])
            if distance >= own.replicas[farthest]:
                return False
            del own.replicas[farthest]
        own.replicas[peer] = distance
        return True

    def unreachable(self, peer: PeerId) -> None:
        """A peer could not be dialled: it is no replica any more."""
        for own in self.records.values():
            own.replicas.pop(peer, None)

    def expire(self, now: float) -> None:
        """Drop expired statements."""
        self.records = {key: own for key, own in self.records.items() if own.until > now}

    def republish(self, now: float) -> None:
        """Queue a new look-up for each statement that was placed long ago."""
        for key, own in self.records.items():
            if own.placed is not None and now >= own.placed + self._settings.republish_s:
                self._waiting[key] = None
