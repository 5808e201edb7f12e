"""The link pool: which links are kept, which peers are dialled, and within which bounds."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.effects import Dial, Effect, Send, SetTimer
from protocol.events import Routed
from protocol.ids import PeerId
from protocol.membership.peer_view import PeerView
from protocol.routing.link_pool import LATER_S, MOST_MODELS, MOST_PAUSES, SOON_S, LinkPool, routed
from protocol.routing.ranking import JobQuery
from protocol.settings import LinkPoolSettings, NodeSettings
from protocol.statements.adverts import Advert
from protocol.wire.messages import Watch
from tests.protocol.sample_peers import ME, MODEL, at, idle, new_view, offer, peer, put

STEPS = ("routed", "up", "in", "down", "failed", "full", "tick")
SETTINGS = LinkPoolSettings(per_model=4, most=8, reserve=2, dials=3)


class Sim:
    """A pool with a view, a clock and a network in which every dial can be answered by hand."""

    def __init__(self, settings: LinkPoolSettings = SETTINGS, connections: int = 100, peers: int = 20) -> None:
        self.view: PeerView = new_view()
        self.links: dict[PeerId, None] = {}
        self.pool = LinkPool(ME, settings, connections, self.view, random.Random(1), self.links.keys())
        self.now = 0.0
        self.timer = math.inf
        self.dialled: list[PeerId] = []
        #: The last ``Watch`` to each peer.
        self.watched: dict[PeerId, bool] = {}
        for number in range(1, peers + 1):
            put(self.view, number, at(f"20.0.{number}.1"), idle())

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SetTimer):
                self.timer = effect.at
            elif isinstance(effect, Send):
                assert isinstance(effect.message, Watch)
                self.watched[effect.peer] = effect.message.on
            else:
                assert isinstance(effect, Dial)
                assert effect.peer is not None
                self.dialled.append(effect.peer)

    def route(self, model: str = MODEL) -> None:
        self.perform(self.pool.routed(Routed(model, 500, 200), self.now))

    def tick(self) -> list[PeerId]:
        """Wait for the timer; returns the peers that it dials."""
        assert self.timer < math.inf
        self.now, self.timer = max(self.now, self.timer), math.inf
        self.dialled.clear()
        self.perform(self.pool.timer(self.now))
        return [*self.dialled]

    def link(self, who: PeerId, *, outbound: bool = True) -> None:
        self.links[who] = None
        self.view.set_link(who, True, outbound)
        self.perform(self.pool.link_up(who, self.now))

    def unlink(self, who: PeerId) -> None:
        del self.links[who]
        self.view.set_link(who, False)
        self.perform(self.pool.link_down(who, self.now))

    def fail(self, who: PeerId) -> None:
        self.perform(self.pool.dial_failed(who, self.now))

    def fill(self) -> None:
        """Route a job, and answer dials until none follows."""
        self.route()
        for _ in range(10):
            for who in self.tick():
                self.link(who)

    def members(self) -> set[PeerId]:
        return {who for who in self.links if who in self.pool}


def test_a_link_that_comes_up_when_there_is_no_room_is_no_member() -> None:
    sim = Sim(LinkPoolSettings(per_model=2, most=2, dials=4))
    sim.link(peer(1))
    sim.route()
    (other,) = sim.tick()
    put(sim.view, 30, Advert(1, models=(offer("another model"),), addrs=("/ip4/20.0.30.1/tcp/1",)), idle())
    sim.link(peer(30))
    sim.route("another model")
    sim.tick()
    sim.link(other)
    assert sim.members() == {peer(1), peer(30)}


def test_a_member_of_which_nothing_is_known_any_more_is_let_go() -> None:
    sim = Sim()
    sim.fill()
    who = next(iter(sim.members()))
    sim.view.remove(who)
    sim.timer = sim.now
    sim.tick()
    assert who not in sim.members()


def test_a_peer_that_cannot_tell_its_load_is_a_member_all_the_same() -> None:
    sim = Sim()
    sim.links[peer(1)] = None
    sim.view.set_link(peer(1), True)
    sim.perform(sim.pool.link_up(peer(1), sim.now, tells=False))
    sim.route()
    sim.tick()
    assert sim.members() == {peer(1)}
    sim.now += SETTINGS.wanted_s
    sim.tick()
    assert sim.members() == set()
    assert sim.watched == {}
    sim.unlink(peer(1))
    sim.link(peer(1))
    sim.route()
    sim.tick()
    assert sim.watched == {peer(1): True}


def test_nothing_is_dialled_before_a_job_is_routed() -> None:
    sim = Sim()
    sim.link(peer(1))
    assert sim.timer == math.inf
    assert sim.members() == set()


def test_a_routed_model_gets_its_links_a_few_dials_at_a_time() -> None:
    sim = Sim()
    sim.route()
    assert sim.timer == 0.0
    first = sim.tick()
    assert len(first) == SETTINGS.dials
    for who in first:
        sim.link(who)
    assert sim.timer == SOON_S
    (last,) = sim.tick()
    sim.link(last)
    assert sim.members() == {*first, last}
    assert sim.tick() == []
    assert sim.timer == sim.now + LATER_S


def test_a_dial_under_way_is_not_repeated_and_is_forgotten_in_the_end() -> None:
    sim = Sim(peers=3)
    sim.route()
    assert len(sim.tick()) == 3
    assert sim.tick() == []
    sim.now += 60
    assert len(sim.tick()) == 3


def test_links_that_stand_are_taken_first() -> None:
    sim = Sim()
    for number in (1, 2):
        sim.link(peer(number))
    put(sim.view, 30, Advert(1, models=(offer("another model"),)), idle())
    sim.link(peer(30))
    sim.route()
    assert len(sim.tick()) == 2
    assert sim.members() == {peer(1), peer(2)}


def test_those_who_dialled_in_are_half_of_the_members_at_most() -> None:
    sim = Sim()
    for number in range(1, 9):
        sim.link(peer(number), outbound=False)
    sim.route()
    dialled = sim.tick()
    assert len(sim.members()) == 4
    assert len(dialled) == 2


def test_a_lost_member_is_replaced() -> None:
    sim = Sim()
    sim.fill()
    who = next(iter(sim.members()))
    sim.unlink(who)
    assert sim.timer == sim.now + SOON_S
    assert len(sim.tick()) == 1
    assert sim.pool.link_down(peer(19), sim.now) == []


def test_who_cannot_be_dialled_or_is_full_is_left_alone_for_a_while() -> None:
    sim = Sim(peers=1)
    sim.route()
    assert sim.tick() == [peer(1)]
    sim.fail(peer(1))
    sim.timer = sim.now
    assert sim.tick() == []
    sim.now += SETTINGS.retry_first_s
    sim.timer = sim.now
    assert sim.tick() == [peer(1)]
    sim.link(peer(1))
    sim.perform(sim.pool.full(peer(1), sim.now))
    assert sim.members() == set()
    sim.timer = sim.now
    sim.tick()
    assert sim.members() == set(), "it is not taken again because its link stands"
    assert sim.pool.dial_failed(peer(9), sim.now) == []
    assert sim.pool.full(peer(9), sim.now) == []


def test_links_of_a_model_that_nobody_asks_for_any_more_are_let_go() -> None:
    sim = Sim()
    sim.fill()
    assert len(sim.members()) == 4
    sim.now += SETTINGS.wanted_s
    sim.timer = sim.now
    before = sim.members()
    sim.tick()
    assert sim.members() == set()
    assert [sim.watched[who] for who in before] == [False] * 4
    assert sim.timer == math.inf


def test_one_member_is_replaced_per_rotation() -> None:
    sim = Sim()
    sim.fill()
    before = list(sim.members())
    replaced = 0
    for _ in range(200):
        sim.route()
        for who in sim.tick():
            replaced += 1
            sim.link(who)
    assert len(sim.members()) == 4
    assert sim.now / (SETTINGS.rotate_s * 1.5) - 1 <= replaced <= sim.now / (SETTINGS.rotate_s * 0.5)
    assert not sim.members() & set(before)


def test_members_and_connections_are_bounded() -> None:
    sim = Sim(LinkPoolSettings(per_model=16, most=8, reserve=2, dials=16), peers=30)
    sim.fill()
    assert len(sim.members()) == 8
    tight = Sim(LinkPoolSettings(per_model=16, most=8, reserve=2, dials=16), connections=5, peers=30)
    tight.fill()
    assert len(tight.members()) == 3


def test_groups_without_a_member_come_first() -> None:
    sim = Sim(LinkPoolSettings(per_model=4, dials=4), peers=0)
    for number in range(1, 13):
        put(sim.view, number, at(f"20.0.{min(number, 4)}.{number}"), idle())
    sim.route()
    groups = {sim.view.get(who).group for who in sim.tick()}  # type: ignore[union-attr]
    assert len(groups) == 4


def test_peers_without_an_address_are_not_dialled() -> None:
    sim = Sim(peers=0)
    put(sim.view, 1, load=idle())
    sim.route()
    assert sim.tick() == []


def test_a_model_that_is_not_offered_needs_nothing() -> None:
    sim = Sim(peers=0)
    sim.link(peer(3))
    sim.route("no such model")
    assert sim.tick() == []
    assert sim.members() == set()


def test_tables_are_bounded() -> None:
    sim = Sim(peers=0)
    for number in range(3 * MOST_MODELS):
        sim.route(f"model {number}")
    assert sim.pool.sizes()["pool_models"] == MOST_MODELS
    for number in range(1, MOST_PAUSES + 10):
        put(sim.view, number, at(f"20.{number // 250}.{number % 250}.1"), idle())
        sim.route()
        sim.links[peer(number)] = None
        sim.view.set_link(peer(number), True, True)
        sim.pool.link_up(peer(number), sim.now)
        sim.timer = sim.now
        sim.tick()
        sim.perform(sim.pool.full(peer(number), sim.now))
        del sim.links[peer(number)]
        sim.view.remove(peer(number))
    assert sim.pool.sizes()["pool_pauses"] == MOST_PAUSES


def test_a_node_that_leaves_dials_nobody() -> None:
    sim = Sim()
    sim.route()
    sim.pool.leave()
    assert sim.tick() == []
    assert sim.timer == math.inf


def test_a_job_for_this_node_alone_wants_no_links_and_a_trusted_one_to_trusted_peers() -> None:
    assert routed(JobQuery(MODEL, zone="local")) is None
    assert routed(JobQuery(MODEL, 5, 6)) == Routed(MODEL, 5, 6)
    event = routed(JobQuery(MODEL, 5, 6, zone="trusted", trusted=frozenset({peer(2)})))
    assert event == Routed(MODEL, 5, 6, frozenset({peer(2)}))
    sim = Sim()
    sim.perform(sim.pool.routed(event, 0.0))
    assert sim.tick() == [peer(2)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 20))))
def test_whatever_happens_members_have_links_and_bounds_hold(steps: list[tuple[str, int]]) -> None:
    sim = Sim(connections=12)
    for what, number in steps:
        who = peer(number)
        sim.now += 0.4
        if what == "routed":
            sim.route()
        elif what in ("up", "in") and who not in sim.links:
            sim.link(who, outbound=what == "up")
        elif what == "down" and who in sim.links:
            sim.unlink(who)
        elif what == "failed" and who not in sim.links:
            sim.fail(who)
        elif what == "full":
            sim.perform(sim.pool.full(who, sim.now))
        elif what == "tick" and sim.timer < math.inf:
            before = len(sim.links)
            dialled = sim.tick()
            assert before + len(dialled) <= 10 or not dialled
            assert not set(dialled) & set(sim.links)
        assert len(sim.pool) == len(sim.members()) <= SETTINGS.most
        assert all(sim.watched[member] for member in sim.members())


def test_the_bounds_of_all_machines_fit_into_the_connections_of_a_node() -> None:
    node = NodeSettings()
    pool = node.pool
    assert pool.most + pool.watchers + node.neighbours.most + pool.reserve <= node.connections.connections
    assert pool.watchers + node.neighbours.most <= node.connections.inbound
    assert pool.retry_first_s <= pool.retry_most_s == pytest.approx(600)
