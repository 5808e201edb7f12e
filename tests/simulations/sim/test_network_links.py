"""Delays, queues, losses, dials, cuts and the death of links, to the microsecond, on machines without a daemon."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import pytest

from protocol.settings import ConnectionSettings, NodeSettings
from protocol.wire.mux import FRAME_OVERHEAD, RTT_PERIODS
from simulations.sim.endpoint import SimLink
from simulations.sim.network import (
    ACCEPT_TRIPS,
    HANDSHAKE_TRIPS,
    PROOF_TRIPS,
    RTO_S,
    Network,
)
from simulations.sim.node import SimNode
from tests.simulations.small_networks import DELAY_S, BareMachine, bare, linked

DEAD_S = 15.0
DIAL_S = 15.0


def send(network: Network, link: SimLink, source: SimNode, what: Any, size: int = 92) -> None:
    target = link.other(source)
    assert isinstance(target, BareMachine)
    network.carry(link, source, size, target.hear, what)


# --- delays --------------------------------------------------------------------------------------------------------


def test_a_message_takes_uplink_way_and_downlink() -> None:
    network, (a, b) = bare(bytes_s=1e4)
    link = linked(network, a, b)
    begun, sent = network.loop.now, network.bytes
    send(network, link, a, "hello", 100 - FRAME_OVERHEAD)
    network.loop.run(begun + 1)
    assert b.heard("hello") == [pytest.approx(begun + 0.01 + DELAY_S + 0.01)]
    assert (sent, network.bytes) == (0, 100)
    assert (a.messages_up, b.messages_up, network.messages) == (1, 0, 1)


def test_delays_have_the_median_and_the_spread_of_the_pair() -> None:
    network, (a, b) = bare(jitter=0.3)
    logs = sorted(math.log(network.delay_s(a, b) / DELAY_S) for _ in range(20_000))
    assert logs[10_000] == pytest.approx(0.0, abs=0.01)
    assert statistics.pstdev(logs) == pytest.approx(0.3, rel=0.02)


def test_a_link_is_a_stream_whatever_the_delays() -> None:
    network, (a, b) = bare(jitter=1.0, loss=0.2)
    link = linked(network, a, b)
    for number in range(300):
        network.loop.at(network.loop.now + number * 0.001, send, network, link, a, number)
    network.loop.run(network.loop.now + 60.0)
    assert [what for _, what in b.notes if isinstance(what, int)] == list(range(300))


def test_different_links_do_overtake_each_other() -> None:
    network, (a, b, c) = bare(3)
    slow, fast = linked(network, a, c), linked(network, b, c)
    network.detour = lambda source, target: 2.0 if source is a else 0.0
    begun = network.loop.now
    send(network, slow, a, "from afar")
    send(network, fast, b, "from near")
    network.loop.run(begun + 10)
    assert c.heard("from near") == [pytest.approx(begun + DELAY_S, abs=0.001)]  # nobody waits for what is on its way
    assert c.heard("from afar") == [pytest.approx(begun + DELAY_S + 2.0, abs=0.001)]


def test_the_uplink_sends_one_after_the_other_to_whomever() -> None:
    network, peers = bare(5, bytes_s=1000.0)
    links = [linked(network, peers[0], peer) for peer in peers[1:]]
    begun = network.loop.now
    for link in links:
        send(network, link, peers[0], "x", 500 - FRAME_OVERHEAD)
    network.loop.run(begun + 10)
    arrived = [peer.heard("x")[0] - begun for peer in peers[1:]]
    assert arrived == pytest.approx([0.5 * n + DELAY_S + 0.5 for n in (1, 2, 3, 4)])


def test_the_downlink_takes_in_one_after_the_other_from_whomever() -> None:
    network, peers = bare(5, bytes_s=1000.0)
    links = [linked(network, peer, peers[0]) for peer in peers[1:]]
    begun = network.loop.now
    for peer, link in zip(peers[1:], links, strict=True):
        send(network, link, peer, "x", 500 - FRAME_OVERHEAD)
    network.loop.run(begun + 10)
    arrived = [at - begun for at in peers[0].heard("x")]
    assert arrived == pytest.approx([0.5 + DELAY_S + 0.5 * n for n in (1, 2, 3, 4)])


def test_what_waits_for_the_downlink_stays_in_order_on_its_link() -> None:
    network, (a, b, c) = bare(3, bytes_s=1000.0)
    one, two = linked(network, a, c), linked(network, b, c)
    begun = network.loop.now
    for number in range(5):
        network.loop.at(begun + 0.001 * number, send, network, one, a, ("a", number), 40)
        network.loop.at(begun + 0.001 * number, send, network, two, b, ("b", number), 400)
    network.loop.run(begun + 20)
    said = [what for _, what in c.notes if isinstance(what, tuple)]
    assert [what for what in said if what[0] == "a"] == [("a", number) for number in range(5)]
    assert [what for what in said if what[0] == "b"] == [("b", number) for number in range(5)]


def test_a_busy_processor_sends_when_it_is_done() -> None:
    network, (a, b) = bare()
    link = linked(network, a, b)
    begun = network.loop.now
    a.spend(0.5)
    send(network, link, a, "late")
    network.loop.run(begun + 2)
    assert b.heard("late") == [pytest.approx(begun + 0.5 + DELAY_S, abs=0.001)]


def test_a_lost_segment_is_a_retransmission_timeout() -> None:
    network, (a, b) = bare(loss=0.25)
    delays = [network.delay_s(a, b) for _ in range(20_000)]
    lost = [delay for delay in delays if delay > DELAY_S]
    assert len(lost) / len(delays) == pytest.approx(0.25, abs=0.01)
    assert min(lost) == pytest.approx(DELAY_S + RTO_S)
    twice = [delay for delay in lost if delay > 1.01 * (DELAY_S + RTO_S)]
    assert len(twice) / len(lost) == pytest.approx(0.25, abs=0.02)
    assert min(twice) == pytest.approx(DELAY_S + 3 * RTO_S)  # the timeout doubles


def test_dropped_are_messages_between_nodes_only() -> None:
    network, (a, b) = bare(drop=0.5)
    link = linked(network, a, b)
    for number in range(1000):
        network.carry(link, a, 10, b.received, a.peer_id, number)
        network.carry(link, a, 10, b.hear, "job")
    network.loop.run(100.0)
    came = sum(isinstance(what, tuple) and what[0] == a.peer_id for _, what in b.notes)
    assert 430 < came < 570
    assert len(b.heard("job")) == 1000


# --- dials ---------------------------------------------------------------------------------------------------------


def dial(network: Network, source: SimNode, target: SimNode, addr: str = "") -> list[tuple[float, SimLink | None, str]]:
    came: list[tuple[float, SimLink | None, str]] = []
    begun = network.loop.now

    def done(link: SimLink | None, reason: str) -> None:
        came.append((network.loop.now - begun, link, reason))

    network.dial(source, target.peer_id, (addr or target.addr,), done)
    return came


def test_a_dial_takes_its_round_trips_and_both_ends_have_the_link() -> None:
    network, (a, b) = bare()
    came = dial(network, a, b)
    network.loop.run(1.0)
    ((took, link, reason),) = came
    assert took == pytest.approx(HANDSHAKE_TRIPS * 2 * DELAY_S)
    assert link is not None
    assert reason == ""
    assert a.links == {b.peer_id: link}
    assert b.links == {a.peer_id: link}


@pytest.mark.parametrize(("silently", "took_s", "why"), [(False, 2 * DELAY_S, "refused"), (True, DIAL_S, "no answer")])
def test_a_process_that_is_down_refuses_and_a_machine_that_is_gone_does_not_answer(
    silently: bool, took_s: float, why: str
) -> None:
    network, (a, b) = bare()
    b.rng(silently=silently)
    came = dial(network, a, b)
    network.loop.run(20.0)
    assert came == [(pytest.approx(took_s), None, why)]


@pytest.mark.parametrize("forth", [True, False])
def test_nothing_answers_across_a_cut_in_either_direction(forth: bool) -> None:
    network, (a, b) = bare()
    network.cut = lambda source, target: (source is a) is forth
    came = dial(network, a, b)
    network.loop.run(20.0)
    assert came == [(pytest.approx(DIAL_S), None, "no answer")]


def test_nobody_is_at_an_unknown_address_nor_at_the_own() -> None:
    network, (a, b) = bare()
    for addr in ("/ip4/1.1.1.1/tcp/1", a.addr):
        came = dial(network, a, b, addr)
        network.loop.run(network.loop.now + 20.0)
        assert came == [(pytest.approx(RTO_S), None, "no such address")]


def test_somebody_else_at_the_address_is_found_out() -> None:
    network, (a, b, c) = bare(3)
    came = dial(network, a, b, c.addr)
    network.loop.run(20.0)
    assert [reason for _, _, reason in came] == ["somebody else answered"]
    assert not a.links
    assert not c.links


def test_two_that_dial_each_other_at_once_have_one_link() -> None:
    network, (a, b) = bare()
    forth, back = dial(network, a, b), dial(network, b, a)
    network.loop.run(1.0)
    assert forth[0][1] is back[0][1] is a.links[b.peer_id] is b.links[a.peer_id]


def test_a_busy_machine_answers_late_and_a_frozen_one_not_at_all() -> None:
    for busy_s, took_s in ((3.0, 3.0 + HANDSHAKE_TRIPS * 2 * DELAY_S), (60.0, DIAL_S)):
        network, (a, b) = bare()
        b.cpu_until = busy_s
        came = dial(network, a, b)
        network.loop.run(30.0)
        assert [took for took, _, _ in came] == [pytest.approx(took_s)]
        assert (came[0][1] is None) == (busy_s > DIAL_S)


def test_a_dial_over_a_way_that_takes_too_long_is_given_up() -> None:
    network, (a, b) = bare(settings=limited(pending_s=DIAL_S))
    network.detour = lambda _source, _target: 3.0
    came = dial(network, a, b)
    network.loop.run(60.0)
    assert [(took, link) for took, link, _ in came] == [(pytest.approx(DIAL_S), None)]
    assert not a.links


def test_a_dial_of_an_earlier_life_makes_no_link() -> None:
    network, (a, b) = bare()
    came = dial(network, a, b)
    a.rng(silently=False)
    a.boot()
    network.loop.run(5.0)
    assert came == []
    assert not a.links
    assert not b.links


@pytest.mark.parametrize("silently", [True, False])
def test_a_node_that_dies_while_dialling_gets_no_link(silently: bool) -> None:
    network, (a, b) = bare()
    came = dial(network, a, b)
    network.loop.run(DELAY_S)
    a.rng(silently=silently)
    network.loop.run(5.0)
    assert came == []
    assert not a.links
    assert not b.links


def test_who_comes_back_replaces_the_link_of_its_earlier_life() -> None:
    network, (a, b) = bare()
    old = linked(network, a, b)
    a.rng(silently=True)
    a.boot()
    new = linked(network, a, b)
    assert not old.up
    assert b.links[a.peer_id] is a.links[b.peer_id] is new
    network.loop.run(60.0)
    assert new.up  # the time at which the old one would have died has come and gone
    assert len(b.links) == 1


# --- the limits on connections -------------------------------------------------------------------------------------

#: Seconds of a round trip, and of a dial that the other end refuses when it accepts, or when the key is proven.
TRIP_S = 2 * DELAY_S
TURNED_AWAY_S = (ACCEPT_TRIPS + 0.5) * TRIP_S
NOT_ADMITTED_S = (PROOF_TRIPS + 0.5) * TRIP_S


def limited(**limits: float) -> NodeSettings:
    return NodeSettings(connections=ConnectionSettings(**limits))


def outcomes(network: Network, sources: Sequence[SimNode], target: SimNode) -> list[str]:
    """How the dials of all of them at once end; empty for a link."""
    came = [dial(network, source, target) for source in sources]
    network.loop.run(network.loop.now + 20.0)
    assert all(len(each) == 1 for each in came)
    return [reason for ((_, _, reason),) in came]


def test_sockets_of_one_address_that_have_proven_no_key_are_few() -> None:
    network, (b, *others) = bare(7)
    for other in others:
        other.address = "20.0.9.1"
    assert outcomes(network, others, b) == [""] * 4 + ["pending per address"] * 2
    assert outcomes(network, others[4:], b) == ["", ""], "the others have proven theirs"
    assert b.limiter.open == 6
    assert (b.limiter.pending, others[0].limiter.connections) == (0, 1)


def test_links_of_one_address_and_of_one_group_are_few_and_places_come_back() -> None:
    network, (b, *others) = bare(8, settings=limited(per_address=2, per_group=4))
    for number, other in enumerate(others):
        other.address = "20.0.9.1" if number < 3 else f"20.0.9.{number}"
    assert outcomes(network, others, b) == ["", "", "per address", "", "", "per group", "per group"]
    network.break_link(others[0].links[b.peer_id], "test")
    assert outcomes(network, [others[5], others[6]], b) == ["", "per group"]
    assert others[6].limiter.connections == 0


def test_accepted_links_and_all_links_are_bounded() -> None:
    network, (b, *others) = bare(5, settings=limited(inbound=2, connections=3))
    assert outcomes(network, others[:3], b) == ["", "", "inbound"]
    assert outcomes(network, [b], others[2]) == [""]
    came = dial(network, b, others[3])
    network.loop.run(network.loop.now + 1.0)
    assert came == [(0.0, None, "connections")], "nothing is sent"
    others[0].rng(silently=False)
    assert outcomes(network, [b], others[3]) == [""]


def test_an_address_dials_so_often() -> None:
    network, (a, b) = bare(settings=limited(rate=1.0, burst=2))
    for reason in ("", "", "rate"):
        assert [why for _, _, why in finished(network, dial(network, a, b))] == [reason]
        if not reason:
            network.break_link(a.links[b.peer_id], "test")
    network.loop.run(network.loop.now + 1.0)
    assert [why for _, _, why in finished(network, dial(network, a, b))] == [""]


def finished(
    network: Network, came: list[tuple[float, SimLink | None, str]]
) -> list[tuple[float, SimLink | None, str]]:
    while not came:
        network.loop.run(network.loop.now + 0.01)
    return came


def test_a_refusal_comes_when_the_other_end_decides() -> None:
    network, (a, b) = bare(settings=limited(per_group=1, per_peer=1))
    b.limiter.bans.add(a.address, 100.0)
    assert dial_and_wait(network, a, b) == (pytest.approx(TURNED_AWAY_S), None, "banned")
    b.limiter.bans.add(a.address, 0.0)
    b.limiter.bans.add(a.peer_id, 100.0)
    assert dial_and_wait(network, a, b) == (pytest.approx(NOT_ADMITTED_S), None, "not admitted")
    a.limiter.bans.add(b.peer_id, 100.0)
    assert dial_and_wait(network, a, b) == (0.0, None, "banned")
    came: list[str] = []
    network.dial(a, None, (b.addr,), lambda link, reason: came.append(reason))
    network.loop.run(network.loop.now + 20.0)
    assert came == ["banned"], "the key is proven before it is known to be banned"
    assert a.limiter.connections == b.limiter.connections == 0


def dial_and_wait(network: Network, source: SimNode, target: SimNode) -> tuple[float, SimLink | None, str]:
    (came,) = finished(network, dial(network, source, target))
    return came


def test_an_end_that_waits_too_long_for_the_proof_gives_up() -> None:
    network, (a, b) = bare(settings=limited(pending_s=0.01))
    assert dial_and_wait(network, a, b) == (pytest.approx(ACCEPT_TRIPS * TRIP_S + 0.01), None, "no answer")
    assert a.limiter.connections == b.limiter.connections == 0


def test_the_oldest_pending_connection_makes_room() -> None:
    network, (b, slow, quick) = bare(3, settings=limited(pending=1))
    network.detour = lambda one, other: 1.0 if slow in (one, other) else 0.0
    first = dial(network, slow, b)
    network.loop.run(network.loop.now + 4.5)  # accepted after 3.1 s
    assert b.limiter.pending == 1
    assert dial_and_wait(network, quick, b)[2] == ""
    assert finished(network, first)[0][1:] == (None, "not admitted")
    assert b.limiter.open == 1


@pytest.mark.parametrize("trips", [0.5, 2.0, 2.8])
@pytest.mark.parametrize("at_source", [True, False])
def test_who_ends_during_a_dial_leaves_no_place_taken(trips: float, at_source: bool) -> None:
    network, (a, b) = bare()
    ends = a if at_source else b
    came = dial(network, a, b)
    network.loop.run(network.loop.now + trips * TRIP_S)
    ends.rng(silently=False)
    if trips > 1.0:
        ends.boot()
    network.loop.run(network.loop.now + 20.0)
    assert [link for _, link, _ in came] == ([] if at_source else [None])
    assert a.limiter.connections == b.limiter.connections == 0


def test_a_ban_during_the_handshake_ends_it() -> None:
    network, (a, b) = bare()
    came = dial(network, a, b)
    network.loop.run(network.loop.now + (PROOF_TRIPS + 0.1) * TRIP_S)
    assert len(b.limiter.ban(a.peer_id, a.address, 100.0)) == 1
    assert finished(network, came)[0][1:] == (None, "reset")
    assert not a.links


@pytest.mark.parametrize("first_is_smaller", [True, False])
def test_of_two_connections_the_one_that_the_smaller_peer_id_dialled_is_used(first_is_smaller: bool) -> None:
    network, peers = bare()
    smaller, larger = sorted(peers, key=lambda peer: peer.peer_id)
    first, second = (smaller, larger) if first_is_smaller else (larger, smaller)
    came = dial(network, first, second)
    network.loop.run(network.loop.now + DELAY_S / 2)
    came += finished(network, dial(network, second, first))
    assert came[0][1] is came[1][1] is first.links[second.peer_id]
    assert first.links[second.peer_id].dial.source is smaller
    assert (smaller.limiter.connections, smaller.limiter.open) == (1, 0)
    assert (larger.limiter.connections, larger.limiter.open) == (1, 1)


# --- cuts and the death of links -----------------------------------------------------------------------------------


def test_what_is_sent_into_a_cut_arrives_when_it_heals_in_time() -> None:
    network, (a, b) = bare()
    link = linked(network, a, b)
    network.cut = lambda source, target: True
    network.reconsider()
    for number in range(3):
        send(network, link, a, number)
    network.loop.run(10.0)
    assert not any(isinstance(what, int) for _, what in b.notes)
    network.cut = None
    network.reconsider()
    network.loop.run(60.0)
    assert [what for _, what in b.notes if isinstance(what, int)] == [0, 1, 2]
    assert b.heard(0) == [pytest.approx(10.0 + DELAY_S, abs=0.001)]
    assert link.up


def test_a_link_dies_of_a_cut_that_lasts_one_way_being_enough() -> None:
    network, (a, b) = bare()
    link = linked(network, a, b)
    begun = network.loop.now
    network.cut = lambda source, target: target is b  # no data one way, no acknowledgement the other
    network.reconsider()
    send(network, link, a, "lost")
    network.loop.run(begun + DEAD_S - 0.01)
    assert link.up
    network.loop.run(begun + DEAD_S + 0.01)
    assert not link.up
    assert a.heard("down: silent") == b.heard("down: silent") == [pytest.approx(begun + DEAD_S)]
    network.cut = None
    network.reconsider()
    network.loop.run(begun + 60)
    assert not b.heard("lost")
    assert not a.links
    assert not b.links


def test_the_direction_that_is_open_carries_until_the_other_is_found_dead() -> None:
    network, (a, b) = bare()
    link = linked(network, a, b)
    begun = network.loop.now
    network.cut = lambda source, target: source is a
    network.reconsider()
    for second in range(30):
        network.loop.run(begun + second)
        for source in (a, b):
            send(network, link, source, second)
    network.loop.run(begun + 60)
    heard = [[what for _, what in peer.notes if isinstance(what, int)] for peer in (a, b)]
    assert heard == [list(range(int(DEAD_S))), []]
    assert not link.up


def test_each_direction_has_a_cut_of_its_own() -> None:
    network, (a, b) = bare()
    link = linked(network, a, b)
    for at, mute in ((1.0, a), (9.0, b), (17.0, a), (25.0, None)):  # neither is cut for as long as kills a link
        network.loop.run(at)
        network.cut = (lambda source, target, mute=mute: source is mute) if mute else None
        network.reconsider()
        for source in (a, b):
            send(network, link, source, at)
    network.loop.run(60.0)
    assert link.whole
    came = {peer: [(at, what) for at, what in peer.notes if isinstance(what, float)] for peer in (a, b)}
    assert [sent for _, sent in came[a]] == [sent for _, sent in came[b]] == [1.0, 9.0, 17.0, 25.0]
    assert [round(at) for at, _ in came[a]] == [1, 17, 17, 25]
    assert [round(at) for at, _ in came[b]] == [9, 9, 25, 25]


def test_a_link_that_carries_nothing_dies_as_well() -> None:
    network, (a, b) = bare()
    linked(network, a, b)
    network.cut = lambda source, target: True
    network.reconsider()
    network.loop.run(network.loop.now + DEAD_S + 1)
    assert not a.links
    assert not b.links


def test_a_second_cut_counts_anew() -> None:
    network, (a, b) = bare()
    link = linked(network, a, b)
    for begin in (1.0, 12.0):
        network.loop.run(begin)
        network.cut = lambda source, target: True
        network.reconsider()
        network.loop.run(begin + 8.0)
        network.cut = None
        network.reconsider()
    network.loop.run(100.0)
    assert link.up


@pytest.mark.parametrize(("silently", "why", "after_s"), [(True, "silent", DEAD_S), (False, "reset", 0.0)])
def test_who_vanishes_is_missed_after_a_while_and_who_crashes_at_once(silently: bool, why: str, after_s: float) -> None:
    network, (a, b) = bare()
    linked(network, a, b)
    begun = network.loop.now
    b.rng(silently=silently)
    network.loop.run(begun + 60)
    assert a.heard(f"down: {why}") == [pytest.approx(begun + after_s)]
    assert not a.links


def test_nothing_reaches_a_later_life() -> None:
    network, (a, b) = bare()
    link = linked(network, a, b)
    send(network, link, a, "for the old one")
    b.rng(silently=True)
    b.boot()
    network.loop.run(60.0)
    assert not b.heard("for the old one")


def test_nothing_leaves_on_a_broken_link_and_who_is_not_told_is_not_told() -> None:
    network, (a, b) = bare()
    link = linked(network, a, b)
    network.break_link(link, "test", tell_a=False)
    sent = network.messages
    send(network, link, a, "x")
    network.loop.run(10.0)
    assert network.messages == sent
    assert (len(a.heard("down: test")), len(b.heard("down: test"))) == (0, 1)
    assert not b.heard("x")


# --- round trips ---------------------------------------------------------------------------------------------------


def trips(peer: BareMachine) -> list[tuple[float, float]]:
    return [(at, what[1]) for at, what in peer.notes if isinstance(what, tuple) and what[0] == "trip"]


def test_both_ends_measure_their_round_trip_again_and_again() -> None:
    network, (a, b) = bare()
    linked(network, a, b)
    period = RTT_PERIODS * a.settings.link.ping_s
    network.loop.run(3 * period)
    for peer in (a, b):
        assert [trip for _, trip in trips(peer)] == [pytest.approx(2 * DELAY_S)] * 3
        (one, two, three) = [at for at, _ in trips(peer)]
        assert (two - one, three - two) == (pytest.approx(period), pytest.approx(period))


def test_a_busy_end_looks_far_away() -> None:
    network, (a, b) = bare()
    linked(network, a, b)
    b.cpu_until = network.loop.now + 3.0
    network.loop.run(network.loop.now + 5.0)
    assert trips(a)[0][1] == pytest.approx(3.0, abs=0.05)


def test_no_round_trip_is_measured_across_a_cut() -> None:
    network, (a, b) = bare()
    linked(network, a, b)
    network.loop.run(1.0)
    a.notes.clear()
    network.cut = lambda source, target: True
    network.loop.run(50.0)
    assert trips(a) == []
