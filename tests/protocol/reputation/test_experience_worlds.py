"""What an observer's experience makes of whole networks: liars, newcomers among sybils, and every kind at once."""

from __future__ import annotations

import statistics

import pytest

from tests.protocol.reputation.worlds import SYBIL_NETWORKS, World, mixed


def after_fifty_jobs(seed: int, claim: float) -> float:
    """The share of the jobs that a liar among nine honest peers gets after fifty; all are equally fast."""
    world = World(seed)
    for _ in range(9):
        world.add("honest", spread=0.0)
    liar = world.add("inflator", claim, spread=0.0)
    world.run(50)
    return world.share([liar], 100)


@pytest.mark.slow
@pytest.mark.parametrize("claim", [10.0, 25.0])
def test_a_liar_about_its_speed_has_its_honest_share_after_fifty_jobs(claim: float) -> None:
    shares = [after_fifty_jobs(seed, claim) for seed in range(20)]
    assert statistics.fmean(shares) <= 1.1 * 0.1


def test_a_boundless_liar_gets_nothing() -> None:
    assert after_fifty_jobs(1, 1e6) == 0.0


def newcomer(seed: int) -> tuple[bool, float]:
    """An honest newcomer beside five new sybils a minute: whether it is proven after ten, and its share after that."""
    world = World(seed)
    for _ in range(20):
        world.add("honest", spread=0.0)
    world.run(300)
    who = world.add("honest", spread=0.0)
    shares = []
    for _ in range(20):
        for _ in range(5):
            world.add("sybil", world.rng.uniform(1, 25), f"12.0.{world.rng.randrange(SYBIL_NETWORKS)}")
        shares.append(world.share([who], 30))
        if len(shares) == 10:
            proven = bool(world.view.columns["proven"][world.view.get(who).row])  # type: ignore[union-attr]
    return proven, statistics.fmean(shares[10:])


@pytest.mark.slow
def test_an_honest_newcomer_has_its_share_within_ten_minutes_although_sybils_keep_coming() -> None:
    outcomes = [newcomer(seed) for seed in range(8)]
    assert sum(proven for proven, _ in outcomes) >= 6
    assert statistics.fmean(share for _, share in outcomes) >= 0.9 / 21


@pytest.mark.slow
def test_hardly_a_job_goes_to_a_bad_peer_first_once_some_were_seen() -> None:
    world = mixed(1, "mean")
    world.run(100)
    jobs = 900
    tally = world.run(jobs)
    assert tally.unserved == 0
    assert tally.first_good / jobs >= 0.98
    assert sum(tally.first[kind] for kind in ("sybil", "flaky", "drip")) / jobs <= 0.03
