"""What a neighbour lacks: what goes first, what fits, what is forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.adverts import Load, statement
from protocol.backlog import FRAME_BYTES, ITEM_BYTES, Backlog
from protocol.freshness import Mark
from protocol.signing import Envelope
from tests.protocol.harness import WALL, advert_of, signer_of


def mark_of(author: int, *, advert: bool = False, until: float = 100.0) -> Mark:
    mark = Mark(1, 1, until=until)
    mark.envelope = statement(signer_of(author), advert_of(author) if advert else Load(), (1, 1), WALL, 60)
    return mark


def cost(*marks: Mark) -> int:
    return FRAME_BYTES + sum(len(mark.envelope.wire) + ITEM_BYTES for mark in marks if mark.envelope is not None)


def envelopes(*marks: Mark) -> list[Envelope]:
    return [mark.envelope for mark in marks if mark.envelope is not None]


OWN, ADVERT, OLD, NEW = mark_of(0), mark_of(1, advert=True), mark_of(2), mark_of(3)


def full() -> Backlog:
    backlog = Backlog()
    for mark, urgent in ((OWN, True), (OLD, False), (ADVERT, True), (NEW, False)):
        backlog.add(mark, urgent)
    return backlog


def test_our_own_goes_first_then_what_is_urgent_then_the_newest() -> None:
    backlog = full()
    assert backlog.take(1e6, 0.0, [OWN]) == envelopes(OWN, ADVERT, NEW, OLD)
    assert not backlog
    assert backlog.take(1e6, 0.0, [OWN]) == []


def test_it_takes_what_fits_and_keeps_the_rest() -> None:
    backlog = full()
    assert backlog.take(cost(OWN, ADVERT, NEW), 0.0, [OWN]) == envelopes(OWN, ADVERT, NEW)
    assert backlog.marks() == [OLD]
    backlog = full()
    assert backlog.take(cost(OWN, ADVERT) - 1, 0.0, [OWN]) == envelopes(OWN)  # nothing small slips by what waits
    assert set(backlog.marks()) == {ADVERT, OLD, NEW}


def test_what_is_stated_again_is_the_newest_and_may_be_urgent_or_no_more() -> None:
    backlog = full()
    backlog.add(OLD, urgent=False)
    backlog.add(NEW, urgent=True)
    backlog.add(NEW, urgent=False)
    backlog.add(OLD, urgent=True)
    assert len(backlog) == 4
    assert backlog.take(1e6, 0.0, []) == envelopes(OLD, ADVERT, OWN, NEW)


def test_what_ran_out_or_is_not_held_is_forgotten() -> None:
    late, gone = mark_of(4, until=1.0), mark_of(5)
    gone.envelope = None
    for forget in (lambda backlog: backlog.prune(2.0), lambda backlog: backlog.take(FRAME_BYTES, 2.0, [])):
        backlog = Backlog()
        for mark in (late, gone):
            backlog.add(mark, urgent=False)
        assert late in backlog
        assert gone in backlog
        forget(backlog)
        assert len(backlog) == 0
    backlog = full()
    backlog.prune(2.0)
    assert len(backlog) == 4


@given(st.lists(st.tuples(st.integers(0, 7), st.sampled_from(["urgent", "rest", "has"]))), st.integers(0, 2000))
def test_every_mark_is_there_once_or_was_sent(steps: list[tuple[int, str]], room: int) -> None:
    marks, backlog, left = MARKS, Backlog(), set()
    for number, what in steps:
        if what == "has":
            backlog.discard(marks[number])
            left.discard(number)
        else:
            backlog.add(marks[number], what == "urgent")
            left.add(number)
    assert sorted(map(id, backlog.marks())) == sorted(id(marks[number]) for number in left)
    sent = backlog.take(room, 0.0, [marks[0]])
    assert sum(len(envelope.wire) + ITEM_BYTES for envelope in sent) <= max(0, room - FRAME_BYTES)
    kept = [mark.envelope for mark in backlog.marks()]
    assert sorted(map(id, [*sent, *kept])) == sorted(id(marks[number].envelope) for number in left)


MARKS = [mark_of(author) for author in range(8)]
