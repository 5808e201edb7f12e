"""The look-ups that a node has under way: the peers that they ask, the replies, and the results.

Not here: the order and the end of one look-up (``lookup``), the consequences of a result (``dht``).
"""

from __future__ import annotations

from protocol.dht.links import DhtLinks, short
from protocol.dht.lookup import Lookup, ShortlistEntry
from protocol.dht.record_store import RecordStore, validate
from protocol.dht.routing_table import RoutingTable
from protocol.dht.server import blame
from protocol.effects import Effect, Found, Send, SetTimer
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId
from protocol.rng import Rng
from protocol.settings import DhtSettings
from protocol.statements.adverts import Advert, Provider
from protocol.statements.envelope import Envelope, parse_again, read
from protocol.wire.messages import DhtQuery, DhtReply


class Searches:
    """The look-ups of one node, by number."""

    def __init__(
        self,
        me: PeerId,
        settings: DhtSettings,
        rng: Rng,
        table: RoutingTable,
        records: RecordStore,
        links: DhtLinks,
    ) -> None:
        self._me = me
        self._settings = settings
        self._rng = rng
        self._table = table
        self._records = records
        self._links = links
        self.lookups: dict[int, Lookup] = {}
        self._begun = 0
        self._asked: dict[tuple[PeerId, int], int] = {}  # (peer, query) -> look-up

    def join(self, target: bytes, query: int) -> bool:
        """Add a caller to a look-up of the same target that another caller waits for, if there is one."""
        for running in self.lookups.values():
            if running.target == target and running.queries:
                running.queries.append(query)
                return True
        return False

    def begin(
        self, target: bytes, width: int, now: float, query: int | None = None, enough: int = 1
    ) -> tuple[int, list[Effect]]:
        """Begin a look-up; returns its number and its first queries over links.  The caller advances it."""
        self._begun += 1
        number = self._begun
        lookup = self.lookups[number] = Lookup(target, width, self._settings, now, enough)
        self._table.looked_up(target, now)
        if query is not None:
            lookup.queries.append(query)
            for envelope in self._records.get(target, now):
                lookup.found(envelope, 0, now)
        for contact in self._table.closest(target, 2 * self._settings.k):
            lookup.add(contact.peer, contact.addrs, None)
        for peer, link in self._links.up.items():
            lookup.add(peer, link.addrs, None)
        first = lookup.ask_first(self._links.up, now) if query is not None else []
        return number, [self._ask(number, lookup, entry, now) for entry in first]

    def advance(self, number: int, now: float) -> tuple[list[Effect], Lookup | None]:
        """Ask the peers that are next; the look-up comes back when it is over."""
        lookup = self.lookups.get(number)
        if lookup is None:
            return [], None
        effects: list[Effect] = []
        for peer in lookup.fail_overdue(now):
            self._table.failed(peer, unreachable=False)
        while not lookup.over(now):
            picked = lookup.ask_next(now)
            if not picked:
                return [*effects, SetTimer(("dht", "look", number), lookup.wake(now))], None
            for entry in picked:
                effects += self._reach(number, lookup, entry, now)
        del self.lookups[number]
        for key in [key for key, asker in self._asked.items() if asker == number]:
            del self._asked[key]
        return effects + [Found(query, *self._result(lookup), lookup.hops) for query in lookup.queries], lookup

    def _reach(self, number: int, lookup: Lookup, entry: ShortlistEntry, now: float) -> list[Effect]:
        peer, links = entry.peer, self._links
        if peer in links.up:
            return [self._ask(number, lookup, entry, now)]
        if peer not in links.dialling and (not entry.addrs or links.is_shunned(peer, entry.addrs, now)):
            lookup.failed(peer)
            return []
        return links.dial(peer, entry.addrs)

    def _ask(self, number: int, lookup: Lookup, entry: ShortlistEntry, now: float) -> Effect:
        query = self._rng.getrandbits(32)
        self._asked[entry.peer, query] = number
        self._links.up[entry.peer].used = now
        return Send(entry.peer, DhtQuery(query, lookup.target, bool(lookup.queries)))

    def connected(self, peer: PeerId, now: float) -> list[Effect]:
        """A link stands: send the peer the queries that waited for it."""
        effects: list[Effect] = []
        for number, lookup in self.lookups.items():
            entry = lookup.connected(peer, now)
            if entry is not None:
                effects.append(self._ask(number, lookup, entry, now))
        return effects

    def lost(self, peer: PeerId) -> list[int]:
        """A peer cannot be asked (any more): the look-ups that waited for it and have to be advanced."""
        for key in [key for key in self._asked if key[0] == peer]:
            del self._asked[key]
        return [number for number, lookup in self.lookups.items() if lookup.failed(peer)]

    def learn(self, peer: PeerId, reply: DhtReply, now: float, wall: float) -> tuple[list[Effect], int | None]:
        """Process an answer; returns the number of its look-up if one waited for it.  The caller advances it."""
        number = self._asked.pop((peer, reply.query), None)
        lookup = self.lookups.get(number) if number is not None else None
        self._table.answered(peer, now)
        source = lookup.answered(peer) if lookup is not None else None
        if lookup is None or source is None:
            return [], None
        for contact in reply.contacts:
            if contact.peer != self._me:
                lookup.add(PeerId(contact.peer), short(contact.addrs), source)
        return self._gather(lookup, source, reply, now, wall) if lookup.queries else [], number

    def _gather(self, lookup: Lookup, source: ShortlistEntry, reply: DhtReply, now: float, wall: float) -> list[Effect]:
        """Take the valid values of a reply, up to the first invalid one."""
        for wire in reply.values:
            try:
                envelope = parse_again(wire)
                known = lookup.values.get(envelope.author)
                if envelope.author != self._me and (known is None or known.version < envelope.version):
                    validate(lookup.target, envelope, wall, self._settings.skew_s)
                    lookup.found(envelope, source.hops, now)
                    lookup.add_author(envelope, short(_addrs_in(envelope)), source)
            except RemoteProtocolError as error:
                effects = blame(source.peer, error)
                if effects:
                    return effects
        return []

    def _result(self, lookup: Lookup) -> tuple[tuple[Envelope, ...], tuple[tuple[PeerId, tuple[str, ...]], ...]]:
        """The statements found, then the target itself, if it was seen.

        Authors that were asked in vain come last; of the others those with a link come first, then the youngest.
        """
        links = self._links.up
        ordered = sorted(
            lookup.values.values(), key=lambda e: (lookup.has_failed(e.author), e.author not in links, -e.issued)
        )
        contacts: dict[PeerId, tuple[str, ...]] = {}
        for envelope in ordered:
            link = links.get(envelope.author)
            contacts[envelope.author] = _addrs_in(envelope)
            if link is not None and link.addrs:
                contacts[envelope.author] = link.addrs
        target = lookup.exact()
        if target is not None:
            contacts.setdefault(target.peer, target.addrs)
        return tuple(ordered), tuple(contacts.items())


def _addrs_in(envelope: Envelope) -> tuple[str, ...]:
    """Where the author of a statement listens, as it says."""
    value = read(envelope)
    return value.addrs if isinstance(value, Advert | Provider) else ()
