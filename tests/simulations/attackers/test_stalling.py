"""Black holes and slow drips: how much they cost although they say that they live."""

from __future__ import annotations

import pytest

from tests.simulations.attackers.attacked_networks import ran


@pytest.mark.slow
def test_black_holes_cost_attempts_and_time_and_never_run_a_job() -> None:
    _, calm = ran()
    world, metrics = ran("black_hole")
    assert metrics["attempts_per_job"] > calm["attempts_per_job"] + 0.15
    assert metrics["ttft_s"]["p99"] > 5.0  # the deadline for the first token
    assert world.job_log.outcomes["no_answer"] > 20
    assert sum(peer.worker.executions for peer in world.peers if not peer.honest and peer.worker is not None) == 0


@pytest.mark.slow
def test_a_slow_drip_is_below_the_pace_of_its_card_and_given_up() -> None:
    _, calm = ran()
    world, metrics = ran("slow_drip")
    assert metrics["e2e_s"]["p99"] < 2 * calm["e2e_s"]["p99"]
    assert world.job_log.outcomes["slow"] > 0
    assert set(world.job_log.outcomes) <= {"completed", "slow", "unreachable"}
