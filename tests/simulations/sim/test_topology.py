"""Delays are those of the measurements, and a node's place is its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulations.scenario import Topology
from simulations.sim.topology import (
    LAN_S,
    MOST_JITTER,
    REGION_MS,
    REGIONS,
    Latencies,
    filled,
    latencies,
    regions_of,
    rtt_ms,
)

KINDS = ("planetlab490", "seattle99", "regions8", "uniform")


def off_diagonal(matrix: np.ndarray) -> np.ndarray:
    return matrix[~np.eye(len(matrix), dtype=bool)]


def pairs(found: Latencies, nodes: int) -> list[tuple[float, float]]:
    return [(found.one_way_s(a, b), found.jitter_of(a, b)) for a in range(nodes) for b in range(nodes) if a != b]


def test_planetlab_is_as_published() -> None:
    median = rtt_ms("planetlab490-rtt-median-ms")
    assert median.shape == (490, 490)
    assert np.isnan(np.diagonal(median)).all()
    np.testing.assert_array_equal(median, median.T)
    assert np.percentile(off_diagonal(median), [10, 50, 90, 99]) == pytest.approx([31, 134, 291, 404], abs=0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_regions_are_known_by_name(kind: str) -> None:
    found = latencies(Topology(latency=kind, nodes=600), 1)
    known = regions_of(kind)
    assert {found.region(node) for node in range(600)} <= set(known)
    if len(known) > 1:
        words = (Path(__file__).parents[3] / "simulations" / "README.md").read_text(encoding="utf-8")
        assert all(
            f"`{region}`" in words for region in (*known[:1], *known[-1:], *(REGIONS if kind == "regions8" else ()))
        )


def test_seattle_has_the_published_tails() -> None:
    median, tail = rtt_ms("seattle99-rtt-median-ms"), rtt_ms("seattle99-rtt-p95-ms")
    assert median.shape == tail.shape == (99, 99)
    ratio = off_diagonal(tail) / off_diagonal(median)
    assert np.percentile(ratio, [10, 50, 90]) == pytest.approx([2.3, 3.8, 14], rel=0.02)


def test_missing_pairs_have_the_median_of_their_row() -> None:
    matrix = np.array([[np.nan, 1.0, 9.0], [2.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    np.testing.assert_array_equal(filled(matrix), [[5.0, 1.0, 9.0], [2.0, 2.0, 2.0], [3.0, 5.0, 4.0]])


@pytest.mark.parametrize("kind", KINDS)
def test_any_index_is_a_node_and_stays_where_it_is(kind: str) -> None:
    few = latencies(Topology(nodes=2, latency=kind), 7)
    many = latencies(Topology(nodes=60, latency=kind), 7)
    assert few.one_way_s(1, 40) == many.one_way_s(1, 40) > 0
    assert few.jitter_of(55, 3) == many.jitter_of(55, 3)
    assert [few.region(a) for a in range(80)] == [many.region(a) for a in range(80)]


@pytest.mark.slow
def test_one_way_is_half_the_round_trip_between_the_hosts() -> None:
    delays = [delay for delay, _ in pairs(latencies(Topology(nodes=300), 1), 300) if delay != LAN_S]
    assert np.percentile(delays, [10, 50, 90]) * 2000 == pytest.approx([31, 134, 291], rel=0.1)


def test_another_seed_puts_nodes_elsewhere() -> None:
    one, other = (latencies(Topology(nodes=20), seed) for seed in (1, 2))
    assert pairs(one, 20) != pairs(other, 20)


def test_two_nodes_on_one_host_are_a_lan_apart() -> None:
    found = latencies(Topology(nodes=99 * 4, latency="seattle99"), 1)
    delays = [delay for delay, _ in pairs(found, 99 * 4)]
    assert min(delays) == LAN_S
    assert delays.count(LAN_S) / len(delays) == pytest.approx(1 / 99, rel=0.2)
    assert found.one_way_s(5, 5) == LAN_S


def test_the_sigma_of_a_home_gives_its_tail() -> None:
    found = latencies(Topology(nodes=100, latency="seattle99", jitter=0.0), 3)
    sigmas = [sigma for delay, sigma in pairs(found, 100) if delay != LAN_S]
    assert np.exp(1.6449 * np.median(sigmas)) == pytest.approx(3.8, rel=0.05)
    assert max(sigmas) <= MOST_JITTER


@pytest.mark.slow
def test_servers_have_the_jitter_of_the_scenario_and_their_own() -> None:
    calm, rough = (latencies(Topology(nodes=100, jitter=jitter), 3) for jitter in (0.0, 0.3))
    own = np.array([sigma for delay, sigma in pairs(calm, 100) if delay != LAN_S])
    both = np.array([sigma for delay, sigma in pairs(rough, 100) if delay != LAN_S])
    assert np.median(own) < 0.01 < np.percentile(own, 99)
    np.testing.assert_allclose(both, np.minimum(np.hypot(own, 0.3), MOST_JITTER))


def test_regions_are_where_the_table_says() -> None:
    assert all(REGION_MS[a][b] == REGION_MS[b][a] for a in range(8) for b in range(8))
    found = latencies(Topology(nodes=3000, latency="regions8", jitter=0.2), 1)
    regions = [found.region(a) for a in range(3000)]
    europe, east = regions.index("europe"), regions.index("na-east")
    assert found.one_way_s(europe, east) == pytest.approx(0.070)
    assert found.jitter_of(europe, east) == 0.2
    assert regions.count("europe") / 3000 == pytest.approx(5599 / 11326, abs=0.03)
    assert set(regions) == set(REGIONS)


def test_the_regions_of_servers_are_near_to_themselves() -> None:
    found = latencies(Topology(nodes=400), 1)
    inside, across = [], []
    for a in range(0, 400, 3):
        for b in range(1, 400, 3):
            (inside if found.region(a) == found.region(b) else across).append(found.one_way_s(a, b))
    assert np.median(inside) < 0.5 * np.median(across)


def test_uniform_is_the_same_everywhere() -> None:
    found = latencies(Topology(latency="uniform", latency_s=0.04, jitter=0.0), 1)
    assert set(pairs(found, 20)) == {(0.04, 0.0)}
