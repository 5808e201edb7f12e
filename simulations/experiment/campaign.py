"""Runs scenarios one after the other: run, save, draw, judge, print.  Decides the exit code of the command.

A failed goal, a broken invariant and a crashed run each fail the campaign.  With a baseline, a goal that already failed
does not fail the campaign, and a metric that drifts does.

Not here: the processes of the runs (``run_pool``), the form of the results (``results``, ``tables``).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from simulations.experiment import compare, results, tables
from simulations.experiment.loading import Loaded
from simulations.experiment.overrides import ScenarioError
from simulations.experiment.progress import shown_on
from simulations.experiment.run_pool import ENTRY_POINT, Made, Planned, RunPool, plan
from simulations.workload.traces import NAMES as TRACES
from simulations.workload.traces import what_is_made

OK: Final = 0
FAILED: Final = 1
INTERRUPTED: Final = 130

NO_MATPLOTLIB: Final = "no report.html: it needs matplotlib; pip install 'p2pnode[sim]'"


@dataclass(slots=True)
class Campaign:
    """The options of the command for every scenario."""

    out: Path
    jobs: int = 2
    until: float | None = None
    baseline: Path | None = None
    update_baseline: bool = False
    report: bool = True
    as_json: bool = False
    entry_point: str = ENTRY_POINT

    def all(self, loaded: Sequence[Loaded]) -> int:
        """Everything; the exit code."""
        self.check(loaded)
        code = OK
        for each in loaded:
            self._say_traces(each)
            warnings = results.warnings_of(each)
            for warning in warnings:
                tables.console(sys.stderr).print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)
            made, interrupted = self._make(plan(each, self.until))
            runs = [one.run for one in made]
            document = results.document(each, runs, interrupted, warnings)
            timing = results.timing(each, runs, [one.timing for one in made])
            code = max(code, self._finish(document, timing, interrupted))
            if interrupted:
                return INTERRUPTED
        return code

    def check(self, loaded: Sequence[Loaded]) -> None:
        """Check early for errors that would otherwise appear after hours; raises ``ScenarioError``."""
        for each in loaded:
            _writable("--out", self.out, self.out / each.name)
        if self.baseline is None:
            return
        if self.update_baseline:
            _writable("--baseline", self.baseline, self.baseline)
        elif not self.baseline.is_dir():
            raise ScenarioError(f"--baseline {self.baseline}: there is no such folder; --update-baseline makes it")
        for each in loaded:
            compare.read_baseline(self.baseline, each.name)

    @staticmethod
    def _say_traces(loaded: Loaded) -> None:
        """What becomes of the user's own traffic, which hardly ever is as long and as dense as the run."""
        workloads = [(scenario.workload, scenario) for _, scenario in loaded.points]
        own = [
            scenario for workload, scenario in workloads if workload.kind == "trace" and workload.trace not in TRACES
        ]
        for line in dict.fromkeys(what_is_made(scenario) for scenario in own):
            tables.console(sys.stderr).print(line, markup=False, soft_wrap=True)

    def _make(self, planned: list[Planned]) -> tuple[list[Made], bool]:
        talk = tables.console(sys.stderr)
        with shown_on(talk, planned) as audience:
            runs = RunPool(planned, self.jobs, audience, self.entry_point)
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
        if not self._judged(document) or self.update_baseline:
            return OK  # who writes the baseline has seen them
        if comparison is not None:
            return OK if comparison.ok else FAILED
        return OK if all(goal["passed"] for goal in (*document["goals"], *costs)) else FAILED

    def _judged(self, document: dict[str, Any]) -> bool:
        """Goals are about whole runs."""
        return self.until is None or not document["partial"]

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
        if (stages := tables.stages_table(document)) is not None:
            console.print("\nMean seconds to the first token, by stage", style="bold")
            console.print(stages)
        changes = comparison.goals if comparison else ()
        goals = [*document["goals"], *costs]
        lines = tables.trouble_lines(document["runs"])
        if self._judged(document):
            lines = [*tables.goal_lines(goals, changes), *lines]
        elif goals:
            console.print(f"the goals were not judged: --until stopped at {self.until:g} s", style="yellow")
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


def _writable(option: str, given: Path, folder: Path) -> None:
    """Make the folder, and raise ``ScenarioError`` if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ScenarioError(f"{option} {given}: {folder} cannot be written: {error.strerror}") from None


def draw(folder: Path, document: dict[str, Any], timing: dict[str, Any]) -> Path | None:
    """``report.html``; None, and a line on stderr, where there is nothing to draw with."""
    talk = tables.console(sys.stderr)
    if importlib.util.find_spec("matplotlib") is None:
        talk.print(NO_MATPLOTLIB, markup=False)
        return None
    path = folder / "report.html"
    importlib.import_module("simulations.report").write(document, timing, path)
    return path
