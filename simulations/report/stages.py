"""Where the time to the first token goes: one bar for each point, its stages one after the other.

Not here: how the stages are measured (``simulations.sim.jobs``).
"""

from __future__ import annotations

from typing import Final

from simulations.report import svg_theme
from simulations.report.metrics import STAGES
from simulations.report.points import Point, Results, label, thinned
from simulations.report.svg_theme import Legend, Panel, Picture, Style

#: Bars in one drawing.
MOST_BARS: Final = 16
#: Letters of a point beside its bar.
MOST_LETTERS: Final = 26
#: The jobs of each drawing, and the metric of a stage.
PANELS: Final = {"all jobs": "ttft_{}_s.mean", "the slowest 5 %": "ttft_{}_slowest_s"}


def picture(results: Results) -> Picture | None:
    """Means over the jobs and seeds; None if no run has them."""
    points = thinned(
        [point for point in results.points if point.spread(PANELS["all jobs"].format("choice"))], MOST_BARS
    )
    if not points:
        return None
    panels = tuple(
        Panel(draw(results, points, metric, f"stages-{i}"), words) for i, (words, metric) in enumerate(PANELS.items())
    )
    took = [
        any(seconds(point, metric)[i] for point in points for metric in PANELS.values()) for i in range(len(STAGES))
    ]
    legend = tuple(Legend(title, Style(i)) for i, title in enumerate(STAGES.values()) if took[i])
    reading = (
        "Mean seconds to the first token, its stages in their order. An improvement pays where a bar is widest; a "
        "stage that is wider among the slowest jobs makes the tail."
    )
    return Picture("stages", "Where the time to the first token goes", reading, panels, legend)


def seconds(point: Point, metric: str) -> list[float]:
    """Of each stage."""
    found = (point.spread(metric.format(name)) for name in STAGES)
    return [0.0 if each is None else each.mean for each in found]


def draw(results: Results, points: list[Point], metric: str, name: str) -> str:
    """One bar for each point."""
    figure, (ax,) = svg_theme.sheet(0.75 + 0.27 * len(points))
    for row, point in enumerate(points):
        left = 0.0
        for i, width in enumerate(seconds(point, metric)):
            style = Style(i)
            ax.barh(-row, width, left=left, height=0.7, color=style.colour, hatch="//" if style.dash else None)
            left += width
    names = [label(point.values, results.keys) for point in points]
    names = [words if len(words) <= MOST_LETTERS else words[: MOST_LETTERS - 1] + "…" for words in names]
    ax.set_yticks([-row for row in range(len(points))], [svg_theme.plain(words) for words in names])
    ax.grid(visible=True, axis="x", color=svg_theme.GRID, linewidth=0.7)
    ax.grid(visible=False, axis="y")
    svg_theme.linear(ax, "x", ticks=4)
    svg_theme.titles(ax, y="time to the first token, s")
    return svg_theme.finish(figure, name, "Mean seconds to the first token by stage")
