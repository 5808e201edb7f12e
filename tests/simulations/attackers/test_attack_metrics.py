"""What attackers cost: attempts, isolation, and nothing where there is no attack."""

from __future__ import annotations

import pytest

from simulations.attackers.attack_metrics import time_to_isolate_s
from tests.simulations.attackers.attacked_networks import ran


def test_isolation_is_when_hardly_any_attempt_goes_to_bad_peers_any_more() -> None:
    log = [(float(second), second < 30 and second % 2 == 0) for second in range(200)]
    assert time_to_isolate_s(log, 0.0) == 30.0
    assert time_to_isolate_s(log, 10.0) == 20.0
    assert time_to_isolate_s([(at, True) for at, _ in log], 0.0) is None
    assert time_to_isolate_s([], 0.0) is None
    assert time_to_isolate_s(log[:40], 0.0) is None  # too few follow to say so


@pytest.mark.slow
def test_without_attacks_there_is_no_damage_to_speak_of() -> None:
    world, metrics = ran()
    assert world.damage is None
    assert "bad_job_share" not in metrics
    assert metrics["success_rate"] == 1.0
