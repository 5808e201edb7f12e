"""The titles of the metrics and the units that people read.

Not here: how they are measured (``job_log``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from simulations.report.points import PICKS, Spread

KIB: Final = 1024.0


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric by the name that ``points.read`` takes, its title, its unit, and the divisor for that unit."""

    name: str
    title: str
    unit: str = ""
    divisor: float = 1.0

    @property
    def axis(self) -> str:
        """Title and unit for an axis; shares carry their unit on the numbers."""
        return f"{self.title}, {self.unit}" if self.unit not in ("", "%") else self.title


#: The stages of the wait for the first token, in their order.
STAGES: Final = {
    "choice": "choice",
    "retries": "earlier attempts",
    "dial": "dial",
    "way_there": "way there",
    "admission": "queue of the worker",
    "engine": "queue of the engine",
    "prompt": "prompt",
    "answer": "rest of the answer",
    "way_back": "way back",
}

#: Known metrics; a distribution's quantile is named by its joint, ``ttft_s.p99``.
KNOWN: Final = {
    metric.name: metric
    for metric in (
        Metric("success_rate", "success", "%"),
        Metric("within_slo", "within SLO", "%"),
        Metric("ttft_s", "TTFT", "s"),
        Metric("e2e_s", "whole answer", "s"),
        Metric("itl_s", "time per token", "s"),
        Metric("ttft_p50_ratio", "TTFT p50 to omniscient", "×"),
        Metric("ttft_p95_ratio", "TTFT p95 to omniscient", "×"),
        Metric("ttft_p99_ratio", "TTFT p99 to omniscient", "×"),
        Metric("goodput_ratio", "goodput to omniscient", "×"),
        Metric("goodput_per_s", "goodput", "jobs/s"),
        Metric("offered_per_s", "offered", "jobs/s"),
        Metric("utilisation", "GPUs busy", "%"),
        Metric("attempts_per_job", "attempts per job"),
        Metric("cold_starts", "cold starts"),
        Metric("prefix_hit_share", "prefix hits", "%"),
        Metric("wasted_gpu_s", "wasted GPU time", "s"),
        Metric("coverage_t50_s", "coverage t50", "s"),
        Metric("coverage_t99_s", "coverage t99", "s"),
        Metric("coverage_t100_s", "coverage t100", "s"),
        Metric("coverage_share", "coverage reached", "%"),
        Metric("view_completeness", "view completeness", "%"),
        Metric("load_age_s", "age of load", "s"),
        Metric("advert_age_s", "age of adverts", "s"),
        Metric("bytes_up_per_s", "upload per node", "KiB/s", KIB),
        Metric("gossip_bytes_per_s", "gossip per node", "KiB/s", KIB),
        Metric("fresh_bytes_per_s", "fresh loads per node", "KiB/s", KIB),
        Metric("dialled_share", "jobs that waited for a dial", "%"),
        Metric("warm_links", "warm links per node"),
        Metric("messages_per_s", "messages per node and s"),
        Metric("redundancy", "redundancy", "×"),
        Metric("cpu_share", "CPU share", "%"),
        Metric("dht_found_share", "DHT found", "%"),
        Metric("dht_hops", "DHT hops"),
        Metric("dht_s", "DHT look-up", "s"),
        Metric("false_deaths", "false deaths"),
        Metric("detection_s", "detection of a death", "s"),
        Metric("heal_s", "healed after", "s"),
        Metric("bad_job_share", "jobs sent to bad peers", "%"),
        Metric("time_to_isolate_s", "time to isolate", "s"),
        Metric("false_bans", "false bans"),
        Metric("herd_peak", "herd peak", "× mean"),
        Metric("jain", "fairness (Jain)"),
        Metric("jobs_submitted", "jobs"),
        Metric("jobs_failed", "failed"),
        Metric("jobs_unserved", "never served"),
        *(Metric(f"ttft_{name}_s.mean", title, "s") for name, title in STAGES.items()),
    )
}

#: The columns of the summary tables, in order; a column without any value is left out.  Each table has to fit a page
#: 1,200 px wide beside three swept keys: at most eight columns.
HEADLINE: Final = {
    "Jobs": ("jobs_submitted", "success_rate", "jobs_unserved", "goodput_per_s", "offered_per_s", "within_slo"),
    "Waiting": ("ttft_s.p50", "ttft_s.p95", "ttft_s.p99", "ttft_p99_ratio", "e2e_s.p50", "e2e_s.p95"),
    "Where the time to the first token goes": tuple(f"ttft_{name}_s.mean" for name in STAGES),
    "Work": ("attempts_per_job", "utilisation", "wasted_gpu_s", "herd_peak", "jain"),
    "Gossip": (
        "coverage_t50_s",
        "coverage_t99_s",
        "coverage_t100_s",
        "view_completeness.mean",
        "load_age_s.p50",
        "gossip_bytes_per_s.mean",
        "gossip_bytes_per_s.max",
        "redundancy",
    ),
    "Look-ups, failures and bad peers": (
        "dht_found_share",
        "dht_s.p99",
        "false_deaths",
        "detection_s.p50",
        "heal_s",
        "bad_job_share",
        "time_to_isolate_s",
        "false_bans",
    ),
}
#: A smaller figure is not worth its digits in a table.
LEAST: Final = 0.001
#: With fewer seeds a 95 % interval says more of Student's t than of the runs: then the extremes are shown.
LEAST_SEEDS: Final = 5


def known(name: str) -> Metric:
    """A metric by name; an undescribed metric gets its title from its name."""
    if name in KNOWN:
        return KNOWN[name]
    for joint in (".", "_"):
        base, _, pick = name.rpartition(joint)
        if pick in PICKS and base in KNOWN:
            whole = KNOWN[base]
            return Metric(name, f"{whole.title} {pick}", whole.unit, whole.divisor)
    title = name.removesuffix("_s").replace("_", " ").replace(".", " ")
    if name.endswith(("_share", "_rate")):
        return Metric(name, title, "%")
    return Metric(name, title, "s" if name.endswith("_s") and not name.endswith("_per_s") else "")


def text(metric: Metric, value: float) -> str:
    """A value for a table, with three digits or as a percentage."""
    value /= metric.divisor
    if math.isinf(value):
        return "not reached"
    if metric.unit == "%":
        return f"{100 * value:.2f} %" if 0.9 < value < 1 else f"{100 * value:.1f} %"
    if 0 < value < LEAST:
        return f"< {LEAST:g}"
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def text_of_seeds(metric: Metric, found: Spread) -> tuple[str, str]:
    """The mean; and the extremes of a few seeds, or half of the 95 % interval of many, if they differ."""
    mean, low, high = (text(metric, value) for value in (found.mean, found.low, found.high))
    if low == high:
        return mean, ""
    if found.n < LEAST_SEEDS:
        return mean, f"{low.removesuffix(' %')} – {high}"
    if math.isinf(found.mean):
        return mean, f"from {low}"
    half = found.ci / metric.divisor
    return mean, f"± {100 * half:.2g} %" if metric.unit == "%" else f"± {half:.0f}" if half >= 10 else f"± {half:.2g}"
