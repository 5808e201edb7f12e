"""Sybils and eclipses take the part of their network group and no more."""

from __future__ import annotations

import pytest

from protocol.settings import GossipSettings, NodeSettings
from simulations.attackers.crowding import address_in
from simulations.run import Run
from simulations.scenario import Attack
from tests.simulations.attackers.attacked_networks import NODES, ran, scenario


@pytest.mark.slow
def test_sybils_crowd_views_up_to_the_part_of_their_group() -> None:
    part = 4
    node = NodeSettings(gossip=GossipSettings(view_per_group=part))
    attack = Attack(kind="sybil", share=0.1, identities=10)
    world = Run(scenario(attack, node=node), seed=3)
    outcome = world.run()
    assert outcome.breach is None
    machines = [peer for peer in world.machines if not peer.honest]
    assert machines
    assert len(world.peers) == NODES + 9 * len(machines)
    assert outcome.metrics["bad_job_share"] > 0.3
    assert outcome.metrics["success_rate"] < 1.0
    groups = {address_in(peer.index, 0).rpartition(".")[0] for peer in machines}
    for peer in world.peers:
        if peer.honest:
            for group in groups:
                held = [record for record in peer.node.view.records()[1:] if record.group.startswith(f"{group}.")]
                free = [record for record in held if not (record.linked or record.successes or record.inflight)]
                assert len(free) <= part


@pytest.mark.slow
def test_an_eclipse_takes_the_neighbours_that_others_may_choose_and_no_more() -> None:
    _, calm = ran()
    _, honest = ran("refuser")  # as many, of another kind, who do not push themselves forward
    _, metrics = ran("eclipse")
    assert metrics["bad_neighbours"] > 1.3 * honest["bad_neighbours"]
    assert metrics["eclipsed_share"] == 0.0
    assert metrics["view_completeness"]["p50"] == calm["view_completeness"]["p50"] == 1.0
