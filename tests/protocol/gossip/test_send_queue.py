"""What a neighbour lacks: what goes first, what fits, what is forgotten."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from protocol.gossip.send_queue import FRAME_BYTES, ITEM_BYTES, NOW, SendQueue
from protocol.statements.adverts import Load
from protocol.statements.envelope import Envelope, Mark, statement
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


def full() -> SendQueue:
    queue = SendQueue()
    queue.add(OWN, NOW)
    queue.add(OLD)
    queue.add(ADVERT, due=5.0)
    queue.add(NEW)
    return queue


def test_what_goes_first_goes_first_then_the_newest() -> None:
    queue = full()
    assert queue.take(1e6, 0.0) == envelopes(OWN, NEW, ADVERT, OLD)
    assert not queue
    assert queue.take(1e6, 0.0) == []


def test_it_takes_what_fits_and_keeps_the_rest() -> None:
    queue = full()
    assert queue.take(cost(OWN, NEW, ADVERT), 0.0) == envelopes(OWN, NEW, ADVERT)
    assert queue.marks() == [OLD]
    queue = full()
    assert queue.take(cost(OWN) - 1, 0.0) == []  # nothing slips by what waits
    assert queue.take(cost(OWN, NEW, ADVERT) - 1, 0.0) == envelopes(OWN, NEW)
    assert queue.marks() == [OLD, ADVERT]


def test_what_is_stated_again_is_the_newest_and_may_go_first_or_no_more() -> None:
    queue = full()
    queue.add(OLD)
    queue.add(NEW, NOW)
    queue.add(NEW)
    queue.add(OLD, NOW)
    assert len(queue) == 4
    assert queue.take(1e6, 0.0) == envelopes(OLD, OWN, NEW, ADVERT)


def test_what_is_due_is_told_once_and_not_sent() -> None:
    queue = full()
    late, gone = mark_of(4, advert=True), mark_of(5, advert=True, until=6.0)
    queue.add(late, due=7.0)
    queue.add(gone, due=6.0)
    assert queue.take_due(4.9, most=9) == []
    assert queue.take_due(7.0, most=1) == [ADVERT]
    assert queue.take_due(7.0, most=9) == [late]
    assert queue.take_due(7.0, most=9) == []
    assert queue.marks() == [OWN, OLD, NEW]


def test_what_ran_out_or_is_not_held_is_forgotten() -> None:
    late, gone = mark_of(4, until=1.0), mark_of(5)
    gone.envelope = None
    for forget in (lambda queue: queue.prune(2.0), lambda queue: queue.take(FRAME_BYTES, 2.0)):
        queue = SendQueue()
        for mark in (late, gone):
            queue.add(mark)
        assert late in queue
        assert gone in queue
        forget(queue)
        assert len(queue) == 0
    queue = full()
    queue.prune(2.0)
    assert len(queue) == 4


@given(st.lists(st.tuples(st.integers(0, 7), st.sampled_from([NOW, 1.0, math.inf, None]))), st.integers(0, 2000))
def test_every_mark_is_there_once_or_was_told_or_sent(steps: list[tuple[int, float | None]], room: int) -> None:
    queue, left = SendQueue(), set()
    for number, due in steps:
        if due is None:
            queue.discard(MARKS[number])
            left.discard(number)
        else:
            queue.add(MARKS[number], due)
            left.add(number)
    assert sorted(map(id, queue.marks())) == sorted(id(MARKS[number]) for number in left)
    sent = queue.take(room, 0.0)
    assert sum(len(envelope.wire) + ITEM_BYTES for envelope in sent) <= max(0, room - FRAME_BYTES)
    told = queue.take_due(1.0, most=2)
    kept = [mark.envelope for mark in (*told, *queue.marks())]
    assert sorted(map(id, [*sent, *kept])) == sorted(id(MARKS[number].envelope) for number in left)


MARKS = [mark_of(author) for author in range(8)]
