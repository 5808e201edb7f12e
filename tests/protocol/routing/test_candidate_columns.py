"""A draw without a pattern."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.routing.candidate_columns import noise


def test_noise_is_splitmix64() -> None:
    """The first five outputs for the seed 1234567, as its authors' program prints them; 52 bits of each are used."""
    words = (
        *(6457827717110365317, 3203168211198807973, 9817491932198370423),
        *(4593380528125082431, 16408922859458223821),
    )
    assert noise(1234567, 5).tolist() == [((word >> 12) + 0.5) / 2**52 for word in words]


@settings(deadline=None, max_examples=50)
@given(st.integers(), st.integers(0, 300))
def test_noise_is_between_nought_and_one_and_repeats(seed: int, size: int) -> None:
    drawn = noise(seed, size)
    assert len(drawn) == size
    assert ((drawn > 0) & (drawn < 1)).all()
    assert (drawn == noise(seed, size)).all()


def test_noise_has_no_pattern() -> None:
    drawn = noise(3, 100_000)
    assert drawn.mean() == pytest.approx(0.5, abs=0.01)
    assert drawn.var() == pytest.approx(1 / 12, abs=0.005)
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.02
