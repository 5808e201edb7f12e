"""Age and version of statements: the clock that decides their age, and the high-water marks that decide their order.

Theory of operation
===================

*Versions.*  Statements of one author and kind are ordered by ``(inc, seq)``.  A ``Mark`` stores the newest one with a
valid signature, and no older one is accepted afterwards.  The mark outlives the statement by days and, exported, a
restart.  An expired statement is not accepted again, although a neighbour may still hold it; otherwise statements of
dead nodes would circulate as long as clocks may differ.

*Life.*  A statement lives for ``min(ttl, issued + ttl - wall + skew)`` seconds from its receipt, on our own monotonic
clock, so no wall clock can change its life afterwards.  Outside ``[wall - ttl - skew, wall + skew]`` it is ignored
without blame, because the wrong clock may be ours.

*Our own clock.*  The node extrapolates the ``wall`` of its start with the monotonic clock.  If the system's wall clock
jumps (it was set, or the machine slept), there are two candidates for the time, and the statements of other nodes
vote: each author's newest counts for the clock that it fits.  Until the vote is decided, a statement may fit either
clock.  So after a jump of an hour the node still accepts statements, and others accept its own.

Not here: signatures (``envelope``), and the use of a statement (``gossip``).
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

#: The marks across a restart: ``inc``, ``seq`` and the mark's expiry (seconds since the epoch).
MarkTable = Mapping[Key, tuple[int, int, float]]

#: A smaller difference between the two clocks is drift, which the node follows, seconds (guess: NTP steps are smaller).
JUMP_S: Final = 5.0
#: Authors with a vote on our clock (guess).
MAX_VOTES: Final = 256
#: Most marks: eight times a full view of two kinds (guess; about 10 MB).
MAX_MARKS: Final = 65536
#: The fraction 1/64 of the marks is evicted when the table is full (guess: one pass over all of them finds these).
_FORGOTTEN_SHARE: Final = 64
#: Resolution of the expiry of a statement that is not held, as a part of its life (guess).  Within it two nodes may
#: count different statements as living, which costs them one summary.
SEEN_SHARE: Final = 0.25
#: Buckets of authors in a digest: keys are uniform, so the first byte is as good as any hash.
BUCKETS: Final = 256


def next_incarnation(last: int, wall: float) -> int:
    """The incarnation of a node's next life: above all before it, and at least the Unix time.

    So the statements of a node that has lost its database do not look old.
    """
    return max(last + 1, int(wall))


class WallClock:
    """This node's estimate of the wall-clock time; its system clock may jump."""

    def __init__(self, now: float, wall: float) -> None:
        self._offset = wall - now
        self._rival: float | None = None
        self._votes: dict[PeerId, bool] = {}

    def read(self, now: float) -> float:
        """The estimate, seconds since the epoch."""
        return now + self._offset

    @property
    def disputed(self) -> bool:
        """Whether the system clock has jumped and no vote has confirmed it yet."""
        return self._rival is not None

    def observe(self, now: float, wall: float) -> None:
        """Compare with the system clock: follow drift, and keep a jump as a rival."""
        offset = wall - now
        if abs(offset - self._offset) <= JUMP_S:
            self._offset = offset
            self._rival = None
            self._votes.clear()
        elif self._rival is None or abs(offset - self._rival) > JUMP_S:
            self._rival = offset
            self._votes.clear()

    def life(self, envelope: Envelope, skew_s: float, now: float) -> float:
        """The life of a statement received now, seconds; 0 means that it must be ignored."""
        life = _life(envelope, now + self._offset, skew_s)
        if self._rival is not None and life <= 0:
            life = _life(envelope, now + self._rival, skew_s)
        return life

    def vote(self, envelope: Envelope, skew_s: float, now: float) -> bool:
        """Let a verified statement vote for one of the clocks; True if the vote changed the estimate."""
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
    """``envelope.remaining_s`` for the hot path: 0 instead of an exception for a stale statement."""
    left = envelope.issued + envelope.ttl - wall + skew_s
    if left <= 0 or envelope.issued > wall + skew_s:
        return 0.0
    return min(float(envelope.ttl), left)


def _only_seen(envelope: Envelope, until: float) -> Seen:
    """A mark with a rounded ``until``, so that nodes that see the statement at about the same time share it."""
    step = envelope.ttl * SEEN_SHARE
    until = math.ceil(until / step) * step
    mark: Seen | None = envelope.seen
    if mark is None or mark.until != until:
        mark = envelope.seen = Seen(envelope.inc, envelope.seq, envelope.tag, until)
    return mark


class HighWaterMarks:
    """All marks of a node in insertion order, and the hashes of living statements by the first byte of the author.

    Stored keys have the type ``Any``, because compiled code would rebuild a typed tuple.

    Each change of a mark updates the hashes.  They also change when a statement expires without a newer one.
    ``_sure_until`` is the earliest such time, and only then all marks are examined; statements that expired up to
    ``_counted_at`` are no longer part of the hashes.  ``_kept_until`` is the same for the expiry of marks.
    """

    def __init__(self, marks_s: float, most: int = MAX_MARKS) -> None:
        self._marks_s = marks_s
        self._most = most
        #: By ``Key``.  A replaced mark keeps its position: a dict with many deletions doubles its size.
        self._marks: dict[Any, Mark] = {}
        self._hashes = array("Q", bytes(8 * BUCKETS))  # 2 KiB; a list would take 8
        self._living = 0
        self._sure_until = self._kept_until = math.inf
        self._counted_at = UNSEEN
        #: The sorted keys, made on demand, and the first byte of each.
        self._sorted: list[Any] | None = None
        self._buckets = bytearray()
        #: Look-up by key; bound once, because every received record uses it.
        self.get = self._marks.get

    def __len__(self) -> int:
        return len(self._marks)

    def items(self) -> Iterator[tuple[Key, Mark]]:
        """Every mark, in insertion order of the keys."""
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
                mark.envelope = None  # holders of the old mark see that it is empty
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
        """Remove a statement from the hashes, if it is part of them."""
        if mark.until > self._counted_at:
            self._hashes[key[0][0]] ^= mark.tag
            self._living -= 1

    def _make_room(self, key: Any) -> None:
        """Prepare for a new key: a full table evicts the marks that expire first, and marks not held before others."""
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
        self._sorted = None  # evictions are rare and many at once, so it is rebuilt on demand
        self._discount(key, mark)
        mark.envelope = None

    def hashes(self, now: float) -> array[int]:
        """The hash of each bucket of authors over all living statements; callers must not change the array."""
        self._make_sure(now)
        return self._hashes

    def living(self, now: float) -> int:
        """The number of living statements."""
        self._make_sure(now)
        return self._living

    def _make_sure(self, now: float) -> None:
        """Drop expired statements, and remove them from the hashes."""
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
        """Drop expired statements and expired marks."""
        self._make_sure(now)
        if now < self._kept_until:
            return
        for key in [key for key, mark in self._marks.items() if self._keep(mark) <= now]:
            self._drop(key)
        self._kept_until = min(map(self._keep, self._marks.values()), default=math.inf)

    def export(self, now: float, wall: float) -> dict[Key, tuple[int, int, float]]:
        """The marks for the next start of this node."""
        return {key: (mark.inc, mark.seq, self._keep(mark) - now + wall) for key, mark in self._marks.items()}

    def load(self, table: MarkTable, now: float, wall: float) -> None:
        """Load the marks that this node exported before a restart."""
        self._sorted = None
        for key, (inc, seq, until) in list(table.items())[-self._most :]:
            keep = min(until - wall, self._marks_s + MAX_TTL_S)
            if keep > 0:
                self._marks[key] = Mark(inc, seq, keep=now + keep)
                self._kept_until = min(self._kept_until, now + keep)
