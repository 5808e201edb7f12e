"""Metrics over a swept key: draws every picture of the kind "this against that".

Theory of operation: one metric and one axis make a *drawing*.  Every combination of the other swept keys is a line.
If there are too many lines to tell apart, one of the keys splits the drawings (policies stay together longest).
Metrics of one unit share a drawing if no other key is swept (t50, t99, t100 over the number of nodes).

Not here: the choice of metrics and the reasons (``plot_catalog``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import takewhile
from typing import Final

from matplotlib.axes import Axes

from simulations.report import svg_theme
from simulations.report.metrics import Metric, known
from simulations.report.points import POLICY, Line, Point, Results, is_number, key_title, label, thinned
from simulations.report.svg_theme import Legend, Panel, Picture, Style

#: Under a drawing that has such a mark.
NOT_REACHED: Final = "A triangle at the edge: not reached, with one seed at least. "
#: Lines in one drawing.
MOST_LINES: Final = 10
#: Drawings in one picture.
MOST_PANELS: Final = 8
#: From this ratio on between the largest and the least, an axis is logarithmic.
WIDE: Final = 30.0
#: The policy that is a ceiling and no competitor.
CEILING: Final = "omniscient"


@dataclass(frozen=True, slots=True)
class Reference:
    """A line that was not measured: a bound that holds everywhere, or a law fitted to the first metric."""

    words: str
    bound: float = 0.0
    law: Callable[[float], float] | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A question: these metrics over those of these keys that were swept."""

    key: str
    title: str
    reading: str
    #: Names of swept keys; ``*`` stands for any part of one.
    over: tuple[str, ...]
    metrics: tuple[str, ...]
    #: The metrics have one unit and may share a drawing.
    together: bool = False
    reference: Reference | None = None


def picture(results: Results, question: Question) -> Picture | None:
    """The answer, if the runs hold it."""
    asked = (key for key in results.keys if any(fnmatchcase(key, pattern) for pattern in question.over))
    return next((answer for key in asked if results.numeric(key) and (answer := over(results, question, key))), None)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a drawing."""

    metric: Metric
    label: str
    line: Line
    style: Style


@dataclass(frozen=True, slots=True)
class Drawing:
    """One set of axes: its lines, all in one unit, over one key."""

    title: str
    axis: str
    entries: tuple[Entry, ...]


def over(results: Results, question: Question, key: str) -> Picture | None:
    """The metrics over this key."""
    drawings, left_out = drawings_of(results, question, key)
    if not drawings:
        return None
    panels = [draw(results, question, key, each, f"{question.key}-{i}") for i, each in enumerate(drawings)]
    entries = [entry for drawing in drawings for entry in drawing.entries]
    legend = {entry.label: Legend(entry.label, entry.style, dots=True) for entry in entries}
    if reference := question.reference:
        legend[reference.words] = Legend(reference.words, Style(reference=True))
    many_seeds = any(len(point.runs) > 1 for point in results.points)
    note = "Bands reach from the least to the most of the seeds. " if many_seeds else ""
    if any(math.isinf(y.mean) for entry in entries for y in entry.line.ys):
        note += NOT_REACHED
    if left_out:
        note += f"Not drawn, but in the table: {left_out} more groups of points."
    covers = frozenset((key, entry.metric.name) for entry in entries)
    shown = tuple(legend.values()) if len(legend) > 1 or len(results.keys) > 1 else ()
    return Picture(question.key, question.title, question.reading, tuple(panels), shown, note.strip(), covers=covers)


def drawings_of(results: Results, question: Question, key: str) -> tuple[list[Drawing], int]:
    """All drawings of a question, and how many groups of points had no room."""
    others = [other for other in results.keys if other != key]
    groups = results.panels(results.points, others, MOST_LINES)
    names = [name for name in question.metrics if long_enough(results, results.points, key, name)]
    shown = thinned(groups, max(2, MOST_PANELS // max(1, len(names))))
    drawings = []
    for values, points in shown:
        found = {name: lines for name in names if (lines := long_enough(results, points, key, name))}
        where = label(values, list(values))
        inside = [other for other in others if other not in values]
        if question.together and found and all(len(lines) == 1 for lines in found.values()):
            entries = tuple(
                Entry(known(name), known(name).title, lines[0], Style(i))
                for i, (name, lines) in enumerate(found.items())
            )
            drawings.append(Drawing(where, shared_axis([entry.metric for entry in entries]), entries))
            continue
        for name, lines in found.items():
            entries = tuple(
                Entry(known(name), label(line.values, inside), line, style_of(results, line.values, inside, i))
                for i, line in enumerate(thinned(lines, MOST_LINES))
            )
            drawings.append(Drawing(where, known(name).axis, entries))
    return drawings, len(groups) - len(shown)


def long_enough(results: Results, points: Sequence[Point], key: str, name: str) -> list[Line]:
    """The lines of a metric that have two points at least."""
    return [line for line in results.lines(points, key, name) if len(line.xs) > 1]


def shared_axis(metrics: Sequence[Metric]) -> str:
    """The common beginning of the titles of several metrics of one unit."""
    columns = zip(*(metric.title.split() for metric in metrics), strict=False)
    words = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
    return replace(metrics[0], title=" ".join(words) or metrics[0].title).axis


def style_of(results: Results, values: dict[str, object], keys: Sequence[str], index: int) -> Style:
    """A policy keeps its look in every picture; any other line is counted."""
    if list(keys) != [POLICY]:
        return Style(index)
    policy = values.get(POLICY)
    competitors = [value for value in results.values_of(POLICY) if value != CEILING]
    return Style(reference=True) if policy == CEILING else Style(competitors.index(policy))


def reference_line(drawing: Drawing, question: Question) -> tuple[list[float], list[float]] | None:
    """The law fitted to the middle metric of a drawing, or the bound, over the range of the axis."""
    reference = question.reference
    if reference is None:
        return None
    xs = sorted({x for entry in drawing.entries for x in entry.line.xs})
    if reference.law is None:
        return xs, [reference.bound] * len(xs)
    entry = drawing.entries[min(1, len(drawing.entries) - 1)]
    law = [reference.law(x) for x in entry.line.xs]
    pairs = [(value, y.mean) for value, y in zip(law, entry.line.ys, strict=True) if math.isfinite(y.mean)]
    square = math.fsum(value * value for value, _ in pairs)
    scale = math.fsum(value * mean for value, mean in pairs) / square if square else 0.0
    return xs, [scale * reference.law(x) for x in xs]


def draw(results: Results, question: Question, key: str, drawing: Drawing, name: str) -> Panel:
    """One set of axes."""
    figure, (ax,) = svg_theme.sheet()
    tops: list[float] = []
    for entry in drawing.entries:
        ys, divisor = entry.line.ys, entry.metric.divisor
        means, lows, highs = ([getattr(y, part) / divisor for y in ys] for part in ("mean", "low", "high"))
        tops += means
        svg_theme.curve(ax, entry.line.xs, means, entry.style, dots=True, low=lows, high=highs)
    reference = reference_line(drawing, question)
    divisor = drawing.entries[0].metric.divisor
    if reference is not None:
        heights = [y / divisor for y in reference[1]]
        svg_theme.curve(ax, reference[0], heights, Style(reference=True))
        tops += heights
    bounds = sorted({bound / divisor for entry in drawing.entries for bound in results.bounds(entry.metric.name)})
    across(ax, [*tops, *bounds], drawing.entries[0].metric.unit)
    for bound in bounds:
        if reference is None or set(reference[1]) != {bound * divisor}:
            svg_theme.level(ax, bound, "goal", right=freer_right(drawing, bound * divisor))
    along(ax, [float(x) for x in results.values_of(key) if is_number(x)], key)
    svg_theme.titles(ax, y=drawing.axis, x=key_title(key))
    alt = f"{question.title}: {drawing.axis} against {key_title(key)} {drawing.title}".strip()
    return svg_theme.finish(figure, name, alt, drawing.title)


def freer_right(drawing: Drawing, bound: float) -> bool:
    """Whether the lines keep further away from a bound at their right ends than at their left ones."""
    left, right = (min(abs(entry.line.ys[end].mean - bound) for entry in drawing.entries) for end in (0, -1))
    return right >= left


def across(ax: Axes, values: Sequence[float], unit: str) -> None:
    """The y axis: from nought, or logarithmic where the values lie far apart; shares as percentages."""
    values = [value for value in values if math.isfinite(value)] or [1.0]
    if unit == "%":
        low, high = min(values), max(values)
        # Shares close to one would all lie on the upper edge of an axis from nought.
        bottom = 0.0 if low < 0.7 or high - low > 0.5 else low - max(0.15 * (1 - low), 0.0005)
        ax.set_ylim(bottom, max(high + 0.06 * (high - bottom), 1e-6))
        svg_theme.linear(ax, "y", formatter=svg_theme.percent_of)
        return
    positive = [value for value in values if value > 0]
    if len(positive) == len(values) and max(positive) / min(positive) > WIDE:
        low, high = min(positive) / 1.3, max(positive) * 1.3
        svg_theme.logarithmic(ax, "y", low, high)
        return
    ax.set_ylim(min(0.0, *values), max(1.12 * max(values), 1e-9))
    svg_theme.linear(ax, "y")


def along(ax: Axes, xs: Sequence[float], key: str) -> None:
    """The x axis: numbers at the swept values; logarithmic where it spans more than a decade."""
    shares = key.endswith((".share", "utilisation", "loss", "drop", "_share")) and max(xs) <= 2
    log = min(xs) > 0 and max(xs) / min(xs) >= 10
    svg_theme.at_values(ax, xs, log=log, formatter=svg_theme.percent_of if shares else svg_theme.figure_of)


def dots(results: Results, name: str, title: str, reading: str, metrics: Sequence[str]) -> Picture | None:
    """One row per point and one drawing per metric: for sweeps over things that have no order, such as policies."""
    panels: list[Panel] = []
    note = ""
    for metric in (known(one) for one in metrics):
        rows = [(label(p.values, results.keys), found) for p in results.points if (found := p.spread(metric.name))]
        rows = thinned(rows, 16)
        if len(rows) < 2:
            continue
        figure, ax = svg_theme.row_sheet([words for words, _ in rows])
        for i, (_, found) in enumerate(rows):
            low, mean, high = (value / metric.divisor for value in (found.low, found.mean, found.high))
            if math.isinf(mean):
                note = NOT_REACHED.strip()
                svg_theme.beyond(ax, [1.0], [-i], ">", svg_theme.SERIES[0], ax.get_yaxis_transform())
                continue
            ax.plot([low, high], [-i, -i], color=svg_theme.SERIES[0], linewidth=2, alpha=0.45)
            ax.plot([mean], [-i], marker="o", markersize=6, color=svg_theme.SERIES[0], markeredgewidth=0)
        for bound in results.bounds(metric.name):
            ax.axvline(bound / metric.divisor, color=svg_theme.INK, linewidth=0.9, linestyle="--")
        svg_theme.linear(
            ax, "x", ticks=4, formatter=svg_theme.percent_of if metric.unit == "%" else svg_theme.figure_of
        )
        ax.margins(x=0.08, y=0.6 / len(rows))
        svg_theme.titles(ax, y=metric.axis)
        panels.append(svg_theme.finish(figure, f"{name}-{len(panels)}", f"{title}: {metric.axis}"))
    return Picture(name, title, reading, tuple(panels), note=note) if panels else None
