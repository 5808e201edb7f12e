"""What a run of the whole stack is asked to do, and the figures that come out: the same for virtual and real time.

The figures are those in which the layers of the project (simulator, whole stack in virtual time, real processes) are
held against each other; :data:`MEANING` defines each.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import ceil, gcd, sqrt
from statistics import mean, stdev
from typing import Any, Final

#: What each figure is; shown by ``--help`` and printed with the figures.
MEANING: Final = {
    "virtual_s_per_cpu_s": "seconds of the measured window per second of CPU that this process used in it",
    "gossip_t50_s": "from a node stating a changed advert until half of the other nodes hold it; mean over the changes",
    "gossip_t99_s": "the same until 99 % (with fewer than 100 others: all) hold it",
    "gossip_delay_s": "the same per (change, node), all together",
    "load_age_s": "since the load that a node knows of another one came in; all pairs, at the end of the window",
    "gossip_bytes_per_node_s": "bytes of gossip that a node's machine counts as sent; mean over nodes",
    "bytes_per_node_s": "bytes that a node sends to others over TCP, all told (real: of its links); mean over nodes",
    "link_bytes_per_node_s": "bytes that a node sends on links that stood at both ends of the window; mean over nodes",
    "ttft_s": "from before the caller connects to the entry's API until the first event with text has been read",
}


#: Places from one author of a changed advert to the next, or the next larger number that gives every node its turn.
STRIDE: Final = 7
#: Seconds by which each change is later within its second than the one before (the golden section fills it evenly).
GOLDEN: Final = 0.618
#: Those that are shown.
QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
#: Seconds in which a change has spread, if ever (gossip ticks once a second).
SPREAD_S: Final = 4.0


@dataclass(frozen=True, slots=True)
class Run:
    """One run.  Every node is entry and worker; callers stand beside a node drawn anew for each job."""

    nodes: int = 20
    seed: int = 1
    #: Seconds from any node to any other; real processes are on loopback and have none.
    one_way_s: float = 0.0
    profile: str = "wan"
    #: Seconds between the starts of two nodes, about what processes take; no multiple of a period, or those of all
    #: nodes would march in step.
    stagger_s: float = 2 * GOLDEN
    #: Seconds after everybody has seen everybody, and seconds that are measured.
    warm_s: float = 30.0
    time_s: float = 60.0
    #: Seconds between two changed adverts; one node after another has its turn, and a change must have spread before
    #: the next one of the same node.
    change_s: float = 5.0
    jobs_per_s: float = 0.0
    prompt_tokens: int = 200
    output_tokens: int = 50
    gpu: str = "RTX 4090"
    #: On the simulator: what the daemon pays in processor time, instead of nothing.
    costs: bool = False


@dataclass(slots=True)
class Figures:
    """What was seen; :meth:`shown` makes the figures of it."""

    run: Run
    cpu_s: float = 0.0
    #: For each change its author's place and the seconds until each other node held it; infinite if it did not before
    #: the author's next change.
    changes: list[tuple[int, list[float]]] = field(default_factory=list)
    load_age_s: list[float] = field(default_factory=list)
    gossip_bytes: float = 0.0
    bytes_all: float = 0.0
    link_bytes: float = 0.0
    ttft_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)
    failed: int = 0
    served_locally: int = 0
    more: dict[str, Any] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        """The figures as they are compared."""
        run = self.run
        spread = [(author, sorted(delays)) for author, delays in self.changes if delays]
        halves = [(author, share(delays, 0.5)) for author, delays in spread]
        wholes = [(author, share(delays, 0.99)) for author, delays in spread]
        per_node = 1 / (run.nodes * run.time_s)
        return {
            "nodes": run.nodes,
            "seed": run.seed,
            "one_way_s": run.one_way_s,
            "profile": run.profile,
            "time_s": run.time_s,
            "jobs_per_s": run.jobs_per_s,
            "prompt_tokens": run.prompt_tokens,
            "output_tokens": run.output_tokens,
            "virtual_s_per_cpu_s": run.time_s / self.cpu_s if self.cpu_s else None,
            "gossip_changes": len(spread),
            "gossip_t50_s": _finite([delay for _, delay in halves]),
            "gossip_t99_s": _finite([delay for _, delay in wholes]),
            "gossip_delay_s": quantiles([delay for _, delays in spread for delay in delays]),
            "load_age_s": quantiles(self.load_age_s),
            "gossip_bytes_per_node_s": self.gossip_bytes * per_node,
            "bytes_per_node_s": self.bytes_all * per_node,
            "link_bytes_per_node_s": self.link_bytes * per_node,
            "ttft_s": quantiles(self.ttft_s),
            "e2e_s": quantiles(self.whole_s),
            "jobs_completed": len(self.whole_s),
            "jobs_failed": self.failed,
            "jobs_local_share": self.served_locally / len(self.whole_s) if self.whole_s else None,
            "errors": self._errors(halves, wholes),
            **self.more,
        }

    def _errors(self, halves: list[tuple[int, float]], wholes: list[tuple[int, float]]) -> dict[str, float | None]:
        """The standard errors of what is measured in one run and differs from change to change, or job to job."""
        ordered = sorted(self.ttft_s)
        return {"gossip_t50_s": error_by_author(halves), "gossip_t99_s": error_by_author(wholes)} | {
            f"ttft_s {name}": quantile_error(ordered, part) for name, part in QUANTILES.items()
        }


def error_by_author(values: list[tuple[int, float]]) -> float | None:
    """Of a mean.  What is independent are the authors: the changes of one meet the same neighbours and ticks."""
    by: dict[int, list[float]] = {}
    for author, value in values:
        by.setdefault(author, []).append(value)
    means = [mean(of_one) for of_one in by.values()]
    return stdev(means) / sqrt(len(means)) if len(means) > 1 and max(means) < float("inf") else None


def quantile_error(ordered: Sequence[float], part: float) -> float | None:
    """Of a quantile: half the way between the values that are one deviation of its rank away from it."""
    count = len(ordered)
    off = sqrt(count * part * (1 - part))
    low, high = ceil(part * count - off) - 1, ceil(part * count + off) - 1
    return (ordered[min(high, count - 1)] - ordered[max(low, 0)]) / 2 if count > 1 else None


def share(ordered: Sequence[float], part: float) -> float:
    """When so great a part had it."""
    return ordered[ceil(part * len(ordered)) - 1]


def _finite(values: list[float]) -> float | None:
    return mean(values) if values and max(values) < float("inf") else None


def quantiles(values: Sequence[float]) -> dict[str, float] | None:
    """Nearest-rank quantiles."""
    if not values:
        return None
    ordered = sorted(values)
    ranks = QUANTILES | {"max": 1.0}
    return {"n": len(ordered), "mean": mean(ordered)} | {name: share(ordered, part) for name, part in ranks.items()}


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job: when, seconds after the window opened, and at which node."""

    at: float
    entry: int
    number: int


def arrivals(run: Run) -> Iterator[Arrival]:
    """Poisson, and uniform over the nodes; the same for the same seed in either kind of time."""
    when, where = random.Random(f"{run.seed} arrivals"), random.Random(f"{run.seed} entries")
    at, number = 0.0, 0
    while run.jobs_per_s > 0 and (at := at + when.expovariate(run.jobs_per_s)) < run.time_s:
        yield Arrival(at, where.randrange(run.nodes), number)
        number += 1


@dataclass(frozen=True, slots=True)
class Change:
    """A changed advert: when and until when it is looked at, seconds after the window opened, and of whom (its place).

    Not in step with the ticks of gossip: every change would meet the same phases of them, and all of a run be one.
    """

    at: float
    author: int
    until: float


def changes(run: Run) -> list[Change]:
    """All of a run; those too late in it to have spread are left out."""
    times = [number * run.change_s + number * GOLDEN % 1.0 for number in range(int(run.time_s / run.change_s))]
    ends = times[run.nodes :] + [run.time_s] * run.nodes
    stride = next(step for step in count(STRIDE) if gcd(step, run.nodes) == 1)
    return [
        Change(at, number * stride % run.nodes, until - 0.001)
        for number, (at, until) in enumerate(zip(times, ends, strict=False))
        if until - at >= SPREAD_S
    ]


def body_of(run: Run, number: int, model: str) -> dict[str, Any]:
    """A chat whose prompt has the wanted number of tokens (four letters each), different from all others."""
    text = (f"{run.seed} {number} " + "one more word " * run.prompt_tokens)[: 4 * run.prompt_tokens]
    messages = [{"role": "user", "content": text}]
    body = {"model": model, "stream": True, "max_tokens": run.output_tokens, "ignore_eos": True, "messages": messages}
    return body | {"stream_options": {"include_usage": True}}
