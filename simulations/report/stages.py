"""The stages of the time to the first token: one bar for each point, its stages one after the other.

Not here: measuring the stages (``simulations.sim.jobs``).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from simulations.report import svg_theme
from simulations.report.metrics import STAGES
from simulations.report.points import Results, label, thinned
from simulations.report.svg_theme import Legend, Panel, Picture, Style

#: Bars in one drawing.
MOST_BARS: Final = 16
#: The jobs of each drawing, and the metric of a stage.
PANELS: Final = {"all jobs": "ttft_{}_s.mean", "the slowest 5 %": "ttft_{}_slowest_s"}


def picture(results: Results) -> Picture | None:
    """Means over the jobs and seeds; None if no run has them."""
    points = thinned([point for point in results.points if point.spread("ttft_choice_s.mean")], MOST_BARS)
    if not points:
        return None
    panels, took = list[Panel](), np.zeros(len(STAGES), dtype=bool)
    for words, metric in PANELS.items():
        spreads = [[point.spread(metric.format(name)) for name in STAGES] for point in points]
        seconds = np.array([[found.mean if found else 0.0 for found in row] for row in spreads])
        took |= seconds.any(axis=0)
        figure, ax = svg_theme.row_sheet([label(point.values, results.keys) for point in points])
        for i, (width, end) in enumerate(zip(seconds.T, seconds.cumsum(axis=1).T, strict=True)):
            hatch = "//" if Style(i).dash else None
            ax.barh(-np.arange(len(points)), width, left=end - width, height=0.7, color=Style(i).colour, hatch=hatch)
        ax.grid(visible=True, axis="x", color=svg_theme.GRID, linewidth=0.7)
        ax.grid(visible=False, axis="y")
        svg_theme.linear(ax, "x", ticks=4)
        svg_theme.titles(ax, y="time to the first token, s")
        alt = "Mean seconds to the first token by stage"
        panels.append(svg_theme.finish(figure, f"stages-{len(panels)}", alt, words))
    legend = tuple(Legend(title, Style(i)) for i, title in enumerate(STAGES.values()) if took[i])
    reading = (
        "Mean seconds to the first token, its stages in their order. An improvement pays where a bar is widest; a "
        "stage that is wider among the slowest jobs makes the tail."
    )
    return Picture("stages", "Where the time to the first token goes", reading, tuple(panels), legend)
