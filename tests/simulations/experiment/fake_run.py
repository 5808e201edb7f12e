"""A run without a network, for tests of what is around it: it does what the scenario's ``about`` says."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

from simulations.run import RunProgress
from simulations.scenario import Scenario


@dataclass
class Came:
    digest: str
    events: int
    virtual_s: float
    partial: bool
    breach: dict[str, Any] | None
    metrics: dict[str, Any]
    curves: dict[str, Any] = field(default_factory=dict)
    series: dict[str, Any] = field(default_factory=dict)
    heat: dict[str, Any] = field(default_factory=dict)
    end_s: float = 0.0
    end_cpu_s: float = 0.0


def run(scenario: Scenario, seed: int, progress: RunProgress | None, until: float | None) -> Came:
    if scenario.about == "crash" and seed == 2:
        raise ZeroDivisionError("nothing to share")
    if scenario.about == "die" and seed == 2:
        os._exit(7)
    end = scenario.duration_s if until is None else min(until, scenario.duration_s)
    now = _slowly(end, progress) if scenario.about == "slow" and progress else end
    breach = None
    if scenario.about == "breach" and seed == 2:
        breach = {"invariant": "I2", "at_s": 7.25, "what": "job 3 was answered twice"}
    policy = scenario.routing.policy
    p50 = {"omniscient": 0.1, "random": 0.4}.get(policy, 0.2)
    ttft = {
        "n": 100,
        "mean": p50,
        "p50": p50,
        "p90": 2 * p50,
        "p95": 2.5 * p50,
        "p99": 3 * p50 + seed / 1000,
        "max": 1.0,
    }
    metrics = {"success_rate": 1 - seed / 1000, "ttft_s": ttft, "goodput_per_s": 1 / p50, "jobs_submitted": 100}
    came = Came(f"{seed:016x}", 10 * scenario.topology.nodes, now, now < scenario.duration_s, breach, metrics)
    came.end_s, came.end_cpu_s = now, time.process_time()
    if scenario.about == "rest":
        while time.process_time() < came.end_cpu_s + 0.05:
            pass
    return came


def _slowly(end: float, progress: RunProgress) -> float:
    while progress.virtual_s < end and not progress.stop:
        time.sleep(0.01)
        progress.virtual_s += 1.0
    return progress.virtual_s
