"""A random mix of faults with random parameters, drawn from the seed; it finds cases that the scenarios miss.

Swarm testing: each run has only some of the kinds, and has those often, so that one kind does not hide the others.  A
fault is drawn in the form of a scenario, so a chaotic run can be repeated with its faults written out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

from simulations.faults.faults import KINDS, LOSS
from simulations.rng_streams import rng_stream
from simulations.scenario import Fault, Scenario

#: Kinds in one run, and seconds between two faults on average (guesses).
LEAST_KINDS: Final = 2
MOST_KINDS: Final = 6
EVERY_S: Final = 25.0
#: Bounds of the draws (guesses): seconds a fault lasts, and share of the nodes it hits.
LEAST_S: Final = 1.0
MOST_S: Final = 90.0
MOST_SHARE: Final = 0.5
#: Least and largest ``amount`` by kind; a kind without bounds ignores it.
AMOUNTS: Final[dict[str, tuple[float, float]]] = {
    "bandwidth_cap": (0.2, 5.0),
    "clock_jump": (-7200.0, 7200.0),
    "drop": (0.01, 0.3),
    "hold": (0.5, 12.0),
    "latency_spike": (0.05, 3.0),
    "loss": (0.01, 0.3),
    "slow_cpu": (2.0, 200.0),
    "throttle": (0.05, 0.9),
}
#: Sides that a partition may have.
_SIDES: Final = ((0.5, 0.5), (0.8, 0.2), (0.95, 0.05), (0.34, 0.33, 0.33), (0.25, 0.25, 0.25, 0.25))


def drawn(scenario: Scenario, seed: int) -> tuple[Fault, ...]:
    """The faults of a chaotic run, in the order of their times; none in the quiet phase, and none lasts into it."""
    rng = rng_stream(seed, "chaos")
    kinds = rng.sample(list(KINDS), rng.randint(LEAST_KINDS, MOST_KINDS))
    start, end = scenario.topology.join_s, scenario.duration_s - scenario.quiet_s
    faults: list[Fault] = []
    at = start + rng.expovariate(1 / EVERY_S)
    while at < end:
        fault = _fault(rng, rng.choice(kinds), at, end)
        if not any(drowned(scenario, (*scenario.faults, *faults, fault))):
            faults.append(fault)
        at += rng.expovariate(1 / EVERY_S)
    return tuple(faults)


def drowned(scenario: Scenario, faults: Sequence[Fault]) -> Iterator[tuple[int, float]]:
    """The faults at whose begin all segments are lost, so that nothing would ever arrive; and how much that makes."""
    lossy = [fault for fault in faults if fault.kind == "loss"]
    for index, fault in enumerate(faults):
        if fault.kind == "loss":
            at = fault.at_s
            loss = sum(one.amount or LOSS for one in lossy if one.at_s <= at <= one.at_s + one.for_s)
            if scenario.topology.loss + loss >= 1:
                yield index, scenario.topology.loss + loss


def _fault(rng: Random, kind: str, at: float, end: float) -> Fault:
    for_s = min(LEAST_S * (MOST_S / LEAST_S) ** rng.random(), end - at)
    share = MOST_SHARE ** (1 + 4 * rng.random())
    least, most = AMOUNTS.get(kind, (0.0, 0.0))
    amount = rng.uniform(least, most)
    groups, one_way = rng.choice(_SIDES), rng.random() < 0.3
    if kind == "partition":
        amount = float(rng.random() < 0.2)  # a bridge
    return Fault(kind=kind, at_s=at, for_s=for_s, share=share, groups=groups, one_way=one_way, amount=amount)
