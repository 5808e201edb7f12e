"""Traitors are good first; whitewashers come back under new names."""

from __future__ import annotations

import pytest

from tests.simulations.attackers.attacked_networks import NODES, ran


@pytest.mark.slow
def test_traitors_are_good_first_and_bad_after() -> None:
    world, metrics = ran("traitor", amount=4.0)
    workers = [peer.worker for peer in world.peers if not peer.honest and peer.worker is not None]
    assert all(worker.executions > 0 for worker in workers)
    assert world.job_log.outcomes["no_answer"] > 0
    assert metrics["attempts_per_job"] > 1.05


@pytest.mark.slow
def test_whitewashers_come_back_under_new_names() -> None:
    world, metrics = ran("whitewasher", amount=5.0)
    first = [peer for peer in world.machines if not peer.honest]
    assert len(world.peers) > NODES + len(first)
    assert len({peer.peer_id for peer in world.peers}) == len(world.peers)
    assert all(sum(peer.up for peer in world.peers if peer.address == bad.address) <= 1 for bad in first)
    assert metrics["attempts_per_job"] > 1.1
