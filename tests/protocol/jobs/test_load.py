"""What a worker says of its load: jobs held back count, and no report is made of nothing."""

from __future__ import annotations

from protocol.jobs.load import is_news, with_queue
from protocol.statements.adverts import Load, Status


def test_jobs_held_back_count_as_waiting_and_make_the_worker_busy() -> None:
    load = Load(running=4, waiting=1, slots=4)
    assert with_queue(load, 0) is load
    assert with_queue(load, 2) == Load(status=int(Status.BUSY), running=4, waiting=3, slots=4)


def test_that_nothing_is_done_is_reported_once() -> None:
    idle = Load(slots=4)
    assert is_news(idle, None)
    assert not is_news(idle, Load(slots=4))
    assert is_news(idle, Load(slots=8))


def test_jobs_are_reported_each_time() -> None:
    for busy in (Load(running=1), Load(waiting=1)):
        assert is_news(busy, busy)
