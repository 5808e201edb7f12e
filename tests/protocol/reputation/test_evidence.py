"""Evidence: what holds for every history.  P1 to P4, P6 and P7 of the trust study."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocol.reputation.evidence import LAWS, MOST_WEIGHT, Dimension, Evidence, Law

laws = st.sampled_from(list(LAWS.values()))
observations = st.tuples(st.floats(-1, 2), st.floats(-1, 30))
steps = st.tuples(observations, st.floats(-1e6, 1e6))
histories = st.lists(steps, max_size=40)


def after(history: list[tuple[tuple[float, float], float]], law: Law) -> tuple[Evidence, float]:
    """The evidence after a history of observations and pauses, and the time then."""
    evidence, now = Evidence(), 0.0
    for (value, weight), pause in history:
        now += pause
        evidence.observe(value, weight, law, now)
    return evidence, max(now, evidence.at)


@given(histories, laws)
def test_p1_it_is_bounded_and_finite(history: list[tuple[tuple[float, float], float]], law: Law) -> None:
    evidence, now = after(history, law)
    assert 0 <= evidence.good <= law.most * (1 + 1e-9)
    assert 0 <= evidence.bad <= law.most * (1 + 1e-9)
    assert evidence.amount <= law.most * (1 + 1e-9)
    assert 0 <= evidence.chance(law, now) <= 1


@given(histories, laws, st.floats(0, MOST_WEIGHT), st.floats(0, 1))
def test_p2_a_success_never_lowers_the_chance_and_a_failure_never_raises_it(
    history: list[tuple[tuple[float, float], float]], law: Law, weight: float, prior: float
) -> None:
    evidence, now = after(history, law)
    before = evidence.chance(law, now, prior)
    good = Evidence(evidence.good, evidence.bad, evidence.at)
    good.observe(1.0, weight, law, now)
    assert good.chance(law, now, prior) >= before - 1e-9
    evidence.observe(0.0, weight, law, now)
    assert evidence.chance(law, now, prior) <= before + 1e-9


@given(histories, laws, st.floats(0, 1e6), st.floats(0, 1e6))
def test_p3_decay_composes_and_leads_back_to_the_prior(
    history: list[tuple[tuple[float, float], float]], law: Law, first: float, second: float
) -> None:
    evidence, now = after(history, law)
    other = Evidence(evidence.good, evidence.bad, evidence.at)
    far = [abs(evidence.chance(law, now + pause) - law.prior) for pause in (0.0, first, first + second)]
    assert far[0] >= far[1] - 1e-9
    assert far[1] >= far[2] - 1e-9
    evidence.decay(law, now + first)
    evidence.decay(law, now + first + second)
    other.decay(law, now + first + second)
    assert evidence.good == pytest.approx(other.good, rel=1e-6, abs=1e-9)
    assert evidence.bad == pytest.approx(other.bad, rel=1e-6, abs=1e-9)


@given(histories, laws, st.integers(0, 60))
def test_p4_it_forgets(history: list[tuple[tuple[float, float], float]], law: Law, half_lives: int) -> None:
    evidence, now = after(history, law)
    evidence.decay(law, now + half_lives * law.half_life_s)
    assert evidence.amount <= law.most * 2.0**-half_lives * (1 + 1e-6)


@given(histories, laws, st.floats(0, 1e6))
def test_p6_a_clock_that_goes_back_changes_nothing(
    history: list[tuple[tuple[float, float], float]], law: Law, back: float
) -> None:
    evidence, now = after(history, law)
    before = (evidence.good, evidence.bad, evidence.at, evidence.chance(law, now))
    evidence.decay(law, now - back)
    assert (evidence.good, evidence.bad, evidence.at, evidence.chance(law, evidence.at - back)) == before


@given(st.lists(observations, max_size=12), laws, st.randoms(use_true_random=False))
def test_p7_events_of_one_moment_commute_below_the_cap(
    together: list[tuple[float, float]], law: Law, rng: object
) -> None:
    assume(sum(min(max(weight, 0.0), MOST_WEIGHT) for _, weight in together) <= law.most)
    shuffled = list(together)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    one, two = (after([(each, 0.0) for each in order], law)[0] for order in (together, shuffled))
    assert one.good == pytest.approx(two.good, abs=1e-9)
    assert one.bad == pytest.approx(two.bad, abs=1e-9)


def test_the_chance_by_hand() -> None:
    law = LAWS[Dimension.COMPLETE]
    evidence = Evidence(at=0.0)
    evidence.observe(1.0, 6.0, law, 0.0)
    evidence.observe(0.0, 2.0, law, 0.0)
    assert evidence.chance(law, 0.0) == pytest.approx(7 / 10)
    assert evidence.chance(law, 0.0, 0.9) == pytest.approx(7.8 / 10)
    assert evidence.chance(law, law.half_life_s) == pytest.approx(4 / 6)
    evidence.take_back(3.0)
    assert (evidence.good, evidence.bad) == (6.0, 0.0)


def test_a_report_is_worth_nothing_until_it_was_right() -> None:
    assert Evidence().chance(LAWS[Dimension.REPORT], 0.0) == 0.0
    assert all(math.isfinite(law.half_life_s) and law.most > 0 for law in LAWS.values())
