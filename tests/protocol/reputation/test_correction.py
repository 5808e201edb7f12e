"""The learned factors: what is observed, how fast it is believed, and how it is forgotten."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.perf.forecast import Forecast
from protocol.reputation.correction import (
    HALF_LIFE_S,
    MOST_COUNT,
    MOST_LOG,
    PROMISE_WEIGHT,
    Factor,
    Factors,
)
from protocol.reputation.observation import Observation
from protocol.reputation.outcomes import Outcome
from tests.protocol.sample_peers import peer

FORECAST = Forecast(1.1, 0.02, 0.35, 0.1, 1.0, 0.02)


def seen(outcome: Outcome = Outcome.COMPLETED, **figures: object) -> Observation:
    """An attempt at a peer for which a second was predicted before the first token, and 20 ms for each other."""
    facts: dict[str, object] = {"forecast": FORECAST, "pieces": 100}
    return Observation(peer(1), "m", outcome, False, **(facts | figures))  # type: ignore[arg-type]


def learned(*attempts: Observation) -> Factors:
    """The factors after these attempts, a second apart."""
    factors = Factors()
    for second, attempt in enumerate(attempts):
        factors.observe(attempt, float(second))
    return factors


def test_the_first_piece_tells_of_the_prompt_and_the_others_of_the_token() -> None:
    factors = learned(seen(first_s=2.1, token_s=0.06))
    assert factors.prompt.mean == pytest.approx(math.log(2))
    assert factors.token.mean == pytest.approx(math.log(3))
    assert factors.prompt.count == pytest.approx(1.0 / 1.1), "a tenth of it was the link"
    assert factors.token.count == 1.0


def test_a_short_answer_says_little_of_the_rhythm_and_one_piece_nothing() -> None:
    assert learned(seen(first_s=1.0, token_s=0.06, pieces=4)).token.count == pytest.approx(4 / 32)
    assert learned(seen(first_s=1.0, pieces=1)).token.count == 0.0


def test_a_whole_answer_at_once_says_nothing_of_its_parts() -> None:
    factors = learned(seen(first_s=9.0, token_s=0.01, streamed=False))
    assert (factors.prompt.count, factors.token.count) == (0.0, 0.0)


def test_a_whole_answer_with_its_tokens_tells_of_the_token() -> None:
    whole = seen(streamed=False, tokens=64, lost_s=2 * (FORECAST.ttft_s + 63 * FORECAST.itl_s))
    known = math.log(FORECAST.itl_s / FORECAST.base_itl_s)
    assert learned(whole).token.mean == pytest.approx(known + math.log(2)), "twice the corrected prediction"
    assert learned(whole).token.count == 1.0
    assert learned(whole).prompt.count == 0.0
    assert learned(seen(streamed=False, tokens=8, lost_s=1.0)).token.count == pytest.approx(8 / 32)
    assert learned(seen(streamed=False, tokens=1, lost_s=1.0)).token.count == 0.0


def test_a_promise_counts_for_a_quarter_and_within_bounds() -> None:
    factors = learned(seen(Outcome.BUSY, promise_s=1e6))
    assert factors.prompt.mean == pytest.approx(math.log(5))
    assert factors.prompt.count == PROMISE_WEIGHT
    assert learned(seen(Outcome.BUSY, promise_s=1e-6)).prompt.mean == pytest.approx(-math.log(5))
    assert learned(seen(promise_s=9.0, first_s=1.1)).prompt.mean == pytest.approx(0.0), "what came counts instead"


def test_a_first_piece_that_never_came_counts_as_late_as_it_was_missed() -> None:
    assert learned(seen(Outcome.NO_ANSWER, lost_s=8.1)).prompt.mean == pytest.approx(math.log(8))
    slower = learned(*[seen(first_s=20.1)] * 5, seen(Outcome.NO_ANSWER, lost_s=8.1))
    assert slower.prompt.mean == pytest.approx(math.log(20)), "it was known to be slower"


def test_an_attempt_without_a_prediction_teaches_nothing() -> None:
    assert learned(seen(first_s=9.0, token_s=0.5, forecast=None)).prompt.count == 0.0


def test_a_boundless_liar_is_learned_within_bounds() -> None:
    factors = learned(*[seen(first_s=1e9, token_s=1e9)] * 5)
    assert factors.prompt.mean == factors.token.mean == MOST_LOG
    assert learned(seen(first_s=0.0, token_s=0.0)).prompt.mean == -MOST_LOG


def test_the_mean_follows_a_change_within_some_twenty_jobs() -> None:
    factors = learned(*[seen(first_s=1.1)] * 30, *[seen(first_s=4.1)] * 25)
    assert factors.prompt.mean > math.log(3.4)
    assert factors.prompt.variance > 0.05
    steady = learned(*[seen(first_s=4.1)] * 30)
    assert steady.prompt.variance == pytest.approx(0.0, abs=1e-9)


@given(
    st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(0, 1), st.floats(-100, 1e6)), max_size=50),
)
def test_it_is_finite_and_bounded_for_every_history(history: list[tuple[float, float, float]]) -> None:
    factor, now = Factor(), 0.0
    for log_ratio, weight, pause in history:
        now += pause
        factor.observe(log_ratio, weight, now)
        assert abs(factor.mean) <= MOST_LOG * (1 + 1e-9)
        assert 0 <= factor.count <= MOST_COUNT
        assert 0 <= factor.variance <= 4 * MOST_LOG**2 * (1 + 1e-9)


def test_the_count_decays_and_the_mean_does_not() -> None:
    factor = Factor(1.0, 8.0, 0.0, 0.0)
    factor.age(2 * HALF_LIFE_S)
    factor.age(HALF_LIFE_S)
    assert (factor.mean, factor.count, factor.at) == (1.0, 2.0, 2 * HALF_LIFE_S)


def test_a_peer_is_said_to_be_as_slow_as_both_phases_together() -> None:
    factors = Factors()
    assert factors.slower(0.0) is None
    factors.restore("prompt", Factor(math.log(4), 1.0, 0.0, 0.0))
    factors.restore("token", Factor(math.log(2), 99.0, 0.0, 0.0))
    factors.restore("of a later version", Factor(1.0, 1.0, 0.0, 0.0))
    assert factors.token.count == MOST_COUNT
    assert factors.slower(0.0) == pytest.approx(math.exp((math.log(4) + MOST_COUNT * math.log(2)) / (1 + MOST_COUNT)))
    assert factors.slower(10 * HALF_LIFE_S) is None
