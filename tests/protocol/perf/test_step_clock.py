"""The clock of a batch: count and time follow from each other, as a loop over the steps would have it."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.perf.sequences import Lane
from protocol.perf.step_clock import StepClock
from protocol.statements.adverts import Gpu
from tests.protocol.perf.engine_loop import PACE, SHAPE, ModelTiming


def lane(sequences: int, context: float, timing: ModelTiming = PACE) -> Lane:
    """A model with so much in the batch, as of count 0."""
    made = Lane(timing, 0)
    made.sequences, made.context = sequences, context
    return made


def drawn(*lanes: Lane, chunk_s: float = 0.0, slow: float = 1.0) -> StepClock:
    """A clock whose batch changed at count 0, second 10."""
    clock = StepClock()
    clock.slow = slow
    clock.draw(0.0, 10.0, chunk_s, lanes)
    return clock


def by_steps(steps: int, lanes: tuple[Lane, ...], chunk_s: float = 0.0) -> float:
    """Seconds of so many steps, one after the other."""
    return sum(
        chunk_s + sum(each.timing.step(each.sequences, each.context + each.sequences * made)[0] for each in lanes)
        for made in range(steps)
    )


@pytest.mark.parametrize("chunk_s", [0.0, 0.05])
def test_a_hundred_steps_take_as_long_as_one_after_the_other(chunk_s: float) -> None:
    for lanes in ((lane(1, 500.0),), (lane(8, 20_000.0),), (lane(2, 1000.0), lane(3, 300.0))):
        clock = drawn(*lanes, chunk_s=chunk_s)
        assert clock.when(100.0) - 10.0 == pytest.approx(by_steps(100, lanes, chunk_s), rel=1e-5)


def test_a_step_grows_with_the_context_of_the_batch() -> None:
    clock = drawn(lane(4, 2000.0))
    now = clock.when(50.0)
    assert clock.step_s(10.0) == pytest.approx(PACE.step(4, 2000.0)[0], rel=1e-3)
    assert clock.step_s(now) == pytest.approx(PACE.step(4, 2000.0 + 4 * 50)[0], rel=1e-3)


@given(st.integers(1, 64), st.floats(0, 1e6), st.floats(0, 1), st.floats(0.01, 10), st.floats(0, 5000))
def test_count_and_time_are_inverse(sequences: int, context: float, chunk_s: float, slow: float, count: float) -> None:
    clock = drawn(lane(sequences, context), chunk_s=chunk_s, slow=slow)
    assert clock.count(clock.when(count)) == pytest.approx(count, rel=1e-6, abs=1e-6)


def test_a_slower_gpu_multiplies_all_times_and_a_stopped_one_makes_no_steps() -> None:
    whole, half, stopped = (drawn(lane(2, 500.0), slow=slow) for slow in (1.0, 2.0, inf))
    assert half.when(40.0) - 10.0 == pytest.approx(2 * (whole.when(40.0) - 10.0))
    assert stopped.count(1e9) == 0.0
    assert stopped.when(0.0) == 10.0


def test_without_work_it_stands_still_and_is_not_busy() -> None:
    clock = drawn()
    assert (clock.count(1000.0), clock.step_s(1000.0)) == (0.0, 0.0)
    clock.draw(0.0, 20.0, 0.0, [lane(1, 100.0)])  # ten seconds without work
    assert clock.busy_s == 0.0
    clock.draw(clock.count(23.0), 23.0, 0.0, [lane(2, 100.0)])  # three with
    clock.draw(clock.count(24.5), 24.5, 0.0, [])  # one and a half
    clock.draw(clock.v, 99.0, 0.0, [])
    assert clock.busy_s == pytest.approx(4.5)


def test_the_count_goes_on_where_the_batch_changes() -> None:
    clock = drawn(lane(1, 500.0))
    seen = clock.count(12.0)
    clock.draw(seen, 12.0, 0.0, [lane(1, 500.0), lane(1, 200.0, ModelTiming(Gpu("slow"), SHAPE))])
    assert clock.count(12.0) == seen
    assert clock.count(11.0) == seen, "a moment before the last change"
    assert 0 < clock.count(13.0) - seen < seen / 2
