"""``results.json``: the results of the runs of a scenario; the same scenario, seeds and code give the same bytes.

The file therefore has no time of day, no duration and no machine name: those are in ``timing.json`` beside it.
Numbers are rounded to nine digits and keys are sorted.  Runs are in the order of the sweep, then of the seeds.  JSON
has no infinity: a time that was not reached is the text ``inf``, which ``float`` reads.

Not here: running (``run_pool``), comparing (``compare``), pictures (``report``).
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Final

import msgspec

from protocol import __version__
from simulations.experiment.goals import Goal, as_text, judged, metric_of
from simulations.experiment.loading import CEILING, POLICY_KEY, Loaded, Point, value_at
from simulations.experiment.overrides import ScenarioError
from simulations.experiment.schema import listed
from simulations.measure.confidence import half_interval
from simulations.scenario import Scenario
from simulations.sim.capacity import too_much

#: Version of the format.
SCHEMA: Final = 1
#: Significant digits of the numbers: more than any figure is good for, fewer than where platforms differ.
DIGITS: Final = 9
RESULTS: Final = "results.json"
TIMING: Final = "timing.json"
#: Ratios to the ceiling: the divided metrics.
RATIOS: Final = {
    "ttft_p50_ratio": "ttft_s.p50",
    "ttft_p95_ratio": "ttft_s.p95",
    "ttft_p99_ratio": "ttft_s.p99",
    "goodput_ratio": "goodput_per_s",
}

#: Ratios to the run at ``measure.reference``.
TO_REFERENCE: Final = {"ttft_p95_to_reference": "ttft_s.p95"}

#: One run as it stands in the results.
Run = dict[str, Any]


def document(loaded: Loaded, runs: Sequence[Run], stopped: bool, warnings: Sequence[str] = ()) -> dict[str, Any]:
    """Everything about one scenario; ``runs`` may lack some if ``stopped``."""
    scenario = loaded.scenario
    runs = with_ratios([tidy(run) for run in runs], scenario.measure.reference)
    whole = {
        "schema": SCHEMA,
        "name": scenario.name,
        "about": scenario.about,
        "scenario": msgspec.to_builtins(scenario),
        "scenario_hash": scenario_hash(scenario),
        "commit": commit(),
        "partial": stopped or any(run["partial"] for run in runs),
        "warnings": warnings,
        "runs": runs,
        "summary": [summary(point, _at(runs, point)) for point, _ in loaded.points],
        "goals": _judged([goal for goal in loaded.goals if not goal.of_costs], loaded, runs),
    }
    tidied: dict[str, Any] = tidy(whole)
    return tidied


def warnings_of(loaded: Loaded) -> list[str]:
    """The warnings of all points (``capacity.too_much``), for the machines of the first seed."""
    seen: dict[str, tuple[str, ...]] = {}
    at: dict[str, int] = {}
    for _, scenario in loaded.points:
        parts = (scenario.topology, scenario.hardware, scenario.machine, scenario.models, scenario.workload)
        key = repr((parts, scenario.engine, scenario.duration_s))  # the policy, for one, makes no difference
        if key not in seen:
            seen[key] = tuple(too_much(scenario, scenario.seeds[0]))
        for text in seen[key]:
            at[text] = at.get(text, 0) + 1
    whole = len(loaded.points)
    return [text if count == whole else f"{text} (at {count} of {whole} points)" for text, count in at.items()]


def timing(loaded: Loaded, runs: Sequence[Run], costs: Sequence[Run]) -> dict[str, Any]:
    """The cost of each run, and the goals on cost."""
    beside = [tidy({**run, "metrics": cost}) for run, cost in zip(runs, costs, strict=True)]
    goals = _judged([goal for goal in loaded.goals if goal.of_costs], loaded, beside)
    return {"schema": SCHEMA, "name": loaded.scenario.name, "runs": costs, "goals": goals}


def _judged(goals: Sequence[Goal], loaded: Loaded, runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [
        judged(goal, point, _at(runs, point), len(loaded.scenario.seeds))
        for goal in goals
        for point, at in loaded.points
        if goal.concerns(partial(value_at, at))
    ]


def tidy(value: Any) -> Any:
    """Plain values for JSON: rounded numbers, ``inf`` or ``-inf`` as text for infinite ones, null for NaN."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        if math.isinf(number):
            return str(number)
        return None if math.isnan(number) else float(f"{number:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {str(key): tidy(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [tidy(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no place in results")


def encoded(document: Mapping[str, Any]) -> bytes:
    """The bytes of the file: one line."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def write(folder: Path, document: Mapping[str, Any], timing: Mapping[str, Any]) -> Path:
    """Both files; the path of the results.  A reader never sees half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ((RESULTS, document), (TIMING, timing)):
        half = folder / f".{name}.new"
        half.write_bytes(encoded(content))
        half.replace(folder / name)
    return folder / RESULTS


def read(path: Path) -> dict[str, Any]:
    """Results by their file or folder; ``ScenarioError`` if there are none."""
    file = path / RESULTS if path.is_dir() else path
    try:
        document = json.loads(file.read_bytes())
    except OSError as error:
        inside = [str(each.parent) for each in sorted(path.glob(f"*/{RESULTS}"))] if path.is_dir() else []
        hint = f"; there are results in {listed(inside)}" if inside else ""
        raise ScenarioError(f"{file} cannot be read: {error.strerror}{hint}") from None
    except ValueError:
        raise ScenarioError(f"{file} is not JSON") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ScenarioError(f"{file} holds no results of schema {SCHEMA}")
    return document


def read_timing(folder: Path) -> dict[str, Any]:
    """The cost of the runs, if it is known."""
    path = folder / TIMING
    return read(path) if path.is_file() else {"schema": SCHEMA, "runs": [], "goals": []}


def scenario_hash(scenario: Scenario) -> str:
    """SHA-256 of the scenario as resolved; a trace that is a file counts with its content, not with its name."""
    plain = tidy(msgspec.to_builtins(scenario))
    trace = Path(scenario.workload.trace)
    if scenario.workload.kind == "trace" and trace.is_file():
        plain["workload"]["trace"] = hashlib.sha256(trace.read_bytes()).hexdigest()
    return hashlib.sha256(encoded(plain)).hexdigest()


def commit() -> str:
    """The commit of the checkout that runs, ``-dirty`` if tracked files were changed; else the version."""
    root = next((folder for folder in Path(__file__).resolve().parents[2:5] if (folder / ".git").exists()), None)
    if root is None:
        return __version__
    try:
        head = _git(root, "rev-parse", "HEAD")
        return f"{head}-dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else head
    except (OSError, subprocess.CalledProcessError):
        return __version__


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout.strip()


# --- over the seeds and against the ceiling --------------------------------------------------------------------------


def with_ratios(runs: Sequence[Run], reference: str = "") -> list[Run]:
    """The runs with their ratios: to the omniscient run, and to that at ``reference``, of the same point and seed."""
    filled = _with_ratios(runs, RATIOS, POLICY_KEY, CEILING)
    key, _, value = reference.partition("=")
    return _with_ratios(filled, TO_REFERENCE, key, value) if reference else filled


def _with_ratios(runs: Sequence[Run], ratios: Mapping[str, str], key: str, value: str) -> list[Run]:
    """The runs with ``ratios`` to the run of the same seed whose point is the same but for ``value`` at ``key``."""
    bases = {_beside(run, key): run["metrics"] for run in runs if as_text(run["point"].get(key)) == value}
    filled = []
    for run in runs:
        base = bases.get(_beside(run, key))
        found = {} if base is None else {name: _ratio(run, base, what) for name, what in ratios.items()}
        known = {name: ratio for name, ratio in found.items() if ratio is not None}
        filled.append({**run, "metrics": {**run["metrics"], **known}})
    return filled


def _beside(run: Run, but: str) -> str:
    """The point but for one key, and the seed."""
    point = {key: value for key, value in run["point"].items() if key != but}
    return json.dumps([point, run["seed"]], sort_keys=True)


def _ratio(run: Run, ceiling: Mapping[str, Any], what: str) -> float | None:
    mine, best = metric_of(run["metrics"], what), metric_of(ceiling, what)
    return None if mine is None or not best or math.isinf(best) else tidy(mine / best)


def summary(point: Point, runs: Sequence[Run]) -> dict[str, Any]:
    """One point over its seeds: mean, median and 95 % confidence interval of every metric."""
    values: dict[str, list[float]] = {}
    for run in runs:
        for name in flat(run["metrics"]):
            value = metric_of(run["metrics"], name)
            if value is not None:
                values.setdefault(name, []).append(value)
    jobs = {name: int(sum(values.get(f"jobs_{name}", []))) for name in ("submitted", "completed", "failed", "unserved")}
    return {
        "point": point,
        "seeds": [run["seed"] for run in runs],
        "jobs": jobs,
        "metrics": {name: over_seeds(found) for name, found in sorted(values.items())},
    }


def flat(metrics: Mapping[str, Any]) -> list[str]:
    """The names of all single values in the metrics of a run, figures of distributions with their dot."""
    names = []
    for name, value in metrics.items():
        names += [f"{name}.{figure}" for figure in value] if isinstance(value, Mapping) else [name]
    return names


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean, median and the 95 % confidence interval of the mean (Student); no interval for one seed or infinity."""
    mean, half = statistics.fmean(values), half_interval(values)
    interval = None if half is None else [mean - half, mean + half]
    return {"n": len(values), "mean": mean, "median": statistics.median(values), "ci95": interval}


def _at(runs: Sequence[Run], point: Point) -> list[Run]:
    """The runs of a point."""
    wanted = tidy(point)
    return [run for run in runs if run["point"] == wanted]
