"""The estimators: where they agree, and what each adds."""

from __future__ import annotations

import numpy as np
import pytest

from protocol.reputation.estimator import LEAST, MOST, Estimator, estimate, moments


def one(good: float, bad: float, estimator: Estimator = "mean", noise: float = 0.5) -> float:
    """The estimate of one peer, with the first prior."""
    mean, deviation = moments(np.array([good]), np.array([bad]), np.array([0.9]))
    return float(estimate(mean, deviation, np.array([noise]), estimator)[0])


def test_the_mean_is_that_of_the_posterior() -> None:
    assert one(0, 0) == pytest.approx(0.9)
    assert one(0, 2) == pytest.approx(1.8 / 4)
    assert one(100, 0) == pytest.approx(101.8 / 102)


def test_the_quartile_doubts_a_peer_with_little_evidence() -> None:
    assert one(3, 0, "quartile") < one(3, 0)
    assert one(3, 0, "quartile") < one(100, 0, "quartile")
    deviation = (0.9 * 0.1 / 3) ** 0.5
    assert one(0, 0, "quartile") == pytest.approx(0.9 - 0.6745 * deviation)


def test_a_draw_has_the_moments_of_the_posterior() -> None:
    size = 20_000
    noise = (np.arange(size) + 0.5) / size
    drawn = estimate(*moments(np.full(size, 30.0), np.full(size, 10.0), np.full(size, 0.9)), noise, "draw")
    mean = 31.8 / 42
    assert drawn.mean() == pytest.approx(mean, abs=0.002)
    assert drawn.std() == pytest.approx((mean * (1 - mean) / 43) ** 0.5, rel=0.1)


@pytest.mark.parametrize("estimator", ["mean", "quartile", "draw"])
def test_an_estimate_has_bounds(estimator: Estimator) -> None:
    assert one(0, 1e9, estimator, 1e-9) == LEAST
    assert one(1e9, 0, estimator, 1 - 1e-9) == MOST
