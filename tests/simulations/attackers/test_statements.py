"""Forged, replayed and slanderous statements: none is believed, and forgers are banned."""

from __future__ import annotations

import pytest

from protocol.errors import RemoteProtocolError
from protocol.statements.keys import ADVERT
from protocol.wire.messages import RECORDS, Records, decode, encode
from simulations.attackers.attacker import Attacker
from simulations.attackers.statements import changed, in_name_of, too_long
from simulations.run import Run
from simulations.scenario import Attack
from simulations.sim.host import WALL
from simulations.sim.node import SimNode
from tests.simulations.attackers.attacked_networks import ran, scenario, within_budget


def forger_world() -> tuple[Run, Attacker, SimNode]:
    world = Run(scenario(Attack(kind="forger", share=0.5)), seed=3)
    world.prepare()
    world.loop.run(1.0)
    bad = next(peer for peer in world.peers if isinstance(peer, Attacker))
    return world, bad, world.peers[0]


@pytest.mark.slow
def test_forged_statements_do_not_verify_and_earn_a_ban() -> None:
    world, bad, victim = forger_world()
    held = world.peers[1].node.gossip.own(ADVERT)
    assert held is not None
    assert held.check()
    forged = [
        changed(held),
        in_name_of(world.peers[1].peer_id, bad.signer, world.peers[1].make_load(), WALL, 7),
        in_name_of(victim.peer_id, bad.signer, victim.make_load(), WALL, 1 << 60),
    ]
    assert not any(envelope.check() for envelope in forged)
    assert forged[0].version > held.version
    assert forged[1].author == world.peers[1].peer_id
    with pytest.raises(RemoteProtocolError):
        decode(RECORDS, encode(Records((too_long(bad.signer, WALL),))))
    assert not victim.limiter.bans.holds(bad.peer_id, world.loop.now)
    link = victim.links.get(bad.peer_id)
    if link is None:
        victim.connect(bad.peer_id, (bad.addr,), lambda _link, _why: None)
        world.loop.run(5.0)
    before = victim.node.gossip.counts.forged
    for _ in range(victim.settings.penalties.ban_points):
        victim.received_bytes(bad.peer_id, RECORDS, encode(Records((forged[0],))))
    assert victim.node.gossip.counts.forged >= before
    assert victim.limiter.bans.holds(bad.peer_id, world.loop.now)
    assert victim.limiter.bans.holds(bad.address, world.loop.now)
    assert bad.peer_id not in victim.links


@pytest.mark.slow
def test_replays_cost_time_and_change_nothing() -> None:
    world, calm = ran()
    _, metrics = ran("replayer")
    again, _ = ran("replayer")
    stale = sum(peer.node.gossip.counts.stale for peer in again.peers if peer.honest)
    assert stale > 10 * sum(peer.node.gossip.counts.stale for peer in world.peers)
    assert metrics["forged_in_views"] == metrics["false_bans"] == metrics["false_deaths"] == 0
    assert metrics["honest_gossip_bytes_per_s"]["max"] < within_budget(again)
    assert metrics["honest_cpu_share"]["p50"] < 0.1
    assert metrics["success_rate"] == calm["success_rate"]


@pytest.mark.slow
def test_forgers_are_banned_and_nothing_forged_is_in_any_view() -> None:
    world, metrics = ran("forger")
    assert sum(peer.node.gossip.counts.forged for peer in world.peers if peer.honest) > 50
    assert metrics["forged_in_views"] == 0
    assert metrics["bad_banned_share"] == 1.0
    assert metrics["false_bans"] == 0
    assert metrics["bad_neighbours"] < 0.05
    assert metrics["false_deaths"] == 0


@pytest.mark.slow
def test_slander_kills_nobody_and_does_not_silence_adverts() -> None:
    _, calm = ran()
    _, metrics = ran("slanderer")
    assert metrics["honest_cpu_share"]["p50"] > 1.5 * calm["cpu_share"]["p50"]
    assert metrics["false_deaths"] == 0
    assert metrics["false_bans"] == 0
    assert metrics["coverage_t99_s"] < 3 * calm["coverage_t99_s"]
    assert metrics["success_rate"] == calm["success_rate"]
