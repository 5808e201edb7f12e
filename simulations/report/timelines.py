"""What happened over virtual time: courses of the whole network, partitions, and the map of load.

Not here: distributions (``curves``) and sweeps (``sweep_plots``).  Spans in which a scenario
breaks something are shaded.  With more points than can be shown, evenly chosen ones are.
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

from simulations.report import svg_theme
from simulations.report.metrics import KIB
from simulations.report.points import POLICY, Point, Results, dig, label, thinned
from simulations.report.svg_theme import Legend, Panel, Picture, Style
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
    """One quantity over time: its name in a run, its title with the unit, and what it is divided by."""

    name: str
    title: str
    divisor: float = 1.0
    share: bool = False


SERIES: Final = (
    Series("alive", "nodes alive"),
    Series("success", "success of the jobs that ended", share=True),
    Series("jobs_running", "jobs running"),
    Series("completed_per_s", "jobs completed per s"),
    Series("failed_per_s", "jobs failed per s"),
    Series("view_completeness", "view completeness", share=True),
    Series("bytes_up_per_s", "upload per node, KiB/s", KIB),
)


def over_time(results: Results) -> Picture | None:
    """One drawing per quantity, one line per point."""
    points = results.where("series.t")
    if not points:
        return None
    shown = chosen(results, points, MOST_COURSES)
    varying = [key for key in results.keys if len(results.values_of(key, shown)) > 1]
    panels, legend = list[Panel](), dict[str, Legend]()
    for series in SERIES:
        rows = [(i, point, found) for i, point in enumerate(shown) if (found := joined(point, series.name)) is not None]
        if not rows or (series.name == "alive" and all(np.ptp(values) == 0 for _, _, (_, values) in rows)):
            continue
        if series.name == "failed_per_s" and not any(values.any() for _, _, (_, values) in rows):
            continue
        figure, (ax,) = svg_theme.sheet(2.3)
        end = 0.0
        for i, point, (t, values) in rows:
            style, words = style_of(results, point.values, varying, i), label(point.values, varying)
            scaled = values / series.divisor
            low, high = scaled.min(axis=0), scaled.max(axis=0)
            svg_theme.curve(ax, t, scaled.mean(axis=0), style, low=low, high=high)
            legend[words] = Legend(words, style)
            end = max(end, float(t[-1]))
        time_axis(ax, results, end)
        upright(ax, series)
        panels.append(Panel(svg_theme.finish(figure, f"time-{series.name}", f"{series.title} over virtual time")))
    if not panels:
        return None
    note = still(results, shown, points)
    reading = (
        "From left to right the run itself: levels should be steady, and return after every shaded span, in which "
        "something was broken."
    )
    entries = tuple(legend.values()) if len(legend) > 1 or any(legend) else ()
    return Picture("time", "Over time", reading, tuple(panels), entries, note)


def joined(point: Point, name: str) -> tuple[Numbers, Numbers] | None:
    """Time, and one row of values per seed, cut to the shortest and thinned."""
    found = []
    for run in point.runs:
        t, values = dig(run, "series.t"), dig(run, f"series.{name}")
        if t and values and not isinstance(values[0], list):
            found.append((np.asarray(t, dtype=float), np.asarray(values, dtype=float)))
    if not found:
        return None
    length = min(min(len(t), len(values)) for t, values in found)
    if length < 2:
        return None
    step = -(-length // MOST_SAMPLES)
    rows = [blocks(values[:length], step) for _, values in found]
    return blocks(found[0][0][:length], step), np.vstack(rows)


def blocks(values: Numbers, step: int) -> Numbers:
    """Means of every ``step`` values; a rest at the end is its own block.  What is unknown stays out of them."""
    if step == 1:
        return values
    starts = np.arange(0, len(values), step)
    known = np.isfinite(values)
    sums = np.add.reduceat(np.where(known, values, 0.0), starts)
    counts = np.add.reduceat(known.astype(float), starts)
    means: Numbers = np.divide(sums, counts, out=np.full(len(starts), np.nan), where=counts > 0)
    return means


def time_axis(ax: Axes, results: Results, end: float, values: Mapping[str, Any] | None = None) -> None:
    """Seconds or minutes below; faults shaded as at the point of the sweep with these ``values``.

    Without a point they are shaded only if they are the same at all of them.
    """
    same = not any(key.startswith("faults.") for key in results.keys)
    scenario = results.scenario
    quiet_at = float(scenario.get("duration_s", end)) - float(scenario.get("quiet_s") or 0.0)
    for number, fault in enumerate((scenario.get("faults") or []) if same or values is not None else []):
        prefix = f"faults.{number}."
        swept = {key.removeprefix(prefix): value for key, value in (values or {}).items() if key.startswith(prefix)}
        here = fault | swept
        since = float(here.get("at_s", 60.0))
        until = min(since + float(here.get("for_s", 60.0)), quiet_at, end)
        if until > since:
            svg_theme.shade(ax, since, until)
    ax.set_xlim(0, end)
    if end >= 900:
        step = next((s for s in (300, 600, 1200, 1800, 3600, 7200, 21600, 43200, 86400) if end / s <= 6), 86400.0)
        svg_theme.fix(ax, "x", list(np.arange(0, end + 1, step)), minutes_of)
        svg_theme.titles(ax, x="virtual minutes")
        return
    svg_theme.linear(ax, "x", ticks=6)
    svg_theme.titles(ax, x="virtual seconds")


def minutes_of(value: float, _position: object = None) -> str:
    """Seconds as minutes."""
    return f"{value / 60:g}"


def upright(ax: Axes, series: Series) -> None:
    """The y axis of a course: from nought, shares up to one."""
    if series.share:
        ax.set_ylim(0, 1.06)
        svg_theme.linear(ax, "y", formatter=svg_theme.percent_of)
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
        run = next(run for run in point.runs if dig(run, "series.sides"))
        t = np.asarray(run["series"]["t"], dtype=float)
        sides = np.asarray([[np.nan if v is None else v for v in pair] for pair in run["series"]["sides"]], dtype=float)
        success = dig(run, "series.success")
        figure, axes = svg_theme.sheet(3.6 if success else 2.3, rows=2 if success else 1)
        length = min(len(t), len(sides))
        for i in range(2):
            svg_theme.curve(axes[0], t[:length], sides[:length, i], Style(i))
        if success:
            values = np.asarray([np.nan if v is None else v for v in success], dtype=float)
            svg_theme.curve(axes[1], t[: len(values)], values[: len(t)], Style(2))
        for ax, title in zip(axes, ("nodes seen", "success of the jobs that ended"), strict=False):
            time_axis(ax, results, float(t[-1]), point.values)
            upright(ax, Series("", title, share=True))
        for ax in axes[:-1]:
            ax.set_xlabel("")
        words = label(point.values, results.keys)
        panels.append(Panel(svg_theme.finish(figure, f"partition-{len(panels)}", f"Partition {words}"), words))
    reading = (
        "While the network is cut (shaded) each node should lose sight of the other side only; after it the views "
        "become whole again, and success holds on both sides throughout."
    )
    legend = [Legend("own side", Style(0)), Legend("other side", Style(1))]
    if any(dig(run, "series.success") for point in points for run in point.runs):
        legend.append(Legend("success", Style(2)))
    return Picture("partition", "A partition and its end", reading, tuple(panels), tuple(legend))


def herding(results: Results) -> Picture | None:
    """The load of nodes over time, one map per policy, all on one scale."""
    everywhere = results.where("heat.values")
    points = chosen(results, everywhere, MOST_MAPS)
    varying = [key for key in results.keys if len(results.values_of(key, points)) > 1]
    maps = []
    for point in points:
        run = next(run for run in point.runs if dig(run, "heat.values"))
        maps.append((label(point.values, varying), run.get("seed"), run["heat"], cells(run["heat"])))
    if not maps:
        return None
    everything = np.concatenate([values.ravel() for _, _, _, values in maps])
    # A few long queues must not make all the rest dark.
    top = float(np.clip(np.nanpercentile(everything, 99.5) if np.isfinite(everything).any() else 1.0, 1.0, 4.0))
    panels: list[Panel] = []
    for words, _, heat, values in maps:
        figure, (ax,) = svg_theme.sheet(2.7)
        t = heat.get("t") or [0.0, 1.0]
        ax.grid(visible=False)
        span = (float(t[0]), max(float(t[-1]), float(t[0]) + 1e-3), 0.0, float(len(values)))
        colours = mpl.colormaps[COLOURS]
        ax.imshow(
            values, aspect="auto", interpolation="none", cmap=colours, vmin=0, vmax=top, extent=span, origin="lower"
        )
        svg_theme.linear(ax, "x", ticks=6)
        svg_theme.linear(ax, "y", ticks=4)
        svg_theme.titles(ax, y=f"node (of {len(values)} shown)", x="virtual seconds")
        panels.append(
            Panel(svg_theme.finish(figure, f"heat-{len(panels)}", f"Load of nodes over time, {words}"), words)
        )
    reading = (
        "Every row is a node, every column a moment, bright is busy: an even surface is a shared load, bright "
        "streaks that wander from row to row are a herd."
    )
    ramp = tuple(to_hex(mpl.colormaps[COLOURS](x)) for x in np.linspace(0, 1, 9))
    note = f"Seed {maps[0][1]}. {still(results, points, everywhere)}".strip()
    return Picture(
        "heat",
        "Who carries the load",
        reading,
        tuple(panels),
        (),
        note,
        scale=("idle", f"{100 * top:.0f} % of the places taken or waited for", ramp),
    )


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
    rows = [[np.nan if value is None else value for value in row] for row in heat["values"]]
    values = np.atleast_2d(np.asarray(rows, dtype=float))
    names, t = heat.get("rows") or [], heat.get("t") or []
    if len(values) != len(names) and len(values) == len(t):
        values = values.T
    step = -(-values.shape[1] // MOST_COLUMNS)
    return np.vstack([blocks(row, step) for row in values])
