"""The figures of a run: metrics for the goals, curves and time series for the reports."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np

from simulations.event_loop import EventLoop
from simulations.measure.invariants import Breach, Invariants
from simulations.measure.sampling import Sampler
from simulations.scenario import Scenario
from simulations.sim.job_log import JobLog, JobNote
from simulations.sim.jobs import STAGES
from simulations.sim.node import SimNode

#: Points of a curve, columns of a heat map and of a series in the results: as many as a picture can show.
POINTS: Final = 64
COLUMNS: Final = 150
_QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}
#: The slowest jobs waited longer than this share of all served jobs.
_SLOWEST: Final = 0.95
#: Digits that a result keeps.
_DIGITS: Final = 6


@dataclass
class RunMetrics:
    """One run.  ``metrics``: numbers, or quantiles as dictionaries; virtual time, nothing of the machine it ran on."""

    seed: int
    digest: str
    events: int
    virtual_s: float
    partial: bool
    breach: dict[str, Any] | None
    metrics: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    series: dict[str, list[Any]] = field(default_factory=dict)
    heat: dict[str, Any] = field(default_factory=dict)
    #: Until when jobs came, and what the clock of this process said then: for what the run cost, not for its results.
    end_s: float = 0.0
    end_cpu_s: float = field(default=0.0, compare=False)


class Observed(Protocol):
    """The parts of a run (``simulations.run.Run``) that the figures are made from."""

    seed: int
    scenario: Scenario
    loop: EventLoop
    peers: list[SimNode]
    job_log: JobLog
    watch: Sampler
    checks: Invariants
    end_s: float
    end_cpu_s: float


def outcome_of(run: Observed, breach: Breach | None, *, partial: bool) -> RunMetrics:
    """Everything that was seen, added up."""
    loop = run.loop
    outcome = RunMetrics(
        run.seed,
        loop.digest,
        loop.events,
        rounded(loop.now),
        partial,
        None if breach is None else {"invariant": breach.invariant, "at_s": rounded(breach.at_s), "what": breach.what},
        end_s=run.end_s,
        end_cpu_s=run.end_cpu_s,
    )
    metrics = outcome.metrics
    metrics.update(_jobs(run))
    metrics.update(_spreading(run))
    metrics.update(_traffic(run))
    metrics.update(_views(run))
    metrics.update(_fates(run))
    metrics.update(run.checks.metrics())
    outcome.curves = _curves(run)
    outcome.series = _series(run)
    outcome.heat = _heat(run)
    return outcome


def rounded(value: float) -> float:
    """To so many significant digits that results compare."""
    return float(f"{value:.{_DIGITS}g}")


def quantiles(values: Iterable[float], infinite: int = 0) -> dict[str, Any] | None:
    """``n, mean, p50, p90, p95, p99, max``; None of nothing.

    ``infinite`` more values count for the quantiles, which can be infinite themselves; ``n`` and ``mean`` are of the
    finite ones, if there are any.
    """
    array = np.fromiter(values, np.float64)
    if not array.size:
        return {"n": 0, **dict.fromkeys(("mean", *_QUANTILES), math.inf)} if infinite else None
    found: dict[str, Any] = {"n": int(array.size), "mean": rounded(float(array.mean()))}
    last = array.size + infinite - 1
    whole = np.concatenate((array, np.full(infinite, array.max())))
    for name, share in _QUANTILES.items():
        known = math.ceil(share * last) < array.size
        found[name] = rounded(float(np.quantile(whole, share))) if known else math.inf
    return found


# --- jobs ----------------------------------------------------------------------------------------------------------


def ttfts(notes: Sequence[JobNote]) -> list[float]:
    """Seconds to the first piece, of those that got one."""
    return [note.committed_at - note.asked_at for note in notes if note.committed_at is not None]


def _itls(notes: Sequence[JobNote]) -> list[float]:
    return [
        (note.ended_at - note.committed_at) / (note.tokens - 1)
        for note in notes
        if note.end == "completed" and note.committed_at is not None and note.ended_at is not None and note.tokens > 1
    ]


def _dialled(notes: Sequence[JobNote]) -> float:
    """The share of answered jobs whose link did not stand when their peer was asked."""
    dial = STAGES.index("dial")
    answered = [note.stages[dial] for note in notes if note.committed_at is not None and note.stages]
    return sum(seconds > 0 for seconds in answered) / max(1, len(answered))


def _stages(notes: Sequence[JobNote]) -> dict[str, Any]:
    """The stages of the time to the first piece, over the jobs that got one, and their means over the slowest jobs."""
    seconds = np.array([note.stages for note in notes if note.committed_at is not None and note.stages])
    if not len(seconds):
        return {}
    waits = seconds.sum(axis=1)
    slowest = seconds[waits >= np.quantile(waits, _SLOWEST)].mean(axis=0)
    found: dict[str, Any] = {f"ttft_{name}_s": quantiles(each) for name, each in zip(STAGES, seconds.T, strict=True)}
    return found | {
        f"ttft_{name}_slowest_s": rounded(mean) for name, mean in zip(STAGES, slowest.tolist(), strict=True)
    }


def _jobs(run: Observed) -> dict[str, Any]:
    job_log, scenario = run.job_log, run.scenario
    notes = job_log.measured
    found: dict[str, Any] = {
        "jobs_submitted": job_log.submitted,
        "jobs_completed": job_log.completed,
        "jobs_failed": job_log.failed,
        "jobs_open": len(job_log.open),
        "executions": job_log.executions,
    }
    if not notes:
        return found
    end = min(run.loop.now, run.end_s)
    window = max(1e-9, min(end, job_log.window[1]) - job_log.window[0])
    done = [note for note in notes if note.end == "completed"]
    slo = scenario.workload
    well = 0
    for note in done:
        assert note.committed_at is not None, "what is completed was answered"
        assert note.ended_at is not None, "what is completed has ended"
        itl = (note.ended_at - note.committed_at) / max(1, note.tokens - 1)
        well += note.committed_at - note.asked_at <= slo.slo_ttft_s and (itl <= slo.slo_itl_s or not slo.streamed)
    engines = [peer.worker.engine for peer in run.peers if peer.worker is not None]
    prompts = sum(engine.prompt_tokens_total for engine in engines)
    arrivals = [job_log.arrivals_all[peer.index] / peer.machine.slots for peer in run.peers if peer.worker is not None]
    unserved = sum(note.committed_at is None for note in notes)
    found |= {
        "jobs_measured": len(notes),
        "jobs_unserved": unserved,
        "success_rate": rounded(len(done) / len(notes)),
        "offered_per_s": rounded(len(notes) / window),
        "goodput_per_s": rounded(well / window),
        "within_slo": rounded(well / len(notes)),
        "attempts_per_job": rounded(sum(note.attempts for note in notes) / len(notes)),
        "dialled_share": rounded(_dialled(notes)),
        "cascades": sum(note.attempts > 1 for note in notes),
        "duplicates": sum(note.executions > 1 for note in notes),
        "jobs_duplicated_share": rounded(sum(note.executions > 1 for note in notes) / len(notes)),
        "ttft_s": quantiles(ttfts(notes), unserved),
        "itl_s": quantiles(_itls(notes)),
        "e2e_s": quantiles(
            note.ended_at - note.asked_at for note in notes if note.end == "completed" and note.ended_at is not None
        ),
        "wasted_gpu_s": rounded(job_log.wasted_s),
        "utilisation": rounded(run.watch.busy_s() / max(1e-9, end * len(engines))),
        "cold_starts": sum(engine.cold_loads for engine in engines),
        "preemptions": sum(engine.preemptions for engine in engines),
        "prefix_hit_share": rounded(sum(engine.prefix_hit_tokens for engine in engines) / max(1, prompts)),
        "herd_peak": rounded(run.watch.herd_peak),
        "jain": rounded(jain(arrivals)),
    } | _stages(notes)
    return {name: value for name, value in found.items() if value is not None}


def jain(values: Sequence[float]) -> float:
    """Jain's index of fairness: 1 if all are equal, 1/n if one has everything."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


# --- the network -----------------------------------------------------------------------------------------------------


def _spreading(run: Observed) -> dict[str, Any]:
    found: dict[str, Any] = {}
    followed = [tracked for tracked in run.watch.tracked if tracked.nodes > 0]
    if not followed:
        return found
    t50: list[float] = []
    t99: list[float] = []
    t100: list[float] = []
    shares = []
    for tracked in followed:
        times = sorted(tracked.arrivals)
        shares.append(len(times) / tracked.nodes)
        for share, into in ((0.5, t50), (0.99, t99), (1.0, t100)):
            needed = max(1, int(np.ceil(share * tracked.nodes)))
            if len(times) >= needed:
                into.append(times[needed - 1])
            elif not tracked.missing or run.loop.now - tracked.born > 30:
                into.append(math.inf)
    for name, values in (("coverage_t50_s", t50), ("coverage_t99_s", t99), ("coverage_t100_s", t100)):
        if values:
            found[name] = rounded(float(np.median(values)))
            found[f"{name}_worst"] = rounded(max(values))
    found["coverage_share"] = rounded(float(np.mean(shares)))
    return found


def _traffic(run: Observed) -> dict[str, Any]:
    rates = run.watch.traffic()
    if not rates:
        return {}
    columns = list(zip(*rates, strict=True))
    names = ("bytes_up_per_s", "gossip_bytes_per_s", "fresh_bytes_per_s", "messages_per_s", "cpu_share")
    found: dict[str, Any] = {name: quantiles(column) for name, column in zip(names, columns, strict=True)}
    warm = quantiles(run.watch.warm_links)
    if warm is not None:
        found["warm_links"] = warm
    came, known = run.watch.records()
    if came > known:
        found["redundancy"] = rounded(came / (came - known))
    return found


def _views(run: Observed) -> dict[str, Any]:
    watch = run.watch
    found: dict[str, Any] = {
        "view_completeness": quantiles(watch.completeness),
        "load_age_s": quantiles(watch.load_ages),
        "advert_age_s": quantiles(watch.advert_ages),
    }
    if watch.lookups:
        found |= {
            "dht_lookups": watch.lookups,
            "dht_found_share": rounded(watch.found / watch.lookups),
            "dht_hops": quantiles(watch.hops),
            "dht_s": quantiles(watch.found_s),
        }
    return {name: value for name, value in found.items() if value is not None}


def _fates(run: Observed) -> dict[str, Any]:
    job_log = run.job_log
    found: dict[str, Any] = {
        "false_deaths": job_log.false_deaths,
        "penalties": sum(job_log.penalties.values()),
        "penalised_honest": job_log.penalised_honest,
    }
    if job_log.true_deaths:
        found["detection_s"] = quantiles(job_log.true_deaths)
    return found


# --- the data of pictures --------------------------------------------------------------------------------------------


def cdf(values: Sequence[float], total: int | None = None) -> list[list[float]]:
    """Points of the cumulative share; of ``total``, if some have no value."""
    if not values:
        return []
    ordered = np.sort(np.asarray(values, np.float64))
    ranks = np.unique(np.linspace(0, len(ordered) - 1, POINTS).astype(int))
    whole = total or len(ordered)
    return [[rounded(float(ordered[rank])), rounded((rank + 1) / whole)] for rank in ranks.tolist()]


def _curves(run: Observed) -> dict[str, list[list[float]]]:
    watch, notes = run.watch, run.job_log.measured
    curves = {"ttft_cdf": cdf(ttfts(notes), len(notes) or None), "load_age_cdf": cdf(watch.load_ages)}
    followed = [tracked for tracked in watch.tracked if tracked.nodes > 0]
    arrivals = [time for tracked in followed for time in tracked.arrivals]
    curves["coverage"] = cdf(arrivals, sum(tracked.nodes for tracked in followed) or None)
    return {name: curve for name, curve in curves.items() if curve}


def _series(run: Observed) -> dict[str, list[Any]]:
    watch = run.watch
    count = len(watch.series["t"])
    step = max(1, -(-count // COLUMNS))
    thin: dict[str, list[Any]] = {}
    for name, values in watch.series.items():
        parts = [values[at : at + step] for at in range(0, len(values), step)]
        thin[name] = [rounded(part[-1]) if name == "t" else _mean(part) for part in parts]
    if watch.sides:
        both = [watch.sides[at : at + step] for at in range(0, len(watch.sides), step)]
        thin["sides"] = [[_mean(pair[side] for pair in part) for side in (0, 1)] for part in both]
    return {name: values for name, values in thin.items() if any(value is not None for value in values)}


def _mean(values: Iterable[float]) -> float | None:
    """Of the known values; None if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return rounded(sum(known) / len(known)) if known else None


def _heat(run: Observed) -> dict[str, Any]:
    watch = run.watch
    if not watch.heat or not watch.heat_rows or not run.job_log.submitted:
        return {}
    step = max(1, -(-len(watch.heat) // COLUMNS))
    columns = np.asarray(watch.heat, np.float64)
    means = [columns[at : at + step].mean(axis=0) for at in range(0, len(columns), step)]
    rows = np.round(np.asarray(means).T, 2)
    return {
        "rows": [f"node {peer.index}" for peer in watch.heat_rows],
        "t": [rounded(time) for time in watch.series["t"][::step]][: rows.shape[1]],
        "values": rows.tolist(),
    }
