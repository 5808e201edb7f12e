"""A network as after hours of running: full views, standing links, and no storm at its beginning."""

from __future__ import annotations

import pytest

from protocol.settings import GossipSettings, NeighbourSettings, NodeSettings
from protocol.statements.keys import ADVERT, LOAD
from simulations.run import Run
from tests.simulations.small_networks import DELAY_S, MEASURED, scenario, world


def standing(made: Run) -> list[int]:
    """Links of each node."""
    return [len(peer.links) for peer in made.peers]


def test_everybody_knows_everybody_from_the_first_moment() -> None:
    made = Run(scenario(30), 1)
    made.prepare()
    for peer in made.peers:
        others = [other for other in made.peers if other is not peer]
        assert len(peer.node.view) == len(others)
        for other in others:
            record = peer.node.view.get(other.peer_id)
            assert record is not None
            assert record.advert_env is other.node.gossip.own(ADVERT)
            assert record.load_env is other.node.gossip.own(LOAD)
            assert record.advert == other.advert


def test_everybody_has_links_a_moment_later_and_they_are_real() -> None:
    made = world(scenario(30), until=3.0)
    target = made.scenario.node.neighbours.target
    assert min(standing(made)) >= target // 2
    for peer in made.peers:
        for link in peer.links.values():
            other = link.other(peer)
            assert other.links[peer.peer_id] is link
            assert peer.peer_id in other.node.overlay.linked
            record = peer.node.view.get(other.peer_id)
            assert record is not None
            assert record.rtt_s == pytest.approx(2 * DELAY_S)


def test_a_view_that_is_too_small_holds_what_fits() -> None:
    node = NodeSettings(gossip=GossipSettings(view_size=16), neighbours=NeighbourSettings(target=4, most=6))
    made = world(scenario(60, node=node), until=0.0)
    known = [len(peer.node.view) for peer in made.peers]
    assert max(known) <= 16 + 6  # neighbours are known besides
    assert min(known) >= 14
    seen = {record.peer for peer in made.peers for record in peer.node.view.records()[1:]}
    assert len(seen) == 60  # not the same few for all


@pytest.mark.slow
def test_there_is_no_storm_when_all_the_links_are_made_at_once() -> None:
    """Nothing is sent for being unknown, and what links begin with stays far below what is saved up for newcomers."""
    made = world(scenario(60), costs=MEASURED, until=5.0)
    settings, counts = made.scenario.node, [peer.node.gossip.counts for peer in made.peers]
    assert sum(peer.uploads.gossip_bytes for peer in made.peers) / 60 < 5.0 * 2 * settings.gossip.budget_bytes_s
    assert max(peer.uploads.gossip_bytes for peer in made.peers) < settings.gossip.burst_bytes
    assert sum(count.digests_out for count in counts) / 60 <= settings.neighbours.target
    assert max(count.records_out for count in counts) < 10 * 60
    made.loop.run(30.0)
    begun = sum(peer.uploads.gossip_bytes for peer in made.peers)
    made.loop.run(60.0)
    assert (sum(peer.uploads.gossip_bytes for peer in made.peers) - begun) / 60 / 30.0 < settings.gossip.budget_bytes_s
    assert all(len(peer.node.view) == 59 for peer in made.peers)
    assert made.job_log.false_deaths == 0
    assert not made.job_log.penalties


def test_it_is_the_same_every_time_and_another_with_another_seed() -> None:
    digests = [world(scenario(12), seed=seed, until=5.0).loop.digest for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]
