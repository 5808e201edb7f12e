"""``[goals]``: bounds on metrics, for every point of a sweep or for the points that a goal names.

A goal is ``metric = "bound"``.  A metric that is a distribution is named with its figure (``ttft_s.p99``).  A prefix of
the metric selects points: ``"topology.nodes=1000, routing.policy=neuralgrid: ttft_s.p99"``.  ``|`` separates
alternative values.  The value of a point is the median over its seeds.

Not here: measuring the metrics (``job_log``), comparing a failed goal with a baseline (``compare``).
"""

from __future__ import annotations

import math
import operator
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from simulations.experiment.schema import listed, meant
from simulations.sim.jobs import STAGES

#: Metrics that are one number; ``simulations/README.md`` explains each.
_NUMBERS: Final = """
    jobs_submitted jobs_completed jobs_failed jobs_unserved jobs_open jobs_measured success_rate attempts_per_job
    dialled_share executions preemptions cascades goodput_per_s offered_per_s utilisation within_slo cold_starts
    prefix_hit_share wasted_gpu_s duplicates jobs_duplicated_share ttft_p50_ratio ttft_p95_ratio ttft_p99_ratio
    ttft_p95_to_reference goodput_ratio coverage_t50_s coverage_t99_s coverage_t100_s coverage_t50_s_worst
    coverage_t99_s_worst coverage_t100_s_worst coverage_share redundancy dht_lookups dht_found_share false_deaths
    heal_s penalties penalised_honest checks bad_job_share time_to_isolate_s false_bans false_ban_share bans bad_peers
    bad_banned_share bad_answers bad_answer_share bad_in_views bad_in_views_max forged_in_views bad_neighbours
    eclipsed_share herd_peak jain first_piece_share experienced_jobs experienced_success_rate
    experienced_bad_first_share experienced_bad_share experienced_bad_over_equal experienced_newcomer_over_equal
    experienced_shut_out_share
"""
NUMBERS: Final = (*_NUMBERS.split(), *(f"ttft_{stage}_slowest_s" for stage in STAGES))
#: Metrics that are distributions, and the figures of each.
_DISTRIBUTIONS: Final = """
    ttft_s e2e_s itl_s view_completeness load_age_s advert_age_s bytes_up_per_s gossip_bytes_per_s messages_per_s
    cpu_share honest_bytes_up_per_s honest_gossip_bytes_per_s honest_cpu_share dht_hops dht_s detection_s
    links warm_links fresh_bytes_per_s
"""
DISTRIBUTIONS: Final = (*_DISTRIBUTIONS.split(), *(f"ttft_{stage}_s" for stage in STAGES))
FIGURES: Final = ("n", "mean", "p50", "p90", "p95", "p99", "max")
#: What a run costs the machine that makes it.  It differs from one to the next, so it is no part of the results, and
#: neither is the judgement on it: both are in ``timing.json``.
COSTS: Final = ("virtual_per_cpu_s", "events_per_cpu_s", "peak_mib")

_RELATIONS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_LIMIT: Final = re.compile(r"(>=|<=|==|>|<)\s*(-?\d[\d_]*(?:\.\d+)?(?:[eE][-+]?\d+)?)")


class GoalError(ValueError):
    """A goal cannot be read; the message names the error and the allowed forms."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One or more limits, all of which have to hold."""

    text: str
    limits: tuple[tuple[str, float], ...]

    def holds(self, value: float) -> bool:
        """Whether ``value`` is inside."""
        return all(_RELATIONS[relation](value, limit) for relation, limit in self.limits)


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on one metric; ``where`` are the dotted keys and the values (as text) of the points it is about."""

    key: str
    metric: str
    bound: Bound
    where: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def of_costs(self) -> bool:
        """Whether the goal bounds the cost of the run, not its results."""
        return self.metric in COSTS

    def concerns(self, value_of: Callable[[str], Any]) -> bool:
        """Whether the point is meant of which ``value_of`` tells the value of a dotted key."""
        return all(as_text(value_of(key)) in values for key, values in self.where)


def as_text(value: Any) -> str:
    """A value of a point as it is written in a goal or after ``--set``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_goal(key: str, text: Any) -> Goal:
    """One line of ``[goals]``; raises ``GoalError``."""
    before, colon, metric = key.rpartition(":")
    where = tuple(_condition(part) for part in before.split(",")) if colon else ()
    metric = metric.strip()
    check_metric(metric)
    return Goal(key, metric, _bound(text), where)


def check_metric(name: str) -> None:
    """Raises ``GoalError`` unless ``name`` is a metric with a single value."""
    if name in NUMBERS or name in COSTS:
        return
    head, _, figure = name.partition(".")
    if head in DISTRIBUTIONS:
        if figure in FIGURES:
            return
        ways = ", ".join(f"{head}.{each}" for each in FIGURES)
        raise GoalError(f"{head} is a distribution: write one of {ways}")
    if head in NUMBERS:
        raise GoalError(f"{head} is one number: write it without .{figure}")
    known = [*NUMBERS, *DISTRIBUTIONS, *COSTS]
    raise GoalError(f"there is no metric {name}{meant(head, known)}; there are {', '.join(known)}")


def _condition(text: str) -> tuple[str, tuple[str, ...]]:
    key, equals, values = text.partition("=")
    if not equals or not key.strip() or not values.strip():
        raise GoalError(f"{text.strip()!r} does not say which points: write KEY=VALUE: METRIC")
    return key.strip(), tuple(_same_text(value.strip()) for value in values.split("|"))


def _same_text(text: str) -> str:
    """``0.50`` and ``0.5`` are the same value."""
    try:
        return text if text.isdigit() else f"{float(text):g}"
    except ValueError:
        return text


def _bound(text: Any) -> Bound:
    limits = []
    for part in str(text).split(","):
        match = _LIMIT.fullmatch(part.strip())
        if match is None or not isinstance(text, str):
            ways = listed(_RELATIONS)
            raise GoalError(f'= {text!r} is no bound: write one of {ways} and a number, as in ">= 0.995"')
        limits.append((match[1], float(match[2])))
    return Bound(text, tuple(limits))


# --- judging ---------------------------------------------------------------------------------------------------------


def metric_of(metrics: Mapping[str, Any], name: str) -> float | None:
    """The value of a metric in one run: infinite if it was not reached, None if it was not measured."""
    head, _, figure = name.partition(".")
    value = metrics.get(head)
    if figure:
        value = value.get(figure) if isinstance(value, Mapping) else None
    return None if isinstance(value, Mapping) else figure_of(value)


def figure_of(value: float | str | None) -> float | None:
    """A number as results hold it, where JSON has no infinity: there it is the text ``inf``."""
    return None if value is None else float(value)


def judged(goal: Goal, point: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], seeds: int) -> dict[str, Any]:
    """One goal at one point, over its runs, one per seed; a goal without a value fails, and ``reason`` says why."""
    value, reason = _value(goal, runs)
    if not reason and len(runs) < seeds:
        reason = f"only {len(runs)} of {seeds} seeds were finished"
    passed = not reason and value is not None and goal.bound.holds(value)
    return {
        "goal": goal.metric,
        "key": goal.key,
        "bound": goal.bound.text,
        "point": dict(point),
        "value": value,
        "passed": passed,
        "reason": reason,
    }


def _value(goal: Goal, runs: Sequence[Mapping[str, Any]]) -> tuple[float | None, str]:
    """The median over the runs that measured it, and why it does not count; empty if it does."""
    values = {run["seed"]: metric_of(run["metrics"], goal.metric) for run in runs}
    known = [value for value in values.values() if value is not None]
    value = statistics.median(known) if known else None
    if not runs:
        return value, "no run of this point was finished"
    for run in runs:
        if ended := _ended_badly(run):
            return value, f"seed {run['seed']} {ended}"
    silent = [str(seed) for seed, found in values.items() if found is None]
    if silent:
        seeds = f" with seed {', '.join(silent)}" if known else ""
        return value, f"{goal.metric} was not measured{seeds}"
    # The median hides a seed in which something took for ever, and a bound on it would hold.
    never = [str(seed) for seed, found in values.items() if found == math.inf]
    if never and not goal.bound.holds(math.inf):
        return value, f"{goal.metric} was not reached with seed {', '.join(never)}"
    return value, ""


def _ended_badly(run: Mapping[str, Any]) -> str:
    if run["error"]:
        return "crashed"
    if run["breach"]:
        return f"broke invariant {run['breach']['invariant']}"
    return f"was stopped at {run['virtual_s']:g} s" if run["partial"] else ""
