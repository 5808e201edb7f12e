"""The budget of retries: a share of the jobs, a reserve for who has few, and pauses that differ."""

from __future__ import annotations

import random

from protocol.jobs.retries import JOBS, MOST_SAVED, PAUSE_S, RESERVE, RESERVE_S, RetryBudget


def budget() -> RetryBudget:
    return RetryBudget(random.Random(1), 0.0)


def taken(retries: RetryBudget, now: float = 0.0) -> int:
    count = 0
    while retries.take(now):
        count += 1
    return count


def test_a_node_with_few_jobs_has_a_reserve_that_comes_back() -> None:
    retries = budget()
    assert taken(retries) == RESERVE
    assert taken(retries, 3.0) == 3 * RESERVE_S
    assert taken(retries, 1000.0) == RESERVE


def test_jobs_add_a_share() -> None:
    retries = budget()
    taken(retries)
    for _ in range(100):
        retries.began()
    assert taken(retries) == 100 // JOBS
    for _ in range(10_000):
        retries.began()
    assert taken(retries) == MOST_SAVED


def test_the_first_retry_is_at_once_and_later_ones_are_spread() -> None:
    retries = budget()
    assert retries.pause_s(1) == 0
    for retry in (2, 3, 4):
        pauses = [retries.pause_s(retry) for _ in range(1000)]
        most = PAUSE_S * 2 ** (retry - 1)
        assert 0 <= min(pauses) < 0.05 * most
        assert 0.95 * most < max(pauses) <= most
