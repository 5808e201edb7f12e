"""Virtual time, as a property: in order, ties in the order of their making, never back; what the digest tells apart."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.event_loop import EventLoop


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.5, 7.0]), max_size=40))
def test_everything_happens_in_order_and_ties_as_they_were_made(times: list[float]) -> None:
    loop = EventLoop()
    seen: list[tuple[float, int]] = []
    for number, time in enumerate(times):
        loop.at(time, lambda number=number: seen.append((loop.now, number)))
    loop.run(10.0)
    assert seen == sorted((time, number) for number, time in enumerate(times))
    assert loop.events == len(times)
    assert loop.now == 10.0


def test_the_past_is_now() -> None:
    loop = EventLoop()
    seen: list[tuple[str, float]] = []

    def act() -> None:
        loop.at(loop.now, lambda: seen.append(("same time, after", loop.now)))
        loop.at(1.0, lambda: seen.append(("too late", loop.now)))
        seen.append(("first", loop.now))

    loop.at(5.0, act)
    loop.at(5.0, lambda: seen.append(("second", loop.now)))
    loop.run(9.0)
    assert seen == [("first", 5.0), ("second", 5.0), ("same time, after", 5.0), ("too late", 5.0)]


def test_it_runs_up_to_the_end_and_goes_on_from_there() -> None:
    loop = EventLoop()
    seen: list[float] = []
    for time in (1.0, 2.0, 3.0):
        loop.at(time, lambda: seen.append(loop.now))
    loop.run(2.0)
    assert (seen, loop.now, loop.pending) == ([1.0, 2.0], 2.0, 1)
    loop.run(1.5)
    assert (seen, loop.now) == ([1.0, 2.0], 2.0)  # not back
    loop.run(4.0)
    assert (seen, loop.now, loop.pending) == ([1.0, 2.0, 3.0], 4.0, 0)


def _digest(*times: float, chunks: int = 1) -> str:
    loop = EventLoop()
    for time in times:
        loop.at(time, lambda: None)
    for chunk in range(chunks):
        loop.run(10.0 * (chunk + 1) / chunks)
    return loop.digest


def test_an_error_leaves_through_run_and_what_happened_is_in_the_digest() -> None:
    loop = EventLoop()
    loop.at(1.0, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loop.run(2.0)
    assert (loop.now, loop.events) == (1.0, 1)
    assert loop.digest == _digest(1.0)


def test_the_digest_tells_order_and_times_but_not_how_it_was_run() -> None:
    assert _digest(1.0, 2.0) == _digest(1.0, 2.0)
    assert len({_digest(), _digest(1.0), _digest(1.0, 2.0), _digest(2.0, 1.0), _digest(1.0, 2.0000001)}) == 5
    assert _digest(1.0, 2.0, 7.0) == _digest(1.0, 2.0, 7.0, chunks=20)
    assert len(_digest(1.0)) == 16


def test_the_digest_does_not_depend_on_the_hash_seed() -> None:
    code = (
        "from simulations.event_loop import EventLoop\nk = EventLoop()\n"
        "for i in range(99): k.at(i * 0.37 % 5, lambda: None)\nk.run(6)\nprint(k.digest)"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(told) == 1
