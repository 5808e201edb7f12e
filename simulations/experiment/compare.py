"""Compares two results, or results with a saved baseline.

A *baseline* is the short form of results that is kept under version control.  It holds the goals, the tolerances, and
the medians over the seeds of the metrics that goals or tolerances name.  Two things count: a goal that passed and fails
now, and a metric that moved by more than its tolerance in either direction.  A goal that already failed is shown and
does not count.

Not here: judging goals (``goals``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from simulations.experiment import results
from simulations.experiment.goals import figure_of
from simulations.experiment.loading import label
from simulations.experiment.overrides import ScenarioError

#: How far a metric may be from where it was, as a share of that (guesses: what is left to chance by a change that is
#: not about it, and by another processor, whose last digit of a logarithm sends one job elsewhere and others after it).
#: Without a tolerance a metric is shown and does not count.
TOLERANCES: Final = {
    "success_rate": 0.02,
    "coverage_t50_s": 0.3,
    "coverage_t99_s": 0.4,
    "dht_found_share": 0.01,
    "gossip_bytes_per_s.mean": 0.15,
    "bytes_up_per_s.mean": 0.2,
    "ttft_s.p50": 0.25,
    "ttft_s.p99": 0.6,
    "goodput_per_s": 0.1,
    "attempts_per_job": 0.1,
}
#: A value this small counts as nothing when shares are taken.
NOTHING: Final = 1e-9

#: The states of a goal: ``broken`` and ``gone`` count, the others are only shown.
Change = Literal["ok", "broken", "known", "mended", "new", "gone"]


@dataclass(frozen=True, slots=True)
class GoalChange:
    """One goal at one point, then and now; None where it was not."""

    key: str
    point: str
    bound: str
    before: dict[str, Any] | None
    now: dict[str, Any] | None

    @property
    def change(self) -> Change:
        """The state of the goal."""
        if self.now is None:
            return "gone"
        if self.before is None:
            return "new" if self.now["passed"] else "broken"
        changes: dict[tuple[bool, bool], Change] = {
            (True, True): "ok",
            (True, False): "broken",
            (False, False): "known",
            (False, True): "mended",
        }
        return changes[bool(self.before["passed"]), bool(self.now["passed"])]


@dataclass(frozen=True, slots=True)
class Drift:
    """One metric at one point, then and now: the medians over the seeds."""

    metric: str
    point: str
    before: float | None
    now: float | None
    tolerance: float | None

    @property
    def share(self) -> float | None:
        """The change as a share of the old value; infinite from nothing to something, and to or from infinity."""
        if self.before is None or self.now is None:
            return None
        if math.isinf(self.before) or math.isinf(self.now):
            return 0.0 if self.before == self.now else self.now - self.before
        if abs(self.before) <= NOTHING:
            return 0.0 if abs(self.now) <= NOTHING else float("inf")
        return (self.now - self.before) / abs(self.before)

    @property
    def outside(self) -> bool:
        """Whether it counts: by more than its tolerance, or it is gone."""
        if self.tolerance is None or self.before is None:
            return False
        share = self.share
        return share is None or abs(share) > self.tolerance


@dataclass(slots=True)
class Comparison:
    """Everything that two results have to say about each other."""

    before: str
    now: str
    goals: list[GoalChange] = field(default_factory=list)
    drifts: list[Drift] = field(default_factory=list)
    #: Warnings that a reader needs before the rest.
    notes: list[str] = field(default_factory=list)

    @property
    def broken(self) -> list[GoalChange]:
        """Goals that count."""
        return [goal for goal in self.goals if goal.change in ("broken", "gone")]

    @property
    def outside(self) -> list[Drift]:
        """Metrics that count."""
        return [drift for drift in self.drifts if drift.outside]

    @property
    def ok(self) -> bool:
        """Nothing counts."""
        return not self.broken and not self.outside


def compared(before: Mapping[str, Any], now: Mapping[str, Any], tolerances: Mapping[str, float]) -> Comparison:
    """Two baselines (``baseline_of``) against each other."""
    comparison = Comparison(before["name"], now["name"])
    comparison.notes += list(_notes(before, now))
    olds, news = _goals(before), _goals(now)
    for goal_key in dict.fromkeys((*olds, *news)):
        old, new = olds.get(goal_key), news.get(goal_key)
        either: dict[str, Any] = new or old or {}
        comparison.goals.append(GoalChange(either["key"], label(either["point"]), either["bound"], old, new))
    old_points, new_points = _points(before), _points(now)
    for point_key in dict.fromkeys((*old_points, *new_points)):
        old_at, new_at = old_points.get(point_key), new_points.get(point_key)
        if old_at is None or new_at is None:
            where = "before" if new_at is None else "now"
            comparison.notes.append(f"only {where}: {label((old_at or new_at or {})['point']) or 'the only point'}")
            continue
        metrics = dict.fromkeys((*old_at["metrics"], *new_at["metrics"]))
        for metric in metrics:
            before_now = _median(old_at["metrics"], metric), _median(new_at["metrics"], metric)
            comparison.drifts.append(Drift(metric, label(new_at["point"]), *before_now, tolerances.get(metric)))
    return comparison


def _notes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if before["name"] != now["name"]:
        yield f"different scenarios: {before['name']} and {now['name']}"
    elif before["scenario_hash"] != now["scenario_hash"]:
        yield "the scenario has changed in between"
    for which, figures in (("the first", before), ("the second", now)):
        if figures.get("partial"):
            yield f"{which} was stopped before its end"


def _goals(figures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {_key([goal["key"], goal["point"]]): goal for goal in figures["goals"]}


def _points(figures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {_key(at["point"]): at for at in figures["points"]}


def _median(metrics: Mapping[str, Any], name: str) -> float | None:
    """None if it was not measured.  Baselines of before 0.1 hold null where results now hold ``inf``."""
    return math.inf if name in metrics and metrics[name] is None else figure_of(metrics.get(name))


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


#: A number as results hold it; null: not measured, and in older baselines infinite.
_Figure = float | Literal["inf"] | None


class _Goal(msgspec.Struct):
    key: str
    bound: str
    point: dict[str, Any]
    value: _Figure
    passed: bool


class _At(msgspec.Struct):
    point: dict[str, Any]
    metrics: dict[str, _Figure]


class _Baseline(msgspec.Struct):
    """The form of a baseline, for checking."""

    name: str
    scenario_hash: str
    goals: list[_Goal]
    points: list[_At]
    tolerance: dict[str, float]


# --- baselines -------------------------------------------------------------------------------------------------------


def baseline_of(document: Mapping[str, Any], tolerances: Mapping[str, float] | None = None) -> dict[str, Any]:
    """The short form of results; without ``tolerances`` all metrics are in it."""
    goals = [
        {name: goal[name] for name in ("key", "goal", "bound", "point", "value", "passed")}
        for goal in document["goals"]
    ]
    wanted = None if tolerances is None else {*tolerances, *(goal["goal"] for goal in goals)}
    points = [
        {
            "point": at["point"],
            "metrics": {
                name: spread["median"] for name, spread in at["metrics"].items() if wanted is None or name in wanted
            },
        }
        for at in document["summary"]
    ]
    return {
        "schema": results.SCHEMA,
        "name": document["name"],
        "scenario_hash": document["scenario_hash"],
        "partial": document["partial"],
        "goals": goals,
        "points": points,
        "tolerance": dict(tolerances or {}),
    }


def read_figures(path: Path) -> dict[str, Any]:
    """A baseline, or the short form of results, by file or folder."""
    document = results.read(path)
    return _whole(document, path) if "points" in document else baseline_of(document)


def read_baseline(folder: Path, name: str) -> dict[str, Any] | None:
    """The baseline of a scenario; None if there is none."""
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    return _whole(results.read(path), path)


def _whole(figures: dict[str, Any], path: Path) -> dict[str, Any]:
    """The figures as they are; ``ScenarioError`` if they are no baseline."""
    try:
        msgspec.convert(figures, _Baseline)
    except msgspec.ValidationError as error:
        raise ScenarioError(f"{path} is no baseline ({error}): --update-baseline writes one") from None
    return figures


def write_baseline(folder: Path, document: Mapping[str, Any]) -> Path:
    """Write results down as the baseline, with the tolerances of the one before or the usual ones."""
    before = read_baseline(folder, document["name"])
    tolerances = TOLERANCES if before is None else before["tolerance"]
    measured = {name for at in document["summary"] for name in at["metrics"]}
    figures = baseline_of(document, {name: share for name, share in tolerances.items() if name in measured or before})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{document['name']}.json"
    path.write_text(json.dumps(figures, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
