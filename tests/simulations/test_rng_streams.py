"""One die per node and purpose: nothing that is added shifts what the others throw."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest

from simulations.rng_streams import numpy_rng_stream, rng_stream


def test_the_same_die_throws_the_same() -> None:
    assert [rng_stream(1, "x").random() for _ in range(3)] == [rng_stream(1, "x").random()] * 3
    assert numpy_rng_stream(1, "x").random(5).tolist() == numpy_rng_stream(1, "x").random(5).tolist()


def test_seed_purpose_and_index_all_count() -> None:
    told = [(1, "x", 0), (2, "x", 0), (1, "y", 0), (1, "x", 1), (11, "x", 0), (1, "x", 11)]
    assert len({rng_stream(*each).random() for each in told}) == len(told)
    assert len({numpy_rng_stream(*each).random() for each in told}) == len(told)


def test_neighbouring_dice_are_independent() -> None:
    first = [rng_stream(1, "node", index).random() for index in range(4000)]
    mean = sum(first) / len(first)
    follows = sum((a - mean) * (b - mean) for a, b in pairwise(first)) / len(first)
    assert abs(mean - 0.5) < 0.02
    assert abs(follows) < 0.1 / 12  # of a variance of 1/12


@pytest.mark.slow
def test_it_is_the_same_in_every_process() -> None:
    draws = "rng_stream(7, 'é', 3).random(), numpy_rng_stream(7, 'é', 3).random()"
    code = f"from simulations.rng_streams import numpy_rng_stream, rng_stream; print({draws})"
    told = [
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert told[0] == told[1] == f"{rng_stream(7, 'é', 3).random()} {numpy_rng_stream(7, 'é', 3).random()}\n".encode()
