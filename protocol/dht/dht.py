"""The DHT machine: Kademlia over the links of a node, an address book beyond the peer view.

It finds the addresses of a peer and the providers of a model.  The answers are statements that their owners signed, and
each node stores such statements for others.  This module joins the parts: the links (``links``), the look-ups
(``active_lookups``, ``lookup``), the statements that this node publishes (``own_records``), the service for others
(``server``, ``record_store``) and the known peers (``routing_table``).

Not here: signing, and the use that a node makes of the peers it finds.

Theory of operation
-------------------
Messages are frames on channel 0 of any link that stands.  To ask a peer without a link the machine returns ``Dial`` and
continues at ``link_up`` or ``dial_failed``.  It returns ``Hangup`` for a link that it dialled and has not used for
``idle_s``.  ``protocol.node`` drops that ``Hangup`` if the link has another use.

Everything that a peer says is a hint.  The machine tries a contact that a reply names; the contact enters the routing
table when it has proved its key on a link.  A value counts if its signature, key and age are valid.  A node stores a
value only if its author brings it over the author's own link, so an attacker needs one connected identity for each
value under a key.  An invalid value counts against its sender; a stale one does not.  Replies without a query are
dropped.

A node joins with a look-up of its own key at its first link.  It repeats the look-up at doubling intervals while the
network grows around it, then refreshes one bucket at a time.  It publishes a statement to the ``k`` closest peers of a
look-up: every ``republish_s``, and after joining if the network has grown or too few peers had answered.  A closer peer
that appears later gets the statement, too.  A new version in between goes to the five closest peers and to those with a
link; the others keep the old version for the time being.
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
        self._around: set[PeerId] = set()  # the closest peers that the last look-up of the own key found
        self._rejoin_s = settings.query_s * _REJOIN_QUERIES
        #: The routing table is filled already, so the first link starts no look-up of the own key.
        self.has_joined = False

    # --- input from the node ----------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Effect]:
        """Begin the upkeep; the first link begins everything else."""
        return [SetTimer(_UPKEEP, now + self.upkeep_s)]

    def link_up(self, peer: PeerId, addrs: tuple[str, ...], group: str, now: float) -> list[Effect]:
        """A link stands.  ``addrs`` are the peer's listen addresses, ``group`` is the network group of its address.

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
        """A link is down; its open queries are lost."""
        if self.links.up.pop(peer, None) is None:
            return []
        return self._lost(peer, now)

    def dial_failed(self, peer: PeerId, now: float) -> list[Effect]:
        """A dial failed, ours or that of another machine."""
        if peer in self.links.up:
            return []
        addrs = self.links.dial_failed(peer, now)
        contact = self.table.get(peer)
        if contact is not None:
            # A wrong address from a third peer must not remove the contact from the table.
            self.table.failed(peer, unreachable=addrs is not None and set(contact.addrs) <= set(addrs))
        self.own.unreachable(peer)
        return self._lost(peer, now)

    def on_message(self, peer: PeerId, message: NodeMessage, now: float, wall: float) -> list[Effect]:
        """Handle a DHT message of a peer with a link; other messages are ignored."""
        link = self.links.up.get(peer)
        if link is None:
            return []
        link.used = link.used if isinstance(message, DhtStore) else now  # a peer that needs the link to store will dial
        if isinstance(message, DhtReply):
            effects, number = self.searches.learn(peer, message, now, wall)
            return effects if number is None else effects + self._advance(number, now)
        if isinstance(message, DhtQuery | DhtStore):
            return self._server.serve(peer, link, message, now, wall)
        return []

    def timer(self, key: TimerKey, now: float, wall: float) -> list[Effect]:  # noqa: ARG002 - the shape of all machines
        """Handle an expired timer of this machine."""
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
        """Begin a look-up with a waiting caller, or join a look-up of the same target."""
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
        """Continue every look-up that waited for the peer."""
        return [effect for number in self.searches.lost(peer) for effect in self._advance(number, now)]

    def _ended(self, number: int, lookup: Lookup, now: float) -> list[Effect]:
        """A look-up for publication places its statement, and published statements may need new replicas."""
        effects = self.own.looked_up(number, lookup, now)
        if number == self._joining:
            around = {entry.peer for entry in lookup.closest()}
            grown, self._around = around != self._around, around  # keys are random: a sample of all newcomers
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
        """Drop expired records, hang up idle links, publish due statements again, refresh one bucket."""
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
