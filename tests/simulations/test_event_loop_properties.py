"""Virtual time, as a property: in order, ties in the order of their making, never back; what the digest tells apart."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.event_loop import Kernel


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.5, 7.0]), max_size=40))
def test_everything_happens_in_order_and_ties_as_they_were_made(times: list[float]) -> None:
    kernel = Kernel()
    seen: list[tuple[float, int]] = []
    for number, time in enumerate(times):
        kernel.at(time, lambda number=number: seen.append((kernel.now, number)))
    kernel.run(10.0)
    assert seen == sorted((time, number) for number, time in enumerate(times))
    assert kernel.events == len(times)
    assert kernel.now == 10.0


def test_the_past_is_now() -> None:
    kernel = Kernel()
    seen: list[tuple[str, float]] = []

    def act() -> None:
        kernel.at(kernel.now, lambda: seen.append(("same time, after", kernel.now)))
        kernel.at(1.0, lambda: seen.append(("too late", kernel.now)))
        seen.append(("first", kernel.now))

    kernel.at(5.0, act)
    kernel.at(5.0, lambda: seen.append(("second", kernel.now)))
    kernel.run(9.0)
    assert seen == [("first", 5.0), ("second", 5.0), ("same time, after", 5.0), ("too late", 5.0)]


def test_it_runs_up_to_the_end_and_goes_on_from_there() -> None:
    kernel = Kernel()
    seen: list[float] = []
    for time in (1.0, 2.0, 3.0):
        kernel.at(time, lambda: seen.append(kernel.now))
    kernel.run(2.0)
    assert (seen, kernel.now, kernel.pending) == ([1.0, 2.0], 2.0, 1)
    kernel.run(1.5)
    assert (seen, kernel.now) == ([1.0, 2.0], 2.0)  # not back
    kernel.run(4.0)
    assert (seen, kernel.now, kernel.pending) == ([1.0, 2.0, 3.0], 4.0, 0)


def _digest(*times: float, chunks: int = 1) -> str:
    kernel = Kernel()
    for time in times:
        kernel.at(time, lambda: None)
    for chunk in range(chunks):
        kernel.run(10.0 * (chunk + 1) / chunks)
    return kernel.digest


def test_an_error_leaves_through_run_and_what_happened_is_in_the_digest() -> None:
    kernel = Kernel()
    kernel.at(1.0, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        kernel.run(2.0)
    assert (kernel.now, kernel.events) == (1.0, 1)
    assert kernel.digest == _digest(1.0)


def test_the_digest_tells_order_and_times_but_not_how_it_was_run() -> None:
    assert _digest(1.0, 2.0) == _digest(1.0, 2.0)
    assert len({_digest(), _digest(1.0), _digest(1.0, 2.0), _digest(2.0, 1.0), _digest(1.0, 2.0000001)}) == 5
    assert _digest(1.0, 2.0, 7.0) == _digest(1.0, 2.0, 7.0, chunks=20)
    assert len(_digest(1.0)) == 16


def test_the_digest_does_not_depend_on_the_hash_seed() -> None:
    code = (
        "from simulations.event_loop import Kernel\nk = Kernel()\n"
        "for i in range(99): k.at(i * 0.37 % 5, lambda: None)\nk.run(6)\nprint(k.digest)"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(told) == 1
