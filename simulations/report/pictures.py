"""Chooses the pictures of a report: each appears only if the runs hold its data.

Swept and judged metrics without a picture of their own get a plain one, so that every goal is visible.  Not here:
drawing (``sweep_plots``, ``curves``, ``timelines``).
"""

from __future__ import annotations

from simulations.report import curves, plot_catalog, stages, sweep_plots, timelines
from simulations.report.metrics import known
from simulations.report.points import Results, key_title, metric_of
from simulations.report.svg_theme import Picture
from simulations.report.sweep_plots import Question

#: The metrics shown for sweeps over names, besides the metrics that have goals.
OF_NAMES = ("ttft_s.p99", "goodput_per_s", "success_rate", "ttft_p99_ratio", "herd_peak")


def pictures(results: Results) -> list[Picture]:
    """All that there is to see, in the order of the questions a reader has."""
    found = [curves.picture(results, course) for course in curves.COURSES]
    found += [sweep_plots.picture(results, question) for question in plot_catalog.questions(results)]
    found += [stages.picture(results)]
    found += [timelines.herding(results), timelines.partition(results)]
    drawn = [picture for picture in found if picture is not None]
    drawn += plain_ones(results, {pair for picture in drawn for pair in picture.covers})
    if results.keys and not any(results.numeric(key) for key in results.keys):
        reading = "A row is a point: the dot is the mean, the bar goes from the least to the most of the seeds."
        metrics = dict.fromkeys([*OF_NAMES, *goal_metrics(results)])
        rows = sweep_plots.dots(results, "points", "Point by point", reading, list(metrics))
        drawn += [rows] if rows else []
    time = timelines.over_time(results)
    return drawn + ([time] if time else [])


def goal_metrics(results: Results) -> list[str]:
    """The metrics that the scenario judges."""
    return list(dict.fromkeys(metric_of(goal) for goal in results.goals))


def plain_ones(results: Results, covered: set[tuple[str, str]]) -> list[Picture]:
    """Goals over swept numbers that no picture has shown."""
    drawn = []
    for key in (key for key in results.keys if results.numeric(key)):
        names = tuple(name for name in goal_metrics(results) if not shown(key, name, covered))
        if not names:
            continue
        title = f"Goals over {key_title(key)}"
        reading = "Each goal's metric over what was swept; the dashed line is the goal's bound."
        question = Question("goals-" + "".join(c if c.isalnum() else "-" for c in key), title, reading, (key,), names)
        picture = sweep_plots.over(results, question, key)
        drawn += [picture] if picture else []
    return drawn


def shown(key: str, name: str, covered: set[tuple[str, str]]) -> bool:
    """Whether a metric has been drawn over a key, under any spelling."""
    return any(key == k and known(name).title == known(metric).title for k, metric in covered)
