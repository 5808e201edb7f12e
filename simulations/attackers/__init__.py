"""Malicious nodes: one small class per kind of attack, behind the same ports as an honest node.

An attacker is a :class:`~simulations.sim.node.SimNode` that deviates from the protocol while its attack lasts.  It is
an honest node before and after the attack.  Some kinds have a worker of their own.  Honest nodes get no hint: a forgery
consists of bytes that do not verify, a lie is a statement that verifies.  The seed and the number of a node decide
whether it is malicious; the size of the network does not matter.  The bootstrap nodes are honest.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

from simulations.attackers.answers import Garbage, Truncation, WrongAnswers
from simulations.attackers.attack_metrics import Damage
from simulations.attackers.attacker import Attacker
from simulations.attackers.crowding import Eclipse, Sybil
from simulations.attackers.failing import (
    Breakdown,
    FallsSilent,
    FinalRefuser,
    HangerUp,
    Mute,
    NoJson,
    Overloaded,
    PieceFlood,
    Promiser,
    Resetter,
)
from simulations.attackers.flood import Flooder
from simulations.attackers.identities import Newcomer, Paper
from simulations.attackers.liars import Boaster, LiarLoad, LiarSpecs
from simulations.attackers.stalling import BlackHole, Refuser, SlowDrip
from simulations.attackers.statements import Forger, Replayer, Slanderer
from simulations.attackers.traitors import Traitor, Whitewasher
from simulations.rng_streams import rng_stream
from simulations.scenario import Attack, Scenario
from simulations.sim.cluster import Cluster
from simulations.sim.node import SimNode
from simulations.sim.worker import Worker

#: The allowed values of ``attacks.kind``.
KINDS: Final[dict[str, type[Attacker]]] = {
    "black_hole": BlackHole,
    "boaster": Boaster,
    "breakdown": Breakdown,
    "eclipse": Eclipse,
    "falls_silent": FallsSilent,
    "final_refuser": FinalRefuser,
    "flooder": Flooder,
    "forger": Forger,
    "garbage": Garbage,
    "hanger_up": HangerUp,
    "liar_load": LiarLoad,
    "liar_specs": LiarSpecs,
    "mute": Mute,
    "newcomer": Newcomer,
    "no_json": NoJson,
    "overloaded": Overloaded,
    "paper": Paper,
    "piece_flood": PieceFlood,
    "promiser": Promiser,
    "refuser": Refuser,
    "replayer": Replayer,
    "resetter": Resetter,
    "slanderer": Slanderer,
    "slow_drip": SlowDrip,
    "sybil": Sybil,
    "traitor": Traitor,
    "truncation": Truncation,
    "whitewasher": Whitewasher,
    "wrong_answers": WrongAnswers,
}


def peer_class(scenario: Scenario, seed: int, index: int) -> type[SimNode]:
    """The class of node ``index``."""
    for attack in scenario.attacks:
        if index in attack.nodes:
            return _armed(attack, window(scenario, attack))
    if not scenario.attacks or index < scenario.topology.seeds:
        return SimNode
    drawn = rng_stream(seed, "attackers", index).random()
    for attack in (attack for attack in scenario.attacks if not attack.nodes):
        if drawn < attack.share:
            return _armed(attack, window(scenario, attack))
        drawn -= attack.share
    return SimNode


def worker_class(peer: SimNode) -> type[Worker]:
    """The class of a node's worker."""
    return peer.WORKS_AS if isinstance(peer, Attacker) else Worker


def window(scenario: Scenario, attack: Attack) -> tuple[float, float]:
    """The begin and the end of an attack; the quiet phase has no attacks."""
    until = attack.until_s or math.inf
    return attack.from_s, min(until, scenario.duration_s - scenario.quiet_s) if scenario.quiet_s else until


@lru_cache(maxsize=64)
def _armed(attack: Attack, when: tuple[float, float]) -> type[Attacker]:
    kind = KINDS[attack.kind]
    return type(kind.__name__, (kind,), {"attack": attack, "window": when, "__module__": kind.__module__})


def prepare(cluster: Cluster) -> Damage | None:
    """Schedule the attacks and the measurements of their effect."""
    if not cluster.scenario.attacks:
        return None
    for peer in list(cluster.peers):
        if isinstance(peer, Attacker):
            peer.enlist(cluster)
    damage = Damage(cluster, [window(cluster.scenario, attack) for attack in cluster.scenario.attacks])
    damage.prepare()
    return damage
