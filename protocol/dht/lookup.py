"""One iterative look-up of the DHT: which peer to ask next, and when the look-up ends.

Not here: sending, dialling, and checking the answers (``dht``).

Theory of operation
-------------------
The look-up holds entries sorted by distance to its target.  It asks ``alpha`` of them at a time,
closest first, and each answer names more.  It ends when the ``width`` closest entries that did not fail have answered
(no closer one can turn up), when the values found suffice, or at the deadline.  The values suffice in two cases:

* There are ``enough`` of them, and either no asked entry is in time any more, or a ``grace`` after the first value has
  passed.
* There are fewer, the grace has passed, and the ``alpha`` closest entries that did not fail have answered.  Every
  author gives its statement to those.  A single value from another entry (one that was asked for its own statement, or
  that was a replica once) is weaker: that entry has not seen the other values, and its author may be dead.  Until then
  the look-up asks further entries, but no longer than ``patience`` once an author of a value has answered.

A statement whose author did not answer is no answer.  While there are fewer values than enough, the look-up asks their
authors, too.  The value of an author that failed counts no more; it stays in the result, because the author may be
reachable from elsewhere.

Three rules keep a look-up fast where peers are far away, dead or lying:

* *A link is faster than a dial*, which takes many round trips.  If a caller waits and some of the ``alpha`` closest
  entries lack a link, the look-up also asks as many of the closest entries with a link.  They name closer peers before
  the first dial succeeds.
* *A late entry gives up its place.*  An entry is late if it has not answered after a fifth of ``query_s``.  Its answer
  counts until ``query_s`` is over, but the next entry takes its place among the ``alpha``.  The same holds for an entry
  that is no longer among the ``width`` closest: the look-up already knows the peers that it would name.
* *A source is judged by its contacts.*  A source is distrusted if ``alpha`` of its contacts stay silent and none
  answers.  The look-up asks its other contacts only when no others are left.  A flood of invented contacts thus costs
  the time of one late entry.

========= ======================================== =========
state     what happens                             next
========= ======================================== =========
NEW       picked                                   ASKED
ASKED     answer                                   ANSWERED
ASKED     refusal, broken link, ``query_s`` passed FAILED
FAILED    named again under another address, once  NEW
========= ======================================== =========
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Container
from enum import IntEnum
from itertools import islice
from typing import Final

from protocol.dht.routing_table import as_number, peer_number
from protocol.ids import PeerId
from protocol.settings import DhtSettings
from protocol.statements.envelope import Envelope

#: Entries held by one look-up, as a multiple of k (guess: a flood of contacts is cut to the closest of them).
_ENTRIES_PER_K: Final = 8
#: An entry is late, and values have been gathered, after this share of ``query_s`` (guess: 0.6 s on a WAN).
_LATE_SHARE: Final = 0.2
#: Fewer values than enough are taken after this share of ``query_s`` (2.7 s on a WAN: a request waits for 3 s).
_PATIENCE_SHARE: Final = 0.9
#: A look-up ends after this many ``query_s``, whatever it found (guess).
_DEADLINE_QUERIES: Final = 3.0
#: Addresses of one entry that are tried (DESIGN 3.1).
MOST_ADDRS: Final = 4


class QueryState(IntEnum):
    """How far an entry has come."""

    NEW = 0
    ASKED = 1
    ANSWERED = 2
    FAILED = 3


class ShortlistEntry:
    """A peer that a look-up may ask.  ``sources`` named it; our own contacts have None among them."""

    __slots__ = ("addrs", "besides", "distance", "hops", "peer", "retried", "since", "sources", "state")

    def __init__(self, peer: PeerId, distance: int, addrs: tuple[str, ...], hops: int) -> None:
        self.peer = peer
        self.distance = distance
        self.addrs = addrs
        self.hops = hops
        self.state = QueryState.NEW
        self.since = 0.0
        self.retried = self.besides = False  # besides: takes no place among the ``alpha``
        self.sources: set[PeerId | None] = set()


class Lookup:
    """A search for ``target``.  ``queries`` are the numbers of the callers that wait for its end.

    ``enough``: with values from so many authors the look-up asks no further peer.
    """

    def __init__(self, target: bytes, width: int, settings: DhtSettings, now: float, enough: int = 1) -> None:
        self.target = target
        self.queries: list[int] = []
        self.values: dict[PeerId, Envelope] = {}
        self.hops = 0
        self._number = as_number(target)
        self._width = width
        self._enough = enough
        self._alpha = settings.alpha
        self._most_in_flight = settings.k
        self._most = settings.k * _ENTRIES_PER_K
        self._query_s = settings.query_s
        self._late_s = settings.query_s * _LATE_SHARE
        self._deadline = now + settings.query_s * _DEADLINE_QUERIES
        self._grace = math.inf
        self._patience = now + settings.query_s * _PATIENCE_SHARE
        self._begun = False
        #: All entries, closest first, and their distances.
        self._sorted: list[ShortlistEntry] = []
        self._distances: list[int] = []
        #: The entries with an open query, those that failed, and the sources of those that answered.
        self._asked: dict[PeerId, ShortlistEntry] = {}
        self._failed: dict[PeerId, ShortlistEntry] = {}
        self._heard: set[PeerId | None] = {None}
        self._by_peer: dict[PeerId, ShortlistEntry] = {}
        #: Authors of values that are asked only whether they are there: no entry is closer because of them.
        self._authors: dict[PeerId, ShortlistEntry] = {}

    def get(self, peer: PeerId) -> ShortlistEntry | None:
        """The entry of that name."""
        return self._by_peer.get(peer) or self._authors.get(peer)

    def add(self, peer: PeerId, addrs: tuple[str, ...], source: ShortlistEntry | None) -> None:
        """Add a peer that ``source`` named (None: our own table)."""
        known = self._by_peer.get(peer)
        if known is None:
            hops = source.hops + 1 if source else 1
            known = self._authors.pop(peer, None) or ShortlistEntry(peer, self._distance(peer), addrs, hops)
            self._by_peer[peer] = known
            place = bisect_left(self._distances, known.distance)
            self._distances.insert(place, known.distance)
            self._sorted.insert(place, known)
            self._trim()
        elif not set(addrs) <= set(known.addrs):
            known.addrs = tuple(dict.fromkeys(known.addrs + addrs))[:MOST_ADDRS]
            if known.state is QueryState.FAILED and not known.retried:
                known.addrs, known.retried, known.besides, known.state = addrs, True, False, QueryState.NEW
                del self._failed[peer]
        named = source.peer if source else None
        known.sources.add(named)
        if known.state is QueryState.ANSWERED:
            self._heard.add(named)

    def add_author(self, envelope: Envelope, addrs: tuple[str, ...], source: ShortlistEntry) -> None:
        """Add the author of a value that was found, unless values are plenty."""
        author = envelope.author
        if len(self.values) < self._enough and self.get(author) is None:
            self._authors[author] = ShortlistEntry(author, self._distance(author), addrs, source.hops + 1)

    def _distance(self, peer: PeerId) -> int:
        return peer_number(peer) ^ self._number

    def _trim(self) -> None:
        """Forget the farthest new entry if there are too many."""
        if len(self._sorted) > self._most:
            last = len(self._sorted) - 1
            place = next(last - back for back, c in enumerate(reversed(self._sorted)) if c.state is QueryState.NEW)
            del self._by_peer[self._sorted.pop(place).peer], self._distances[place]

    def found(self, envelope: Envelope, hops: int, now: float) -> None:
        """A verified value came in, newer than what its author had here; the first one starts the grace."""
        if not self.values:
            self.hops = hops
            self._grace = now + self._late_s
        self.values[envelope.author] = envelope

    def answered(self, peer: PeerId) -> ShortlistEntry | None:
        """The entry that answered, if it was asked."""
        entry = self._asked.pop(peer, None)
        if entry is None:
            return None
        entry.state = QueryState.ANSWERED
        self._heard |= entry.sources
        return entry

    def connected(self, peer: PeerId, now: float) -> ShortlistEntry | None:
        """A link to a peer stands: the entry, if it was waited for; its time starts afresh."""
        entry = self._asked.get(peer)
        if entry is not None:
            entry.since = now
        return entry

    def failed(self, peer: PeerId) -> bool:
        """An entry refused or cannot be reached; whether that matters to this look-up."""
        entry = self._asked.get(peer)
        if entry is not None:
            self._fail(entry)
        return entry is not None

    def _fail(self, entry: ShortlistEntry) -> None:
        entry.state = QueryState.FAILED
        del self._asked[entry.peer]
        self._failed[entry.peer] = entry

    def fail_overdue(self, now: float) -> list[PeerId]:
        """Let those fail whose time is over, and return them."""
        over = [c for c in self._asked.values() if now >= c.since + self._query_s]
        for entry in over:
            self._fail(entry)
        return [entry.peer for entry in over]

    def ask_first(self, linked: Container[PeerId], now: float) -> list[ShortlistEntry]:
        """Mark those of ``linked`` as asked that are asked besides the ``alpha`` closest of all, and return them."""
        near, far = self._sorted[: self._alpha], self._sorted[self._alpha :]
        lacking = self._alpha - sum(c.peer in linked for c in near)
        first = [c for c in far if c.peer in linked][:lacking]
        for entry in first:
            entry.besides = True
            self._ask(entry, now)
        return first

    def _is_in_time(self, entry: ShortlistEntry, now: float) -> bool:
        """Whether it takes one of the ``alpha`` places, if it is close enough."""
        return now < entry.since + self._late_s and not entry.besides

    def _ask(self, entry: ShortlistEntry, now: float) -> None:
        entry.state, entry.since = QueryState.ASKED, now
        self._asked[entry.peer] = entry

    def ask_next(self, now: float) -> list[ShortlistEntry]:
        """Mark the entries as asked that are to be asked now, and return them.

        With enough values no further entry is asked, except in the first round: stored values may be outdated.
        """
        if self._begun and self._has_enough():
            return []
        self._begun = True
        window = self._window(now)
        free = self._alpha - sum(c.state is QueryState.ASKED and self._is_in_time(c, now) for c in window)
        free = max(0, min(free, self._most_in_flight - len(self._asked)))
        picked = [c for c in window if c.state is QueryState.NEW][:free]
        for entry in picked:
            self._ask(entry, now)
        return picked if self._has_enough() else picked + self._ask_authors(now)

    def _ask_authors(self, now: float) -> list[ShortlistEntry]:
        """Mark the authors of the values as asked that were not, and return them; they take no place among others."""
        authors = [entry for entry in map(self.get, self.values) if entry is not None and entry.state is QueryState.NEW]
        for entry in authors:
            entry.besides = True
            self._ask(entry, now)
        return authors

    def has_failed(self, author: PeerId) -> bool:
        """Whether the author of a value was asked and did not answer."""
        return author in self._failed

    def _has_enough(self) -> bool:
        return sum(author not in self._failed for author in self.values) >= self._enough

    def _has_living_author(self) -> bool:
        entries = map(self.get, self.values)
        return any(entry is not None and entry.state is QueryState.ANSWERED for entry in entries)

    def _window(self, now: float) -> list[ShortlistEntry]:
        """The ``width`` closest that did not fail; entries of distrusted sources alone only if no other is new."""
        alive = (c for c in self._sorted if c.state is not QueryState.FAILED)
        doubted = self._doubted(now)
        if doubted:
            trusted = [
                c
                for c in self._sorted
                if c.state is not QueryState.FAILED and (c.state is not QueryState.NEW or not c.sources <= doubted)
            ][: self._width]
            if any(c.state is QueryState.NEW for c in trusted):
                return trusted
        return list(islice(alive, self._width))

    def _doubted(self, now: float) -> set[PeerId | None]:
        """Sources of which ``alpha`` contacts were silent and none answered."""
        late = now - self._late_s
        silent = [*self._failed.values(), *(c for c in self._asked.values() if c.since <= late)]
        if len(silent) < self._alpha:
            return set()
        named = Counter(source for entry in silent for source in entry.sources)
        return {source for source, count in named.items() if count >= self._alpha and source not in self._heard}

    def over(self, now: float) -> bool:
        """Whether the look-up has ended."""
        if now >= min(self._deadline, self._settled()):
            return True
        target = self.exact()
        if target is not None and target.state is QueryState.ANSWERED:
            return True
        if self._has_enough() and self._begun:
            return not any(now < c.since + self._late_s for c in self._asked.values())
        return all(c.state is QueryState.ANSWERED for c in self._window(now))

    def _settled(self) -> float:
        """The time from which the values found so far suffice."""
        if self._has_enough():
            return self._grace
        nearest = islice((c for c in self._sorted if c.state is not QueryState.FAILED), self._alpha)
        if all(c.state is QueryState.ANSWERED for c in nearest):
            return self._grace
        return max(self._grace, self._patience) if self._has_living_author() else math.inf

    def exact(self) -> ShortlistEntry | None:
        """The entry whose key is the target: the peer that is looked for."""
        return self._sorted[0] if self._sorted and self._sorted[0].distance == 0 else None

    def closest(self) -> list[ShortlistEntry]:
        """The entries that answered, closest first: at most ``width``."""
        return [c for c in self._sorted if c.state is QueryState.ANSWERED][: self._width]

    def wake(self, now: float) -> float:
        """When to look again if nothing happens."""
        times = [min(self._deadline, self._settled())]
        for entry in self._asked.values():
            late = entry.since + self._late_s
            times.append(late if late > now else entry.since + self._query_s)
        return min(times)
