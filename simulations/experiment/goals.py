"""``[goals]``: bounds on metrics, for every point of a sweep or for those that a goal names.

A goal is ``metric = "bound"``; a metric that is a distribution is named with its figure (``ttft_s.p99``).  In front
of the metric may stand which points are meant: ``"topology.nodes=1000, routing.policy=neuralgrid: ttft_s.p99"``; ``|``
separates values of which one has to hold.  The value of a point is the median over its seeds.

Not here: how the metrics come about (``job_log``), whether a failing goal was already failing (``compare``).
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

_STAGES: Final = {
    "choice": "hearing the caller, the ranking, a look-up in the DHT",
    "retries": "attempts before the one that answered",
    "dial": "reaching the worker that answered",
    "way_there": "the way of the request to it",
    "admission": "its queue",
    "engine": "the queue of its engine, a model that is loaded",
    "prompt": "the prompt, to the first token",
    "answer": "the rest of an answer that is not streamed",
    "way_back": "the way back",
}
#: Metrics that are one number, with what they are.
NUMBERS: Final = {
    **{f"ttft_{name}_slowest_s": f"mean of the slowest 5 %: {what}" for name, what in _STAGES.items()},
    "jobs_submitted": "jobs that arrived",
    "jobs_completed": "jobs that got their whole answer",
    "jobs_failed": "jobs that ended with an error",
    "jobs_unserved": "measured jobs that never got a first token",
    "jobs_open": "jobs still under way when the run ended",
    "jobs_measured": "jobs that arrived after the warm-up, which all figures are about",
    "success_rate": "share of the measured jobs that were completed",
    "attempts_per_job": "attempts per job",
    "executions": "times that an engine began a job",
    "preemptions": "jobs that an engine put back for want of memory",
    "cascades": "jobs that needed more than one attempt",
    "goodput_per_s": "jobs per second that were served within the SLO",
    "offered_per_s": "jobs per second that arrived",
    "utilisation": "share of the time that GPUs were busy",
    "within_slo": "share of the measured jobs that were served within the SLO",
    "cold_starts": "models loaded from disk",
    "prefix_hit_share": "share of the prompt tokens that were already there",
    "wasted_gpu_s": "seconds of GPUs for attempts whose answer did not reach the caller",
    "duplicates": "jobs that began on more than one worker",
    "jobs_duplicated_share": "share of the measured jobs that began on more than one worker",
    "ttft_p50_ratio": "median TTFT over that of the omniscient scheduler",
    "ttft_p99_ratio": "p99 TTFT over that of the omniscient scheduler",
    "goodput_ratio": "goodput over that of the omniscient scheduler",
    "coverage_t50_s": "seconds until half of the nodes have an advert",
    "coverage_t99_s": "seconds until 99 % of the nodes have an advert",
    "coverage_t100_s": "seconds until all nodes have an advert",
    "coverage_t50_s_worst": "the same for the slowest of the followed adverts",
    "coverage_t99_s_worst": "the same for the slowest of the followed adverts",
    "coverage_t100_s_worst": "the same for the slowest of the followed adverts",
    "coverage_share": "mean share of the nodes that a followed advert reached",
    "redundancy": "records received per record that was new",
    "dht_lookups": "look-ups made",
    "dht_found_share": "share of the look-ups that found a provider",
    "false_deaths": "times that a node held a living one dead",
    "heal_s": "seconds from the begin of the quiet phase until the network is whole",
    "penalties": "penalties given to peers",
    "penalised_honest": "penalties given to honest peers",
    "checks": "how often the invariants were looked at",
    "bad_job_share": "share of the attempts that went to bad peers",
    "time_to_isolate_s": "seconds until a bad peer gets no more jobs",
    "false_bans": "honest peers that were banned",
    "false_ban_share": "share of the honest peers that were banned",
    "bans": "bans of peers by peers",
    "bad_peers": "peers of bad intent",
    "bad_banned_share": "share of the bad peers that were banned",
    "bad_answers": "jobs that were completed with a wrong answer, while the attack lasted",
    "bad_answer_share": "share of the jobs, while the attack lasted, that were",
    "bad_in_views": "share of the records in honest views that are of bad peers",
    "bad_in_views_max": "the same in the worst view",
    "forged_in_views": "records in honest views that do not verify",
    "bad_neighbours": "share of the neighbours of honest nodes that are bad",
    "eclipsed_share": "share of the honest nodes all of whose neighbours are bad",
    "herd_peak": "arrivals at the busiest node in its busiest second, over the mean",
    "jain": "fairness of the load over the nodes (Jain)",
}
#: Metrics that are distributions, and the figures of each.
DISTRIBUTIONS: Final = {
    "ttft_s": "seconds to the first token",
    **{f"ttft_{name}_s": f"seconds of these on: {what}" for name, what in _STAGES.items()},
    "e2e_s": "seconds to the last token",
    "itl_s": "seconds between tokens",
    "view_completeness": "share of the living nodes that a node knows",
    "load_age_s": "age of the loads in views, seconds (40 views, four looks)",
    "advert_age_s": "age of the adverts in views, seconds (40 views, four looks)",
    "bytes_up_per_s": "bytes per second sent by a node",
    "gossip_bytes_per_s": "bytes per second of gossip sent by a node",
    "messages_per_s": "messages per second sent by a node",
    "cpu_share": "share of a core that a node needs",
    "honest_bytes_up_per_s": "bytes per second sent by an honest node, while the attack lasted",
    "honest_gossip_bytes_per_s": "bytes per second of gossip sent by an honest node, while the attack lasted",
    "honest_cpu_share": "share of a core that an honest node needs, while the attack lasted",
    "dht_hops": "hops of a look-up",
    "dht_s": "seconds of a look-up",
    "detection_s": "seconds from a crash until a node holds the peer dead, where that comes before it is back",
}
FIGURES: Final = ("n", "mean", "p50", "p90", "p95", "p99", "max")
#: What a run costs the machine that makes it.  It differs from one to the next, so it is no part of the results, and
#: neither is the judgement on it: both are in ``timing.json``.
COSTS: Final = {
    "virtual_per_cpu_s": "virtual seconds per processor second",
    "events_per_cpu_s": "events per processor second",
    "peak_mib": "most memory that the run held, MiB",
}

_RELATIONS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_LIMIT: Final = re.compile(r"(>=|<=|==|>|<)\s*(-?\d[\d_]*(?:\.\d+)?(?:[eE][-+]?\d+)?)")


class GoalError(ValueError):
    """A goal cannot be read; the message says what is wrong and what may be written."""


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
        """Whether it is about what the run costs, not about what it finds."""
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
    """One goal at one point, over its runs, one per seed; what cannot be told has failed, and ``reason`` says why."""
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
