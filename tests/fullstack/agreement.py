"""Whether the layers agree: the simulator's heap, the whole stack in virtual time, real processes; one run on each.

What is held against what, and why:

* heap against virtual, processors free on both: what is left is the machines, the network and the engine.
* heap with the measured processor costs against real processes: those pay for every message, and so does the heap then.
* virtual against real: the difference is what the processors of the machine cost, and how many wait for them.

Bytes are those of the links' frames, as a daemon counts them; what Noise, yamux and TCP put around them is in no layer.
Figures of several seeds are averaged, quantile by quantile; behind each stands its standard error,
and a verdict that two of them could turn has a question mark.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import hypot, sqrt
from statistics import mean, stdev
from typing import Any, Final

from tests.fullstack.figures import Run

#: How far a figure may be from that of another layer, as a share of the larger one.
BOUNDS: Final = {
    "gossip_t50_s": 0.15,
    "gossip_t99_s": 0.15,
    "gossip_bytes_per_node_s": 0.15,
    "link_bytes_per_node_s": 0.15,
    "ttft_s p50": 0.10,
    "ttft_s p90": 0.10,
    "ttft_s p99": 0.10,
}
#: Figures that are shown beside them and not judged.
SHOWN: Final = ("gossip_delay_s p90", "load_age_s p50", "load_age_s p90", "e2e_s p50", "e2e_s p99", "links_per_node")
LAYERS: Final = ("heap", "costs", "virtual", "real")
#: What ``--layer all`` runs unless it is told otherwise.  Changes as often as the budget of gossip allows (twice as
#: often, t99 grows by a third).  And jobs of which one in seven meets another at its worker and hardly any meets two:
#: where it is one in ten, or one in a hundred meets two, a quantile that is judged stands on a cliff.
ALL: Final = Run(warm_s=20.0, time_s=100.0, change_s=1.0, jobs_per_s=2.5)
#: And how often.  The neighbours that a network happens to have move its mean t50 by a tenth, however long it is looked
#: at, and its changes by another tenth: that of twelve networks is known to 5 %, that of eight to 7 %.
SEEDS: Final = {"heap": 12, "costs": 12, "virtual": 8, "real": 8}
#: Processors that others may keep busy beside real processes (with one and a half, p99 of the TTFT doubled).
QUIET: Final = 0.2
#: Which layer is held against which.
PAIRS: Final = (("heap", "virtual"), ("costs", "real"), ("virtual", "real"))

Found = dict[str, Any]


def measure(layer: str, run: Run, seeds: Iterable[int]) -> Found:
    """The figures of one layer, averaged over the seeds."""
    began = time.monotonic()
    if layer in ("heap", "costs"):
        from tests.fullstack.heap import measure as one

        run = replace(run, costs=layer == "costs")
    elif layer == "virtual":
        from tests.fullstack.bench import measure as one
    else:
        from tests.fullstack.real import measure as one
    found = []
    for seed in seeds:
        found.append(one(replace(run, seed=seed)))
        print(f"{layer}, seed {seed}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return averaged(found)


def averaged(found: Sequence[Found]) -> Found:
    """Number by number; what is no number, or is missing somewhere, is that of the first."""
    whole = {name: _mean([each.get(name) for each in found]) for name in found[0]}
    if "errors" in whole:
        whole["errors"] = {name: _error(name, found) for name in BOUNDS}
    return whole


def _error(name: str, found: Sequence[Found]) -> float | None:
    """The standard error of a mean over runs: from what the runs say of themselves, or from how they differ if that is
    more (another run has other neighbours, and other ticks)."""
    values = [value for each in found if (value := figure(each, name)) is not None]
    within = [error for each in found if (error := each["errors"].get(name)) is not None]
    errors = [sqrt(sum(error**2 for error in within)) / len(within)] if within else []
    errors += [stdev(values) / sqrt(len(values))] if len(values) > 1 else []
    return max(errors, default=None)


def _mean(values: list[Any]) -> Any:
    if all(isinstance(value, dict) for value in values):
        return averaged(values)
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return values[0] if values[0] is None or isinstance(values[0], str) else None
    return mean(values) if len(values) > 1 else values[0]


def figure(found: Found, name: str) -> float | None:
    """One figure; ``ttft_s p50`` is a quantile of it."""
    word, _, quantile = name.partition(" ")
    value = found.get(word)
    if quantile:
        value = value.get(quantile) if isinstance(value, dict) else None
    return value if isinstance(value, int | float) else None


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of two layers with their standard errors; ``bound`` is None where nothing is judged."""

    name: str
    one: float
    other: float
    bound: float | None
    errors: tuple[float | None, float | None] = (None, None)

    @property
    def apart(self) -> float:
        """How far they are from each other, as a share of the larger one."""
        largest = max(abs(self.one), abs(self.other))
        return abs(self.one - self.other) / largest if largest else 0.0

    @property
    def holds(self) -> bool:
        return self.bound is None or self.apart <= self.bound

    @property
    def sure(self) -> bool:
        """Whether another measurement would most likely say the same: the bound is two standard errors away."""
        shares = [
            error / value for value, error in zip((self.one, self.other), self.errors, strict=True) if error and value
        ]
        return self.bound is None or abs(self.apart - self.bound) >= 2 * hypot(*shares)

    def __str__(self) -> str:
        ratio = f"{self.one / self.other:8.3f}" if self.other else "        "
        judged = (
            ""
            if self.bound is None
            else f"within {self.bound:.0%} {'✓' if self.holds else '✗'}{'' if self.sure else '?'}"
        )
        one, other = _sure(self.one, self.errors[0]), _sure(self.other, self.errors[1])
        return f"{self.name:<26} {self.one:>10.4g} {one} {self.other:>10.4g} {other} {ratio}  {judged}".rstrip()


def _sure(value: float, error: float | None) -> str:
    return f"±{error / value:<5.1%}" if error is not None and value else " " * 6


def compared(one: Found, other: Found) -> list[Line]:
    """Every figure that both layers have."""
    lines = []
    for name in (*BOUNDS, *SHOWN):
        a, b = figure(one, name), figure(other, name)
        if a is not None and b is not None:
            errors = one.get("errors", {}).get(name), other.get("errors", {}).get(name)
            lines.append(Line(name, a, b, BOUNDS.get(name), errors))
    return lines


def tables(found: dict[str, Found], say: Callable[[str], object] = print) -> bool:
    """Say how the layers compare; whether everything that is judged holds."""
    holds = True
    for one, other in PAIRS:
        if one in found and other in found:
            say(f"\n{'':<26} {one:>10} {'':6} {other:>10} {'':6} {'ratio':>8}")
            for line in compared(found[one], found[other]):
                say(str(line))
                holds = holds and line.holds
    busy = figure(found.get("real", {}), "busy_with_others") or 0.0
    if busy > QUIET:
        say(f"\nOthers kept {busy:.2f} processors of this machine busy: the real times are in part theirs.")
    return holds
