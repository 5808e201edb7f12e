"""Nodes of bad intent: one small class per kind, behind the same ports as an honest node.

An attacker is a :class:`~simulations.sim.node.SimNode` that says or does something else while its attack lasts, and an
honest node before and after it; some have a worker of their own, too.  Honest nodes are told nothing: what is forged
here is bytes that do not verify, what is a lie is a statement that does.  Who is bad depends on the seed and the node's
number only, never on how many nodes there are; the first nodes, whom everybody knows, are honest.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

from simulations.attackers.answers import Garbage, Truncation, WrongAnswers
from simulations.attackers.attack_metrics import Damage
from simulations.attackers.attacker import Attacker
from simulations.attackers.crowding import Eclipse, Sybil
from simulations.attackers.flood import Flooder
from simulations.attackers.liars import LiarLoad, LiarSpecs
from simulations.attackers.stalling import BlackHole, Refuser, SlowDrip
from simulations.attackers.statements import Forger, Replayer, Slanderer
from simulations.attackers.traitors import Traitor, Whitewasher
from simulations.rng_streams import rng_stream
from simulations.scenario import Attack, Scenario
from simulations.sim.cluster import Cluster
from simulations.sim.node import SimNode
from simulations.sim.worker import Worker

#: What ``attacks.kind`` may be.
KINDS: Final[dict[str, type[Attacker]]] = {
    "black_hole": BlackHole,
    "eclipse": Eclipse,
    "flooder": Flooder,
    "forger": Forger,
    "garbage": Garbage,
    "liar_load": LiarLoad,
    "liar_specs": LiarSpecs,
    "refuser": Refuser,
    "replayer": Replayer,
    "slanderer": Slanderer,
    "slow_drip": SlowDrip,
    "sybil": Sybil,
    "traitor": Traitor,
    "truncation": Truncation,
    "whitewasher": Whitewasher,
    "wrong_answers": WrongAnswers,
}


def peer_class(scenario: Scenario, seed: int, index: int) -> type[SimNode]:
    """What kind of node ``index`` is."""
    if not scenario.attacks or index < scenario.topology.seeds:
        return SimNode
    drawn = rng_stream(seed, "attackers", index).random()
    for attack in scenario.attacks:
        if drawn < attack.share:
            return _armed(attack, window(scenario, attack))
        drawn -= attack.share
    return SimNode


def worker_class(peer: SimNode) -> type[Worker]:
    """What kind of worker a node has."""
    return peer.WORKS_AS if isinstance(peer, Attacker) else Worker


def window(scenario: Scenario, attack: Attack) -> tuple[float, float]:
    """From when to when an attack lasts; nobody attacks in the quiet phase."""
    until = attack.until_s or math.inf
    return attack.from_s, min(until, scenario.duration_s - scenario.quiet_s) if scenario.quiet_s else until


@lru_cache(maxsize=64)
def _armed(attack: Attack, when: tuple[float, float]) -> type[Attacker]:
    kind = KINDS[attack.kind]
    return type(kind.__name__, (kind,), {"attack": attack, "window": when, "__module__": kind.__module__})


def prepare(cluster: Cluster) -> Damage | None:
    """Schedule what attackers do, and the looks at what comes of it."""
    if not cluster.scenario.attacks:
        return None
    for peer in list(cluster.peers):
        if isinstance(peer, Attacker):
            peer.enlist(cluster)
    damage = Damage(cluster, [window(cluster.scenario, attack) for attack in cluster.scenario.attacks])
    damage.prepare()
    return damage
