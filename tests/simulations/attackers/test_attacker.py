"""Who is bad: decided by the seed and the number, never a seed node, and honest outside its window."""

from __future__ import annotations

import math

import pytest

from simulations.attackers import KINDS, peer_class, window
from simulations.attackers.attacker import Attacker
from simulations.run import Run
from simulations.scenario import Attack
from simulations.sim.node import SimNode
from tests.simulations.attackers.attacked_networks import SECONDS, scenario


def test_who_is_bad_depends_on_seed_and_number_only_and_never_the_seeds() -> None:
    few, many = (scenario(Attack(kind="black_hole", share=0.5), nodes=nodes) for nodes in (10, 500))
    bad = [index for index in range(500) if issubclass(peer_class(many, 1, index), Attacker)]
    assert bad[:3] == [i for i in range(10) if issubclass(peer_class(few, 1, i), Attacker)][:3]
    assert min(bad) >= many.topology.seeds
    assert 200 < len(bad) < 300
    assert bad != [index for index in range(500) if issubclass(peer_class(many, 2, index), Attacker)]


def test_two_attacks_have_their_own_nodes() -> None:
    both = scenario(Attack(kind="black_hole", share=0.3), Attack(kind="forger", share=0.3), nodes=400)
    kinds = [peer_class(both, 1, index) for index in range(400)]
    counts = [sum(issubclass(kind, KINDS[name]) for kind in kinds) for name in ("black_hole", "forger")]
    assert all(80 < count < 160 for count in counts)
    assert sum(kind is SimNode for kind in kinds) == 400 - sum(counts)


def test_nobody_attacks_in_the_quiet_phase() -> None:
    quiet = scenario(Attack(kind="forger", from_s=5.0), quiet_s=10.0)
    assert window(quiet, quiet.attacks[0]) == (5.0, SECONDS - 10.0)
    assert window(scenario(), Attack(kind="forger")) == (0.0, math.inf)
    assert window(quiet, Attack(kind="forger", from_s=5.0, until_s=20.0)) == (5.0, 20.0)


@pytest.mark.slow
def test_before_its_window_an_attacker_is_an_honest_node() -> None:
    # Jobs that are under way at the end still run for some seconds: the window begins well after them.
    world = Run(scenario(Attack(kind="black_hole", share=0.5, from_s=50.0, until_s=55.0), duration_s=60.0), seed=3)
    outcome = world.run(until=14.9)
    assert world.loop.now < 50.0
    assert outcome.metrics["success_rate"] == 1.0
    assert set(world.job_log.outcomes) == {"completed"}


@pytest.mark.slow
def test_the_same_attack_goes_the_same_way_twice() -> None:
    attack = scenario(Attack(kind="whitewasher", share=0.2, amount=3.0), duration_s=20.0)
    first, second = Run(attack, 5).run(), Run(attack, 5).run()
    assert first.digest == second.digest
    assert first.metrics == second.metrics
