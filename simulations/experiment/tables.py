"""The tables that the command prints at the end: runs with headline figures, goals with values, comparisons.

Not here: pictures (``report``), progress (``progress``).
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from simulations.experiment.compare import Comparison, Drift, GoalChange
from simulations.experiment.goals import NUMBERS, figure_of, metric_of
from simulations.experiment.loading import label, short_value
from simulations.experiment.results import tidy
from simulations.sim.jobs import STAGES

#: The measured metrics that a table shows of a run; the metrics of its goals come first.
HEADLINES: Final = (
    "jobs_measured",
    "success_rate",
    "ttft_s.p50",
    "ttft_s.p95",
    "ttft_s.p99",
    "goodput_per_s",
    "ttft_p50_ratio",
    "coverage_t99_s",
    "load_age_s.p50",
    "gossip_bytes_per_s.mean",
)
#: Columns of figures at most, and the width drawn for where there is no terminal.
MOST_COLUMNS: Final = 7
PLAIN_WIDTH: Final = 120
#: Passed goals of one kind that are listed one by one; more are one line.
MOST_PASSED: Final = 4
#: Metrics of a comparison that moved, shown at most.
MOST_MOVED: Final = 40
#: A smaller move is none.
LEAST_MOVE: Final = 0.0005


def console(stream: IO[str] | None = None) -> Console:
    """For data (stdout) unless said."""
    stream = stream or sys.stdout
    width = None if stream.isatty() else int(os.environ.get("COLUMNS", PLAIN_WIDTH))
    return Console(file=stream, highlight=False, emoji=False, width=width, no_color="NO_COLOR" in os.environ)


def number(value: float | None) -> str:
    """Four digits, thousands apart; a dash for nothing."""
    if value is None:
        return "-"
    if math.isinf(value):
        return "not reached"
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=bool(index), overflow="fold")
    return table


def runs_table(document: Mapping[str, Any], width: int = PLAIN_WIDTH) -> Table:
    """One line per run, with as many figures as fit."""
    runs = document["runs"]
    keys = list(dict.fromkeys(key for run in runs for key in run["point"]))
    heads = [*_short(keys), "seed"]
    places = [[*(short_value(run["point"].get(key, "")) for key in keys), str(run["seed"])] for run in runs]
    states = [_state(run) for run in runs]
    columns = [[head, *(place[index] for place in places)] for index, head in enumerate(heads)]
    left = width - sum(_width(column) for column in [*columns, states])
    figures: list[tuple[str, list[str]]] = []
    for name, values in _figures(document):
        left -= _width([name, *values])
        if left < 0 or len(figures) == MOST_COLUMNS:
            break
        figures.append((name, values))
    table = _table(*heads, *(name for name, _ in figures), "")
    for index, place in enumerate(places):
        cells = [*map(Text, place), *(Text(values[index]) for _, values in figures), Text(states[index], style="red")]
        table.add_row(*cells)
    return table


def stages_table(document: Mapping[str, Any]) -> Table | None:
    """Mean seconds until the first token, and of each stage of them, one line for each point; None if none has them."""
    names = {"ttft": "ttft_s.mean"} | {stage.replace("_", " "): f"ttft_{stage}_s.mean" for stage in STAGES}
    points = [at for at in document["summary"] if names["choice"] in at["metrics"]]
    means = {head: [figure_of(at["metrics"][name]["mean"]) for at in points] for head, name in names.items()}
    means = {head: values for head, values in means.items() if any(values)}
    if not points:
        return None
    keys = list(dict.fromkeys(key for at in points for key in at["point"]))
    table = _table(*_short(keys), *means)
    for index, at in enumerate(points):
        place = (short_value(at["point"].get(key, "")) for key in keys)
        table.add_row(*map(Text, place), *(Text(number(values[index])) for values in means.values()))
    return table


def _figures(document: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Metrics that were measured, with their text per run; those of goals first."""
    for name in dict.fromkeys((*(goal["goal"] for goal in document["goals"]), *HEADLINES)):
        values = [metric_of(run["metrics"], name) for run in document["runs"]]
        if any(value is not None for value in values):
            yield name, [number(value) for value in values]


def _width(column: Iterable[str]) -> int:
    return max((len(cell) for cell in column), default=0) + 2


def _short(keys: Sequence[str]) -> list[str]:
    """The last words of dotted keys, or the whole keys where those are not enough or name a metric."""
    words = [key.rpartition(".")[2] for key in keys]
    return words if len(set(words)) == len(words) and not set(words).intersection(NUMBERS) else list(keys)


def _state(run: Mapping[str, Any]) -> str:
    if run["error"]:
        return "crashed"
    if run["breach"]:
        return f"broke {run['breach']['invariant']}"
    return f"stopped at {run['virtual_s']:g} s" if run["partial"] else ""


def goal_lines(goals: Sequence[Mapping[str, Any]], changes: Iterable[GoalChange] = ()) -> list[Text]:
    """Every goal that failed; those that passed one by one where they are few.  ``changes``: against a baseline."""
    said = {(change.key, change.point): change.change for change in changes}
    lines = []
    for key in dict.fromkeys(goal["key"] for goal in goals):
        same = [goal for goal in goals if goal["key"] == key]
        passed = [goal for goal in same if goal["passed"]]
        if len(passed) > MOST_PASSED and not any(said.get((key, label(goal["point"]))) == "mended" for goal in passed):
            values = sorted(float(goal["value"]) for goal in passed)
            spread = f"{number(values[0])} … {number(values[-1])}"
            lines.append(Text(f"✓ {key} {same[0]['bound']}: {spread} at {len(passed)} of {len(same)} points", "green"))
            same = [goal for goal in same if not goal["passed"]]
        lines += [_goal_line(goal, said.get((key, label(goal["point"])), "")) for goal in same]
    return lines


def _goal_line(goal: Mapping[str, Any], change: str) -> Text:
    mark = "✓" if goal["passed"] else "known ✗" if change == "known" else "✗"
    where = f" at {label(goal['point'])}" if goal["point"] else ""
    why = f" ({goal['reason']})" if goal["reason"] else ""
    mended = "; now passes: update the baseline" if change == "mended" else ""
    style = "green" if goal["passed"] else "yellow" if change == "known" else "red"
    value = number(figure_of(goal["value"]))
    return Text(f"{mark} {goal['key']} {goal['bound']}: {value}{where}{why}{mended}", style)


def trouble_lines(runs: Iterable[Mapping[str, Any]]) -> list[Text]:
    """Every run that crashed or broke an invariant: point, seed, when, and the command that repeats it."""
    lines = []
    for run in runs:
        where = ", ".join(part for part in (label(run["point"]), f"seed {run['seed']}") if part)
        if run["breach"]:
            breach = run["breach"]
            lines.append(
                Text(f"✗ {breach['invariant']} broken at {breach['at_s']:.6g} s, {where}: {breach['what']}", "red")
            )
            lines.append(Text(f"  repeat: {breach['repeat']}"))
        if run["error"]:
            lines.append(Text(f"✗ crashed, {where}: {run['error']['what']}", "red"))
            lines.append(Text(f"  repeat: {run['error']['repeat']}"))
    return lines


def comparison_table(comparison: Comparison) -> Table:
    """The metrics that moved, the furthest first, those that count before all."""
    moved = [drift for drift in comparison.drifts if drift.outside or _moved(drift)]
    moved.sort(key=lambda drift: (not drift.outside, -abs(drift.share or 0.0)))
    table = _table("metric", "before", "now", "moved", "allowed", "point")
    for drift in moved[:MOST_MOVED]:
        allowed = "" if drift.tolerance is None else f"±{drift.tolerance:.1%}"
        style = "red" if drift.outside else ""
        cells = (drift.metric, number(drift.before), number(drift.now), _share(drift), allowed, drift.point or "-")
        table.add_row(*(Text(cell, style) for cell in cells))
    if len(moved) > MOST_MOVED:
        table.add_row(f"and {len(moved) - MOST_MOVED} more")
    return table


def _moved(drift: Drift) -> bool:
    return (drift.before is None) != (drift.now is None) or abs(drift.share or 0.0) >= LEAST_MOVE


def _share(drift: Drift) -> str:
    if drift.share is None:
        return "gone" if drift.now is None else "new"
    if math.isfinite(drift.share):
        return f"{drift.share:+.1%}"
    return "not reached" if drift.now == math.inf else "was not reached" if drift.share < 0 else "from nothing"


def change_lines(comparison: Comparison) -> list[Text]:
    """The goals whose fate changed, and those that keep failing."""
    words = {
        "broken": ("✗", "red", "passed before"),
        "gone": ("✗", "red", "is judged no more"),
        "known": ("known ✗", "yellow", "failed before"),
        "mended": ("✓", "green", "now passes: update the baseline"),
        "new": ("✓", "green", "new"),
    }
    lines = []
    for goal in comparison.goals:
        if goal.change == "ok":
            continue
        mark, style, text = words[goal.change]
        values = " → ".join(number(figure_of(each["value"])) if each else "-" for each in (goal.before, goal.now))
        where = f" at {goal.point}" if goal.point else ""
        lines.append(Text(f"{mark} {goal.key} {goal.bound}: {values}{where} ({text})", style))
    return lines


def comparison_json(comparison: Comparison) -> str:
    """The comparison for programs."""
    goals = [
        {"key": goal.key, "point": goal.point, "bound": goal.bound, "change": goal.change}
        | {"before": goal.before and goal.before["value"], "now": goal.now and goal.now["value"]}
        for goal in comparison.goals
    ]
    metrics = [
        {"metric": drift.metric, "point": drift.point, "before": drift.before, "now": drift.now}
        | {"share": drift.share, "tolerance": drift.tolerance, "outside": drift.outside}
        for drift in comparison.drifts
    ]
    document = {"ok": comparison.ok, "notes": comparison.notes, "goals": goals, "metrics": metrics}
    return json.dumps(tidy(document), indent=2, ensure_ascii=False) + "\n"
