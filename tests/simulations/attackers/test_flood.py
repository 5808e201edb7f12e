"""Floods cost time, and honest uploads stay within the gossip budget."""

from __future__ import annotations

import pytest

from tests.simulations.attackers.attacked_networks import ran, within_budget


@pytest.mark.slow
def test_a_flood_costs_time_but_honest_uploads_stay_within_the_gossip_budget() -> None:
    _, calm = ran()
    world, metrics = ran("flooder", 0.1, amount=40.0)
    assert metrics["honest_cpu_share"]["p50"] > 1.5 * calm["cpu_share"]["p50"]
    assert metrics["honest_gossip_bytes_per_s"]["max"] < within_budget(world)
    assert metrics["success_rate"] > 0.95
    assert metrics["false_bans"] == 0
