"""Who lives: by what this node saw itself; a doubt is a reason to look and never a fact."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from protocol.effects import AnyEffect, PeerState, Probe, Send, SetTimer
from protocol.ids import PeerId
from protocol.membership import failure_detector
from protocol.membership.failure_detector import FailureDetector
from protocol.membership.peer_view import PeerView
from protocol.settings import PROFILES, LivenessSettings
from protocol.statements.adverts import Load
from protocol.statements.envelope import statement
from protocol.wire.messages import Doubt, NodeMessage
from tests.protocol.harness import WALL, Member, MemoryNetwork, signer_of

PERIOD_S = PROFILES["wan"].liveness.period_s


def network(nodes: int = 30, seed: int = 1, rest: float = 10.0) -> MemoryNetwork:
    net = MemoryNetwork(seed=seed)
    net.grow(nodes, gap=0.2)
    net.run_until(net.converged, 60)
    net.run(rest)
    return net


def beliefs(net: MemoryNetwork, of: Member) -> Counter[str | None]:
    return Counter(member.node.failure_detector.state(of.peer) for member in net.alive if member is not of)


# --- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("loudly", "nodes"), [(True, 30), (False, 12)])
def test_a_crash_is_noticed_within_four_periods_and_a_dead_peer_comes_back(loudly: bool, nodes: int) -> None:
    net = network(nodes)
    victim = net.members[11]
    net.crash(victim, loudly)
    net.run(PERIOD_S)
    assert beliefs(net, victim)["alive"] <= 5  # suspected by nearly all within one period
    net.run(3.3 * PERIOD_S)
    assert set(beliefs(net, victim)) <= {"dead", None}
    for member in net.alive:
        assert [effect.state for _, effect in member.states if effect.peer == victim.peer][-1] == "dead"
        assert all(
            member.node.failure_detector.state(other.peer) == "alive" for other in net.alive if other is not member
        )
    back = net.add(seeds=(0,), index=11, inc=2)
    net.run_until(net.converged, 20)
    assert set(beliefs(net, back)) <= {"alive", None}


@pytest.mark.slow
def test_a_goodbye_is_known_everywhere_within_two_periods() -> None:
    net = network()
    leaver = net.members[9]
    took = net_leave(net, leaver)
    assert took <= 2 * PERIOD_S
    assert took <= 1.0  # in fact at once: it is flushed and relayed without waiting for a tick
    net.run(30.0)
    assert set(beliefs(net, leaver)) <= {"left", None}
    assert not any(leaver.peer in member.links for member in net.alive)
    back = net.add(seeds=(0,), index=9, inc=2)
    net.run_until(net.converged, 20)
    assert set(beliefs(net, back)) <= {"alive"}


def net_leave(net: MemoryNetwork, leaver: Member) -> float:
    start = net.now
    net.leave(leaver)
    net.run_until(lambda: set(beliefs(net, leaver)) == {"left"}, 60, step=0.01)
    return net.now - start


@pytest.mark.slow
def test_nobodys_word_kills_a_third() -> None:
    net = network(nodes=12, rest=5.0)
    liars, victim = net.members[4:8], net.members[2]

    def slander(source: Member, target: Member, message: NodeMessage) -> NodeMessage:
        version = source.node.gossip.version_of(victim.peer)
        return Doubt(victim.peer, version[0], version[1]) if source in liars and source is not victim else message

    net.tamper = slander
    net.run(3 * PERIOD_S)
    for member in net.members:
        assert not [effect for _, effect in member.states if effect.state == "dead"]
    assert set(beliefs(net, victim)) == {"alive"}


@pytest.mark.slow
def test_two_halves_part_and_find_each_other_again() -> None:
    net = network(nodes=16, rest=5.0)
    half = {member.peer for member in net.members[:8]}
    net.reachable = lambda a, b: (a.peer in half) == (b.peer in half)
    net.run(300.0)
    assert max(len(member.node.view) for member in net.members) <= 12
    net.reachable = lambda a, b: True
    net.run_until(net.converged, 1200, step=5)


# --- one machine -----------------------------------------------------------------------------------------------------


class Alone:
    """One failure detector with peers that are only names."""

    def __init__(self, peers: int = 4, **changes: object) -> None:
        self.view = PeerView(signer_of(0).peer_id, 4096, 4096)
        self.linked: dict[PeerId, None] = {}
        self.settings = LivenessSettings(**changes)  # type: ignore[arg-type]
        self.machine = FailureDetector(self.settings, 4.0, self.view, random.Random(1), self.linked)
        self.peers = [signer_of(i + 1).peer_id for i in range(peers)]
        for index in range(peers):
            self.state_load(index, 0.0)
            self.machine.heard(self.peers[index], 0.0)

    def state_load(self, index: int, now: float, ttl: int = 20) -> None:
        value = Load()
        envelope = statement(signer_of(index + 1), value, (1, 1), WALL, ttl)
        self.view.put(envelope, value, now, now + 10_000)

    def sweep(self, now: float, neighbours: tuple[PeerId, ...] = ()) -> list[AnyEffect]:
        return self.machine.sweep(now, neighbours, lambda peer: (1, 1))

    def failed(self, peer: PeerId, now: float, neighbours: tuple[PeerId, ...] = ()) -> list[AnyEffect]:
        return self.machine.dial_failed(peer, now, neighbours, (1, 1))


def states(effects: list[AnyEffect]) -> list[tuple[PeerId, str]]:
    return [(effect.peer, effect.state) for effect in effects if isinstance(effect, PeerState)]


def probes(effects: list[AnyEffect]) -> list[PeerId]:
    return [effect.peer for effect in effects if isinstance(effect, Probe)]


def test_the_first_sweep_comes_after_half_a_period_to_a_whole_one() -> None:
    """Nodes that start together must not sweep together."""
    first = set()
    for seed in range(50):
        machine = FailureDetector(LivenessSettings(period_s=30.0), 4.0, Alone(0).view, random.Random(seed), {})
        (timer,) = machine.start(100.0)
        assert isinstance(timer, SetTimer)
        first.add(timer.at)
    assert 115.0 <= min(first) < 118.0
    assert 127.0 < max(first) <= 130.0


def test_a_new_peer_is_alive_and_a_name_without_a_record_is_nobody() -> None:
    node = Alone(0)
    assert node.machine.heard(signer_of(1).peer_id, 0.0) == []
    assert node.machine.state(signer_of(1).peer_id) is None
    node.state_load(0, 0.0)
    assert states(node.machine.heard(signer_of(1).peer_id, 0.0)) == [(signer_of(1).peer_id, "alive")]
    assert node.machine.heard(signer_of(1).peer_id, 1.0) == []


def test_three_periods_of_silence_are_death_and_one_word_is_life() -> None:
    node = Alone(4)
    quiet, *others = node.peers
    story = []
    for period in (1, 2, 3, 4):
        for peer in others:
            node.machine.heard(peer, 31.0 * period)
        story += states(node.sweep(31.0 * period, (others[0],)))
    assert story == [(quiet, "suspect"), (quiet, "dead")]
    assert node.view.get(quiet).state == "dead"
    assert states(node.machine.heard(quiet, 130.0)) == [(quiet, "alive")]
    assert node.view.get(quiet).state == "alive"


def test_a_suspicion_after_a_failed_dial_is_the_first_of_three_misses() -> None:
    """Sweeps at 31, 62 and 93 s: the dial that failed at 3 s is miss 1, so that the second sweep is its death."""
    node = Alone(4)
    peer, *others = node.peers
    node.machine.link_down(peer, 2.0)
    story = [(3.0, states(node.failed(peer, 3.0)))]
    for now in (31.0, 62.0, 93.0):
        for other in others:
            node.machine.heard(other, now)
        story.append((now, states(node.sweep(now))))
    assert story == [(3.0, [(peer, "suspect")]), (31.0, []), (62.0, [(peer, "dead")]), (93.0, [])]


def test_evidence_between_two_misses_starts_the_count_afresh() -> None:
    node = Alone(4)
    peer, *others = node.peers
    story = []
    for sweep in range(1, 9):
        now = 31.0 * sweep
        for other in others:
            node.machine.heard(other, now)
        if sweep == 3:
            story += [(sweep, states(node.machine.heard(peer, now - 1.0)))]
        story += [(sweep, found) for found in (states(node.sweep(now)),) if found]
    assert story == [
        (1, [(peer, "suspect")]),
        (3, [(peer, "alive")]),
        (4, [(peer, "suspect")]),
        (6, [(peer, "dead")]),
    ]


def test_a_suspicion_is_told_to_the_neighbours_but_not_to_its_subject() -> None:
    node = Alone(4)
    for peer in node.peers[1:]:
        node.machine.heard(peer, 31.0)
    effects = node.sweep(31.0, (node.peers[0], node.peers[1]))
    assert [(e.peer, e.message) for e in effects if isinstance(e, Send)] == [
        (node.peers[1], Doubt(node.peers[0], 1, 1))
    ]
    assert node.peers[0] in probes(effects)


def test_a_peer_that_states_its_load_rarely_is_given_time() -> None:
    node = Alone(4)
    node.state_load(0, 0.0, ttl=400)  # a period of 100 s
    for peer in node.peers[1:]:
        node.machine.heard(peer, 149.0)
    assert states(node.sweep(149.0)) == []
    for peer in node.peers[1:]:
        node.machine.heard(peer, 151.0)
    assert states(node.sweep(151.0)) == [(node.peers[0], "suspect")]


def test_a_peer_without_a_load_is_given_one_period() -> None:
    node = Alone(4)
    node.view.set_link(signer_of(40).peer_id, True, True, "10.0.0.1", 0.0)
    node.machine.heard(signer_of(40).peer_id, 0.0)
    for peer in node.peers:
        node.machine.heard(peer, 31.0)
    assert states(node.sweep(31.0)) == [(signer_of(40).peer_id, "suspect")]


def test_a_broken_link_and_a_failed_dial_are_a_suspicion_at_once() -> None:
    node = Alone(4)
    peer = node.peers[0]
    assert node.failed(peer, 1.0) == []  # a dial that fails for no reason says little
    node.machine.link_down(peer, 2.0)
    node.machine.link_down(peer, 2.1)
    node.machine.link_down(signer_of(99).peer_id, 2.0)
    assert states(node.failed(peer, 3.0)) == [(peer, "suspect")]
    assert node.failed(peer, 4.0) == []  # already
    assert node.failed(signer_of(99).peer_id, 4.0) == []


def test_a_failed_dial_does_not_count_against_a_link_that_stands_or_newer_evidence() -> None:
    node = Alone(4)
    peer = node.peers[0]
    node.machine.link_down(peer, 2.0)
    node.linked[peer] = None
    assert node.failed(peer, 3.0) == []
    del node.linked[peer]
    node.machine.heard(peer, 3.5)
    assert node.failed(peer, 4.0) == []


def test_a_doubt_makes_us_look_and_what_we_see_decides() -> None:
    node = Alone(4)
    peer = node.peers[0]
    doubt = Doubt(peer, 1, 1)
    assert node.machine.doubted(doubt, 1.0) == [Probe(peer)]
    assert node.machine.doubted(doubt, 1.1) == []
    assert node.machine.state(peer) == "alive"
    assert states(node.failed(peer, 2.0)) == [(peer, "suspect")]


def test_looks_on_behalf_of_others_are_few() -> None:
    node = Alone(20)
    probed = [probes(node.machine.doubted(Doubt(peer, 1, 1), 1.0)) for peer in node.peers]
    assert sum(map(len, probed)) == failure_detector.MAX_DOUBT_PROBES
    for peer in node.peers:
        node.machine.heard(peer, 31.0)
    node.sweep(31.0)
    assert node.machine.doubted(Doubt(node.peers[-1], 1, 1), 32.0) == [Probe(node.peers[-1])]


def test_a_doubted_peer_with_a_link_is_told_once_per_period() -> None:
    node = Alone(4)
    peer = node.peers[0]
    node.linked[peer] = None
    doubt = Doubt(peer, 1, 1)
    assert node.machine.doubted(doubt, 1.0) == [Send(peer, doubt)]
    assert node.machine.doubted(doubt, 2.0) == []
    node.sweep(10.0)
    assert node.machine.doubted(doubt, 11.0) == [Send(peer, doubt)]


def test_doubts_about_strangers_the_dead_and_the_gone_are_idle() -> None:
    node = Alone(4)
    gone = node.peers[0]
    assert states(node.machine.goodbye(gone, 1.0)) == [(gone, "left")]
    assert node.machine.goodbye(gone, 1.0) == []
    assert node.machine.doubted(Doubt(gone, 1, 1), 2.0) == []
    assert node.machine.doubted(Doubt(bytes(32), 1, 1), 2.0) == []


def test_who_said_goodbye_comes_back_by_a_statement_only() -> None:
    node = Alone(4)
    peer = node.peers[0]
    node.machine.goodbye(peer, 1.0)
    assert node.machine.heard(peer, 2.0) == []  # its link is still closing
    assert node.machine.state(peer) == "left"
    assert states(node.machine.heard(peer, 3.0, stated=True)) == [(peer, "alive")]


def test_the_first_we_hear_may_be_a_goodbye() -> None:
    node = Alone(0)
    node.state_load(0, 0.0)
    assert states(node.machine.goodbye(signer_of(1).peer_id, 0.0)) == [(signer_of(1).peer_id, "left")]


def test_what_the_view_forgot_is_forgotten() -> None:
    node = Alone(4)
    alive, gone, removed, _ = node.peers
    assert states(node.machine.forget(alive)) == [(alive, "dead")]
    assert node.machine.forget(alive) == []
    node.machine.goodbye(gone, 1.0)
    assert node.machine.forget(gone) == []
    node.view.remove(removed)
    node.sweep(10.0)
    assert node.machine.state(removed) is None


def test_when_all_fall_silent_the_fault_is_ours() -> None:
    node = Alone(9)
    assert node.machine.period_s == 30.0
    for sweep in range(1, 12):
        for peer in node.peers:
            node.machine.heard(peer, 1000.0 * sweep - 500)
        node.sweep(1000.0 * sweep)
    assert node.machine.awareness == failure_detector.MAX_AWARENESS
    assert node.machine.period_s == 30.0 * (1 + failure_detector.MAX_AWARENESS)
    (timer,) = [e for e in node.sweep(12_000.0) if isinstance(e, SetTimer)]
    assert timer.at > 12_000.0 + 30.0 * 0.95 * failure_detector.MAX_AWARENESS
    for peer in node.peers:
        node.machine.heard(peer, 12_500.0)
    node.sweep(12_510.0)
    assert node.machine.awareness < failure_detector.MAX_AWARENESS


@pytest.mark.parametrize(
    ("watched", "silent", "awareness"),
    [(9, 3, 0), (8, 3, 1), (8, 2, 0), (12, 4, 0), (11, 4, 1), (3, 3, 1), (30, 10, 0), (30, 11, 1)],
)
def test_awareness_rises_when_at_least_three_and_more_than_a_third_fall_silent(
    watched: int, silent: int, awareness: int
) -> None:
    node = Alone(watched)
    for peer in node.peers[silent:]:
        node.machine.heard(peer, 31.0)
    node.sweep(31.0)
    assert node.machine.awareness == awareness


def test_peers_that_stay_silent_raise_our_awareness_only_once() -> None:
    """Five of ten fall silent in the first period and stay so; nobody new does, so that we recover while they die."""
    node = Alone(10)
    health = []
    for sweep in range(1, 5):
        now = 31.0 * sweep
        for peer in node.peers[5:]:
            node.machine.heard(peer, now)
        node.sweep(now)
        health.append(node.machine.awareness)
    assert health == [1, 0, 0, 0]


def test_two_of_two_falling_silent_says_nothing_about_us() -> None:
    node = Alone(2)
    node.sweep(31.0)
    assert node.machine.awareness == 0


def test_looks_and_doubts_per_period_are_bounded() -> None:
    node = Alone(40, probes=2)
    effects = node.sweep(31.0, (signer_of(90).peer_id,))
    assert len([e for e in effects if isinstance(e, Send)]) == failure_detector.MAX_DOUBTS
    assert len(probes(effects)) == failure_detector.MAX_PROBES


def test_a_silent_peer_with_a_link_is_left_to_its_ping() -> None:
    node = Alone(4)
    node.linked[node.peers[0]] = None
    for peer in node.peers[1:]:
        node.machine.heard(peer, 31.0)
        node.linked[peer] = None
    assert probes(node.sweep(31.0)) == []


def test_a_few_others_are_looked_at_each_period_the_dead_among_them() -> None:
    node = Alone(8, probes=2)
    dead, fresh = node.peers[0], node.peers[6:]
    for index in range(8):
        node.state_load(index, 0.0, ttl=240)  # says something every minute, and is given a minute and a half
    seen: set[PeerId] = set()
    for sweep in range(1, 60):
        for peer in node.peers[1:]:
            node.machine.heard(peer, 31.0 * sweep - (0.0 if peer in fresh else 30.5))
        looks = probes(node.sweep(31.0 * sweep))
        assert len(looks) <= 3
        seen |= set(looks)
        if sweep > 4:
            assert node.machine.state(dead) == "dead"
    assert seen == set(node.peers) - set(fresh)  # who was heard of a moment ago need not be looked at
