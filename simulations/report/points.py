"""Results in a form for pictures and tables: points of the sweep, lines over a swept key, spreads over the seeds.

It reads the content of ``results.json`` and never changes it.  A missing value is ``None`` and no error, because an
interrupted run has to be readable too.  Not here: drawing (``svg_theme``), the choice of pictures (``plot_catalog``,
``curves``, ``timelines``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeGuard, TypeVar

from simulations.measure.confidence import half_interval

Item = TypeVar("Item")

POLICY: Final = "routing.policy"
#: Quantiles that a distribution is told in.
PICKS: Final = ("n", "mean", "p50", "p90", "p95", "p99", "max")

#: The titles of swept keys on an axis or in a legend.
KEY_TITLES: Final = {
    "topology.nodes": "nodes",
    "topology.loss": "loss",
    "topology.drop": "vanishing messages",
    "workload.utilisation": "offered load",
    "workload.rate_per_s": "offered jobs per s",
    "churn.mean_session_s": "mean session, s",
    "churn.crash_share": "share of crashes",
    "node.gossip.load_period_s": "load period, s",
    "node.gossip.tick_s": "gossip tick, s",
    "node.gossip.budget_bytes_s": "gossip budget, B/s",
    "models.zipf": "Zipf exponent",
    POLICY: "policy",
}


@dataclass(frozen=True, slots=True)
class Spread:
    """One metric at one point: its mean over the seeds, the extremes, and half the width of the 95 % interval."""

    mean: float
    low: float
    high: float
    ci: float
    n: int


@dataclass(frozen=True, slots=True)
class Point:
    """One combination of the swept values, with its runs: one per seed."""

    values: dict[str, Any]
    runs: tuple[dict[str, Any], ...]

    def spread(self, metric: str) -> Spread | None:
        """Over the seeds; ``metric`` as in ``read``."""
        return spread([value for run in self.runs if (value := read(run.get("metrics") or {}, metric)) is not None])


@dataclass(frozen=True, slots=True)
class Line:
    """A metric over one swept key while the other keys stand still."""

    values: dict[str, Any]
    xs: tuple[float, ...]
    ys: tuple[Spread, ...]


def is_number(value: object) -> TypeGuard[float]:
    """A finite number that is no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read(metrics: dict[str, Any], metric: str) -> float | None:
    """``success_rate``, or a quantile of a distribution: ``ttft_s.p99``, also written ``ttft_s_p99``."""
    value = metrics.get(metric)
    if value is None:
        for joint in (".", "_"):
            name, _, pick = metric.rpartition(joint)
            if pick in PICKS and isinstance(metrics.get(name), dict):
                value = metrics[name].get(pick)
                break
    if isinstance(value, dict):
        value = value.get("mean")
    return math.inf if value == "inf" else float(value) if is_number(value) else None


def spread(values: Sequence[float]) -> Spread | None:
    """Of some seeds; one seed has no interval, none has no spread; a mean with something infinite is infinite."""
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    return Spread(mean, min(values), max(values), half_interval(values) or 0.0, len(values))


def short(value: object) -> str:
    """A value as people write it: 1000 stays, 0.30000000000000004 does not."""
    if is_number(value):
        number = float(value)
        return str(int(number)) if number == int(number) and abs(number) < 1e15 else f"{number:.4g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def key_title(key: str) -> str:
    """``churn.stable`` is "stable", ``attacks.0.share`` is "share of bad peers"."""
    if key.startswith("attack") and key.endswith(".share"):
        return "share of bad peers"
    if key.startswith("attack") and key.endswith(".kind"):
        return "attack"
    if key in KEY_TITLES:
        return KEY_TITLES[key]
    last = key.rsplit(".", 1)[-1]
    for ending, unit in (("_bytes_s", " (B/s)"), ("_per_s", " per s"), ("_ms", ", ms"), ("_s", ", s")):
        if last.endswith(ending):
            return last.removesuffix(ending).replace("_", " ") + unit
    return last.replace("_", " ")


def label(values: dict[str, Any], keys: Sequence[str]) -> str:
    """The point in words: names stand alone, numbers with their unit."""
    words = []
    for key in keys:
        title, value = key_title(key), short(values.get(key))
        named = isinstance(values.get(key), str)
        words.append(value if named else f"{value} nodes" if title == "nodes" else f"{title} {value}")
    return " · ".join(words)


def thinned(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many, evenly taken, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


class Results:
    """The content of one ``results.json``, by points of its sweep."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content
        self.scenario: dict[str, Any] = content.get("scenario") or {}
        self.runs: list[dict[str, Any]] = list(content.get("runs") or [])
        self.goals: list[dict[str, Any]] = list(content.get("goals") or [])
        together: dict[tuple[tuple[str, str], ...], list[dict[str, Any]]] = {}
        for run in self.runs:
            name = tuple((key, repr(value)) for key, value in (run.get("point") or {}).items())
            together.setdefault(name, []).append(run)
        self.points = [Point(dict(runs[0].get("point") or {}), tuple(runs)) for runs in together.values()]
        keys = {key: None for point in self.points for key in point.values}
        #: The keys that really vary, in the order of the sweep.
        self.keys = list(keys)
        self.keys = self.varying(self.points)

    def values_of(self, key: str, points: Sequence[Point] | None = None) -> list[Any]:
        """The values a key takes: numbers in order, anything else as they came."""
        found = (point.values[key] for point in (self.points if points is None else points) if key in point.values)
        values = list({repr(value): value for value in found}.values())
        return sorted(values) if all(is_number(value) for value in values) else values

    def varying(self, points: Sequence[Point]) -> list[str]:
        """The swept keys that have several values at these points."""
        return [key for key in self.keys if len(self.values_of(key, points)) > 1]

    def numeric(self, key: str) -> bool:
        """Whether a key can be an axis: it varies, and every value is a number."""
        return key in self.keys and all(is_number(value) for value in self.values_of(key))

    def where(self, *needed: str) -> list[Point]:
        """The points with a run that has all of these: ``curves.ttft_cdf`` is ``run["curves"]["ttft_cdf"]``."""
        return [point for point in self.points if all(any(dig(run, path) for run in point.runs) for path in needed)]

    def split(self, points: Sequence[Point], keys: Sequence[str]) -> Iterator[tuple[dict[str, Any], list[Point]]]:
        """The points by the values that some keys take."""
        parts: dict[tuple[str, ...], list[Point]] = {}
        order = {key: {repr(v): i for i, v in enumerate(self.values_of(key))} for key in keys}
        for point in points:
            parts.setdefault(tuple(repr(point.values.get(key)) for key in keys), []).append(point)
        for name in sorted(parts, key=lambda name: [order[k].get(v, -1) for k, v in zip(keys, name, strict=True)]):
            part = parts[name]
            yield {key: part[0].values.get(key) for key in keys}, part

    def lines(self, points: Sequence[Point], x: str, metric: str) -> list[Line]:
        """The metric over ``x``, one line for every combination of the other swept keys."""
        others = [key for key in self.keys if key != x]
        found = []
        for values, part in self.split(points, others):
            dots = sorted(
                ((float(point.values[x]), y) for point in part if x in point.values and (y := point.spread(metric))),
                key=lambda dot: dot[0],
            )
            if dots:
                xs, ys = zip(*dots, strict=True)
                found.append(Line(values, xs, ys))
        return found

    def panels(
        self, points: Sequence[Point], keys: Sequence[str], most_lines: int
    ) -> list[tuple[dict[str, Any], list[Point]]]:
        """The points in so many groups that none needs more lines than can be told apart.

        Policies stay together longest: they are what a reader compares.
        """
        inside, outside = list(keys), list[str]()
        for key in [key for key in keys if key != POLICY] + [POLICY]:
            if key not in inside or len(list(self.split(points, inside))) <= most_lines or len(inside) == 1:
                break
            inside.remove(key)
            outside.append(key)
        return list(self.split(points, outside))

    def bounds(self, metric: str) -> list[float]:
        """The numbers in the goals on this metric."""
        bounds = " ".join(str(goal.get("bound", "")) for goal in self.goals if metric_of(goal) == metric)
        return sorted({float(number) for number in re.findall(r"-?\d[\d_]*(?:\.\d+)?(?:[eE][-+]?\d+)?", bounds)})


def metric_of(goal: dict[str, Any]) -> str:
    """The metric that a goal is about: its key may have the points in front."""
    return str(goal.get("metric") or str(goal.get("goal", "")).rpartition(":")[2].strip())


def dig(content: dict[str, Any], path: str) -> Any:
    """The value under a dotted path, or ``None``."""
    here: Any = content
    for name in path.split("."):
        here = here.get(name) if isinstance(here, dict) else None
    return here
