"""Token buckets: what may be spent, and how debt is paid back."""

from __future__ import annotations

from protocol.token_bucket import TokenBucket


def test_it_fills_with_time_up_to_its_capacity() -> None:
    bucket = TokenBucket(10.0, 100.0, now=5.0)
    assert bucket.spend(100, 5.0)
    assert not bucket.spend(1, 5.0)
    assert bucket.level(7.0) == 20.0
    assert bucket.level(6.0) == 20.0  # a clock that stands still or goes back gives nothing
    assert bucket.level(1000.0) == 100.0


def test_debt_is_paid_back_before_more_is_given() -> None:
    bucket = TokenBucket(10.0, 100.0, now=0.0)
    assert bucket.spend(130, 0.0, debt=30.0)
    assert not bucket.spend(1, 0.0, debt=30.0)
    assert not bucket.spend(1, 3.0)
    assert bucket.spend(10, 4.0)
