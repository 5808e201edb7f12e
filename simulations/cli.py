"""The command of the simulator: ``p2pnode sim …``, or ``python -m simulations …``.

Data goes to stdout, messages and progress go to stderr.  Exit codes are those of ``p2pnode``: 0 ok; 1 a goal failed, an
invariant broke or a run crashed; 2 a wrong file or option; 130 interrupted.

Not here: the work of the commands (``loading``, ``run_pool``, ``results``, ``compare``), their output (``tables``).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from simulations.experiment.loading import Loaded
    from simulations.experiment.overrides import Overrides

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130

#: Where results go unless said.
OUT: Final = Path("simulation-results")

_UNITS: Final = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")


class Duration(click.ParamType[float]):
    """``90``, ``90s``, ``5m``, ``1h30m``: seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds, more than none."""
        try:
            return value if isinstance(value, float) else seconds_of(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def seconds_of(text: str) -> float:
    """The seconds that ``5m`` or ``1h30m`` are; raises ``ValueError`` with a sentence."""
    parts = _TIME.findall(text.lower())
    whole = "".join(number + unit for number, unit in parts) == text.lower().replace(" ", "")
    if not parts or not whole or any(unit not in _UNITS for _, unit in parts):
        raise ValueError(f"{text!r} is no time: write 90s, 5m or 1h30m")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if seconds <= 0:
        raise ValueError(f"{text!r} is no time: it must be above 0")
    return seconds


class Refused(click.ClickException):
    """What was asked for cannot be done; the message says why."""

    exit_code = USAGE


EPILOG: Final = """\b
Examples:
  p2pnode sim list                      the experiments that are shipped
  p2pnode sim run E4                    one of them
  p2pnode sim run mine.toml --set topology.nodes=300 --seed 7
  p2pnode sim compare before/e4-routing after/e4-routing

Exit codes: 0 ok, 1 a goal failed or an invariant broke, 2 usage, 130 interrupted.
"""

RUN_EPILOG: Final = """\b
Examples:
  p2pnode sim run E4 --jobs 4
  p2pnode sim run E4 --policy mine.toml --trace mine.csv
  p2pnode sim run mine.toml --set topology.nodes=300 --seed 7
  p2pnode sim run mine.toml --set 'sweep.topology.loss=[0, 0.1]' --until 2m
  p2pnode sim run quick --baseline simulations/baselines

FILE is a scenario in TOML or the name of a shipped one. Results are in
DIR/NAME: results.json, the same bytes for the same scenario and seeds,
timing.json and report.html. Ctrl-C stops and writes what is done.
"""


@click.group(name="sim", epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
def command() -> None:
    """Simulate a network: the daemon's own machines on virtual time."""


@command.command(epilog=RUN_EPILOG)
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--seed", "seeds", type=int, multiple=True, help="Instead of the scenario's seeds; may be repeated.")
@click.option("--jobs", type=click.IntRange(0), default=2, show_default=True, help="Runs at once; 0: in this process.")
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default=True, help="Where results go.")
@click.option("--baseline", type=click.Path(path_type=Path), help="Fail only by what is worse than DIR/NAME.json.")
@click.option("--update-baseline", is_flag=True, help="Write the results down as the baseline.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a key of the scenario.")
@click.option("--policy", type=click.Path(path_type=Path), help="Your [routing] and [node], or your config.toml.")
@click.option("--trace", type=click.Path(path_type=Path), help="Your traffic, as CSV.")
@click.option("--until", type=Duration(), help="Stop there (virtual time).")
@click.option("--json", "as_json", is_flag=True, help="Print each results.json on one line.")
@click.option("--no-report", is_flag=True, help="No report.html.")
def run(files: tuple[str, ...], **options: Any) -> int:
    """Run scenarios, judge their goals, write results and a report."""
    from simulations.experiment.campaign import Campaign
    from simulations.experiment.overrides import Overrides, ScenarioError

    overrides = Overrides(options["settings"], options["policy"], options["trace"], options["seeds"])
    baseline = options["baseline"]
    if baseline is None and options["update_baseline"]:
        raise Refused("--update-baseline needs --baseline DIR")
    if baseline is not None and (overrides or options["until"]):
        raise Refused("--baseline compares a scenario as it stands: drop --seed, --set, --policy, --trace and --until")
    campaign = Campaign(
        out=options["out"],
        jobs=options["jobs"],
        until=options["until"],
        baseline=baseline,
        update_baseline=options["update_baseline"],
        report=not options["no_report"],
        as_json=options["as_json"],
    )
    loaded = _load(files, overrides)
    try:
        return campaign.all(loaded)
    except ScenarioError as error:
        raise Refused(str(error)) from None


def _load(names: tuple[str, ...], overrides: Overrides) -> list[Loaded]:
    """All files before the first run: a mistake in the last should not wait for an hour."""
    from simulations.experiment.loading import find, load
    from simulations.experiment.overrides import ScenarioError

    try:
        loaded = [load(path, overrides) for name in names for path in find(name)]
    except ScenarioError as error:
        raise Refused(str(error)) from None
    by_name: dict[str, Path] = {}
    for each in loaded:
        if each.name in by_name:
            raise Refused(f"{by_name[each.name]} and {each.path} are both called {each.name!r}: results would be lost")
        by_name[each.name] = each.path
    return loaded


@command.command(name="list")
def list_() -> None:
    """The scenarios that are shipped."""
    from simulations.experiment.loading import about, shipped
    from simulations.experiment.tables import console

    width = max((len(path.stem) for path in shipped()), default=0)
    for path in shipped():
        console().print(f"{path.stem:{width}}  {about(path)}", markup=False, soft_wrap=True)


COMPARE_EPILOG: Final = """\b
Examples:
  p2pnode sim compare before/e4-routing after/e4-routing
  p2pnode sim compare simulations/baselines/quick-churn.json out/quick-churn
  p2pnode sim compare A B --tolerance ttft_s.p99=0.1

A and B are folders with results, results.json or baselines. Exit code 1: a goal
that passed in A fails in B, or a metric is outside its tolerance.
"""


@command.command(epilog=COMPARE_EPILOG)
@click.argument("before", type=click.Path(path_type=Path), metavar="A")
@click.argument("now", type=click.Path(path_type=Path), metavar="B")
@click.option("--tolerance", "given", multiple=True, metavar="METRIC=SHARE", help="How far a metric may move.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def compare(before: Path, now: Path, given: tuple[str, ...], as_json: bool) -> int:
    """Two results against each other."""
    from simulations.experiment import tables
    from simulations.experiment.compare import TOLERANCES, compared, read_figures
    from simulations.experiment.overrides import ScenarioError

    try:
        old, new = read_figures(before), read_figures(now)
        tolerances = {**(old["tolerance"] or TOLERANCES), **dict(_tolerance(text) for text in given)}
    except ScenarioError as error:
        raise Refused(str(error)) from None
    comparison = compared(old, new, tolerances)
    if as_json:
        sys.stdout.write(tables.comparison_json(comparison))
        return OK if comparison.ok else FAILED
    console = tables.console()
    for note in comparison.notes:
        console.print(note, style="yellow", markup=False)
    for line in tables.change_lines(comparison):
        console.print(line, soft_wrap=True)
    if any(drift.share for drift in comparison.drifts) or comparison.outside:
        console.print(tables.comparison_table(comparison))
    else:
        console.print("the metrics are the same" if comparison.drifts else "no point has metrics in both")
    return OK if comparison.ok else FAILED


def _tolerance(text: str) -> tuple[str, float]:
    from simulations.experiment.goals import GoalError, check_metric
    from simulations.experiment.overrides import ScenarioError

    metric, _, share = text.partition("=")
    try:
        check_metric(metric)
        return metric, float(share)
    except GoalError as error:
        raise ScenarioError(f"--tolerance {text}: {error}") from None
    except ValueError:
        raise ScenarioError(f"--tolerance {text}: write METRIC=SHARE, as in ttft_s.p99=0.1") from None


FUZZ_EPILOG: Final = """\b
Examples:
  p2pnode sim fuzz --nodes 30 --time 5m --seeds 200 --jobs 2
  p2pnode sim fuzz --from-seed 117 --seeds 1    one seed again

Exit code 1: an invariant broke; its seed and the command that repeats it are
shown.
"""


@command.command(epilog=FUZZ_EPILOG)
@click.option("--nodes", type=click.IntRange(2), default=30, show_default=True, help="Nodes of each network.")
@click.option("--time", "time_s", type=Duration(), default="5m", show_default=True, help="Virtual time of each run.")
@click.option("--seeds", type=click.IntRange(1), default=200, show_default=True, help="How many networks.")
@click.option("--from-seed", type=int, default=1, show_default=True, help="The first seed.")
@click.option("--jobs", type=click.IntRange(0), default=2, show_default=True, help="Runs at once; 0: in this process.")
@click.option("--remember", is_flag=True, help="Write failing seeds down; they are made first from then on.")
def fuzz(nodes: int, time_s: float, seeds: int, from_seed: int, jobs: int, remember: bool) -> int:
    """Random networks under faults of every kind: only the invariants judge."""
    from simulations.experiment import fuzz as chaos
    from simulations.experiment import tables
    from simulations.experiment.progress import shown_on

    try:
        plan = chaos.planned(range(from_seed, from_seed + seeds), nodes, time_s)
    except ValueError as error:
        raise Refused(f"--time: {error}") from None
    if seeds > 1:
        plan = chaos.failed_first(plan)
    with shown_on(tables.console(sys.stderr), plan) as audience:
        fuzzed = chaos.run(plan, jobs, audience)
    console = tables.console()
    for line in tables.trouble_lines(fuzzed.failures):
        console.print(line, soft_wrap=True)
    console.print(f"{fuzzed.whole} of {len(plan)} runs made, {len(fuzzed.failures)} failed, {fuzzed.cpu_s:.0f} CPU s")
    if remember and fuzzed.failures:
        console.print(f"{chaos.remember(fuzzed, plan)} more seeds to be made first")
    if fuzzed.failures:
        return FAILED
    return INTERRUPTED if fuzzed.interrupted else OK


@command.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR…")
def report(folders: tuple[Path, ...]) -> int:
    """Draw report.html again from the results in DIR."""
    from simulations.experiment import campaign, results
    from simulations.experiment.overrides import ScenarioError

    for folder in folders:
        try:
            document = results.read(folder)
        except ScenarioError as error:
            raise Refused(str(error)) from None
        beside = folder if folder.is_dir() else folder.parent
        drawn = campaign.draw(beside, document, results.read_timing(beside))
        if drawn is None:
            return FAILED
        click.echo(str(drawn))
    return OK


def main(args: list[str] | None = None) -> int:
    """``python -m simulations``; the exit code."""
    try:
        result = command.main(args=args, prog_name="python -m simulations", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        sys.stdout = None  # the reader has gone, and nothing may be flushed
        return OK
    return result if isinstance(result, int) else OK
