"""The questions that a sweep answers: the pairs of metrics and keys, and how to read each picture.

Not here: drawing (``sweep_plots``), courses over time and distributions (``timelines``, ``curves``).
"""

from __future__ import annotations

import math
from typing import Final

from simulations.report.metrics import KIB
from simulations.report.points import Results, dig
from simulations.report.sweep_plots import Question, Reference

#: The daemon's default upload for gossip, bytes per second, where a scenario does not say another.
BUDGET: Final = 8 * KIB

NODES: Final = ("topology.nodes",)
LOAD: Final = ("workload.utilisation", "workload.rate_per_s")
CHURN: Final = ("churn.mean_session_s", "churn.crash_share")
BAD: Final = ("attack*.share",)
SPREADING_KEYS: Final = (*NODES, *CHURN, "node.gossip.*", "topology.loss", "topology.drop")


#: About jobs and look-ups.
SERVING: Final = (
    Question(
        "load",
        "Under load",
        "To the right the network gets busier: a good policy stays low in time to the first token for "
        "longest, and its goodput goes on rising where others bend.",
        LOAD,
        ("ttft_s.p99", "goodput_per_s", "success_rate"),
    ),
    Question(
        "churn",
        "When nodes come and go",
        "Short sessions, on the left, are a restless network: success should hold there, paid for by more "
        "attempts per job.",
        CHURN,
        ("success_rate", "attempts_per_job"),
    ),
    Question(
        "bad-peers",
        "Among bad peers",
        "The share of peers of bad intent grows to the right: success should stay up, and the jobs sent to "
        "them should fall well below their share.",
        BAD,
        ("success_rate", "bad_job_share", "ttft_s.p99"),
    ),
    Question(
        "dht",
        "Finding providers in the DHT",
        "Hops and time of look-ups: the median tells the usual case, the 99th percentile meets nodes that are gone.",
        (*NODES, *CHURN, "*"),
        ("dht_hops.p50", "dht_s.p50", "dht_s.p99", "dht_found_share"),
    ),
)


def questions(results: Results) -> tuple[Question, ...]:
    """All of them; those whose keys were not swept have no answer."""
    budget = float(dig(results.scenario, "node.gossip.budget_bytes_s") or BUDGET)
    return (
        Question(
            "spread-nodes",
            "How fast news spreads as the network grows",
            "Seconds until an advert has reached half, 99 % and all of the nodes: a line that keeps the slope "
            "of the dashed one grows with the logarithm of the network and no faster.",
            NODES,
            ("coverage_t50_s", "coverage_t99_s", "coverage_t100_s"),
            together=True,
            reference=Reference("∝ log N", law=math.log),
        ),
        Question(
            "bytes-nodes",
            "What gossip costs a node as the network grows",
            "Upload for gossip per node: the busiest node has to stay below the dashed line, the budget, at "
            "every size.",
            NODES,
            ("gossip_bytes_per_s.mean", "gossip_bytes_per_s.p99", "gossip_bytes_per_s.max"),
            together=True,
            reference=Reference(f"budget, {budget / KIB:g} KiB/s", bound=budget),
        ),
        Question(
            "age-nodes",
            "How old the load figures are that nodes choose by",
            "The price of the byte budget: the larger the network, the older what a node knows of the others' load.",
            SPREADING_KEYS,
            ("load_age_s.p50", "load_age_s.p99"),
            together=True,
        ),
        *SERVING,
    )
