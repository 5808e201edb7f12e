"""A small busy network with attackers in it, run once for each kind."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from protocol.settings import NodeSettings
from simulations.run import Run
from simulations.scenario import Attack, Lengths, Measure, Routing, Scenario, Topology, Workload

NODES = 20


SECONDS = 40.0


def scenario(*attacks: Attack, nodes: int = NODES, node: NodeSettings | None = None, **changes: Any) -> Scenario:
    """Five jobs a second for 40 s, with these attacks."""
    lengths = {"prompt": Lengths(median=200, sigma=0.5, most=2000), "output": Lengths(median=60, sigma=0.5, most=300)}
    given: dict[str, Any] = {
        "name": "attack",
        "duration_s": SECONDS,
        "warmup_s": 10.0,
        "topology": Topology(nodes=nodes, settled=True, clock_skew_s=0.1, per_group=1),
        "workload": Workload(kind="poisson", rate_per_s=5.0, **lengths),  # type: ignore[arg-type]
        "routing": Routing(policy="least-loaded"),
        "measure": Measure(track_every_s=8.0),
        "attacks": attacks,
        "node": node or NodeSettings(),
    }
    return Scenario(**given | changes)


@lru_cache(maxsize=32)
def ran(kind: str = "", share: float = 0.2, seed: int = 3, **named: Any) -> tuple[Run, dict[str, Any]]:
    """A run with one kind of attacker, or without any, and what was measured."""
    attacks = (Attack(kind=kind, share=share, **named),) if kind else ()
    world = Run(scenario(*attacks), seed=seed)
    outcome = world.run()
    assert outcome.breach is None
    return world, outcome.metrics


def within_budget(world: Run) -> float:
    """Bytes per second that gossip may send in the measured time: the budget, and what was saved up before."""
    settings = world.scenario.node.gossip
    return settings.budget_bytes_s + settings.burst_bytes / (SECONDS - world.scenario.warmup_s) + 1024
