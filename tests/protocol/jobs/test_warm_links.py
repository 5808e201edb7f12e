"""Warm links as one part of a node: loads in, loads out, and which links stay open."""

from __future__ import annotations

import math
import random

from protocol.effects import Effect, Hangup, Send
from protocol.events import Routed
from protocol.jobs.warm_links import WarmLinks
from protocol.membership.overlay import Overlay
from protocol.settings import NodeSettings
from protocol.statements.adverts import Load
from protocol.wire.features import FRESH_LOAD
from protocol.wire.messages import FreshLoad, Full, Watch
from tests.protocol.sample_peers import ME, MODEL, at, idle, new_view, peer, put

PEER = peer(1)


class Sim:
    """Warm links beside an overlay, and one peer with a link that we dialled."""

    def __init__(self, features: tuple[str, ...] = (FRESH_LOAD,)) -> None:
        settings = NodeSettings()
        self.view, rng = new_view(), random.Random(1)
        put(self.view, 1, at("20.0.0.1"), idle())
        self.overlay = Overlay(ME, settings.neighbours, self.view, rng)
        self.warm = WarmLinks(ME, settings, self.view, rng, self.overlay)
        self.overlay.link_up(PEER, True, "20.0.0.1", ())
        self.view.set_link(PEER, True, True, "20.0.0.1", 0.0)
        self.warm.link_up(PEER, features, 0.0)

    def want(self) -> list[Effect]:
        """A job is routed, and the pool takes the link."""
        self.warm.routed(Routed(MODEL, 100, 100), 0.0)
        return [effect for effect in self.warm.timer(("pool", "tick"), 0.0) if isinstance(effect, Send)]

    def fresh_until(self) -> float:
        record = self.view.get(PEER)
        assert record is not None
        return record.fresh_until


def test_the_load_of_a_member_counts_until_the_next_one() -> None:
    sim = Sim()
    assert sim.want() == [Send(PEER, Watch())]
    assert PEER in sim.warm
    assert sim.warm.on_message(PEER, FreshLoad(1, 0, 8), 5.0) == []
    assert sim.fresh_until() == math.inf
    sim.warm.link_down(PEER, 6.0)
    assert PEER not in sim.warm


def test_a_load_with_the_answer_to_a_job_counts_for_a_while() -> None:
    sim = Sim()
    sim.warm.on_message(PEER, FreshLoad(1, 0, 8), 5.0)
    assert sim.fresh_until() == 5.0 + NodeSettings().gossip.load_period_s


def test_a_peer_of_an_older_version_is_asked_for_nothing() -> None:
    sim = Sim(features=())
    assert sim.want() == []
    assert PEER in sim.warm


def test_a_full_peer_is_hung_up_unless_its_link_serves_something_else() -> None:
    def hung_up(sim: Sim) -> bool:
        return any(isinstance(effect, Hangup) for effect in sim.warm.on_message(PEER, Full(), 1.0))

    sim = Sim()
    assert not hung_up(sim), "it is no member"
    sim.want()
    assert hung_up(sim)
    watched = Sim()
    watched.want()
    watched.warm.on_message(PEER, Watch(), 0.5)
    assert not hung_up(watched)


def test_whoever_watches_is_told_and_its_link_stays() -> None:
    sim = Sim()
    assert sim.warm.on_message(PEER, Watch(), 1.0) == [Send(PEER, FreshLoad())]
    assert PEER in sim.warm
    assert sim.warm.report(Load(running=1, slots=2), {PEER: 1}, 2.0) == [Send(PEER, FreshLoad(1, 0, 2, yours=1))]
    sim.warm.report(Load(running=2, slots=2), {PEER: 1}, 2.1)
    assert sim.warm.timer(("fresh", "turn"), 2.6) == [Send(PEER, FreshLoad(2, 0, 2, yours=1))]
    assert sim.warm.sizes() == {"pool": 0, "pool_models": 0, "pool_pauses": 0, "watchers": 1}
    assert sim.warm.stats() == {"warm_links": 0, "watchers": 1, "loads_told": 3}
