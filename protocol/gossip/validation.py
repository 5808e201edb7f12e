"""Validation: decides which of the arriving statements are new, signed and in time.

Theory of operation
===================

A statement passes, in this order: version (an old or known one costs a look-up and no signature), age, the allowances
of signatures that its relayer spends from, signature, content.  ::

    seen before?                verdict   effect on the list of statements that the relayer lacks
    the very same, or spent     KNOWN     takes it off
    an older version            STALE     puts our newer one on
    the same version, another   KNOWN     as above; the pair is kept as proof of equivocation
    newer: out of its time      IGNORED   nothing, and no peer is blamed: the wrong clock may be ours
    newer: bad signature        BadEnvelope: the relayer is to blame, never the author
    newer: not understood       IGNORED   nothing; it may be of a newer version of the protocol
    newer: in our own name      OWN       says everything again with a higher ``inc``
    newer                       NEW       relays it
    newer, the view is full     UNHELD    nothing

Not here: which neighbours get a statement (``gossip``).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Final

from protocol.errors import BadEnvelope, UnknownStatement
from protocol.ids import PeerId
from protocol.membership.peer_view import PeerView
from protocol.settings import GossipSettings
from protocol.statements.adverts import Provider
from protocol.statements.envelope import UNSEEN, Envelope, Key, Mark, read
from protocol.statements.keys import ADVERT, LOAD
from protocol.statements.versions import HighWaterMarks, MarkTable, WallClock
from protocol.token_bucket import TokenBucket

#: Equivocations kept as proof (guess).
MAX_PROOFS: Final = 64


class Verdict(Enum):
    """The judgement on a statement; the table is at the top of this file."""

    KNOWN = "known"
    STALE = "stale"
    IGNORED = "ignored"
    OWN = "own"
    NEW = "new"
    UNHELD = "unheld"


@dataclass(slots=True)
class Counts:
    """Counters for metrics; every count only grows."""

    #: Bytes, messages, digests and statements given to the driver.
    bytes_out: int = 0
    messages_out: int = 0
    digests_out: int = 0
    records_out: int = 0
    #: Digests and statements received, and statements that were new and good.
    digests_in: int = 0
    records_in: int = 0
    records_new: int = 0
    #: Statements refused: seen before, older than one seen, out of their time, badly signed, not understood.
    known: int = 0
    stale: int = 0
    skewed: int = 0
    forged: int = 0
    unreadable: int = 0
    #: Statements not looked at because their relayer brought too many.
    shed: int = 0
    #: Different statements of one version; newer statements in our own name that we did not make.
    equivocations: int = 0
    impostors: int = 0

    def sent(self, cost: int) -> None:
        """One more message of so many bytes."""
        self.messages_out += 1
        self.bytes_out += cost

    def as_dict(self) -> dict[str, int]:
        """Every count by name."""
        return asdict(self)


def _afford(allowances: tuple[TokenBucket, ...], now: float) -> bool:
    for allowance in allowances:  # noqa: SIM110 - no generator: this is asked for every statement that is new
        if not allowance.spend(1, now):
            return False
    return True


class Validator:
    """The versions that this node has seen, and the judgement on each new statement."""

    def __init__(self, me: PeerId, settings: GossipSettings, view: PeerView, counts: Counts) -> None:
        self._me = me
        self._skew_s = settings.skew_s
        self._view = view
        self._counts = counts
        self.marks = HighWaterMarks(settings.marks_s)
        #: Two different statements of one version, by author: each pair proves itself.
        self.proofs: dict[PeerId, tuple[Envelope, Envelope]] = {}
        #: How much the view had dropped when that was last looked at.
        self._dropped = 0

    def start(self, marks: MarkTable, now: float, wall: float) -> None:
        """Begin with the marks of an earlier life."""
        self.clock = WallClock(now, wall)
        self.marks.load(marks, now, wall)

    def take(
        self, key: Key, mark: Mark | None, envelope: Envelope, allowances: tuple[TokenBucket, ...], now: float
    ) -> Verdict:
        """Judge one statement that is not, byte for byte, the one held; raises ``BadEnvelope``."""
        if mark is not None:
            ahead = envelope.inc - mark.inc or envelope.seq - mark.seq
            if ahead < 0:
                self._counts.stale += 1
                return Verdict.STALE
            if not ahead and mark.until != UNSEEN:
                self._counts.known += 1
                self._compare(mark.envelope, envelope)
                return Verdict.KNOWN
        life = self.clock.life(envelope, self._skew_s, now)
        if not self._admit_unverified(key, life, allowances, now):
            return Verdict.IGNORED
        if not envelope.check():
            raise BadEnvelope("signature")
        if key[0] == self._me:
            self._counts.impostors += 1
            return Verdict.OWN
        return self._accept(envelope, now, now + life)

    def _admit_unverified(self, key: Key, life: float, allowances: tuple[TokenBucket, ...], now: float) -> bool:
        """Judge without the signature; count the reason of a refusal."""
        if key[1] not in (ADVERT, LOAD):
            self._counts.unreadable += 1
        elif life <= 0:
            self._counts.skewed += 1
        elif not _afford(allowances, now):
            self._counts.shed += 1
        else:
            return True
        return False

    def _accept(self, envelope: Envelope, now: float, until: float) -> Verdict:
        try:
            value = read(envelope)
        except UnknownStatement:  # signed by its author, so its relayer only understood more than we do
            self._counts.unreadable += 1
            return Verdict.IGNORED
        assert not isinstance(value, Provider), "kinds were checked"
        held = self._view.put(envelope, value, now, until)
        self.marks.advance(envelope, until, held)
        self._counts.records_new += 1
        return Verdict.NEW if held else Verdict.UNHELD

    def settles_clock(self, envelope: Envelope, now: float) -> bool:
        """Count an accepted statement as a vote on our clock; True if that changed our belief about the time."""
        return self.clock.vote(envelope, self._skew_s, now)

    def _compare(self, held: Envelope | None, envelope: Envelope) -> None:
        """If two statements of one version differ, keep them as proof against the author (or a thief of its key)."""
        if held is None or envelope.author in self.proofs or held.body == envelope.body:
            return
        if len(self.proofs) >= MAX_PROOFS:  # no signature is checked for nothing
            return
        if not envelope.check():
            raise BadEnvelope("signature")
        self._counts.equivocations += 1
        self.proofs[envelope.author] = (held, envelope)

    def sweep(self, now: float) -> None:
        """Drop expired statements, and those that the view dropped to make room for another peer."""
        self.marks.sweep(now)
        if self._view.dropped == self._dropped:
            return
        self._dropped = self._view.dropped
        for (author, kind), mark in self.marks.items():
            if mark.envelope is None or author == self._me:
                continue
            record = self._view.get(author)
            held = None if record is None else record.advert_env if kind == ADVERT else record.load_env
            if held is not mark.envelope:
                mark.envelope = None
