"""Identities on paper look alive and refuse every dial; newcomers keep coming under new names."""

from __future__ import annotations

from typing import Any

import pytest

from simulations.run import Run
from simulations.scenario import Attack, ExactMachine, Topology
from tests.simulations.small_networks import DELAY_S, MODEL, Caller, busy, ordered, scenario

TOPOLOGY = Topology(
    nodes=4, seeds=1, latency="uniform", latency_s=DELAY_S, jitter=0.0, join_s=0.0, settled=True, clock_skew_s=0.0
)


def attacked(**attack: Any) -> Run:
    made = Run(scenario(4, topology=TOPOLOGY, attacks=(Attack(nodes=(3,), **attack),)), 1)
    made.prepare()
    return made


def test_paper_identities_are_in_views_with_models_and_a_load_and_nothing_listens() -> None:
    made = attacked(kind="paper", identities=5)
    made.loop.run(20.0)
    twins = made.peers[4:]
    assert len(twins) == 5
    view = made.peers[0].node.view
    for twin in twins:
        record = view.get(twin.peer_id)
        assert record is not None
        assert record.state == "alive"
        assert record.load_until > made.loop.now
        assert record.advert is not None
        assert record.advert.models
        assert not twin.up
    ordered(made.peers[0], twins[0], made.peers[1])
    caller = Caller(made, made.peers[0])
    note = caller.ask()
    caller.run(30.0)
    assert note.end == "completed"
    assert note.asked == [4, 1]
    assert made.job_log.outcomes["unreachable"] == 1


def test_a_node_without_an_engine_makes_paper_identities_with_models_too() -> None:
    attack = Attack(kind="paper", nodes=(3,), identities=2)
    machines = (ExactMachine(gpu="rtx 4090", count=3), ExactMachine())
    made = Run(scenario(4, topology=TOPOLOGY, machine=machines, attacks=(attack,)), 1)
    made.prepare()
    made.loop.run(8.0)
    record = made.peers[0].node.view.get(made.peers[4].peer_id)
    assert record is not None
    assert record.advert is not None
    assert [offer.name for offer in record.advert.models] == [MODEL]


@pytest.mark.slow
def test_newcomers_join_at_their_pace_from_four_groups_and_stay() -> None:
    made = attacked(kind="newcomer", amount=30.0)
    made.loop.run(25.0)
    names = made.peers[4:]
    assert 10 <= len(names) <= 13
    assert all(peer.up and not peer.honest for peer in names)
    assert len({peer.address.rpartition(".")[0] for peer in names}) == 4
    assert len({peer.address for peer in names}) == len(names)


@pytest.mark.slow
def test_identities_leave_with_the_attack() -> None:
    made = attacked(kind="newcomer", amount=30.0, until_s=10.0)
    made.loop.run(30.0)
    assert len(made.peers) > 4
    assert not any(peer.up for peer in made.peers[4:])


@pytest.mark.slow
def test_a_network_with_paper_identities_breaks_no_invariant() -> None:
    attack = Attack(kind="paper", nodes=(5,), identities=10)
    outcome = Run(busy(6, rate_per_s=2.0, duration_s=20.0, attacks=(attack,)), 1).run()
    assert outcome.breach is None
    assert outcome.metrics["bad_peers"] == 11
