"""What a run of the whole stack is asked to do, and the figures that come out: the same for virtual and real time.

The figures are those in which the layers of the project (simulator, whole stack in virtual time, real processes) are
held against each other; :data:`MEANING` defines each.  Who calls it: ``bench`` and ``real``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from statistics import mean
from typing import Any, Final, Literal

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


#: Places from one author of a changed advert to the next (a prime, so that every node has its turn).
STRIDE: Final = 7
#: Seconds by which each change is later within its second than the one before (the golden section fills it evenly).
GOLDEN: Final = 0.618


@dataclass(frozen=True, slots=True)
class Run:
    """One run.  Every node is entry and worker; callers stand beside a node drawn anew for each job."""

    nodes: int = 20
    seed: int = 1
    #: Seconds from any node to any other; real processes are on loopback and have none.
    one_way_s: float = 0.0
    profile: str = "wan"
    #: Seconds between the starts of two nodes: processes do not start at once either, and periods would march in step.
    stagger_s: float = 1.0
    #: Seconds after everybody has seen everybody, and seconds that are measured.
    warm_s: float = 30.0
    time_s: float = 60.0
    #: Seconds between two changed adverts; each must have spread before the next.  And whose they are: of one node
    #: after another, or of the last one (real processes: the one that runs in the process that measures).
    change_s: float = 5.0
    authors: Literal["each", "last"] = "each"
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
    #: For each change the seconds until each other node held it; infinite if it did not before the next change.
    changes: list[list[float]] = field(default_factory=list)
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
        spread = [sorted(change) for change in self.changes if change]
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
            "gossip_t50_s": _finite([share(change, 0.5) for change in spread]),
            "gossip_t99_s": _finite([share(change, 0.99) for change in spread]),
            "gossip_delay_s": quantiles([delay for change in spread for delay in change]),
            "load_age_s": quantiles(self.load_age_s),
            "gossip_bytes_per_node_s": self.gossip_bytes * per_node,
            "bytes_per_node_s": self.bytes_all * per_node,
            "link_bytes_per_node_s": self.link_bytes * per_node,
            "ttft_s": quantiles(self.ttft_s),
            "e2e_s": quantiles(self.whole_s),
            "jobs_completed": len(self.whole_s),
            "jobs_failed": self.failed,
            "jobs_local_share": self.served_locally / len(self.whole_s) if self.whole_s else None,
            **self.more,
        }


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
    ranks = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
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


def changes(run: Run) -> list[tuple[float, int]]:
    """When, seconds after the window opened, who (its place) states a changed advert.

    Not in step with the ticks of gossip: every change would meet the same phases of them, and all of a run be one.
    """
    return [
        (
            number * run.change_s + number * GOLDEN % 1.0,
            number * STRIDE % run.nodes if run.authors == "each" else run.nodes - 1,
        )
        for number in range(int(run.time_s / run.change_s))
    ]


def body_of(run: Run, number: int, model: str) -> dict[str, Any]:
    """A chat whose prompt has the wanted number of tokens (four letters each), different from all others."""
    text = (f"{run.seed} {number} " + "one more word " * run.prompt_tokens)[: 4 * run.prompt_tokens]
    messages = [{"role": "user", "content": text}]
    body = {"model": model, "stream": True, "max_tokens": run.output_tokens, "ignore_eos": True, "messages": messages}
    return body | {"stream_options": {"include_usage": True}}
