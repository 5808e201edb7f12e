"""The breaker: when it opens, for how long, and what closes it."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from protocol.reputation.breaker import FIRST_S, GOOD_TRIALS, MOST_FAILURES, MOST_S, TRIAL_S, WINDOW_S, Breaker


def opened(now: float = 0.0) -> Breaker:
    """A breaker that opens at ``now``."""
    breaker = Breaker()
    for _ in range(MOST_FAILURES + 1):
        breaker.failed(now)
    return breaker


def test_five_failures_are_borne_and_the_sixth_within_a_minute_opens() -> None:
    breaker = Breaker()
    for second in range(MOST_FAILURES):
        breaker.failed(float(second))
    assert breaker.is_closed
    assert breaker.barred_until == -math.inf
    breaker.failed(59.9)
    assert not breaker.is_closed
    assert breaker.barred_until == 59.9 + FIRST_S


def test_it_tells_its_state_and_the_failures_that_opened_it() -> None:
    breaker = opened()
    assert (breaker.state(0.0), breaker.failures) == ("open", MOST_FAILURES + 1)
    assert breaker.state(FIRST_S) == "half-open"
    for _ in range(GOOD_TRIALS):
        breaker.worked(FIRST_S)
    assert (breaker.state(FIRST_S), breaker.failures) == ("closed", 0)


def test_the_window_slides() -> None:
    breaker = Breaker()
    for second in range(100):
        breaker.failed(second * WINDOW_S / MOST_FAILURES)
    assert breaker.is_closed


def test_half_open_it_lets_one_job_try_at_a_time() -> None:
    breaker = opened()
    assert breaker.barred_until == FIRST_S
    breaker.asked(FIRST_S)
    assert breaker.barred_until == FIRST_S + TRIAL_S, "the others are asked first while one tries"
    breaker.worked(40.0)
    assert breaker.barred_until <= 40.0
    assert not breaker.is_closed
    breaker.asked(41.0)
    breaker.released()
    assert breaker.barred_until <= 41.0, "a job that says nothing leaves the trial open"
    breaker.worked(42.0)
    assert breaker.is_closed
    assert GOOD_TRIALS == 2


def test_each_time_it_stays_open_twice_as_long() -> None:
    breaker, now, waits = opened(), 0.0, []
    for _ in range(8):
        waits.append(breaker.barred_until - now)
        now = breaker.barred_until
        breaker.asked(now)
        breaker.failed(now)
    assert waits == [30.0, 60.0, 120.0, 240.0, 480.0, MOST_S, MOST_S, MOST_S]


def test_a_good_trial_does_not_count_after_a_bad_one() -> None:
    breaker = opened()
    breaker.worked(31.0)
    breaker.failed(32.0)
    breaker.worked(32.0 + 60.0)
    assert not breaker.is_closed


def test_what_began_before_it_opened_changes_nothing() -> None:
    breaker = opened()
    breaker.asked(1.0)
    breaker.failed(1.0)
    breaker.worked(2.0)
    assert breaker.barred_until == FIRST_S
    assert not breaker.is_closed
    closed = Breaker()
    closed.worked(0.0)
    assert closed.is_closed


def test_failures_of_our_own_network_are_taken_back() -> None:
    breaker = opened(5.0)
    breaker.forgive(0.0)
    assert breaker.is_closed
    assert breaker.barred_until == -math.inf
    twice = opened()
    twice.failed(30.0)
    twice.forgive(29.0)
    assert not twice.is_closed, "it had failed before"


@given(st.lists(st.tuples(st.floats(0, 100), st.sampled_from(["asked", "failed", "worked", "released"])), max_size=60))
def test_it_never_bars_for_ever(history: list[tuple[float, str]]) -> None:
    breaker, now = Breaker(), 0.0
    for pause, event in history:
        now += pause
        if event == "released":
            breaker.released()
        else:
            getattr(breaker, event)(now)
        assert breaker.barred_until <= now + MOST_S
