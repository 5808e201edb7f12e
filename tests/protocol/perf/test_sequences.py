"""What the engine machine remembers of a job: the context of its model, and the bytes that it holds."""

from __future__ import annotations

import pytest

from protocol.perf.sequences import BatchJob, Lane, Work
from tests.protocol.perf.engine_loop import PACE

BLOCKS = (7, 8, 9)


def test_the_context_of_a_model_is_that_of_its_jobs() -> None:
    """Two jobs: at count 5 one sequence has 100 + 5 tokens, and three that joined at count 2 have 40 + 3 each."""
    lane = Lane(PACE, 0)
    one = BatchJob(Work(1, "m", 100, 50), lane, (), 0.0)
    three = BatchJob(Work(2, "m", 40, 50, sequences=3), lane, (), 0.0)
    three.origin = 2.0
    lane.add(one)
    lane.add(three)
    assert lane.context + lane.sequences * 5 == 105 + 3 * 43
    lane.remove(one)
    assert lane.context + lane.sequences * 5 == 3 * 43
    lane.remove(three)
    assert (lane.context, lane.sequences) == (0.0, 0)


def test_cached_blocks_belong_to_one_model_until_it_leaves_the_memory() -> None:
    lane, other = Lane(PACE, 0), Lane(PACE, 1)
    assert lane.keys((), 5) == ()
    assert lane.keys(BLOCKS, 2) == lane.keys(BLOCKS, 3)[:2]
    assert not set(lane.keys(BLOCKS, 3)) & set(other.keys(BLOCKS, 3))
    before = lane.keys(BLOCKS, 3)
    lane.moves += 1
    assert not set(before) & set(lane.keys(BLOCKS, 3))


@pytest.mark.parametrize(
    ("prompt", "sequences", "shared", "made", "whole", "tokens"),
    [
        (32, 1, 0, 0.0, True, 32),  # two blocks that are full
        (33, 1, 0, 0.0, True, 48),  # and one that is begun
        (32, 1, 1, 0.0, True, 16),  # the first one is shared
        (33, 3, 0, 0.0, True, 32 + 3 * 16),  # each sequence has its own last block
        (33, 3, 0, 16.0, True, 32 + 3 * 32),
        (33, 1, 0, 15.0 + 1e-9, True, 48),  # rounding begins no block
        (33, 3, 0, 16.0, False, 32 + 3 * (1 + 16 + 7.5)),  # the last one is half full on average
    ],
)
def test_a_job_holds_whole_blocks_or_the_mean_of_them(
    prompt: int, sequences: int, shared: int, made: float, whole: bool, tokens: float
) -> None:
    lane = Lane(PACE, 0)
    job = BatchJob(Work(1, "m", prompt, 50, sequences), lane, lane.keys(BLOCKS, shared), 0.0)
    assert job.held_bytes(made, 16, whole) == pytest.approx(tokens * PACE.kv_bytes)
