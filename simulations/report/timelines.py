"""Courses over virtual time: the whole network, partitions, and the map of load.

Time spans with a fault of the scenario are shaded.  If a course has too many points, evenly spaced ones are shown.
Not here: distributions (``curves``) and sweeps (``sweep_plots``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.ticker import MultipleLocator

from simulations.report import svg_theme
from simulations.report.metrics import KIB
from simulations.report.points import POLICY, Point, Results, dig, label, thinned
from simulations.report.svg_theme import Panel, Picture, Style
from simulations.report.sweep_plots import style_of

#: Lines in one drawing over time.
MOST_COURSES: Final = 8
#: Maps side by side, and columns of each.
MOST_MAPS: Final = 8
MOST_COLUMNS: Final = 240
#: Points of a drawn course.
MOST_SAMPLES: Final = 300
COLOURS: Final = "viridis"

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Series:
    """One quantity over time: its name in a run, its title with the unit, and its divisor."""

    name: str
    title: str
    divisor: float = 1.0
    share: bool = False
    #: Where it is constant in all runs, it has no drawing.
    if_changing: bool = False


SERIES: Final = (
    Series("alive", "nodes alive", if_changing=True),
    Series("success", "success of the jobs that ended", share=True),
    Series("jobs_running", "jobs running"),
    Series("completed_per_s", "jobs completed per s"),
    Series("failed_per_s", "jobs failed per s", if_changing=True),
    Series("view_completeness", "view completeness", share=True),
    Series("bytes_up_per_s", "upload per node, KiB/s", KIB),
)


def over_time(results: Results) -> Picture | None:
    """One drawing per quantity, one line per point."""
    points = results.where("series.t")
    shown = chosen(results, points, MOST_COURSES)
    varying = results.varying(shown)
    panels, styles = list[Panel](), dict[str, Style]()
    for series in SERIES:
        rows = [(i, point, found) for i, point in enumerate(shown) if (found := joined(point, series.name))]
        if not rows or (series.if_changing and all(np.ptp(values) == 0 for _, _, (_, values) in rows)):
            continue
        figure, (ax,) = svg_theme.sheet(2.3)
        for i, point, (t, values) in rows:
            style = styles[label(point.values, varying)] = style_of(results, point.values, varying, i)
            svg_theme.seeds(ax, t, values / series.divisor, style)
        time_axis(ax, results, max(float(t[-1]) for _, _, (t, _) in rows))
        upright(ax, series)
        panels.append(svg_theme.finish(figure, f"time-{series.name}", f"{series.title} over virtual time"))
    if not panels:
        return None
    reading = (
        "From left to right the run itself: levels should be steady, and return after every shaded span, in which "
        "something was broken."
    )
    legend, note = svg_theme.legend(styles), still(results, shown, points)
    return Picture("time", "Over time", reading, tuple(panels), legend, note)


def joined(point: Point, name: str) -> tuple[Numbers, Numbers] | None:
    """Time, and one row of values per seed, cut to the shortest and thinned."""
    pairs = ((dig(run, "series.t"), dig(run, f"series.{name}")) for run in point.runs)
    found = [(t, values) for t, values in pairs if t and values]
    length = min((min(len(t), len(values)) for t, values in found), default=0)
    if length < 2:
        return None
    t, *rows = (blocks(each[:length], -(-length // MOST_SAMPLES)) for each in (found[0][0], *(row for _, row in found)))
    return t, np.vstack(rows)


def blocks(values: Sequence[float | None] | Numbers, step: int) -> Numbers:
    """Means of every ``step`` values; a rest at the end is its own block.  Unknown values stay out of them."""
    whole = np.full(-(-len(values) // step) * step, np.nan)
    whole[: len(values)] = np.asarray(values, dtype=float)
    means: Numbers = np.ma.masked_invalid(whole.reshape(-1, step)).mean(axis=1).filled(np.nan)
    return means


def time_axis(ax: Axes, results: Results, end: float, values: Mapping[str, Any] | None = None) -> None:
    """Seconds or minutes below; faults shaded as at the point of the sweep with these ``values``.

    Without a point they are shaded only if they are the same at all of them.
    """
    same = not any(key.startswith("faults.") for key in results.keys)
    scenario = results.scenario
    quiet_at = float(scenario.get("duration_s", end)) - float(scenario.get("quiet_s") or 0.0)
    for number, fault in enumerate((scenario.get("faults") or []) if same or values is not None else []):
        here = fault | {key.removeprefix(f"faults.{number}."): value for key, value in (values or {}).items()}
        since, lasts = float(here.get("at_s", 60.0)), float(here.get("for_s", 60.0))
        until = min(since + lasts, quiet_at, end)
        if until > since:
            ax.axvspan(since, until, color=svg_theme.SHADE, linewidth=0, zorder=0)
    ax.set_xlim(0, end)
    if end >= 900:
        step = next((s for s in (300, 600, 1200, 1800, 3600, 7200, 21600, 43200) if end / s <= 6), 86400)
        svg_theme.place(ax, "x", MultipleLocator(step), lambda seconds, _: f"{seconds / 60:g}")
    else:
        svg_theme.linear(ax, "x", ticks=6)
    svg_theme.titles(ax, x="virtual minutes" if end >= 900 else "virtual seconds")


def upright(ax: Axes, series: Series) -> None:
    """The y axis of a course: from nought, shares up to one."""
    if series.share:
        svg_theme.shares(ax)
    else:
        ax.set_ylim(0, max(ax.get_ylim()[1], 1e-9))
        svg_theme.linear(ax, "y")
    svg_theme.titles(ax, y=series.title)


def partition(results: Results) -> Picture | None:
    """How much of either side is seen, and how jobs fare, while the network is cut."""
    points = results.where("series.t", "series.sides")
    if not points:
        return None
    panels: list[Panel] = []
    for point in thinned(points, 4):
        series = next(run["series"] for run in point.runs if dig(run, "series.sides"))
        t = np.asarray(series["t"], dtype=float)
        sides, success = (np.asarray(series.get(name) or [], dtype=float) for name in ("sides", "success"))
        figure, axes = svg_theme.sheet(3.6, rows=2) if len(success) else svg_theme.sheet(2.3)
        for i, side in enumerate(sides.T):
            svg_theme.curve(axes[0], t[: len(side)], side[: len(t)], Style(i))
        svg_theme.curve(axes[-1], t[: len(success)], success[: len(t)], Style(2))
        for ax, title in zip(axes, ("nodes seen", "success of the jobs that ended"), strict=False):
            time_axis(ax, results, float(t[-1]), point.values)
            upright(ax, Series("", title, share=True))
            ax.label_outer()
        words = label(point.values, results.keys)
        panels.append(svg_theme.finish(figure, f"partition-{len(panels)}", f"Partition {words}", words))
    reading = (
        "While the network is cut (shaded) each node should lose sight of the other side only; after it the views "
        "become whole again, and success holds on both sides throughout."
    )
    jobs = any(dig(run, "series.success") for point in points for run in point.runs)
    styles = {"own side": Style(0), "other side": Style(1)} | ({"success": Style(2)} if jobs else {})
    return Picture("partition", "A partition and its end", reading, tuple(panels), svg_theme.legend(styles))


def herding(results: Results) -> Picture | None:
    """The load of nodes over time, one map per policy, all on one scale."""
    everywhere = results.where("heat.values")
    points = chosen(results, everywhere, MOST_MAPS)
    if not points:
        return None
    varying = results.varying(points)
    seeds = [next(run for run in point.runs if dig(run, "heat.values")) for point in points]
    maps = [cells(run["heat"]) for run in seeds]
    known = np.concatenate([values[np.isfinite(values)] for values in maps])
    # A few long queues must not make all the rest dark.
    top = float(np.clip(np.percentile(known, 99.5), 1.0, 4.0)) if len(known) else 1.0
    colours = mpl.colormaps[COLOURS]
    panels: list[Panel] = []
    for point, run, values in zip(points, seeds, maps, strict=True):
        figure, (ax,) = svg_theme.sheet(2.7)
        t = run["heat"].get("t") or [0.0, 1.0]
        ax.grid(visible=False)
        span = (float(t[0]), max(float(t[-1]), float(t[0]) + 1e-3), 0.0, float(len(values)))
        ax.imshow(
            values, aspect="auto", interpolation="none", cmap=colours, vmin=0, vmax=top, extent=span, origin="lower"
        )
        svg_theme.linear(ax, "x", ticks=6)
        svg_theme.linear(ax, "y", ticks=4)
        svg_theme.titles(ax, y=f"node (of {len(values)} shown)", x="virtual seconds")
        words = label(point.values, varying)
        panels.append(svg_theme.finish(figure, f"heat-{len(panels)}", f"Load of nodes over time, {words}", words))
    reading = (
        "Every row is a node, every column a moment, bright is busy: an even surface is a shared load, bright "
        "streaks that wander from row to row are a herd."
    )
    ramp = tuple(to_hex(colours(x)) for x in np.linspace(0, 1, 9))
    scale = ("idle", f"{100 * top:.0f} % of the places taken or waited for", ramp)
    note = f"Seed {seeds[0].get('seed')}. {still(results, points, everywhere)}".strip()
    return Picture("heat", "Who carries the load", reading, tuple(panels), note=note, scale=scale)


def chosen(results: Results, points: Sequence[Point], most: int) -> list[Point]:
    """At most so many points: all policies at one and the same point, which is the last of every other key."""
    if len(points) > most and POLICY in results.keys:
        others = [key for key in results.keys if key != POLICY]
        points = list(results.split(points, others))[-1][1]
    return thinned(points, most)


def still(results: Results, shown: Sequence[Point], points: Sequence[Point]) -> str:
    """Which of the points are drawn, where it is not all."""
    if len(shown) == len(points):
        return ""
    fixed = [key for key in results.keys if len(results.values_of(key, shown)) == 1]
    at = f" at {label(shown[0].values, fixed)}" if fixed else ""
    return f"Drawn are {len(shown)} of {len(points)} points{at}."


def cells(heat: dict[str, Any]) -> Numbers:
    """Rows are nodes, columns are times, few enough to be seen; dead nodes are blank."""
    values = np.atleast_2d(np.asarray(heat["values"], dtype=float))
    step = -(-values.shape[1] // MOST_COLUMNS)
    return np.vstack([blocks(row, step) for row in values])
