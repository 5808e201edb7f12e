"""Distributions and spreading over time: the curves of each run.

Seeds are joined on one grid: the line is their mean, the band reaches from the least to the most.  Not here: courses of
one run over virtual time (``timelines``) and metrics over a swept key (``sweep_plots``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from simulations.report import svg_theme
from simulations.report.points import POLICY, Point, Results, dig, label, thinned
from simulations.report.svg_theme import Panel, Picture, Style
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
    keys = results.varying(points)
    # Policies are compared at the same load: everything else goes to drawings of its own.
    limit = MOST_LINES if POLICY not in keys else max(1, len(results.values_of(POLICY, points)))
    groups = results.panels(points, keys, limit)
    shown = thinned(groups, MOST_PANELS)
    low, high = extent(points, course)
    grid = np.geomspace(low, high, GRID) if course.log else np.linspace(low, high, GRID)
    panels, styles = list[Panel](), dict[str, Style]()
    for values, group in shown:
        inside = [key for key in keys if key not in values]
        figure, (ax,) = svg_theme.sheet()
        for i, point in enumerate(thinned(group, MOST_LINES)):
            style = styles[label(point.values, inside)] = style_of(results, point.values, inside, i)
            # Nothing before the first value of a curve, its last one ever after.
            svg_theme.seeds(ax, grid, [np.interp(grid, xs, ys, left=0.0) for xs, ys in curves_of(point, course)], style)
        if course.mark is not None:
            svg_theme.level(ax, course.mark, svg_theme.percent_of(course.mark), right=False)
        svg_theme.shares(ax)
        ax.set_xlim(low, high)
        if course.log:
            svg_theme.logarithmic(ax, "x", low, high)
        else:
            svg_theme.linear(ax, "x")
        svg_theme.titles(ax, y=course.y, x=course.x)
        where = label(values, list(values))
        panels.append(svg_theme.finish(figure, f"{course.key}-{len(panels)}", f"{course.title} {where}", where))
    left_out = len(groups) - len(shown)
    note = f"{left_out} more groups of points are not drawn." if left_out else ""
    return Picture(course.key, course.title, course.reading, tuple(panels), svg_theme.legend(styles), note)


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
