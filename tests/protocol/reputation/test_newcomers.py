"""Newcomers: their prior, and the jobs that they may have.  P8 of the trust study, as the shares of the module."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.reputation.newcomers import ENOUGH, FIRST_PRIOR, LED_SHARE, Newcomers, led_share, open_share


def test_the_prior_is_what_newcomers_achieved_here() -> None:
    newcomers = Newcomers()
    assert newcomers.prior(0.0) == FIRST_PRIOR
    for _ in range(20):
        newcomers.observe("", 0.0, 2.0, 0.0)
    raided = newcomers.prior(0.0)
    assert raided < 0.12
    assert raided < newcomers.prior(3600.0) < newcomers.prior(36_000.0) == pytest.approx(FIRST_PRIOR, abs=0.02)
    for _ in range(100):
        newcomers.observe("", 1.0, 1.0, 36_000.0)
    assert newcomers.prior(36_000.0) > 0.95


def test_a_network_group_has_a_prior_of_its_own_unless_it_is_private() -> None:
    newcomers = Newcomers()
    assert newcomers.observe("192.168.0.0/24", 0.0, 2.0, 0.0) is None
    evidence = newcomers.observe("192.0.2.0/24", 0.0, 2.0, 0.0)
    assert evidence is not None
    assert newcomers.observe("192.0.2.0/24", 1.0, 1.0, 0.0) is evidence
    assert (evidence.good, evidence.bad) == (1.0, 2.0)


def test_the_groups_that_are_remembered_are_bounded() -> None:
    newcomers = Newcomers(most_groups=3)
    for number in range(5):
        newcomers.observe(f"198.0.{number}.0/24", 0.0, 1.0, 0.0)
    assert newcomers.shrink() == ["198.0.0.0/24", "198.0.1.0/24"]
    assert newcomers.shrink() == []


@given(st.integers(1, 100), st.floats(0, 1e6), st.integers(1, 400))
def test_p8_newcomers_together_lead_no_more_than_their_share(proven: int, weight: float, jobs: int) -> None:
    newcomers = Newcomers()
    led = sum(newcomers.may_lead() and newcomers.leads(led_share(proven, weight)) for _ in range(jobs))
    assert led <= jobs * LED_SHARE + 1e-6
    assert led <= jobs * weight / (weight + proven) + 1e-6
    opened = sum(newcomers.open(proven) for _ in range(jobs))
    assert opened <= jobs * max(0.0, 1 - proven / ENOUGH) + 1e-6


def test_without_proven_peers_every_job_is_open_and_with_enough_none() -> None:
    newcomers = Newcomers()
    assert all(newcomers.open(0) for _ in range(10))
    assert not any(newcomers.open(ENOUGH) for _ in range(1000))
    assert [open_share(count) for count in (0, 4, 16, 99)] == [1.0, 0.75, 0.0, 0.0]
    assert [led_share(count, 1.0) for count in (0, 1, 99)] == [0.0, 0.05, 0.01]
    assert sum(newcomers.may_lead() and newcomers.leads(led_share(99, 1.0)) for _ in range(1000)) in (9, 10)
