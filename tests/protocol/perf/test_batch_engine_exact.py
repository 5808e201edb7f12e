"""The engine machine against itself step by step, and both against a plain loop over the formulas of ``cost_model``."""

from __future__ import annotations

from statistics import fmean

import pytest

from protocol.perf.batch_engine import BatchEngine
from protocol.perf.gpu_catalog import find_gpu, shape_of
from protocol.perf.model_timing import ModelTiming
from protocol.perf.sequences import Work
from tests.protocol.perf.engine_loop import CARD, SHAPE, Loop, chat, engine, memory_for, step_by_step


def means(loop: Loop, works: list[tuple[float, Work]]) -> tuple[float, float, float]:
    """Mean seconds to the first token and to the end, and when the last ended."""
    assert len(loop.done) == len(works)
    ttft = fmean(loop.first[work.job] - at for at, work in works)
    return ttft, fmean(loop.done[work.job] - at for at, work in works), max(loop.done.values())


@pytest.mark.parametrize(("jobs", "rate"), [(60, 0.4), (60, 3.0)])
def test_it_does_what_the_plain_loop_does(jobs: int, rate: float) -> None:
    works = chat(jobs, rate)
    first, done = step_by_step(works, 8)
    for exact, tolerance in ((True, 1e-6), (False, 2e-3)):
        loop = Loop(engine(slots=8, exact=exact)).run(works)
        assert loop.first == pytest.approx(first, rel=tolerance)
        assert loop.done == pytest.approx(done, rel=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gpu", "model", "quantization", "rate", "slots"),
    [
        ("rtx 4090", "llama-3.1-8b-instruct", "", 0.5, 16),
        ("rtx 4090", "llama-3.1-8b-instruct", "", 2.0, 16),
        ("rtx 3060", "qwen2.5-7b-instruct", "awq", 0.5, 16),
        ("h100 sxm", "llama-3.1-8b-instruct", "fp8", 12.0, 64),
        ("a100 80gb", "mixtral-8x7b-instruct-v0.1", "awq", 1.5, 32),
    ],
)
def test_lumped_and_exact_agree_within_two_percent(
    gpu: str, model: str, quantization: str, rate: float, slots: int
) -> None:
    timing = ModelTiming(find_gpu(gpu), shape_of(model), quantization, efficiency=0.9)
    works = chat(400, rate)
    lumped, exact = (means(Loop(engine(timing, slots=slots, exact=exact)).run(works), works) for exact in (False, True))
    assert lumped == pytest.approx(exact, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("sequences", "rate", "seed"), [(1, 0.9, 1), (1, 0.9, 4), (3, 0.8, 1), (3, 0.4, 2)])
def test_lumped_and_exact_agree_when_memory_is_short(sequences: int, rate: float, seed: int) -> None:
    works = chat(2000, rate, seed, sequences)
    machines = [engine(memory_bytes=memory_for(9_000), exact=exact) for exact in (False, True)]
    lumped, exact = (means(Loop(machine).run(works), works) for machine in machines)
    assert lumped == pytest.approx(exact, rel=0.02)
    assert machines[1].preemptions > 100
    assert machines[0].preemptions == pytest.approx(machines[1].preemptions, rel=0.05, abs=10)


def test_two_models_take_turns() -> None:
    small = ModelTiming(CARD, shape_of("qwen2.5-1.5b-instruct"))
    large = ModelTiming(CARD, SHAPE)

    def finish(*models: str) -> list[float]:
        machine = BatchEngine({"small": small, "large": large}, slots=8)
        loop = Loop(machine)
        for job, model in enumerate(models):
            loop.submit(job, 100, 400, model)
        loop.until(float("inf"))
        return [loop.done[job] for job in range(len(models))]

    (alone_small,), (alone_large,) = finish("small"), finish("large")
    together = finish("small", "large")
    assert max(together) == pytest.approx(alone_small + alone_large, rel=0.03)


def test_few_calls_per_job() -> None:
    works = chat(300, 1.0)
    assert Loop(engine()).run(works).calls < 6 * len(works)
