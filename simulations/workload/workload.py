"""The jobs of a scenario in order of time, made lazily; selects the source of the jobs.

``none`` is silence; ``poisson``, ``bursty``, ``diurnal`` and ``flash`` are times (``arrival_process``) with log-normal
lengths; ``sessions`` are conversations; ``trace`` replays one of ``data/traces`` or a file.
"""

from __future__ import annotations

from collections.abc import Iterator

from simulations.rng_streams import numpy_rng_stream
from simulations.scenario import Scenario
from simulations.workload.arrival_process import times
from simulations.workload.arrivals import Arrival, Callers, Wanted, drawn
from simulations.workload.conversations import sessions
from simulations.workload.traces import replay

__all__ = ["Arrival", "arrivals"]


def arrivals(scenario: Scenario, seed: int, rate_per_s: float) -> Iterator[Arrival]:
    """The jobs before ``duration_s``, ``rate_per_s`` of them on average.

    ``diurnal`` and ``flash`` swing around it and leap from it.  At 0 a trace goes at its own rate, and nothing else
    comes at all.  Raises ``BadTrace``.
    """
    workload = scenario.workload
    if workload.kind == "none":
        return iter(())
    if workload.kind == "sessions":
        return sessions(scenario, seed, rate_per_s)
    if workload.kind == "trace":
        return replay(scenario, seed, rate_per_s)
    return _independent(scenario, seed, rate_per_s)


def _independent(scenario: Scenario, seed: int, rate_per_s: float) -> Iterator[Arrival]:
    callers = Callers(scenario, seed)
    prompts, answers = numpy_rng_stream(seed, "arrivals prompts"), numpy_rng_stream(seed, "arrivals answers")
    for at in times(scenario.workload, seed, rate_per_s, scenario.duration_s):
        prompt = drawn(scenario.workload.prompt, prompts, len(at))
        output = drawn(scenario.workload.output, answers, len(at))
        yield from callers.ask(Wanted(at, prompt, output))
