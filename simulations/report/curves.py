"""Distributions and spreading over time: the curves that each run brings along.

Not here: courses of one run over virtual time (``timelines``) and metrics over a swept key (``sweep_plots``).  Who
calls it: ``pictures``.  Seeds are joined on one grid: the line is their mean, the band reaches from the least to the
most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from simulations.report import svg_theme
from simulations.report.points import POLICY, Point, Results, dig, label, thinned
from simulations.report.svg_theme import Legend, Panel, Picture
from simulations.report.sweep_plots import MOST_LINES, MOST_PANELS, style_of

#: Points of a drawn curve; more could not be seen.
GRID: Final = 140

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Course:
    """One kind of curve: where it lies in a run, and how it is shown."""

    key: str
    name: str
    title: str
    reading: str
    x: str
    y: str
    log: bool
    #: A share worth marking.
    mark: float | None = None


COURSES: Final = (
    Course(
        "coverage",
        "coverage",
        "How an advert spreads",
        "Share of the nodes that hold a changed advert, by seconds since the change: steep is fast, and the "
        "line has to end at the top.",
        "seconds since the change",
        "nodes reached",
        log=False,
        mark=0.99,
    ),
    Course(
        "ttft",
        "ttft_cdf",
        "Time to the first token",
        "Share of all jobs whose first token came within so many seconds: further left is faster, and what is "
        "missing at the top right never got one.",
        "seconds to the first token",
        "jobs",
        log=True,
    ),
    Course(
        "load-age",
        "load_age_cdf",
        "Age of what is known of others' load",
        "Share of the known load figures that are at most so old: a herd forms where choices are made by "
        "figures that are older than a job takes.",
        "age in seconds",
        "known figures",
        log=True,
    ),
)


def picture(results: Results, course: Course) -> Picture | None:
    """Drawings of one kind of curve, split so that the lines can be told apart."""
    points = results.where(f"curves.{course.name}")
    if not points:
        return None
    keys = [key for key in results.keys if len(results.values_of(key, points)) > 1]
    # Policies are compared at the same load: everything else goes to drawings of its own.
    limit = MOST_LINES if POLICY not in keys else max(1, len(results.values_of(POLICY, points)))
    groups = results.panels(points, keys, limit)
    shown = thinned(groups, MOST_PANELS)
    low, high = extent(points, course)
    panels, legend = list[Panel](), dict[str, Legend]()
    for values, group in shown:
        inside = [key for key in keys if key not in values]
        figure, (ax,) = svg_theme.sheet()
        for i, point in enumerate(thinned(group, MOST_LINES)):
            style, words = style_of(results, point.values, inside, i), label(point.values, inside)
            grid = np.geomspace(low, high, GRID) if course.log else np.linspace(low, high, GRID)
            rows = joined(point, course, grid)
            svg_theme.curve(ax, grid, rows.mean(axis=0), style, low=rows.min(axis=0), high=rows.max(axis=0))
            legend[words] = Legend(words, style)
        if course.mark is not None:
            svg_theme.level(ax, course.mark, svg_theme.percent_of(course.mark), right=False)
        ax.set_ylim(0, 1.06)
        svg_theme.linear(ax, "y", formatter=svg_theme.percent_of)
        ax.set_xlim(low, high)
        if course.log:
            svg_theme.logarithmic(ax, "x", low, high)
        else:
            svg_theme.linear(ax, "x")
        svg_theme.titles(ax, y=course.y, x=course.x)
        where = label(values, list(values))
        panels.append(Panel(svg_theme.finish(figure, f"{course.key}-{len(panels)}", f"{course.title} {where}"), where))
    left_out = len(groups) - len(shown)
    note = f"{left_out} more groups of points are not drawn." if left_out else ""
    entries = tuple(legend.values()) if len(legend) > 1 or any(legend) else ()
    return Picture(course.key, course.title, course.reading, tuple(panels), entries, note)


def curves_of(point: Point, course: Course) -> list[Numbers]:
    """The curves of a point, one per seed that has one: two rows, x and share."""
    found = [dig(run, f"curves.{course.name}") for run in point.runs]
    return [np.asarray(curve, dtype=float).T for curve in found if curve]


def extent(points: Sequence[Point], course: Course) -> tuple[float, float]:
    """The range of the x axis: everything that happens, without the dead ends at either side."""
    starts, ends = [], []
    for curve in (curve for point in points for curve in curves_of(point, course)):
        xs, ys = curve
        final = ys[-1]
        ends.append(float(xs[int(np.argmax(ys >= final - 0.0005))]))
        begun = xs[(ys >= 0.002) & (xs > 0)]
        starts.append(float(begun[0]) if len(begun) else float(max(xs[-1], 1e-3)))
    if course.log:
        low, high = min(starts), max(ends)
        return low * 0.9, max(high * 1.1, low * 2)
    return 0.0, max(max(ends) * 1.05, 1e-3)


def joined(point: Point, course: Course, grid: Numbers) -> Numbers:
    """The seeds' curves on one grid; nothing before the first value, the last one ever after."""
    rows: list[Any] = [np.interp(grid, xs, ys, left=0.0) for xs, ys in curves_of(point, course)]
    return np.vstack(rows)
