"""Dissemination: spreads the newest advert and load of each node to all others, over the links that stand.

Theory of operation
===================

For each neighbour the node keeps a list of the statements that it *lacks* (``send_queue``).  A new statement goes on
the list of every neighbour except its author and the one that brought it.  If a neighbour sends the same statement, it
is removed from that list.  Each tick every neighbour gets its list in one ``Records``, so each link carries a statement
about once.  In a crowded network (``publisher``) a node passes the loads of others on to a few neighbours only.  If the
budget delays an advert for too long, the neighbour is told of it and requests it if it is missing.  Digests find lost
statements (``anti_entropy``): on each new link, and every ``digest_s`` with one neighbour.

``validation`` judges each statement that arrives.  A wrong signature counts against its relayer and ends its message.
No other fault counts against a peer.  The node relays only statements that its view holds.

*Cost.*  A link has an allowance of signatures and of digests.  Links that other nodes have made also share one, so that
a thousand identities cost no more than a few and cannot use up the allowances of the peers that we chose.

*Budget.*  Two token buckets share ``budget_bytes_s`` (``budget``).  Pushes and greetings spend the larger part.  If it
is short, each neighbour gets an equal part (``send_queue`` has the order).  Digests and repairs spend the rest, which
accumulates; the node pays a burst back by pushing less.  Our own changes, and all goodbyes, do not wait for the tick
and may borrow one second of the budget.

Not here: our own statements (``publisher``), which links stand (``protocol.membership.overlay``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from protocol.effects import AnyEffect, Effect, Penalise, Send, SetTimer, StatementAccepted, TimerKey
from protocol.errors import BadEnvelope
from protocol.gossip import anti_entropy
from protocol.gossip.budget import Budget
from protocol.gossip.publisher import Publisher, few_of
from protocol.gossip.send_queue import FRAME_BYTES, ITEM_BYTES, NOW, Neighbour
from protocol.gossip.validation import Counts, Validator, Verdict
from protocol.ids import PeerId
from protocol.membership.peer_view import PeerView
from protocol.rng import Rng
from protocol.settings import GossipSettings
from protocol.statements.adverts import Advert, Load
from protocol.statements.envelope import Envelope, Key, Mark, Seen
from protocol.statements.keys import ADVERT, LOAD, Signer
from protocol.statements.versions import MarkTable
from protocol.token_bucket import TokenBucket
from protocol.wire.messages import Digest, Records

#: Ticks in which a statement that is new here reaches everybody else, or fails to (simulated: 99 % within 2.2 s).
YOUNG_TICKS: Final = 5
#: Bytes and statements in one ``Records``: below the longest message and the bound of its decoder.
MAX_RECORDS_BYTES: Final = 60 * 1024
MAX_RECORDS: Final = 500
#: Statements that a neighbour is told of at once, and that one may make us ask for between two digests (guess: 3 KB).
MAX_TOLD: Final = 64
#: The part of the pushes that may be spent on telling (simulated with 300 nodes: it takes 2 %).
TOLD_SHARE: Final = 0.1
#: Signatures checked for one neighbour per second, and at once (DESIGN 3.1: 200 records/s; a full view at once).
CHECKS_S: Final = 200
CHECKS_BURST: Final = 8192
#: Digests of one neighbour that are looked at between two of ours; a first exchange takes 8 in a full view (guess).
MAX_DIGESTS: Final = 32
#: The same for all links together that others have made: identities cost nothing, a core does.  Signatures as four
#: links may have (measured: 800 are 4 % of a core), digests so many (measured: 2 to 5 ms each with a full view).
GUESTS: Final = 4
GUEST_DIGESTS_S: Final = 16
GUEST_DIGESTS_BURST: Final = 128

_TICK: Final[TimerKey] = ("gossip", "tick")
_DIGEST: Final[TimerKey] = ("gossip", "digest")


class Gossip:
    """The dissemination machine of one node."""

    def __init__(self, signer: Signer, settings: GossipSettings, view: PeerView, rng: Rng, inc: int) -> None:
        self.me = signer.peer_id
        self.counts = Counts()
        self._settings = settings
        self._view = view
        self._rng = rng
        self.publisher = Publisher(signer, settings, rng, inc)
        self._validator = Validator(self.me, settings, view, self.counts)
        self._marks = self._validator.marks
        self._links: dict[PeerId, Neighbour] = {}
        self._standing: list[Neighbour] = []
        self._to_digest: dict[PeerId, None] = {}
        self._young_s = settings.tick_s * YOUNG_TICKS
        self._next_sync, self._crowded = 0.0, False  # crowded: too many nodes to pass every load on to all

    def start(self, marks: MarkTable, now: float, wall: float) -> list[Effect]:
        """Begin, with the marks of an earlier life; nodes do not tick in step."""
        settings = self._settings
        self.budget = Budget(settings.budget_bytes_s, settings.burst_bytes, settings.tick_s, now)
        self._flow, self._sync = self.budget.flow, self.budget.sync
        self._tells = TokenBucket(TOLD_SHARE * self._flow.rate, TOLD_SHARE * self._flow.rate, now)
        self._guest_checks = TokenBucket(GUESTS * CHECKS_S, CHECKS_BURST, now)
        self._guest_digests = TokenBucket(GUEST_DIGESTS_S, GUEST_DIGESTS_BURST, now)
        self._validator.start(marks, now, wall)
        first_digest = now + settings.digest_s * self._rng.random()
        return [SetTimer(_TICK, now + settings.tick_s * self._rng.random()), SetTimer(_DIGEST, first_digest)]

    # --- own statements ------------------------------------------------------------------------------------------

    def advertise(self, advert: Advert, now: float) -> list[Effect]:
        """Our own advert changed."""
        return self._state(self.publisher.advertise(advert, self._nodes(), now, self.wall(now)), now)

    def report_load(self, load: Load, now: float) -> list[Effect]:
        """Our own load, as measured now."""
        effects = self._state(self.publisher.report(load, self._nodes(), now, self.wall(now)), now)
        if not effects:
            self._view.put_self(self.publisher.advert, self.publisher.load, now)
        return effects

    def leave(self, now: float) -> list[Effect]:
        """Say goodbye to all neighbours at once."""
        return self._state(self.publisher.leave(self._nodes(), now, self.wall(now)), now)

    def refute(self, now: float) -> list[Effect]:
        """A neighbour doubts that we live."""
        return self._state(self.publisher.refute(self._nodes(), now, self.wall(now)), now)

    def resume(self, load: Load, ages: Mapping[int, float], nodes: int, now: float) -> list[Envelope]:
        """Go on as a node that has run for long in a network of ``nodes``; returns its own statements."""
        stated = self.publisher.resume(load, ages, nodes, now, self.wall(now))
        self._state(stated, now, flush=False)
        return stated

    def own(self, kind: int) -> Envelope | None:
        """Our newest statement of this kind."""
        mark = self._marks.get((self.me, kind))
        return mark.envelope if mark is not None else None

    def period(self, kind: int) -> float:
        """Seconds between two of our statements of this kind, as the network stands."""
        return self.publisher.period(kind, self._nodes())

    def wall(self, now: float) -> float:
        """Seconds since the epoch, as this node believes."""
        return self._validator.clock.read(now)

    def _nodes(self) -> int:
        return len(self._view) + 1

    def _state(self, envelopes: list[Envelope], now: float, flush: bool = True) -> list[Effect]:
        """Pass on our own statements like all others, without validation."""
        effects: list[Effect] = []
        for envelope in envelopes:
            self._marks.advance(envelope, now + envelope.ttl, held=True)
            self._spread(envelope, None, NOW)
            if flush:
                effects += self._flush(envelope, now)
        if envelopes:
            self._view.put_self(self.publisher.advert, self.publisher.load, now)
        return effects

    # --- links ---------------------------------------------------------------------------------------------------

    def link_up(self, peer: PeerId, outbound: bool, now: float) -> None:
        """A link stands; the peer lacks at least our own statements."""
        own = TokenBucket(CHECKS_S, CHECKS_BURST, now)
        link = self._links[peer] = Neighbour(peer, (own,) if outbound else (own, self._guest_checks), now)
        for mark in (self._marks.get((self.me, kind)) for kind in (ADVERT, LOAD)):
            if mark is not None and mark.envelope is not None:
                link.lacks.add(mark, NOW)

    def link_down(self, peer: PeerId) -> None:
        """The link is down; forget which statements the peer has."""
        self._links.pop(peer, None)
        self._to_digest.pop(peer, None)
        self._standing = [link for link in self._standing if link.peer != peer]

    def stand(self, peers: Iterable[PeerId]) -> None:
        """These links are to neighbours; the others get our own statements and those that they request."""
        for link in self._standing:
            link.standing = False
        self._standing = [self._links[peer] for peer in peers if peer in self._links]
        for link in self._standing:
            link.standing = True
        self.publisher.links = len(self._standing)

    def greet(self, peer: PeerId, now: float) -> list[Effect]:
        """Send our own statements over a fresh link."""
        link = self._links[peer]
        if link.guest:  # peers that reconnect often must not use up the neighbours' budget
            return self._push(link, self._sync, now, debt=0.0)
        return self._push(link, self._flow, now, debt=self._flow.rate)

    def introduce(self, peer: PeerId, now: float) -> list[Effect]:
        """Open an exchange with a peer that we chose as neighbour; it makes us its neighbour, too.

        Only one is opened per tick, so that a newcomer does not get the network from all sides at once.
        """
        self._to_digest[peer] = None
        return self._open_digest(now)

    def lacks(self, peer: PeerId, key: Key, now: float) -> None:
        """A neighbour has shown that it does not have the newest statement."""
        link, mark = self._links.get(peer), self._marks.get(key)
        if link is not None and mark is not None and mark.envelope is not None:
            link.lacks.add(mark, self._due(mark.envelope, now))

    # --- received statements -------------------------------------------------------------------------------------

    def on_records(self, peer: PeerId, records: Records, now: float, wall: float) -> list[AnyEffect]:
        """Handle statements that ``peer`` relayed, of any author."""
        link = self._links.get(peer)
        if link is None:
            return []
        self._validator.clock.observe(now, wall)
        effects: list[AnyEffect] = []
        find, known, has = self._marks.get, 0, link.lacks.discard
        self.counts.records_in += len(records.envelopes)
        for envelope in records.envelopes:
            mark = find(envelope.key)
            held = mark.envelope if mark is not None else None
            # The commonest case by far, and the reason why nothing is decoded before it.
            if mark is not None and held is not None and (held is envelope or held.wire == envelope.wire):
                known += 1
                has(mark)
                continue
            try:
                effects += self._take(link, mark, envelope, now)
            except BadEnvelope as error:
                self.counts.forged += 1
                effects.append(Penalise(peer, error.blame, str(error)))
                break
        self.counts.known += known
        return effects

    def learn(self, envelopes: Iterable[Envelope], now: float) -> list[AnyEffect]:
        """Statements from elsewhere (the DHT); wrong ones are dropped."""
        effects: list[AnyEffect] = []
        for envelope in envelopes:
            try:
                effects += self._take(None, self._marks.get(envelope.key), envelope, now)
            except BadEnvelope:
                self.counts.forged += 1
        return effects

    def version_of(self, peer: PeerId) -> tuple[int, int]:
        """The newest load of ``peer`` that was seen; ``(0, 0)`` if none was."""
        mark = self._marks.get((peer, LOAD))
        return (mark.inc, mark.seq) if mark is not None else (0, 0)

    def _take(self, link: Neighbour | None, mark: Mark | None, envelope: Envelope, now: float) -> Sequence[AnyEffect]:
        """One statement that is not the one we hold; raises ``BadEnvelope`` where the relayer is to blame."""
        key = envelope.key
        verdict = self._validator.take(key, mark, envelope, () if link is None else link.checks, now)
        if link is not None and mark is not None and mark.envelope is not None:
            if verdict is Verdict.NEW or verdict is Verdict.KNOWN:
                link.lacks.discard(mark)
            elif verdict is Verdict.STALE:
                link.lacks.add(mark, self._due(mark.envelope, now))
        if verdict is Verdict.OWN:
            return self._state(self.publisher.overtake(envelope.inc, self._nodes(), now, self.wall(now)), now)
        if verdict is not Verdict.NEW and verdict is not Verdict.UNHELD:
            return []
        effects: list[AnyEffect] = [StatementAccepted(envelope.author)]
        if self._validator.settles_clock(envelope, now):  # our earlier statements have the wrong time
            effects += self._state(self.publisher.repeat(self._nodes(), now, self.wall(now)), now)
        if verdict is Verdict.UNHELD and mark is not None and not isinstance(mark, Seen):  # it is replaced
            for each in self._links.values():
                each.lacks.discard(mark)
        if verdict is Verdict.NEW:
            due = self._due(envelope, now)
            self._spread(envelope, link, due)
            if due == NOW:
                effects += self._flush(envelope, now)
        return effects

    # --- relayed statements --------------------------------------------------------------------------------------

    def _spread(self, envelope: Envelope, source: Neighbour | None, due: float) -> None:
        mark, author, links = self._marks.get(envelope.key), envelope.author, self._standing
        assert mark is not None, "what is new is held"
        first, count = 0, len(links)
        if self._crowded and due == math.inf:
            first, count = int(self._rng.random() * count), few_of(count)  # side by side from anywhere on
        for place in range(first, first + count):
            link = links[place % len(links)]
            if link is not source and link.peer != author:
                link.lacks.add(mark, due)

    def _flush(self, envelope: Envelope, now: float) -> list[Effect]:
        """One statement to every neighbour that lacks it, now; the rest waits for the tick if the budget is short."""
        mark, cost = self._marks.get(envelope.key), len(envelope.wire) + ITEM_BYTES + FRAME_BYTES
        assert mark is not None, "what is new is held"
        effects: list[Effect] = []
        for link in self._standing:
            if mark in link.lacks and self._flow.spend(cost, now, debt=self._flow.rate):
                link.lacks.discard(mark)
                effects.append(self._send(link, [envelope], cost))
        return effects

    def _send(self, link: Neighbour, envelopes: list[Envelope], cost: int) -> Effect:
        self.counts.records_out += len(envelopes)
        self.counts.sent(cost)
        return Send(link.peer, Records(tuple(envelopes)))

    def _due(self, envelope: Envelope, now: float) -> float:
        """When neighbours are told of a delayed statement: an advert when it is no longer young, a load never.

        Our own statements and goodbyes go first.
        """
        if envelope.author == self.me:
            return NOW
        if envelope.kind == ADVERT:
            return now + self._young_s * self._rng.uniform(1.0, 2.0)  # not both ends of a link at once
        record = self._view.get(envelope.author)
        return NOW if record is not None and record.said_goodbye else math.inf

    def _push(
        self, link: Neighbour, bucket: TokenBucket, now: float, debt: float, most: float = math.inf
    ) -> list[Effect]:
        """Send the missing statements that the bucket can pay for; ``most`` bytes for this neighbour."""
        if not link.lacks:
            return []
        return self._send_all(link, link.lacks.take(min(bucket.level(now) + debt, most), now), bucket, now)

    def _send_all(self, link: Neighbour, envelopes: list[Envelope], bucket: TokenBucket, now: float) -> list[Effect]:
        """Send this, in as many messages as it takes; the caller has seen that it may."""
        effects: list[Effect] = []
        batch: list[Envelope] = []
        cost = FRAME_BYTES
        for envelope in envelopes:
            item = len(envelope.wire) + ITEM_BYTES
            if cost + item > MAX_RECORDS_BYTES or len(batch) == MAX_RECORDS:
                effects.append(self._send(link, batch, cost))
                bucket.spend(cost, now, debt=math.inf)
                batch, cost = [], FRAME_BYTES
            batch.append(envelope)
            cost += item
        if batch:
            effects.append(self._send(link, batch, cost))
            bucket.spend(cost, now, debt=math.inf)
        return effects

    # --- timers --------------------------------------------------------------------------------------------------

    def timer(self, key: TimerKey, now: float, wall: float) -> list[Effect]:
        """Handle an expired timer of this machine."""
        self._validator.clock.observe(now, wall)
        return self._tick(now) if key == _TICK else self._digest_round(now)

    def _tick(self, now: float) -> list[Effect]:
        effects = self._state(self.publisher.state_due(self._nodes(), now, self.wall(now)), now, flush=False)
        self.budget.settle(self.counts.bytes_out, now)
        self._crowded = self.publisher.crowded(self._nodes())
        links = [link for link in self._standing if link.lacks]
        self._rng.shuffle(links)
        for left, link in zip(range(len(links), 0, -1), links, strict=True):
            effects += self._push(link, self._flow, now, 0.0, most=min(MAX_RECORDS_BYTES, self._flow.level(now) / left))
        for link in links:
            effects += self._tell(link, now)
        for link in self._links.values():  # requested statements that the burst did not cover
            if not link.standing and link.lacks:
                effects += self._push(link, self._sync, now, 0.0)
        effects += self._open_digest(now)
        effects.append(SetTimer(_TICK, now + self._settings.tick_s))
        return effects

    def _digest_round(self, now: float) -> list[Effect]:
        self._validator.sweep(now)
        for link in self._links.values():
            link.digests, link.wants, link.asked = 0, 0, False
            if len(link.lacks) > 2 * self._nodes():  # more than we hold: some of it is gone
                link.lacks.prune(now)
        if self._standing:
            self._to_digest[self._rng.choice(self._standing).peer] = None
        return [*self._open_digest(now), SetTimer(_DIGEST, now + self._settings.digest_s * self._rng.uniform(0.9, 1.1))]

    # --- digests -------------------------------------------------------------------------------------------------

    def _open_digest(self, now: float) -> list[Effect]:
        """Open the next exchange that waits, unless one was opened a moment ago."""
        if not self._to_digest or now < self._next_sync:
            return []
        peer = next(iter(self._to_digest))
        effects = self._send_digest(peer, anti_entropy.opening(self._marks, now), now)
        if effects:
            del self._to_digest[peer]
            self._links[peer].asked = True
            self._next_sync = now + self._settings.tick_s
        return effects

    def _send_digest(
        self, peer: PeerId, digest: Digest, now: float, bucket: TokenBucket | None = None, debt: float = 0.0
    ) -> list[Effect]:
        cost = anti_entropy.size(digest)
        if not (bucket or self._sync).spend(cost, now, debt):
            return []
        self.counts.digests_out += 1
        self.counts.sent(cost)
        return [Send(peer, digest)]

    def _tell(self, link: Neighbour, now: float) -> list[Effect]:
        """Tell a neighbour of the adverts that the budget has delayed for too long."""
        if now < link.told + self._young_s or self._tells.level(now) <= 0:
            return []
        due = link.lacks.take_due(now, MAX_TOLD)
        if not due:
            return []
        link.told = now
        digest = anti_entropy.having(due)
        self._tells.spend(anti_entropy.size(digest), now, debt=math.inf)
        return self._send_digest(link.peer, digest, now, self._flow, debt=math.inf)

    def on_digest(self, peer: PeerId, digest: Digest, now: float) -> list[Effect]:
        """Handle the digest of a neighbour; ``anti_entropy`` describes its forms."""
        link = self._links.get(peer)
        if link is None or link.digests >= MAX_DIGESTS or (link.guest and not self._guest_digests.spend(1, now)):
            return []
        link.digests += 1
        self.counts.digests_in += 1
        if digest.buckets:
            return self._answer_summary(link, digest, now)
        if digest.have:
            return self._answer_have(link, digest, now)
        what = (self._marks, digest, now, self._young_s)
        lacks, wants = anti_entropy.compare(*what) if digest.reply else (anti_entropy.wanted(*what), [])
        self._rng.shuffle(lacks)  # so that a newcomer gets other parts first from other neighbours
        effects = self._repair(link, lacks, now)
        if wants and (now >= self._next_sync or (link.asked and digest.listed)):  # the answer to our own request
            self._next_sync = now + self._settings.tick_s
            for start in range(0, len(wants), anti_entropy.MAX_ENTRIES):
                want = Digest(entries=tuple(wants[start : start + anti_entropy.MAX_ENTRIES]))
                effects += self._send_digest(peer, want, now)
        elif wants and link.standing:
            self._to_digest[peer] = None
        return effects

    def _answer_have(self, link: Neighbour, digest: Digest, now: float) -> list[Effect]:
        """Request the statements that we lack, up to the bound: other neighbours will offer them, too."""
        alike, wants = anti_entropy.offered(self._marks, digest.entries[:MAX_TOLD], now)
        for mark in alike:
            link.lacks.discard(mark)
        wants = wants[: min(MAX_TOLD - link.wants, anti_entropy.covered(self._sync.level(now)))]
        link.wants += len(wants)
        return self._send_digest(link.peer, Digest(entries=tuple(wants)), now) if wants else []

    def _repair(self, link: Neighbour, keys: list[Key], now: float) -> list[Effect]:
        """Send the statements that a digest showed to be missing; those beyond the burst wait with the rest."""
        room, found = self._sync.level(now) - FRAME_BYTES, []
        for mark in dict.fromkeys(map(self._marks.get, keys)):
            assert mark is not None, "digests name what is held"
            assert mark.envelope is not None, "digests name what is held"
            room -= len(mark.envelope.wire) + ITEM_BYTES
            if room < 0:
                link.lacks.add(mark, self._due(mark.envelope, now))
            else:
                link.lacks.discard(mark)
                found.append(mark.envelope)
        return self._send_all(link, found, self._sync, now)

    def _answer_summary(self, link: Neighbour, digest: Digest, now: float) -> list[Effect]:
        numbers = anti_entropy.differing(self._marks, digest.buckets, now)
        most = anti_entropy.FEW_BUCKETS if link.introduced else anti_entropy.FIRST_BUCKETS
        if len(numbers) > most:
            numbers = sorted(self._rng.sample(numbers, most))
        link.introduced = True
        effects: list[Effect] = []
        for detail in anti_entropy.details(self._marks, numbers, now):
            effects += self._send_digest(link.peer, detail, now)
        return effects

    def sizes(self) -> dict[str, int]:
        """The sizes of the tables that others could make grow; of the links' lists the longest."""
        longest = max((len(link.lacks) for link in self._links.values()), default=0)
        return {"marks": len(self._marks), "lacks": longest}

    # --- for node ------------------------------------------------------------------------------------------------

    def pay(self, cost: int, now: float) -> None:
        """Charge the budget for another message to a neighbour (a doubt): pushes get less."""
        self.counts.sent(cost)
        self._flow.spend(cost, now, debt=self._flow.capacity)

    def export_marks(self, now: float) -> Mapping[Key, tuple[int, int, float]]:
        """The high-water marks, to be given to the next life of this node."""
        return self._marks.export(now, self.wall(now))

    @property
    def proofs(self) -> Mapping[PeerId, tuple[Envelope, Envelope]]:
        """Two different statements of one version, by author: each pair proves itself."""
        return self._validator.proofs

    @property
    def clock_disputed(self) -> bool:
        """Whether our system clock has jumped and the others do not agree with it (yet)."""
        return self._validator.clock.disputed
