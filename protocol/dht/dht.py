"""Kademlia over our links: the address book beyond the peer view.

It answers "where is this peer" and "who serves this model" with statements that their owners signed, and keeps such
statements for others.  This module joins its parts: the links (``links``), the look-ups (``active_lookups``,
``lookup``), what this node publishes (``own_records``), what it does for others (``server``, ``record_store``) and whom
it knows (``routing_table``).  Not here: signing, and what this node does with the peers it finds.

Theory of operation
-------------------
Messages are frames on channel 0 of links between neighbours and whoever else has one.  To ask a peer without a link the
machine says ``Dial`` and goes on at ``link_up`` or ``dial_failed``.  A link that was made for a question is hung up
after ``idle_s`` without another; whoever composes the machines drops that ``Hangup`` if the link serves somebody else.

Everything heard is a hint.  A contact that is named is tried; it enters the table when it has proved its key on a link.
A value counts once its signature, key and age hold, and is taken for keeping from its author only, over the author's
own link: to fill a key an attacker needs as many identities that connect.  A wrong value is held against its sender, a
stale one is not.  Replies nobody asked for are dropped.

A node joins with a look-up of its own key at its first link, repeated at doubling intervals while the network grows
around it, then refreshes one bucket at a time.  What it publishes goes to the ``k`` closest peers of a look-up: every
``republish_s``, and after joining if the network has grown or too few had answered.  A closer peer that turns up gets
it, too.  A new version in between goes to the five closest and to those that have a link anyway, the rest lag behind.
"""

from __future__ import annotations

from typing import Final

from protocol.dht.active_lookups import Searches
from protocol.dht.links import DhtLinks, short
from protocol.dht.lookup import Lookup
from protocol.dht.own_records import OwnRecords
from protocol.dht.record_store import RecordStore
from protocol.dht.routing_table import KEY_BYTES, RoutingTable, model_key, peer_key
from protocol.dht.server import DhtServer
from protocol.effects import Effect, Found, SetTimer, TimerKey
from protocol.ids import ModelId, PeerId
from protocol.rng import Rng
from protocol.settings import DhtSettings
from protocol.statements.envelope import Envelope
from protocol.wire.messages import DhtQuery, DhtReply, DhtStore, NodeMessage

#: Searches at one time; more find nothing (guess: a search per HTTP request for an unknown model is the worst case).
MOST_LOOKUPS: Final = 64
#: Pause before the own key is looked up again after joining, in ``query_s``; doubles until ``refresh_s``.
_REJOIN_QUERIES: Final = 4.0
#: Providers that end a look-up: some may be dead (all of five in 0.03 % while a fifth of the nodes is gone).
PROVIDERS: Final = 5
#: The upkeep timer goes off this many times per ``refresh_s`` and refreshes one bucket if one is due.
_UPKEEPS: Final = 16

_UPKEEP: Final[TimerKey] = ("dht", "upkeep")
_REJOIN: Final[TimerKey] = ("dht", "rejoin")


class Dht:
    """The DHT machine of one node."""

    def __init__(self, me: PeerId, settings: DhtSettings, rng: Rng) -> None:
        self.me = me
        self.table = RoutingTable(me, settings.k, settings.per_group)
        self.records = RecordStore(me, settings)
        self.links = DhtLinks(settings)
        self.own = OwnRecords(settings, self.table, self.links)
        self.searches = Searches(me, settings, rng, self.table, self.records, self.links)
        self._server = DhtServer(settings, rng, self.table, self.records, self.own)
        self._settings = settings
        self._rng = rng
        self._joining: int | None = None
        self._around: set[PeerId] = set()  # the closest peers, as the last look-up of the own key found them
        self._rejoin_s = settings.query_s * _REJOIN_QUERIES
        #: Whether the first link calls for no look-up of the own key, because the routing table is filled already.
        self.has_joined = False

    # --- what the node tells us ------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Effect]:
        """Begin the upkeep; the rest begins with the first link."""
        return [SetTimer(_UPKEEP, now + self.upkeep_s)]

    def link_up(self, peer: PeerId, addrs: tuple[str, ...], group: str, now: float) -> list[Effect]:
        """A link stands.  ``addrs`` are where the peer says it listens, ``group`` is the network group of its address.

        Peers that listen nowhere (behind NAT) may ask and be asked over the link, but are not passed on to others.
        """
        addrs = short(addrs)
        first = not self.links.up and not self.has_joined
        self.links.link_up(peer, addrs, group, now)
        if addrs:
            self.table.seen(peer, addrs, group, now)
        effects = self.own.offer(peer, now) + self.searches.connected(peer, now)
        if first:
            self._around = set()
            self._rejoin_s = self._settings.query_s * _REJOIN_QUERIES / 2
            effects += self._rejoin(now)
        return effects

    def link_down(self, peer: PeerId, now: float) -> list[Effect]:
        """A link is gone; questions that were asked over it are lost."""
        if self.links.up.pop(peer, None) is None:
            return []
        return self._lost(peer, now)

    def dial_failed(self, peer: PeerId, now: float) -> list[Effect]:
        """A dial came to nothing, ours or not."""
        if peer in self.links.up:
            return []
        addrs = self.links.dial_failed(peer, now)
        contact = self.table.get(peer)
        if contact is not None:
            # Somebody's wrong address for a peer must not cost it its place.
            self.table.failed(peer, unreachable=addrs is not None and set(contact.addrs) <= set(addrs))
        self.own.unreachable(peer)
        return self._lost(peer, now)

    def on_message(self, peer: PeerId, message: NodeMessage, now: float, wall: float) -> list[Effect]:
        """A DHT message of a peer with a link; other messages are not for us."""
        link = self.links.up.get(peer)
        if link is None:
            return []
        link.used = link.used if isinstance(message, DhtStore) else now  # who needs it to store will dial
        if isinstance(message, DhtReply):
            effects, number = self.searches.learn(peer, message, now, wall)
            return effects if number is None else effects + self._advance(number, now)
        if isinstance(message, DhtQuery | DhtStore):
            return self._server.serve(peer, link, message, now, wall)
        return []

    def timer(self, key: TimerKey, now: float, wall: float) -> list[Effect]:  # noqa: ARG002 - the shape of all machines
        """A timer of ours went off."""
        if key == _UPKEEP:
            return self._upkeep(now)
        if key == _REJOIN:
            return self._rejoin(now)
        number = key[-1]
        return self._advance(number, now) if isinstance(number, int) else []

    def find_peer(self, query: int, target: PeerId, now: float) -> list[Effect]:
        """Look for a peer's addresses: ``Found`` with its advert if one is kept, and with where it was seen."""
        link = self.links.up.get(target)
        if link is not None:
            kept = tuple(self.records.get(peer_key(target), now))
            return [Found(query, kept, ((target, link.addrs),), 0)]
        return self._find(peer_key(target), query, now)

    def find_providers(self, query: int, model: ModelId, now: float) -> list[Effect]:
        """Look for peers that serve a model: ``Found`` with their provider statements, those with a link first."""
        return self._find(model_key(model), query, now, PROVIDERS)

    def publish(self, envelopes: tuple[Envelope, ...], now: float) -> list[Effect]:
        """Make own statements (adverts, providers) findable until they expire; a newer one replaces an older one.

        The owner signs them afresh before that: adverts each half of their ttl, providers each ``republish_s``.
        """
        return self.own.put(envelopes, now) + self._publish(now)

    # --- look-ups --------------------------------------------------------------------------------------------------

    def _find(self, target: bytes, query: int, now: float, enough: int = 1) -> list[Effect]:
        """Begin a look-up that somebody waits for, or join one for the same target."""
        if self.searches.join(target, query):
            return []
        if len(self.searches.lookups) >= MOST_LOOKUPS:
            return [Found(query, (), (), 0)]
        number, asked = self.searches.begin(target, self._settings.k, now, query, enough)
        return asked + self._advance(number, now)

    def _advance(self, number: int, now: float) -> list[Effect]:
        effects, ended = self.searches.advance(number, now)
        return effects if ended is None else effects + self._ended(number, ended, now)

    def _lost(self, peer: PeerId, now: float) -> list[Effect]:
        """Every look-up that waited for the peer goes on."""
        return [effect for number in self.searches.lost(peer) for effect in self._advance(number, now)]

    def _ended(self, number: int, lookup: Lookup, now: float) -> list[Effect]:
        """What was looked up to be published is published, and what is published may need new replicas."""
        effects = self.own.looked_up(number, lookup, now)
        if number == self._joining:
            around = {entry.peer for entry in lookup.closest()}
            grown, self._around = around != self._around, around  # keys are random: who came here came everywhere
            self.own.network_changed(len(around) // 2, grown)
        return effects + self._publish(now)

    def _publish(self, now: float) -> list[Effect]:
        """Begin look-ups for the keys that wait."""
        effects: list[Effect] = []
        while (key := self.own.take_waiting()) is not None:
            number, _ = self.searches.begin(key, self._settings.k, now)
            self.own.publishing[number] = key
            effects += self._advance(number, now)
        return effects

    # --- upkeep ----------------------------------------------------------------------------------------------------

    @property
    def upkeep_s(self) -> float:
        """Seconds between two rounds of upkeep."""
        return self._settings.refresh_s / _UPKEEPS

    def _rejoin(self, now: float) -> list[Effect]:
        """Look the own key up, then publish afresh if the network has grown since."""
        self._joining, _ = self.searches.begin(peer_key(self.me), self._settings.k, now)
        effects = self._advance(self._joining, now)
        self._rejoin_s *= 2
        if self._rejoin_s <= self._settings.refresh_s:
            effects.append(SetTimer(_REJOIN, now + self._rejoin_s))
        return effects

    def _upkeep(self, now: float) -> list[Effect]:
        """Drop what has expired, hang up what is idle, publish again what is due, refresh one bucket."""
        self.records.expire(now)
        self.own.expire(now)
        self.links.expire(now)
        effects: list[Effect] = [SetTimer(_UPKEEP, now + self.upkeep_s * self._rng.uniform(0.9, 1.1))]
        effects += self.links.hang_up_idle(now)
        self.own.republish(now)
        effects += self._publish(now)
        index = self.table.stalest(now - self._settings.refresh_s)
        if index is not None:
            key = self.table.key_in(index, self._rng.getrandbits(8 * KEY_BYTES))
            number, _ = self.searches.begin(key, self._settings.alpha, now)
            effects += self._advance(number, now)
        return effects
