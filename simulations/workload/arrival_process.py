"""Arrival times of independent jobs: Poisson, bursts, the course of a day, a flash crowd.

Theory of operation
===================

Bursts are a stationary renewal process with gamma gaps.  A gap that contains a random moment is longer than average:
for gamma gaps of shape ``k`` it has shape ``k + 1``.  The first gap is such a gap times a uniform draw.  Otherwise a
cv of 10 would start every run with fifty jobs at once.  Changing rates use thinning: jobs arrive as a Poisson process
at the highest rate, and each is kept with probability current rate / highest rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np

from simulations.rng_streams import numpy_rng_stream
from simulations.scenario import Workload
from simulations.workload.arrivals import BLOCK, Floats


def times(workload: Workload, seed: int, rate_per_s: float, until_s: float) -> Iterator[Floats]:
    """Blocks of times in order, all before ``until_s``."""
    if rate_per_s <= 0:
        return iter(())
    generator = numpy_rng_stream(seed, "arrivals times")
    if workload.kind == "bursty":
        return _until(gamma_gaps(generator, workload.cv, BLOCK), 1 / rate_per_s, until_s)
    if workload.kind == "diurnal":
        peak = rate_per_s * (1 + workload.swing)
        thin = numpy_rng_stream(seed, "arrivals thinning")
        return _kept(_until(_exponential(generator), 1 / peak, until_s), thin, lambda at: _day(workload, at))
    if workload.kind == "flash":
        peak = rate_per_s * max(1.0, workload.flash_factor)
        thin = numpy_rng_stream(seed, "arrivals thinning")
        return _kept(_until(_exponential(generator), 1 / peak, until_s), thin, lambda at: _flash(workload, at))
    return _until(_exponential(generator), 1 / rate_per_s, until_s)


def gamma_gaps(generator: np.random.Generator, cv: float, block: int) -> Iterator[Floats]:
    """Blocks of gaps with mean 1 and this coefficient of variation; the first is the rest of one."""
    shape = cv**-2
    first = generator.gamma(shape + 1, 1 / shape) * generator.random()
    rest = (generator.gamma(shape, 1 / shape, block) for _ in iter(int, 1))
    return chain((np.array([first]),), rest)


def _exponential(generator: np.random.Generator) -> Iterator[Floats]:
    while True:
        yield generator.standard_exponential(BLOCK)


def _until(gaps: Iterator[Floats], mean_s: float, until_s: float) -> Iterator[Floats]:
    """Times from gaps."""
    now = 0.0
    for block in gaps:
        at = now + np.cumsum(block) * mean_s
        if at[-1] >= until_s:
            yield at[: np.searchsorted(at, until_s)]
            return
        yield at
        now = float(at[-1])


def _kept(
    blocks: Iterator[Floats], generator: np.random.Generator, share: Callable[[Floats], Floats]
) -> Iterator[Floats]:
    for at in blocks:
        yield at[generator.random(len(at)) < share(at)]


def _day(workload: Workload, at: Floats) -> Floats:
    swing = 1 + workload.swing * np.sin(2 * np.pi * at / workload.day_s)
    share: Floats = swing / (1 + workload.swing)
    return share


def _flash(workload: Workload, at: Floats) -> Floats:
    inside = (at >= workload.flash_at_s) & (at < workload.flash_at_s + workload.flash_for_s)
    return np.where(inside, workload.flash_factor, 1.0) / max(1.0, workload.flash_factor)
