"""The engine machine as a queue: against the formulas of Erlang for M/M/1 and M/M/k.

The engine is arranged so that a step takes the same time whatever the batch (layers are overhead, nothing else costs),
and a job's service is its number of tokens.  Gaps and lengths are the quantiles of their distributions in random order,
so that only the order is left to chance.
"""

from __future__ import annotations

import math
import random
from heapq import heappop, heappush
from math import factorial
from statistics import fmean

import pytest

from protocol.perf.gpu_catalog import ModelShape
from protocol.perf.model_timing import ModelTiming
from protocol.perf.sequences import Work
from protocol.statements.adverts import Gpu
from tests.protocol.perf.engine_loop import Loop, engine

#: 30,000 layers of 32 us: nearly a second per step, against which 4.4 us per job are nothing.
OVERHEAD_ONLY = ModelShape("even", params=1.0, active_params=1.0, layers=30_000, hidden=1, kv_bytes=1e-6)
PACE = ModelTiming(Gpu("flat", bandwidth_gb_s=1000.0, bf16_tflops=100.0), OVERHEAD_ONLY)
STEP_S, _ = PACE.step(1, 0.0)
#: Long, so that rounding to whole tokens and waiting for the end of a step are little beside it.
MEAN_TOKENS = 500


def erlang_wait(servers: int, rho: float) -> float:
    """Mean wait in queue of M/M/k, in mean service times."""
    offered = servers * rho
    last = offered**servers / factorial(servers) / (1 - rho)
    waits = last / (sum(offered**n / factorial(n) for n in range(servers)) + last)
    return waits / (servers * (1 - rho))


def exponentials(dice: random.Random, mean: float, count: int) -> list[float]:
    values = [-mean * math.log(1 - (i + 0.5) / count) for i in range(count)]
    dice.shuffle(values)
    return values


def jobs_of(servers: int, rho: float, jobs: int, seed: int) -> list[tuple[float, Work]]:
    dice = random.Random(seed)
    gaps = exponentials(dice, MEAN_TOKENS * STEP_S / (servers * rho), jobs)
    lengths = exponentials(dice, MEAN_TOKENS, jobs)
    now, works = 0.0, []
    for job in range(jobs):
        now += gaps[job]
        works.append((now, Work(job, "m", 1, max(1, round(lengths[job])))))
    return works


def service_s(work: Work) -> float:
    return work.output_tokens * STEP_S


def waits(works: list[tuple[float, Work]], servers: int) -> list[float]:
    """Seconds that each job waited in the queue."""
    loop = Loop(engine(PACE, slots=servers)).run(works)
    return [loop.done[work.job] - at - service_s(work) for at, work in works]


def recursion(works: list[tuple[float, Work]], servers: int) -> list[float]:
    """The same by the recursion of Kiefer and Wolfowitz: each job takes the server that is free first."""
    free = [0.0] * servers
    result = []
    for at, work in works:
        begin = max(at, heappop(free))
        heappush(free, begin + service_s(work))
        result.append(begin - at)
    return result


def test_the_step_is_the_same_whatever_the_batch() -> None:
    assert PACE.step(32, 1e6)[0] == pytest.approx(STEP_S, rel=3e-4)


@pytest.mark.slow
@pytest.mark.parametrize("servers", [1, 2, 4, 16])
@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9])
def test_every_job_waits_as_long_as_the_recursion_says(servers: int, rho: float) -> None:
    works = jobs_of(servers, rho, 5_000, seed=3)
    for waited, expected in zip(waits(works, servers), recursion(works, servers), strict=True):
        # What a job waits for the end of a step, or for the prompts of others, adds up while a queue stands.
        assert waited == pytest.approx(expected, rel=0.03, abs=8 * STEP_S)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("servers", "rho", "jobs"),
    [(1, 0.3, 60_000), (1, 0.6, 120_000), (1, 0.9, 300_000), (2, 0.3, 100_000), (4, 0.6, 250_000), (4, 0.9, 250_000)],
)
def test_jobs_wait_as_long_as_erlang_says(servers: int, rho: float, jobs: int) -> None:
    works = jobs_of(servers, rho, jobs, seed=1)
    assert fmean(waits(works, servers)) / (MEAN_TOKENS * STEP_S) == pytest.approx(erlang_wait(servers, rho), rel=0.03)
