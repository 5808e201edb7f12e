"""A workload without a network, and the jobs that it makes."""

from __future__ import annotations

from typing import Any

from simulations.scenario import Model, Models, Scenario, Workload
from simulations.workload.workload import Arrival, arrivals

THREE = (Model(name="a-8b"), Model(name="b-8b"), Model(name="c-8b", context=2048))


def scenario(kind: str, duration_s: float = 100.0, models: Models | None = None, **workload: Any) -> Scenario:
    """A scenario with this kind of workload; three models unless told otherwise."""
    return Scenario(
        name="x",
        duration_s=duration_s,
        models=models or Models(catalogue=THREE),
        workload=Workload(kind=kind, **workload),  # type: ignore[arg-type]
    )


def jobs(given: Scenario, rate_per_s: float, seed: int = 1) -> list[Arrival]:
    """All jobs of it."""
    return list(arrivals(given, seed, rate_per_s))
