"""Models that come and go: cold starts, memory that has to be made, sleep and wake."""

from __future__ import annotations

from math import inf

import pytest

from protocol.perf.batch_engine import BatchEngine
from protocol.perf.cost_model import START_S, cold_s
from protocol.perf.gpu_catalog import bytes_per_weight, shape_of
from protocol.perf.model_timing import ModelTiming
from protocol.statements.adverts import ModelState
from tests.protocol.perf.engine_loop import CARD, Loop

DISK, ASLEEP, HERE = ModelState.ON_DISK, ModelState.SLEEPING, ModelState.RESIDENT
SHAPE = shape_of("llama-3.1-8b-instruct")
WEIGHTS = SHAPE.params * bytes_per_weight("")
GB = 1e9


def three(memory: float = 2.2 * WEIGHTS, **options: object) -> Loop:
    timings = {name: ModelTiming(CARD, SHAPE) for name in "abc"}
    return Loop(BatchEngine(timings, **({"slots": 4, "resident": "ab", "memory_bytes": memory} | options)))  # type: ignore[arg-type]


def states(loop: Loop) -> list[ModelState]:
    return [loop.engine.state_of(name) for name in "abc"]


def test_a_cold_job_waits_for_its_model_while_others_run() -> None:
    loop = three(3.5 * WEIGHTS)
    loop.submit(1, model="c")
    loop.submit(2, model="c")
    loop.submit(3, model="a")
    assert (loop.engine.running, loop.engine.waiting) == (1, 2)
    assert loop.engine.load(0.0).queued_prefill_tokens == 300
    loop.take(loop.engine.cancel(2, 0.0))
    loop.until(inf)
    cold = cold_s(DISK, WEIGHTS)
    assert cold > START_S
    assert loop.done[3] < cold < loop.first[1] < cold + 0.1
    assert loop.changes == [(cold, "c", HERE)]
    assert 2 not in loop.done
    assert (loop.engine.cold_loads, states(loop)) == (1, [HERE, HERE, HERE])


def test_the_longest_unused_leaves_to_make_room() -> None:
    loop = three()
    loop.submit(1, model="a")
    loop.until(10.0)
    loop.submit(2, model="b")
    loop.until(20.0)
    loop.submit(3, model="c")
    assert states(loop) == [DISK, HERE, DISK]
    loop.until(inf)
    assert [change[1:] for change in loop.changes] == [("a", DISK), ("c", HERE)]
    assert states(loop) == [DISK, HERE, HERE]


def test_a_model_with_jobs_never_leaves() -> None:
    loop = three()
    loop.submit(1, output=1000, model="a")
    loop.submit(2, output=200, model="b")
    loop.submit(3, model="c")
    assert states(loop) == [HERE, HERE, DISK]
    loop.until(inf)
    assert [change[1:] for change in loop.changes] == [("b", DISK), ("c", HERE)]
    assert loop.changes[0][0] == loop.done[2]
    assert loop.first[3] == pytest.approx(loop.done[2] + cold_s(DISK, WEIGHTS), abs=0.1)


def test_a_cancelled_job_makes_room_as_well() -> None:
    loop = three()
    loop.submit(1, output=1000, model="a")
    loop.submit(2, output=1000, model="b")
    loop.submit(3, model="c")
    loop.take(loop.engine.cancel(1, 0.0))
    assert states(loop) == [DISK, HERE, DISK]
    loop.until(inf)
    assert len(loop.done) == 2


def test_one_model_is_loaded_at_a_time() -> None:
    loop = three(4 * WEIGHTS, resident="")
    for job, model in enumerate("abcb"):
        loop.submit(job, model=model)
    loop.until(inf)
    cold = cold_s(DISK, WEIGHTS)
    assert [(at, name) for at, name, _ in loop.changes] == [
        (pytest.approx(cold), "a"),
        (pytest.approx(2 * cold), "b"),
        (pytest.approx(3 * cold), "c"),
    ]
    assert loop.engine.cold_loads == 3


def test_a_model_too_large_for_the_memory_runs_alone_and_without_bound() -> None:
    loop = three(0.5 * WEIGHTS, resident="")
    loop.submit(1, 5000, 10, model="a")
    loop.until(inf)
    loop.submit(2, 5000, 10, model="b")
    assert loop.engine.load(loop.now).kv_permille == 0
    loop.until(inf)
    assert states(loop) == [DISK, HERE, DISK]
    assert len(loop.done) == 2


def test_sleep_is_short_and_frees_the_memory() -> None:
    loop = three(3.5 * WEIGHTS)
    before = loop.engine.load(0.0).free_vram_mib
    loop.take(loop.engine.sleep("a", 0.0))
    assert loop.engine.state_of("a") == ASLEEP
    assert loop.engine.load(0.0).free_vram_mib > before + 15_000
    loop.take(loop.engine.wake("a", 0.0))
    loop.take(loop.engine.wake("a", 0.0))
    loop.until(inf)
    assert loop.now == pytest.approx(cold_s(ASLEEP, WEIGHTS))
    loop.submit(1, model="a")
    loop.take(loop.engine.sleep("a", loop.now))
    loop.take(loop.engine.evict("a", loop.now))
    assert loop.engine.state_of("a") == HERE, "it has a job"
    loop.until(inf)
    loop.take(loop.engine.evict("a", loop.now))
    loop.take(loop.engine.sleep("a", loop.now))
    assert loop.engine.state_of("a") == DISK, "what is on disk does not sleep"
    assert [change[1:] for change in loop.changes] == [("a", ASLEEP), ("a", HERE), ("a", DISK)]


def test_what_is_being_loaded_is_not_evicted() -> None:
    loop = three(3.5 * WEIGHTS)
    loop.take(loop.engine.sleep("a", 0.0))
    loop.take(loop.engine.wake("a", 0.0))
    loop.take(loop.engine.evict("a", 0.0))
    loop.until(inf)
    assert loop.engine.state_of("a") == HERE


def test_a_prefix_does_not_outlive_its_model() -> None:
    loop = three()
    blocks = tuple(range(20))
    loop.submit(1, 400, model="a", blocks=blocks)
    loop.until(inf)
    assert loop.engine.cached_tokens(blocks, "a") == 320
    assert loop.engine.cached_tokens(blocks, "b") == 0
    loop.take(loop.engine.evict("a", loop.now))
    loop.take(loop.engine.wake("a", loop.now))
    loop.until(inf)
    assert loop.engine.cached_tokens(blocks, "a") == 0
