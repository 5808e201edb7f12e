"""``report.html``: the results of a simulation as one file with tables and pictures for people.

The page has no external references: it contains its style and its drawings.  It can be mailed, kept beside the results,
read on a phone and printed.  The same results give the same bytes.

=========== =======================================================================
module      content
=========== =======================================================================
points      results by points of the sweep: lines, spreads over seeds
metrics     titles, units and formats of the metrics
svg_theme   matplotlib to inline SVG that follows the colour scheme
sweep_plots metrics over a swept key; ``plot_catalog`` lists the pairs
curves      distributions, and spreading over time
timelines   courses over virtual time, partitions, the map of load
pictures    the choice of pictures for a report
page        the values of the page; its template is ``page.html``
=========== =======================================================================

Not here: judging goals (``simulations.experiment.goals``) and writing ``results.json``
(``simulations.experiment.results``).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulations.report import page
from simulations.report.points import Results

if TYPE_CHECKING:
    from simulations.report.svg_theme import Picture


def write(results: dict[str, Any], timing: dict[str, Any], path: Path) -> None:
    """Write the report on the content of ``results.json`` (and of ``timing.json``, or nothing) to ``path``."""
    read = Results(results)
    drawn: list[Picture] | None = None
    if find_spec("matplotlib") is not None:
        from simulations.report.pictures import pictures  # noqa: PLC0415 - slow to import, and may be missing

        drawn = pictures(read)
    read.goals += timing.get("goals") or []  # not in the pictures: it is what the machine can do
    content = page.html(read, timing, drawn)
    half = path.with_name(f".{path.name}.new")
    half.write_text(content, encoding="utf-8")
    half.replace(path)


__all__ = ["write"]
