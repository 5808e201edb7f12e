"""Jobs that were taken before are recognised, for a while and up to a bound."""

from __future__ import annotations

from protocol.ids import PeerId
from protocol.jobs.job_dedup import KEPT_S, TakenJobs

P, Q = PeerId(b"p" * 32), PeerId(b"q" * 32)
ONE, TWO, THREE = (bytes([number]) * 16 for number in (1, 2, 3))


def test_a_job_is_known_by_its_id_and_who_brought_it() -> None:
    jobs = TakenJobs()
    jobs.note(P, ONE, 0.0)
    assert jobs.known(P, ONE, 1.0)
    assert not jobs.known(P, TWO, 1.0)
    assert not jobs.known(Q, ONE, 1.0), "two peers may use the same id"


def test_it_is_forgotten_after_ten_minutes() -> None:
    jobs = TakenJobs()
    jobs.note(P, ONE, 0.0)
    assert jobs.known(P, ONE, KEPT_S - 1)
    assert not jobs.known(P, ONE, KEPT_S)
    jobs.note(P, ONE, KEPT_S)
    jobs.note(P, TWO, KEPT_S + 1)
    assert jobs.known(P, ONE, KEPT_S + 1)


def test_no_more_than_so_many_are_kept() -> None:
    jobs = TakenJobs(most=2)
    for job in (ONE, TWO, THREE):
        jobs.note(P, job, 0.0)
    assert not jobs.known(P, ONE, 0.0)
    assert jobs.known(P, TWO, 0.0)
    assert jobs.known(P, THREE, 0.0)
