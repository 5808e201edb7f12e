"""The page itself: words, tables and pictures as one HTML file that needs no other file.

``page.html`` is its template, which escapes every text from outside (names, points, commands).  This module computes
the values.  The page has no script: foldable parts are ``<details>``, and one click selects a text for copying.  Not
here: the pictures (``pictures``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, PackageLoader

from simulations.report.metrics import HEADLINE, LEAST_SEEDS, Metric, known, text, text_of_seeds
from simulations.report.points import Results, is_number, key_title, metric_of, short

if TYPE_CHECKING:
    from simulations.report.svg_theme import Picture

#: Rows of a table that are shown at once; the rest is folded.
MOST_ROWS: Final = 30


def html(results: Results, timing: dict[str, Any], drawn: Sequence[Picture] | None) -> str:
    """The whole page; ``drawn`` is None where there is nothing to draw with."""
    costs = timings(timing)
    cost_of = {(repr(one.get("point") or {}), one.get("seed")): one for one in costs}
    template = PAGE.get_template("page.html")
    return template.render(
        name=results.content.get("name", "simulation"),
        content=results.content,
        results=results,
        drawn=drawn,
        cut=sum(bool(run.get("partial")) for run in results.runs),
        broken=sum(bool(run.get("breach") or run.get("error")) for run in results.runs),
        goals=sorted(results.goals, key=lambda goal: bool(goal.get("passed"))),
        passed=sum(bool(goal.get("passed")) for goal in results.goals),
        facts=list(facts(results, costs)),
        keys=results.keys or [key for point in results.points[:1] for key in point.values],
        groups=list(groups(results)),
        seeds=max((len(point.runs) for point in results.points), default=0),
        runs=[(run, cost_of.get((repr(run.get("point") or {}), run.get("seed")), {})) for run in results.runs],
        scenario=json.dumps(results.scenario, indent=2, ensure_ascii=False),
    )


def facts(results: Results, costs: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """The description of the run in one line of small print; unknown parts are empty."""
    seeds = list(dict.fromkeys(str(run.get("seed")) for run in results.runs))
    jobs = [value for run in results.runs if is_number(value := (run.get("metrics") or {}).get("jobs_submitted"))]
    virtual = sum(float(run.get("virtual_s") or 0) for run in results.runs)
    cpu = sum(float(one.get("cpu_s") or 0) for one in costs)
    peak = max((float(one.get("peak_mib") or 0) for one in costs), default=0.0)
    commit = str(results.content.get("commit") or "")
    yield "runs", str(len(results.runs))
    yield "points", str(len(results.points))
    yield "seeds", ", ".join(seeds) if len(seeds) <= 8 else str(len(seeds))
    yield "jobs", text(known("jobs_submitted"), sum(jobs)) if jobs else ""
    yield "virtual time", f"{short(virtual)} s"
    yield "speed", f"{virtual / cpu:.3g} virtual s per CPU s" if cpu else ""
    yield "memory", f"{peak:.0f} MiB at most" if peak else ""
    yield "commit", commit[:12] + ("-dirty" if commit.endswith("-dirty") else "")
    yield "scenario", str(results.content.get("scenario_hash") or "")[:16]


def groups(results: Results) -> Iterator[tuple[str, list[Metric]]]:
    """The headline metrics that some point has, by the tables of the summary."""
    for title, names in HEADLINE.items():
        metrics = [known(name) for name in names if any(point.spread(name) for point in results.points)]
        if metrics:
            yield title, metrics


def words_of(point: dict[str, Any]) -> str:
    """A point as ``key=value``, as the command takes it."""
    return ", ".join(f"{key}={short(value)}" for key, value in point.items())


def measured(goal: dict[str, Any]) -> str:
    """The result of a goal, also in its unit for people."""
    metric, value = known(metric_of(goal)), goal.get("value")
    if not is_number(value):
        return "not reached" if value == "inf" else "–"
    return short(value) + (f" ({text(metric, float(value))} {metric.unit})" if metric.divisor != 1 else "")


def timings(timing: dict[str, Any]) -> list[dict[str, Any]]:
    """The cost of each run, as far as it was recorded."""
    found = timing.get("runs")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def amount(value: Any) -> str:
    """A number in a table, or a dash."""
    if not is_number(value):
        return "–"
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 1000 else short(value)


PAGE: Final = Environment(
    loader=PackageLoader("simulations.report", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
PAGE.globals |= {
    "amount": amount,
    "key_title": key_title,
    "least_seeds": LEAST_SEEDS,
    "measured": measured,
    "metric_of": metric_of,
    "most_rows": MOST_ROWS,
    "short": short,
    "text_of_seeds": text_of_seeds,
    "words_of": words_of,
}
