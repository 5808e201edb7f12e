"""Kademlia over our links: the address book beyond the peer view.

It answers "where is this peer" and "who serves this model" with statements that their owners signed, and keeps such
statements for others.  Not here: the routing table (``routing_table``), what is kept (``record_store``), one search
(``lookup``), signing, and what this node does with the peers it finds.

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

from dataclasses import dataclass, field
from typing import Final

from protocol.dht.lookup import MOST_ADDRS, Lookup, ShortlistEntry
from protocol.dht.record_store import RecordStore, record_key, validate
from protocol.dht.routing_table import KEY_BYTES, RoutingTable, as_number, model_key, peer_key
from protocol.effects import Dial, Effect, Found, Hangup, Penalise, Send, SetTimer, TimerKey
from protocol.errors import BadEnvelope, RemoteProtocolError
from protocol.ids import ModelId, PeerId
from protocol.rng import Rng
from protocol.settings import DhtSettings
from protocol.statements.adverts import Advert, Provider
from protocol.statements.envelope import Envelope, parse_again, read
from protocol.token_bucket import TokenBucket
from protocol.wire.messages import Contact, DhtQuery, DhtReply, DhtStore, NodeMessage

#: Searches at one time; more find nothing (guess: a search per HTTP request for an unknown model is the worst case).
MOST_LOOKUPS: Final = 64
#: Longest address kept or passed on, characters (as in an advert).
_MOST_ADDR: Final = 128
#: Values and their bytes in one reply; with 20 contacts it stays below the longest message.
_MOST_VALUES: Final = 20
_MOST_VALUE_BYTES: Final = 32 * 1024
#: Queries and statements of one peer that are dealt with, per second and at once (guess: a look-up asks one peer once,
#: and a new link brings two statements for each of 64 models), and of all peers together (measured: 10 % of a core).
_SERVED_PER_S: Final = 100
_SERVED_AT_ONCE: Final = 200
_SERVED_IN_ALL_PER_S: Final = 1000
#: An address that could not be reached is left alone for this many ``query_s``: one minute on a WAN (DESIGN 2.1).
_SHUN_QUERIES: Final = 20.0
_MOST_SHUNNED: Final = 4096
#: Pause before the own key is looked up again after joining, in ``query_s``; doubles until ``refresh_s``.
_REJOIN_QUERIES: Final = 4.0
#: Providers that end a look-up: some may be dead (all of five in 0.03 % while a fifth of the nodes is gone).
PROVIDERS: Final = 5
#: Own statements whose place is looked up at one time (guess: 64 models do not make 200 dials at once).
_MOST_PUBLISHING: Final = 4
#: Replicas without a link that are dialled for a new version of what they hold (guess: one of them will be there).
_REPLICAS_DIALLED: Final = 5
#: The upkeep timer goes off this many times per ``refresh_s`` and refreshes one bucket if one is due.
_UPKEEPS: Final = 16

_UPKEEP: Final[TimerKey] = ("dht", "upkeep")
_REJOIN: Final[TimerKey] = ("dht", "rejoin")


@dataclass(slots=True)
class _QueryLink:
    addrs: tuple[str, ...]
    group: str
    ours: bool  # dialled for the DHT
    used: float
    served: TokenBucket | None = None  # once it asks


@dataclass(slots=True)
class _Own:
    """A statement of this node, and the peers that were given it."""

    envelope: Envelope
    key: bytes
    until: float
    replicas: dict[PeerId, int] = field(default_factory=dict)  # with their distances
    enough: int = 1  # fewer replicas than this call for a new look-up
    placed: float | None = None


class Dht:
    """The DHT machine of one node."""

    def __init__(self, me: PeerId, settings: DhtSettings, rng: Rng) -> None:
        self.me = me
        self.table = RoutingTable(me, settings.k, settings.per_group)
        self.records = RecordStore(me, settings)
        self._key = peer_key(me)
        self._settings = settings
        self._rng = rng
        self._links: dict[PeerId, _QueryLink] = {}
        self._dialling: dict[PeerId, tuple[str, ...]] = {}
        self._shunned: dict[tuple[PeerId, tuple[str, ...]], float] = {}
        self._lookups: dict[int, Lookup] = {}
        self._next_lookup = 1
        self._asked: dict[tuple[PeerId, int], int] = {}  # (peer, query) -> look-up
        self._own: dict[bytes, _Own] = {}
        self._publishing: dict[int, bytes] = {}  # look-up -> key
        self._to_publish: dict[bytes, None] = {}  # keys that wait for their look-up
        self._joining: int | None = None
        self._around: set[PeerId] = set()  # the closest peers, as the last look-up of the own key found them
        self._rejoin_s = settings.query_s * _REJOIN_QUERIES
        self._served = TokenBucket(_SERVED_IN_ALL_PER_S, _SERVED_IN_ALL_PER_S, 0.0)

    # --- what the node tells us ------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Effect]:
        """Begin the upkeep; the rest begins with the first link."""
        return [SetTimer(_UPKEEP, now + self._upkeep_s)]

    def link_up(self, peer: PeerId, addrs: tuple[str, ...], group: str, now: float) -> list[Effect]:
        """A link stands.  ``addrs`` are where the peer says it listens, ``group`` is the network group of its address.

        Peers that listen nowhere (behind NAT) may ask and be asked over the link, but are not passed on to others.
        """
        addrs = _short(addrs)
        first = not self._links
        self._links[peer] = _QueryLink(addrs, group, ours=self._dialling.pop(peer, None) is not None, used=now)
        if addrs:
            self.table.seen(peer, addrs, group, now)
        effects = self._offer(peer, now)
        for number, lookup in self._lookups.items():
            entry = lookup.connected(peer, now)
            if entry is not None:
                effects.append(self._ask(number, lookup, entry, now))
        if first:
            self._around = set()
            self._rejoin_s = self._settings.query_s * _REJOIN_QUERIES / 2
            effects += self._rejoin(now)
        return effects

    def link_down(self, peer: PeerId, now: float) -> list[Effect]:
        """A link is gone; questions that were asked over it are lost."""
        if self._links.pop(peer, None) is None:
            return []
        return self._gone(peer, now)

    def dial_failed(self, peer: PeerId, now: float) -> list[Effect]:
        """A dial came to nothing, ours or not."""
        if peer in self._links:
            return []
        addrs = self._dialling.pop(peer, None)
        if addrs is not None:
            while len(self._shunned) >= _MOST_SHUNNED:
                del self._shunned[next(iter(self._shunned))]
            self._shunned[peer, addrs] = now + self._settings.query_s * _SHUN_QUERIES
        contact = self.table.get(peer)
        if contact is not None:
            # Somebody's wrong address for a peer must not cost it its place.
            self.table.failed(peer, unreachable=addrs is not None and set(contact.addrs) <= set(addrs))
        for own in self._own.values():
            own.replicas.pop(peer, None)
        return self._gone(peer, now)

    def on_message(self, peer: PeerId, message: NodeMessage, now: float, wall: float) -> list[Effect]:
        """A DHT message of a peer with a link; other messages are not for us."""
        link = self._links.get(peer)
        if link is None:
            return []
        link.used = link.used if isinstance(message, DhtStore) else now  # who needs it to store will dial
        if isinstance(message, DhtReply):
            return self._learn(peer, message, now, wall)
        if not isinstance(message, DhtQuery | DhtStore):
            return []
        if link.served is None:
            link.served = TokenBucket(_SERVED_PER_S, _SERVED_AT_ONCE, now)
        if not (link.served.spend(1, now) and self._served.spend(1, now)):
            return []
        if isinstance(message, DhtQuery):
            return self._answer(peer, message, now)
        return self._keep(peer, link, message, now, wall)

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
        link = self._links.get(target)
        if link is not None:
            kept = tuple(self.records.get(peer_key(target), now))
            return [Found(query, kept, ((target, link.addrs),), 0)]
        return self._search(peer_key(target), self._settings.k, now, query)

    def find_providers(self, query: int, model: ModelId, now: float) -> list[Effect]:
        """Look for peers that serve a model: ``Found`` with their provider statements, those with a link first."""
        return self._search(model_key(model), self._settings.k, now, query, PROVIDERS)

    def publish(self, envelopes: tuple[Envelope, ...], now: float) -> list[Effect]:
        """Make own statements (adverts, providers) findable until they expire; a newer one replaces an older one.

        The owner signs them afresh before that: adverts each half of their ttl, providers each ``republish_s``.
        """
        effects: list[Effect] = []
        for envelope in envelopes:
            key = record_key(envelope)
            own = self._own.get(key)
            if own is None:
                own = self._own[key] = _Own(envelope, key, now + envelope.ttl)
            own.envelope, own.until = envelope, now + envelope.ttl
            if (
                own.placed is not None
                and now < own.placed + self._settings.republish_s
                and len(own.replicas) >= own.enough
            ):
                effects += self._place(own, now)
            else:
                self._to_publish[key] = None
        return effects + self._publish(now)

    # --- serving others --------------------------------------------------------------------------------------------

    def _answer(self, peer: PeerId, query: DhtQuery, now: float) -> list[Effect]:
        near = self.table.closest(query.target, self._settings.k + 1)
        contacts = [Contact(contact.peer, contact.addrs) for contact in near if contact.peer != peer]
        values = self._values(query.target, now) if query.values else ()
        return [Send(peer, DhtReply(query.query, tuple(contacts[: min(self._settings.k, 20)]), values))]

    def _values(self, target: bytes, now: float) -> tuple[bytes, ...]:
        """What we know under a key; of too many a random part, so that all providers are named by somebody."""
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
        known = self.records.get(target, now)
        own = self._own.get(target)
        if own is not None and own.until > now:
            known.append(own.envelope)
        return known

    def _keep(self, peer: PeerId, link: _QueryLink, store: DhtStore, now: float, wall: float) -> list[Effect]:
        try:
            envelope = parse_again(store.value)
            if envelope.author != peer:
                raise BadEnvelope("brought by somebody else than its author")
            left = validate(store.target, envelope, wall, self._settings.skew_s)
        except RemoteProtocolError as error:
            return _blame(peer, error)
        self.records.put(store.target, envelope, link.group, now, now + left)
        return []

    # --- searching -------------------------------------------------------------------------------------------------

    def _search(self, target: bytes, width: int, now: float, query: int | None = None, enough: int = 1) -> list[Effect]:
        """Begin a look-up, or join one for the same target that somebody waits for."""
        if query is not None:
            for running in self._lookups.values():
                if running.target == target and running.queries:
                    running.queries.append(query)
                    return []
            if len(self._lookups) >= MOST_LOOKUPS:
                return [Found(query, (), (), 0)]
        number = self._next_lookup
        self._next_lookup += 1
        lookup = self._lookups[number] = Lookup(target, width, self._settings, now, enough)
        self.table.looked_up(target, now)
        if query is not None:
            lookup.queries.append(query)
            for envelope in self.records.get(target, now):
                lookup.found(envelope, 0, now)
        for contact in self.table.closest(target, 2 * self._settings.k):
            lookup.add(contact.peer, contact.addrs, None)
        for peer, link in self._links.items():
            lookup.add(peer, link.addrs, None)
        first = lookup.ask_first(self._links, now) if query is not None else []
        return [self._ask(number, lookup, peer, now) for peer in first] + self._advance(number, now)

    def _advance(self, number: int, now: float) -> list[Effect]:
        """Ask whoever is next; end the look-up if nothing more is to come."""
        lookup = self._lookups.get(number)
        if lookup is None:
            return []
        effects: list[Effect] = []
        for peer in lookup.fail_overdue(now):
            self.table.failed(peer, unreachable=False)
        while not lookup.over(now):
            picked = lookup.ask_next(now)
            if not picked:
                return [*effects, SetTimer(("dht", "look", number), lookup.wake(now))]
            for entry in picked:
                effects += self._reach(number, lookup, entry, now)
        return effects + self._finish(number, lookup, now)

    def _reach(self, number: int, lookup: Lookup, entry: ShortlistEntry, now: float) -> list[Effect]:
        peer = entry.peer
        if peer in self._links:
            return [self._ask(number, lookup, entry, now)]
        if peer in self._dialling:
            return []
        if not entry.addrs or now < self._shunned.get((peer, entry.addrs), now):
            lookup.failed(peer)
            return []
        self._dialling[peer] = entry.addrs
        return [Dial(peer, entry.addrs)]

    def _ask(self, number: int, lookup: Lookup, entry: ShortlistEntry, now: float) -> Effect:
        query = self._rng.getrandbits(32)
        self._asked[entry.peer, query] = number
        self._links[entry.peer].used = now
        return Send(entry.peer, DhtQuery(query, lookup.target, bool(lookup.queries)))

    def _learn(self, peer: PeerId, reply: DhtReply, now: float, wall: float) -> list[Effect]:
        number = self._asked.pop((peer, reply.query), None)
        lookup = self._lookups.get(number) if number is not None else None
        self.table.answered(peer, now)
        source = lookup.answered(peer) if lookup is not None else None
        if number is None or lookup is None or source is None:
            return []
        effects: list[Effect] = []
        for contact in reply.contacts:
            if contact.peer != self.me:
                lookup.add(PeerId(contact.peer), _short(contact.addrs), source)
        if lookup.queries:
            effects += self._gather(lookup, source, reply, now, wall)
        return effects + self._advance(number, now)

    def _gather(self, lookup: Lookup, source: ShortlistEntry, reply: DhtReply, now: float, wall: float) -> list[Effect]:
        """Take over the values of a reply that hold; the first that does not ends it."""
        for wire in reply.values:
            try:
                envelope = parse_again(wire)
                known = lookup.values.get(envelope.author)
                if envelope.author != self.me and (known is None or known.version < envelope.version):
                    validate(lookup.target, envelope, wall, self._settings.skew_s)
                    lookup.found(envelope, source.hops, now)
            except RemoteProtocolError as error:
                blame = _blame(source.peer, error)
                if blame:
                    return blame
        return []

    def _gone(self, peer: PeerId, now: float) -> list[Effect]:
        """A peer cannot be asked (any more): every look-up that waited for it goes on."""
        for key in [key for key in self._asked if key[0] == peer]:
            del self._asked[key]
        effects: list[Effect] = []
        for number in [number for number, lookup in self._lookups.items() if lookup.failed(peer)]:
            effects += self._advance(number, now)
        return effects

    def _finish(self, number: int, lookup: Lookup, now: float) -> list[Effect]:
        del self._lookups[number]
        for key in [key for key, asker in self._asked.items() if asker == number]:
            del self._asked[key]
        effects: list[Effect] = [Found(query, *self._result(lookup), lookup.hops) for query in lookup.queries]
        own = self._own.get(self._publishing.pop(number, b""))
        if own is not None:
            own.replicas = {entry.peer: entry.distance for entry in lookup.closest()}
            own.enough = max(1, len(own.replicas) // 2)
            own.placed = now
            effects += self._place(own, now)
        if number == self._joining:
            around = {entry.peer for entry in lookup.closest()}
            grown, self._around = around != self._around, around  # keys are random: who came here came everywhere
            few = len(around) // 2
            self._to_publish |= {key: None for key, own in self._own.items() if grown or len(own.replicas) < few}
        return effects + self._publish(now)

    def _result(self, lookup: Lookup) -> tuple[tuple[Envelope, ...], tuple[tuple[PeerId, tuple[str, ...]], ...]]:
        """The statements found, those with a link first, then the youngest; then the target itself, if it was seen."""
        ordered = sorted(lookup.values.values(), key=lambda e: (e.author not in self._links, -e.issued))
        contacts: dict[PeerId, tuple[str, ...]] = {}
        for envelope in ordered:
            value = read(envelope)
            link = self._links.get(envelope.author)
            contacts[envelope.author] = value.addrs if isinstance(value, Advert | Provider) else ()
            if link is not None and link.addrs:
                contacts[envelope.author] = link.addrs
        target = lookup.exact()
        if target is not None:
            contacts.setdefault(target.peer, target.addrs)
        return tuple(ordered), tuple(contacts.items())

    # --- publishing ------------------------------------------------------------------------------------------------

    def _publish(self, now: float) -> list[Effect]:
        """Begin look-ups for the keys that wait, a few at a time."""
        effects: list[Effect] = []
        while self._to_publish and len(self._publishing) < _MOST_PUBLISHING:
            key = next(iter(self._to_publish))
            del self._to_publish[key]
            if key in self._own and key not in self._publishing.values():
                self._publishing[self._next_lookup] = key
                effects += self._search(key, self._settings.k, now)
        return effects

    def _place(self, own: _Own, now: float) -> list[Effect]:
        """Give a statement to its replicas.

        Those with a link get it now.  Of the others the closest are dialled and get it when the link stands; the rest
        keep what they have until the next look-up, or a new version each minute would cost twenty dials each minute.
        """
        effects: list[Effect] = []
        for rank, peer in enumerate(sorted(own.replicas, key=lambda replica: own.replicas[replica])):
            link, contact = self._links.get(peer), self.table.get(peer)
            if link is not None:
                link.used = now if rank < _REPLICAS_DIALLED else link.used  # no link is kept for what nobody would dial
                effects.append(Send(peer, DhtStore(own.key, own.envelope.wire)))
            elif rank < _REPLICAS_DIALLED and contact is not None and peer not in self._dialling:
                self._dialling[peer] = contact.addrs
                effects.append(Dial(peer, contact.addrs))
        return effects

    def _offer(self, peer: PeerId, now: float) -> list[Effect]:
        """Give a peer with a new link the statements that it becomes or is a replica of."""
        busy = set(self._publishing.values())
        effects: list[Effect] = []
        for own in self._own.values():
            if own.until > now and own.key not in busy and self._add_replica(own, peer):
                effects.append(Send(peer, DhtStore(own.key, own.envelope.wire)))
        return effects

    def _add_replica(self, own: _Own, peer: PeerId) -> bool:
        """Make a peer one of the ``k`` replicas of a statement if it is close enough; True if it is one now."""
        if peer in own.replicas:
            return True
        if peer not in self.table:
            return False
        distance = as_number(peer_key(peer)) ^ as_number(own.key)
        if len(own.replicas) >= self._settings.k:
            farthest = max(own.replicas, key=lambda replica: own.replicas[replica])
            if distance >= own.replicas[farthest]:
                return False
            del own.replicas[farthest]
        own.replicas[peer] = distance
        return True

    # --- upkeep ----------------------------------------------------------------------------------------------------

    @property
    def _upkeep_s(self) -> float:
        return self._settings.refresh_s / _UPKEEPS

    def _rejoin(self, now: float) -> list[Effect]:
        """Look the own key up, then publish afresh if the network has grown since."""
        self._joining = self._next_lookup
        effects = self._search(self._key, self._settings.k, now)
        self._rejoin_s *= 2
        if self._rejoin_s <= self._settings.refresh_s:
            effects.append(SetTimer(_REJOIN, now + self._rejoin_s))
        return effects

    def _upkeep(self, now: float) -> list[Effect]:
        """Drop what has expired, hang up what is idle, publish again what is due, refresh one bucket."""
        settings = self._settings
        self.records.expire(now)
        self._own = {key: own for key, own in self._own.items() if own.until > now}
        self._shunned = {key: until for key, until in self._shunned.items() if until > now}
        effects: list[Effect] = [SetTimer(_UPKEEP, now + self._upkeep_s * self._rng.uniform(0.9, 1.1))]
        for peer, link in self._links.items():
            if link.ours and now >= link.used + settings.idle_s:
                link.ours = False  # asked for once; if the link stays, it is somebody else's
                effects.append(Hangup(peer, "no look-up needs it"))
        for key, own in self._own.items():
            if own.placed is not None and now >= own.placed + settings.republish_s:
                self._to_publish[key] = None
        effects += self._publish(now)
        index = self.table.stalest(now - settings.refresh_s)
        if index is not None:
            effects += self._search(self.table.key_in(index, self._rng.getrandbits(8 * KEY_BYTES)), settings.alpha, now)
        return effects


def _short(addrs: tuple[str, ...]) -> tuple[str, ...]:
    """Addresses that may be kept and passed on."""
    if len(addrs) <= MOST_ADDRS and sum(map(len, addrs)) <= _MOST_ADDR:
        return addrs  # the commonest case: nothing is too long
    return tuple(addr for addr in addrs if len(addr) <= _MOST_ADDR)[:MOST_ADDRS]


def _blame(peer: PeerId, error: RemoteProtocolError) -> list[Effect]:
    return [Penalise(peer, error.blame, str(error))] if error.blame else []
