"""Digests find what one of two nodes lacks, at a cost that fits the budget at 4,096 records."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codec import MAX_MESSAGE_BYTES
from protocol.gossip import anti_entropy
from protocol.settings import GossipSettings
from protocol.statements.envelope import Envelope
from protocol.statements.keys import ADVERT, LOAD, PROVIDER
from protocol.statements.versions import HighWaterMarks
from protocol.wire.messages import DIGEST, Digest, decode, encode


#: A statement that only has to be remembered: nobody checks its signature here.
def said(author: bytes, kind: int, seq: int) -> Envelope:
    wire = bytes((1, kind)) + author + (1).to_bytes(8, "big") + seq.to_bytes(4, "big") + bytes(74)
    return Envelope(kind, author, 1, seq, 0.0, 60, b"", wire)  # type: ignore[arg-type]


def marks_of(contents: dict[tuple[bytes, int], int], until: float = 60.0, held: bool = True) -> HighWaterMarks:
    marks = HighWaterMarks(1000.0)
    for (author, kind), seq in contents.items():
        marks.advance(said(author, kind, seq), until, held)
    return marks


def author(number: int) -> bytes:
    return random.Random(number).randbytes(32)


def through_the_wire(digest: Digest) -> Digest:
    payload = encode(digest)
    assert len(payload) <= min(anti_entropy.size(digest), MAX_MESSAGE_BYTES)
    got = decode(DIGEST, payload)
    assert isinstance(got, Digest)
    return got


def exchange(a: HighWaterMarks, b: HighWaterMarks, few: bool = False) -> tuple[set[object], set[object]]:
    """``a`` opens; what it gets and what ``b`` gets in the end."""
    to_a, to_b = set(), set()
    rounds = [(b, a, anti_entropy.opening(a, 0.0), to_a, to_b)]
    while rounds:
        here, there, digest, to_there, to_here = rounds.pop()
        digest = through_the_wire(digest)
        if digest.buckets:
            numbers = anti_entropy.differing(here, digest.buckets, 0.0)
            numbers = numbers[: anti_entropy.FEW_BUCKETS] if few else numbers
            rounds += [(there, here, d, to_here, to_there) for d in anti_entropy.details(here, numbers, 0.0)]
        elif digest.reply:
            lacks, wants = anti_entropy.compare(here, digest, 0.0)
            to_there |= set(lacks)
            rounds += [
                (there, here, Digest(entries=tuple(wants[i : i + anti_entropy.MAX_ENTRIES])), to_here, to_there)
                for i in range(0, len(wants), anti_entropy.MAX_ENTRIES)
            ]
        else:
            to_there |= set(anti_entropy.wanted(here, digest, 0.0))
    return to_a, to_b


KEYS = [(author(i), kind) for i in range(100) for kind in (ADVERT, LOAD)]
CONTENTS = st.dictionaries(st.sampled_from(KEYS), st.integers(1, 3))


@settings(deadline=None, max_examples=100)
@given(CONTENTS, CONTENTS, st.booleans())
def test_both_sides_get_exactly_what_is_newer_at_the_other(
    a: dict[tuple[bytes, int], int], b: dict[tuple[bytes, int], int], large: bool
) -> None:
    if large:  # the same 200 entries on both sides make both use buckets
        same = {(author(1000 + i), LOAD): 1 for i in range(200)}
        a, b = a | same, b | same
    to_a, to_b = exchange(marks_of(a), marks_of(b))
    assert to_b == {key for key, seq in a.items() if seq > b.get(key, 0)}
    assert to_a == {key for key, seq in b.items() if seq > a.get(key, 0)}


def test_what_ran_out_is_neither_listed_nor_sent() -> None:
    a = marks_of({KEYS[0]: 1}, until=0.0)
    b = marks_of({KEYS[0]: 1})
    assert anti_entropy.opening(a, 0.0).entries == ()
    assert anti_entropy.differing(a, bytes(2048), 0.0) == []
    assert exchange(b, a) == (set(), set())  # a had this version: it does not want it back


def test_what_was_only_seen_is_not_offered_again() -> None:
    a, b = marks_of({KEYS[0]: 1}, held=False), marks_of({KEYS[0]: 1})
    assert exchange(a, b) == (set(), set())
    assert exchange(a, marks_of({})) == (set(), set())


def test_after_a_restart_the_newest_version_is_wanted_again() -> None:
    known = marks_of({KEYS[0]: 4})
    restarted = HighWaterMarks(1000.0)
    restarted.load(known.export(0.0, 0.0), 0.0, 0.0)
    to_restarted, _ = exchange(restarted, known)
    assert to_restarted == {KEYS[0]}


def test_what_came_a_moment_ago_is_not_sent_to_whoever_has_an_earlier_version() -> None:
    here = marks_of({KEYS[0]: 2, KEYS[1]: 2})  # at 0, for 60 s
    entry = (KEYS[0][1], KEYS[0][0], 1, 1)
    detail = Digest(listed=tuple({KEYS[0][0][0], KEYS[1][0][0]}), entries=(entry,), reply=True)
    assert anti_entropy.compare(here, detail, 4.0, young_s=5.0) == ([KEYS[1]], [])  # whoever has none gets it
    assert set(anti_entropy.compare(here, detail, 5.0, young_s=5.0)[0]) == {KEYS[0], KEYS[1]}
    want = Digest(entries=(entry, (KEYS[1][1], KEYS[1][0], 0, 0)))
    assert anti_entropy.wanted(here, want, 4.0, young_s=5.0) == [KEYS[1]]
    assert anti_entropy.wanted(here, want, 5.0, young_s=5.0) == [KEYS[0], KEYS[1]]


def test_what_has_run_out_is_wanted_as_if_it_had_never_been_there() -> None:
    here = marks_of({KEYS[0]: 1}, until=3.0)
    newer = Digest(entries=((KEYS[0][1], KEYS[0][0], 1, 2),), reply=True)
    assert anti_entropy.compare(here, newer, 2.0)[1] == [(KEYS[0][1], KEYS[0][0], 1, 1)]
    assert anti_entropy.compare(here, newer, 3.0)[1] == [(KEYS[0][1], KEYS[0][0], 0, 0)]


def test_strange_digests_give_nothing() -> None:
    marks = marks_of({KEYS[0]: 1})
    assert anti_entropy.differing(marks, b"short", 0.0) == []
    strange = Digest(entries=((PROVIDER, KEYS[1][0], 1, 1), (ADVERT, KEYS[0][0], -5, -5)), reply=True)
    assert anti_entropy.compare(marks, strange, 0.0) == ([KEYS[0]], [])
    assert anti_entropy.compare(marks, Digest(listed=(999,), reply=True), 0.0) == ([], [])
    assert anti_entropy.wanted(marks, Digest(entries=((LOAD, KEYS[0][0], 0, 0), (ADVERT, KEYS[0][0], 1, 2))), 0.0) == []


def test_a_bucket_ground_full_is_skipped_and_the_others_are_not_torn() -> None:
    contents = {(bytes((7,)) + author(i)[1:], LOAD): 1 for i in range(anti_entropy.MAX_ENTRIES + 1)}
    contents |= {(bytes((number,)) + author(i)[1:], LOAD): 1 for number in (8, 9) for i in range(700)}
    first, second = anti_entropy.details(marks_of(contents), [7, 8, 9], 0.0)
    assert (first.listed, second.listed) == ((8,), (9,))
    assert len(first.entries) == len(second.entries) == 700
    assert anti_entropy.details(marks_of(contents), [7], 0.0) == []


@pytest.mark.slow
def test_a_full_view_costs_less_than_its_part_of_the_budget() -> None:
    keys = [(author(i), kind) for i in range(4096) for kind in (ADVERT, LOAD)]
    a, b = dict.fromkeys(keys, 1), dict.fromkeys(keys, 1)
    for key in random.Random(1).sample(keys, 40):  # on their way
        a[key] = 2
    mine, theirs = marks_of(a), marks_of(b)
    opening = anti_entropy.opening(mine, 0.0)
    assert not opening.entries
    numbers = anti_entropy.differing(theirs, opening.buckets, 0.0)
    assert 30 <= len(numbers) <= 40
    answer = anti_entropy.details(theirs, numbers[: anti_entropy.FEW_BUCKETS], 0.0)
    settings = GossipSettings()
    spent = len(encode(opening)) + sum(len(encode(digest)) for digest in answer)
    # A node opens one exchange and answers one per digest_s on average.
    assert spent / settings.digest_s <= 0.15 * settings.budget_bytes_s
