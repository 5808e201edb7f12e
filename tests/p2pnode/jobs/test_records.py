"""The book of jobs: found by either name, bounded, emptied after an hour, and without a word of any prompt."""

from __future__ import annotations

import msgspec

from p2pnode.jobs.records import COMPLETED, JobBook, JobFailed
from tests.p2pnode.jobs.fake_workers import chat, spec


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_job_is_found_by_the_requests_id_and_by_its_own() -> None:
    book = JobBook(clock=Clock(), wall=lambda: 5.0)
    record = book.begin(spec(7), lambda: None)
    assert book.get("req_7") is book.get(record.job) is record
    assert book.get("req_8") is None
    assert (record.state, record.created) == ("pending", 5.0)


def test_the_newest_comes_first_and_the_oldest_goes() -> None:
    book = JobBook(most=2, clock=Clock())
    for number in (1, 2, 3):
        book.begin(spec(number), lambda: None)
    assert [record.id for record in book.recent()] == ["req_3", "req_2"]
    assert book.get("req_1") is None


def test_records_expire_an_hour_after_their_end() -> None:
    clock = Clock()
    book = JobBook(clock=clock)
    record = book.begin(spec(1), lambda: None)
    clock.now = 4000.0
    assert book.get("req_1") is record, "it still runs"
    record.state = COMPLETED
    book.end(record)
    clock.now = 7500.0
    assert book.get("req_1") is record
    clock.now = 7700.0
    assert book.get("req_1") is None


def test_a_running_job_can_be_cancelled_once() -> None:
    book, calls = JobBook(clock=Clock()), []
    record = book.begin(spec(1), lambda: calls.append(1))
    assert book.running == 1
    assert book.cancel("req_1")
    book.end(record)
    assert (book.running, calls) == (0, [1])
    assert not book.cancel("req_1")


def test_a_name_used_twice_means_the_newest() -> None:
    book = JobBook(clock=Clock())
    first = book.begin(spec(1), lambda: None)
    again = book.begin(spec(1), lambda: None)
    assert book.get("req_1") is again
    book.end(first)
    assert len(list(book.recent())) == 1


def test_a_record_is_plain_json_without_the_prompt() -> None:
    record = JobBook(clock=Clock()).begin(spec(1, body=chat(user="secret")), lambda: None)
    text = msgspec.json.encode(record)
    assert b"secret" not in text
    assert b"hello" not in text
    assert msgspec.json.decode(text)["attempts"] == []


def test_whether_to_retry_follows_from_the_wait() -> None:
    assert JobFailed(503, "no_capacity", "x", retry_after=1.0).should_retry is True
    assert JobFailed(502, "peer_failed", "x").should_retry is False
    assert JobFailed(503, "x", "x", retry_after=1.0, should_retry=False).should_retry is False
