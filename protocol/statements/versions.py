"""How old a statement is and whether a newer one was seen: the clock that statements are judged by, and the marks.

Theory of operation
===================

*Versions.*  Statements of one author and kind are ordered by ``(inc, seq)``.  A ``Mark`` remembers the newest one
whose signature held; nothing older is ever taken again, and the mark outlives the statement by days and, exported, a
restart.  A statement that ran out here is not taken again either, although a neighbour may still hold it: otherwise
the dead would circulate for as long as clocks are allowed to differ.

*Life.*  A statement lives for ``min(ttl, issued + ttl - wall + skew)`` seconds from its receipt, counted on our own
monotonic clock: once it is in, no clock can shorten or stretch its life.  Outside ``[wall - ttl - skew, wall + skew]``
it is ignored, and nobody is blamed: a wrong clock is no crime, and the wrong one may be ours.

*Our own clock.*  ``wall`` as it stood at the start is carried forward by the monotonic clock.  When the system's wall
clock jumps away from it (set by hand, or the machine slept), there are two opinions on what time it is, and the
statements of others vote: each author's newest counts for the clock that it fits.  Until then a statement may fit
either.  So a jump of an hour neither blinds this node nor makes its own statements unusable.

Not here: signatures (``envelope``), what to do with a statement (``gossip``).
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from heapq import nsmallest
from typing import Any, Final

from protocol.ids import PeerId
from protocol.statements.envelope import MAX_TTL_S, UNSEEN, Envelope, Key, Mark, Seen

#: What outlives a restart: ``inc``, ``seq`` and until when to keep it (seconds since the epoch).
MarkTable = Mapping[Key, tuple[int, int, float]]

#: A difference between the two clocks below this is drift and simply followed, seconds (guess: NTP steps are smaller).
JUMP_S: Final = 5.0
#: Authors whose opinion on our clock is remembered (guess).
MAX_VOTES: Final = 256
#: Marks kept at once: eight times a full view of two kinds (guess; about 10 MB).
MAX_MARKS: Final = 65536
#: Part of the marks that make room when there is none (guess: whoever is found in one pass over all of them).
_FORGOTTEN_SHARE: Final = 64
#: How exactly it is known when a statement that is not held runs out: this part of its life (guess).  Until then two
#: nodes may differ in what they count as living, which costs them a summary and no more.
SEEN_SHARE: Final = 0.25
#: Buckets of authors in a digest: keys are uniform, so the first byte is as good as any hash.
BUCKETS: Final = 256


class WallClock:
    """The time of day that this node believes in, although its system clock may jump."""

    def __init__(self, now: float, wall: float) -> None:
        self._offset = wall - now
        self._rival: float | None = None
        self._votes: dict[PeerId, bool] = {}

    def read(self, now: float) -> float:
        """Seconds since the epoch, as believed."""
        return now + self._offset

    @property
    def disputed(self) -> bool:
        """Whether the system clock has jumped and nobody has confirmed it yet."""
        return self._rival is not None

    def observe(self, now: float, wall: float) -> None:
        """Compare with the system clock; drift is followed, a jump becomes a rival."""
        offset = wall - now
        if abs(offset - self._offset) <= JUMP_S:
            self._offset = offset
            self._rival = None
            self._votes.clear()
        elif self._rival is None or abs(offset - self._rival) > JUMP_S:
            self._rival = offset
            self._votes.clear()

    def life(self, envelope: Envelope, skew_s: float, now: float) -> float:
        """Seconds that a statement received now may live; 0 means that it is to be ignored."""
        life = _life(envelope, now + self._offset, skew_s)
        if self._rival is not None and life <= 0:
            life = _life(envelope, now + self._rival, skew_s)
        return life

    def vote(self, envelope: Envelope, skew_s: float, now: float) -> bool:
        """Let a verified statement say which clock is right; True if that changed what we believe."""
        if self._rival is None:
            return False
        believed = _life(envelope, now + self._offset, skew_s) > 0
        rival = _life(envelope, now + self._rival, skew_s) > 0
        author = envelope.author
        if believed == rival or (author not in self._votes and len(self._votes) >= MAX_VOTES):
            return False
        self._votes[author] = rival
        if 2 * sum(self._votes.values()) <= len(self._votes):
            return False
        self._offset, self._rival = self._rival, None
        self._votes.clear()
        return True


def _life(envelope: Envelope, wall: float, skew_s: float) -> float:
    """``envelope.remaining_s`` for the many, without an exception for those that are out of their time."""
    left = envelope.issued + envelope.ttl - wall + skew_s
    if left <= 0 or envelope.issued > wall + skew_s:
        return 0.0
    return min(float(envelope.ttl), left)


def _only_seen(envelope: Envelope, until: float) -> Seen:
    """Its ``until`` is rough, so that whoever sees the statement at about one time has the same mark."""
    step = envelope.ttl * SEEN_SHARE
    until = math.ceil(until / step) * step
    mark: Seen | None = envelope.seen
    if mark is None or mark.until != until:
        mark = envelope.seen = Seen(envelope.inc, envelope.seq, envelope.tag, until)
    return mark


class HighWaterMarks:
    """All marks of a node as their keys came, and the hashes of what lives, by the first byte of the author.

    Keys are said to be anything where they are kept, so that compiled code, too, keeps the one object.

    The hashes are kept current as marks change.  That time passes changes them only when a statement runs out without
    a newer one: ``_sure_until`` is when that may be next, and only then all are looked at; what ran out up to
    ``_counted_at`` is no part of the hashes any more.  ``_kept_until`` is the same for marks that are to be forgotten.
    """

    def __init__(self, marks_s: float, most: int = MAX_MARKS) -> None:
        self._marks_s = marks_s
        self._most = most
        #: By ``Key``.  A mark that is replaced keeps its place: a dict from which much is taken doubles its size.
        self._marks: dict[Any, Mark] = {}
        self._hashes = array("Q", bytes(8 * BUCKETS))  # 2 KiB; 8 as a list of numbers
        self._living = 0
        self._sure_until = self._kept_until = math.inf
        self._counted_at = UNSEEN
        #: The keys in their order, once somebody has asked for it, and the first byte of each.
        self._sorted: list[Any] | None = None
        self._buckets = bytearray()
        #: Lookup by key; bound once because every record received goes through it.
        self.get = self._marks.get

    def __len__(self) -> int:
        return len(self._marks)

    def items(self) -> Iterator[tuple[Key, Mark]]:
        """Every mark, in the order in which their keys came."""
        return iter(self._marks.items())

    def within(self, bucket: int) -> list[tuple[Key, Mark]]:
        """The marks of the authors whose first byte is ``bucket``, in the order of their keys."""
        if self._sorted is None:
            self._sorted = sorted(self._marks)
            self._buckets = bytearray(author[0] for author, _ in self._sorted)
        start = bisect_left(self._buckets, bucket)
        end = bisect_right(self._buckets, bucket, start)
        return [(key, self._marks[key]) for key in self._sorted[start:end]]

    def advance(self, envelope: Envelope, until: float, held: bool) -> Mark:
        """The statement is now the newest of its author and kind."""
        key, tag = envelope.key, envelope.tag
        mark = self._marks.get(key)
        if mark is None:
            self._make_room(key)
        else:
            self._discount(key, mark)
        if not held:
            if mark is not None:
                mark.envelope = None  # whoever still has it sees that nothing is there
            mark = _only_seen(envelope, until)
        else:
            if mark is None or isinstance(mark, Seen):
                mark = Mark(0, 0)
            mark.inc, mark.seq, mark.tag, mark.until = envelope.inc, envelope.seq, tag, until
            mark.envelope = envelope
        self._marks[key] = mark
        if mark.until > self._counted_at:
            self._hashes[key[0][0]] ^= tag
            self._living += 1
            self._sure_until = min(self._sure_until, mark.until)
        self._kept_until = min(self._kept_until, self._keep(mark))
        return mark

    def _discount(self, key: Any, mark: Mark) -> None:
        """Take a statement off the hashes, if it is part of them."""
        if mark.until > self._counted_at:
            self._hashes[key[0][0]] ^= mark.tag
            self._living -= 1

    def _make_room(self, key: Any) -> None:
        """A new key comes: if there are too many, drop a few that ran out first, rather those that nobody holds."""
        if len(self._marks) >= self._most:
            items = self._marks.items()
            order = [(mark.envelope is not None, self._keep(mark), place) for place, (_, mark) in enumerate(items)]
            places = {place for _, _, place in nsmallest(max(1, self._most // _FORGOTTEN_SHARE), order)}
            for old in [old for place, old in enumerate(self._marks) if place in places]:
                self._drop(old)
        if self._sorted is not None:
            place = bisect_left(self._sorted, key)
            self._sorted.insert(place, key)
            self._buckets.insert(place, key[0][0])

    def _drop(self, key: Any) -> None:
        mark = self._marks.pop(key)
        self._sorted = None  # many go at once, rarely: it is made anew once somebody asks
        self._discount(key, mark)
        mark.envelope = None

    def hashes(self, now: float) -> array[int]:
        """The hash of each bucket of authors over all statements that live; change nothing there."""
        self._make_sure(now)
        return self._hashes

    def living(self, now: float) -> int:
        """How many statements live."""
        self._make_sure(now)
        return self._living

    def _make_sure(self, now: float) -> None:
        """Let go of statements that ran out, and take them off the hashes."""
        if now < self._sure_until:
            return
        self._sure_until = math.inf
        for key, mark in self._marks.items():
            if mark.until > now:
                self._sure_until = min(self._sure_until, mark.until)
            else:
                self._discount(key, mark)
                mark.envelope = None
        self._counted_at = now

    def _keep(self, mark: Mark) -> float:
        return max(mark.keep, mark.until + self._marks_s)

    def sweep(self, now: float) -> None:
        """Let go of statements that ran out and of marks that are older than they are kept."""
        self._make_sure(now)
        if now < self._kept_until:
            return
        for key in [key for key, mark in self._marks.items() if self._keep(mark) <= now]:
            self._drop(key)
        self._kept_until = min(map(self._keep, self._marks.values()), default=math.inf)

    def export(self, now: float, wall: float) -> dict[Key, tuple[int, int, float]]:
        """What has to survive a restart."""
        return {key: (mark.inc, mark.seq, self._keep(mark) - now + wall) for key, mark in self._marks.items()}

    def load(self, table: MarkTable, now: float, wall: float) -> None:
        """Take up what an earlier life of this node exported."""
        self._sorted = None
        for key, (inc, seq, until) in list(table.items())[-self._most :]:
            keep = min(until - wall, self._marks_s + MAX_TTL_S)
            if keep > 0:
                self._marks[key] = Mark(inc, seq, keep=now + keep)
                self._kept_until = min(self._kept_until, now + keep)
