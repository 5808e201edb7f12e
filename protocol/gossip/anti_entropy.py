"""Anti-entropy: two nodes compare digests of their views, so that each can send the statements that the other lacks.

Theory of operation
===================

A ``Digest`` comes in five forms; the first two open an exchange, the next two answer, the last stands alone::

    form       buckets  listed  reply  have  meaning
    everything  -        -      yes     no   these entries are all I have seen
    summary     256      -      yes     no   this is the hash of each bucket of authors
    detail      -       some    yes     no   these entries are all I have seen in the listed buckets
    want        -        -      no      no   please send what is newer than these entries
    have        -        -      no     yes   I have these: please ask for what you lack

A node answers ``everything`` or ``detail`` with the records that the sender lacks and a ``want`` for those that it
lacks itself.  It answers ``summary`` with a ``detail`` of the buckets that differ, ``want`` with records, and ``have``
with a ``want``.  A small view is sent as ``everything``; a large one starts with 2 KiB of hashes.  While statements
spread, buckets differ that will agree a second later.  An exchange therefore lists a random few of the differing
buckets: a few exchanges find a statement that is really lost, and the cost of each is bounded.  The first exchange of a
link lists more of them.  A *young* statement, which came a few ticks ago, is not sent to a peer with an earlier
version, because gossip is still spreading it.

An entry says "seen", not "held": a full view must not be offered the same statements again and again.

Not here: when and with which neighbour an exchange happens, and its budget (``gossip``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Final

from protocol.ids import PeerId
from protocol.statements.envelope import UNSEEN, Key, Mark
from protocol.statements.keys import ADVERT, LOAD
from protocol.statements.versions import BUCKETS, HighWaterMarks
from protocol.wire.messages import Digest

HASH_BYTES: Final = 8
#: Bytes of a digest without anything in it, and of an entry, at most.
HEAD_BYTES: Final = 24
ENTRY_BYTES: Final = 49
_SUMMARY: Final = struct.Struct(f">{BUCKETS}Q")
#: A view of at most this many entries is sent in full: no more bytes than the hashes of a large one twice (guess).
MAX_PLAIN: Final = 128
#: Entries in one message (the bound of ``Digest``).
MAX_ENTRIES: Final = 1024
#: Buckets detailed in one exchange between old neighbours (guess: 16 of 256 hold 24 KiB of entries in a full view).
FEW_BUCKETS: Final = 16
#: The same in the first exchange of a link (guess: with eight neighbours a newcomer is shown nine in ten of them).
FIRST_BUCKETS: Final = 64

DigestEntry = tuple[int, bytes, int, int]


def size(digest: Digest) -> int:
    """Bytes of a digest on the wire, from above."""
    return HEAD_BYTES + len(digest.buckets) + 2 * len(digest.listed) + ENTRY_BYTES * len(digest.entries)


def covered(room: float) -> int:
    """How many entries fit into so many bytes."""
    return max(0, int((room - HEAD_BYTES) // ENTRY_BYTES))


def opening(marks: HighWaterMarks, now: float) -> Digest:
    """The first message of an exchange."""
    if marks.living(now) <= MAX_PLAIN:
        return Digest(entries=tuple(_entry(key, mark) for key, mark in marks.items() if mark.lives(now)), reply=True)
    return Digest(buckets=_SUMMARY.pack(*marks.hashes(now)), reply=True)


def differing(marks: HighWaterMarks, buckets: bytes, now: float) -> list[int]:
    """The numbers of the buckets whose hash is not ours; nothing for a summary of another shape."""
    if len(buckets) != BUCKETS * HASH_BYTES:
        return []
    pairs = zip(marks.hashes(now), _SUMMARY.unpack(buckets), strict=True)
    return [number for number, (ours, theirs) in enumerate(pairs) if ours != theirs]


def details(marks: HighWaterMarks, numbers: list[int], now: float) -> list[Digest]:
    """Every entry of the numbered buckets, in as many messages as it takes; a bucket is never torn apart."""
    messages: list[Digest] = []
    listed: list[int] = []
    entries: list[DigestEntry] = []
    for number in numbers:
        found = [_entry(key, mark) for key, mark in marks.within(number) if mark.lives(now)]
        if len(found) > MAX_ENTRIES:  # keys ground to share a byte: such a bucket is not repaired
            continue
        if len(entries) + len(found) > MAX_ENTRIES:
            messages.append(Digest(listed=tuple(listed), entries=tuple(entries), reply=True))
            listed, entries = [], []
        listed.append(number)
        entries += found
    if listed:
        messages.append(Digest(listed=tuple(listed), entries=tuple(entries), reply=True))
    return messages


def compare(
    marks: HighWaterMarks, digest: Digest, now: float, young_s: float = 0.0
) -> tuple[list[Key], list[DigestEntry]]:
    """``(lacks, wants)``: the marks that the sender of ``everything`` or ``detail`` lacks, and our requests to it."""
    ours = [entry for number in dict.fromkeys(digest.listed) for entry in _within(marks, number)]
    theirs = {(PeerId(author), kind): (inc, seq) for kind, author, inc, seq in digest.entries}
    lacks = []
    for key, mark in ours if digest.listed else marks.items():
        if mark.envelope is None or not mark.lives(now):
            continue
        version = theirs.get(key)
        if version is None or (version < (mark.inc, mark.seq) and not _young(mark, young_s, now)):
            lacks.append(key)
    return lacks, _wants(marks, theirs, now)


def _wants(marks: HighWaterMarks, theirs: Mapping[Key, tuple[int, int]], now: float) -> list[DigestEntry]:
    wants: list[DigestEntry] = []
    for key, version in theirs.items():
        mine = marks.get(key)
        if key[1] in (ADVERT, LOAD) and (mine is None or _older(mine.inc, mine.seq, mine.until, version)):
            wants.append(_entry(key, mine) if mine is not None and mine.lives(now) else (key[1], key[0], 0, 0))
    return wants


def having(marks: Iterable[Mark]) -> Digest:
    """Say that we have these."""
    return Digest(entries=tuple(_entry(mark.envelope.key, mark) for mark in marks if mark.envelope), have=True)


def offered(marks: HighWaterMarks, entries: Iterable[DigestEntry], now: float) -> tuple[list[Mark], list[DigestEntry]]:
    """``(alike, wants)``: the marks that we share with the sender of ``have``, and our requests to it."""
    theirs = {(PeerId(author), kind): (inc, seq) for kind, author, inc, seq in entries}
    found = [(marks.get(key), version) for key, version in theirs.items()]
    alike = [mark for mark, version in found if mark is not None and (mark.inc, mark.seq) == version]
    return alike, _wants(marks, theirs, now)


def wanted(marks: HighWaterMarks, digest: Digest, now: float, young_s: float = 0.0) -> list[Key]:
    """The records that a ``want`` asks for and we hold."""
    found = []
    for kind, author, inc, seq in digest.entries:
        key = (PeerId(author), kind)
        mark = marks.get(key)
        if mark is None or mark.envelope is None or not mark.lives(now) or (mark.inc, mark.seq) < (inc, seq):
            continue
        if (inc, seq) == (0, 0) or not _young(mark, young_s, now):
            found.append(key)
    return found


def _young(mark: Mark, young_s: float, now: float) -> bool:
    """Whether the statement came less than ``young_s`` ago, judged by the rest of its life."""
    envelope = mark.envelope
    return envelope is not None and now + envelope.ttl - mark.until < young_s


def _older(inc: int, seq: int, until: float, version: tuple[int, int]) -> bool:
    """A mark from before a restart does not have its statement: the same version is wanted again."""
    return (inc, seq) < version or (until == UNSEEN and (inc, seq) == version)


def _within(marks: HighWaterMarks, number: int) -> list[tuple[Key, Mark]]:
    """The marks of a bucket whose number came from a peer."""
    return marks.within(number) if 0 <= number < BUCKETS else []


def _entry(key: Key, mark: Mark) -> DigestEntry:
    return (key[1], key[0], mark.inc, mark.seq)
