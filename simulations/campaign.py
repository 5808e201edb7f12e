"""Scenarios one after the other: run, write down, draw, judge, print; and with what exit code it all ends.

A goal that fails, an invariant that breaks and a run that crashes fail the campaign.  Against a baseline a goal that
already failed does not, and a metric that drifts does.

Not here: how runs are made (``runs``), what results look like (``results``, ``tables``).  Who calls it: ``cli``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from simulations import compare, results, tables
from simulations.files import Loaded
from simulations.progress import shown_on
from simulations.runs import WORLD, Made, Planned, Runs, plan

OK: Final = 0
FAILED: Final = 1
INTERRUPTED: Final = 130

NO_MATPLOTLIB: Final = "no report.html: it needs matplotlib; pip install 'p2pnode[sim]'"


@dataclass(slots=True)
class Campaign:
    """What the command was asked to do with every scenario."""

    out: Path
    jobs: int = 2
    until: float | None = None
    baseline: Path | None = None
    update_baseline: bool = False
    report: bool = True
    as_json: bool = False
    world: str = WORLD

    def all(self, loaded: Sequence[Loaded]) -> int:
        """Everything; the exit code."""
        code = OK
        for each in loaded:
            made, interrupted = self._make(plan(each, self.until))
            runs = [one.run for one in made]
            document = results.document(each, runs, interrupted)
            timing = results.timing(each, runs, [one.timing for one in made])
            code = max(code, self._finish(document, timing, interrupted))
            if interrupted:
                return INTERRUPTED
        return code

    def _make(self, planned: list[Planned]) -> tuple[list[Made], bool]:
        talk = tables.console(sys.stderr)
        with shown_on(talk, planned) as audience:
            runs = Runs(planned, self.jobs, audience, self.world)
            return runs.all(), runs.interrupted

    def _finish(self, document: dict[str, Any], timing: dict[str, Any], interrupted: bool) -> int:
        folder = self.out / document["name"]
        files = [results.write(folder, document, timing), folder / results.TIMING]
        if self.report and document["runs"] and (drawn := draw(folder, document, timing)):
            files.append(drawn)
        before = None
        if self.baseline is not None and not interrupted:
            before = compare.read_baseline(self.baseline, document["name"])
        comparison = None
        if before is not None:
            figures = compare.baseline_of(document, before["tolerance"])
            comparison = compare.compared(before, figures, before["tolerance"])
        if self.as_json:
            sys.stdout.write(results.encoded(document).decode())
            sys.stdout.flush()
        self._print(document, timing["goals"], files, comparison)
        for trace in dict.fromkeys(cost["traceback"] for cost in timing["runs"] if "traceback" in cost):
            sys.stderr.write(trace)
        if self.update_baseline and self.baseline is not None and not document["partial"]:
            tables.console(sys.stderr).print(f"baseline: {compare.write_baseline(self.baseline, document)}")
        return self._verdict(document, timing["goals"], comparison)

    def _verdict(
        self, document: dict[str, Any], costs: list[dict[str, Any]], comparison: compare.Comparison | None
    ) -> int:
        if any(run["breach"] or run["error"] for run in document["runs"]):
            return FAILED
        if self.until is not None or self.update_baseline:
            return OK  # goals are about whole runs; and who writes the baseline has seen them
        if comparison is not None:
            return OK if comparison.ok else FAILED
        return OK if all(goal["passed"] for goal in (*document["goals"], *costs)) else FAILED

    def _print(
        self,
        document: dict[str, Any],
        costs: list[dict[str, Any]],
        files: Sequence[Path],
        comparison: compare.Comparison | None,
    ) -> None:
        console = tables.console(sys.stderr if self.as_json else sys.stdout)
        stopped = ", stopped before its end" if document["partial"] else ""
        console.print(f"\n{document['name']}{stopped}", style="bold", markup=False)
        console.print(tables.runs_table(document, console.width))
        changes = comparison.goals if comparison else ()
        goals = [*document["goals"], *costs]
        lines = [*tables.goal_lines(goals, changes), *tables.trouble_lines(document["runs"])]
        for line in lines:
            console.print(line, soft_wrap=True)
        if comparison is not None:
            self._print_comparison(console, comparison)
        elif self.baseline is not None and not document["partial"] and not self.update_baseline:
            console.print("no baseline yet: --update-baseline writes one", style="yellow")
        console.print("  ".join(str(file) for file in files), markup=False, soft_wrap=True)

    @staticmethod
    def _print_comparison(console: Any, comparison: compare.Comparison) -> None:
        for note in comparison.notes:
            console.print(f"against the baseline: {note}", style="yellow", markup=False)
        outside = comparison.outside
        if outside:
            console.print(
                f"{len(outside)} of {len(comparison.drifts)} metrics outside the tolerance of the baseline:",
                style="red",
            )
            only = compare.Comparison(comparison.before, comparison.now, [], outside)
            console.print(tables.comparison_table(only))
        elif comparison.drifts:
            console.print("all metrics of the baseline within their tolerance", style="green")


def draw(folder: Path, document: dict[str, Any], timing: dict[str, Any]) -> Path | None:
    """``report.html``; None, and a line on stderr, where there is nothing to draw with."""
    talk = tables.console(sys.stderr)
    if importlib.util.find_spec("matplotlib") is None:
        talk.print(NO_MATPLOTLIB, markup=False)
        return None
    path = folder / "report.html"
    importlib.import_module("simulations.report").write(document, timing, path)
    return path
