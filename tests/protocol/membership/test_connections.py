"""The limits on connections, one at a time; the choice between two links; when an idle link is closed."""

from __future__ import annotations

import pytest

from protocol.ids import PeerId
from protocol.membership.connections import (
    GRACE_S,
    REMEMBERED,
    ConnectionLimiter,
    DialKey,
    DialQueue,
    Ticket,
    Verdict,
    is_idle,
    link_rank,
)
from protocol.settings import ConnectionSettings

ALICE, BOB = PeerId(b"a" * 32), PeerId(b"b" * 32)


def limiter(*, loopback_exempt: bool = False, **limits: float) -> ConnectionLimiter:
    return ConnectionLimiter(ConnectionSettings(**limits), loopback_exempt=loopback_exempt)


def try_accept(counts: ConnectionLimiter, address: str, now: float = 0.0) -> Ticket | None:
    verdict = counts.try_accept(address, now)
    assert verdict.evicted is None
    return verdict.ticket


def enter(counts: ConnectionLimiter, address: str, peer: PeerId, now: float = 0.0) -> Ticket | None:
    ticket = try_accept(counts, address, now)
    return ticket if ticket is not None and counts.prove(ticket, peer, now) else None


def test_pending_connections_of_one_address_are_few() -> None:
    counts = limiter()
    tickets = [try_accept(counts, "198.51.100.1") for _ in range(5)]
    assert [ticket is not None for ticket in tickets] == [True] * 4 + [False]
    assert counts.refused == {"pending per address": 1}
    assert try_accept(counts, "198.51.100.2") is not None
    assert tickets[0] is not None
    counts.leave(tickets[0])
    assert try_accept(counts, "198.51.100.1") is not None


def test_the_accept_rate_is_bounded_per_address() -> None:
    counts = limiter(burst=3, rate=10.0)

    def visit(now: float) -> bool:
        ticket = try_accept(counts, "198.51.100.1", now)
        if ticket is not None:
            counts.leave(ticket)
        return ticket is not None

    assert [visit(0.0) for _ in range(4)] == [True, True, True, False]
    assert visit(0.1)
    assert not visit(0.1)
    assert [visit(100.0) for _ in range(4)] == [True, True, True, False], "a long pause saves no more than the burst"
    assert counts.refused == {"rate": 3}


def test_when_too_many_wait_the_oldest_is_evicted() -> None:
    counts = limiter(pending=3)
    first = try_accept(counts, "198.51.100.1")
    assert first is not None
    try_accept(counts, "198.51.100.2")
    try_accept(counts, "198.51.100.3")
    assert counts.try_accept("198.51.100.4", GRACE_S / 2) == Verdict(reason="pending")
    verdict = counts.try_accept("198.51.100.4", GRACE_S)
    assert verdict.ticket is not None
    assert verdict.evicted is first
    assert counts.pending == 3
    assert verdict.ticket in counts
    assert first not in counts
    assert not counts.prove(first, ALICE, 2.0), "an evicted connection cannot come in"


def test_connections_are_bounded_per_peer_per_address_and_in_all() -> None:
    counts = limiter(inbound=6, per_address=3, per_peer=2)
    assert enter(counts, "198.51.100.1", ALICE)
    assert enter(counts, "198.51.100.2", ALICE)
    assert not enter(counts, "198.51.100.3", ALICE)
    assert counts.refused == {"per peer": 1}
    assert enter(counts, "198.51.100.1", BOB)
    assert enter(counts, "198.51.100.1", PeerId(b"c" * 32))
    assert try_accept(counts, "198.51.100.1") is None
    assert counts.refused["per address"] == 1
    assert enter(counts, "198.51.100.4", PeerId(b"d" * 32))
    assert enter(counts, "198.51.100.5", PeerId(b"e" * 32))
    assert try_accept(counts, "198.51.100.6") is None
    assert counts.refused["inbound"] == 1
    assert counts.open == 6


def test_connections_of_both_directions_are_bounded_together() -> None:
    counts = limiter(connections=3, inbound=2)
    dialled = [counts.try_dial(peer, 0.0).ticket for peer in (ALICE, None)]
    assert None not in dialled
    accepted = try_accept(counts, "198.51.100.1")
    assert accepted is not None
    assert counts.try_dial(BOB, 0.0) == Verdict(reason="connections")
    assert counts.try_accept("198.51.100.2", 0.0) == Verdict(reason="connections")
    assert (counts.connections, counts.refused) == (3, {"connections": 2})
    counts.leave(accepted)
    assert counts.try_dial(BOB, 0.0).ticket is not None
    assert dialled[0] is not None
    counts.leave(dialled[0])
    assert try_accept(counts, "198.51.100.2") is not None


def test_a_network_group_is_bounded_unless_it_is_private() -> None:
    counts = limiter(per_group=5)
    entered = [
        enter(counts, f"{network}.{number}", PeerId(bytes([number]) * 31 + network[:1].encode()))
        for network in ("198.51.100", "192.168.7")
        for number in range(1, 9)
    ]
    assert [ticket is not None for ticket in entered] == [True] * 5 + [False] * 3 + [True] * 8
    assert counts.refused == {"per group": 3}
    assert [try_accept(counts, f"2001:db8:1:{number}::1") is not None for number in range(7)] == [True] * 5 + [
        False
    ] * 2
    assert entered[0] is not None
    counts.leave(entered[0])
    assert try_accept(counts, "198.51.100.77") is not None


@pytest.mark.parametrize("loopback", ["127.0.0.1", "::1"])
def test_loopback_is_exempt_only_where_asked(loopback: str) -> None:
    strict, local = limiter(), limiter(loopback_exempt=True)
    for _ in range(4):
        assert try_accept(strict, loopback)
    assert not try_accept(strict, loopback)
    for _ in range(60):
        assert try_accept(local, loopback)
    assert all(try_accept(local, "198.51.100.1") for _ in range(4))
    assert not try_accept(local, "198.51.100.1")
    assert local.ban(ALICE, loopback, 10.0) == []
    assert local.bans.active(9.0) == [ALICE]


def test_a_ban_holds_for_peer_and_address_and_ends() -> None:
    counts = limiter()
    inside, outside = enter(counts, "198.51.100.1", ALICE), try_accept(counts, "198.51.100.2")
    try_accept(counts, "198.51.100.4")
    assert counts.ban(ALICE, "198.51.100.2", 10.0) == [outside, inside]
    assert counts.connections == 1, "what has to be closed no longer counts"
    assert outside is not None
    assert not counts.prove(outside, BOB, 1.0)
    assert try_accept(counts, "198.51.100.2", 9.0) is None
    assert not enter(counts, "198.51.100.3", ALICE, 9.0)
    assert counts.try_dial(ALICE, 9.0) == Verdict(reason="banned")
    assert counts.refused == {"banned": 3}
    assert enter(counts, "198.51.100.3", ALICE, 11.0)
    assert enter(counts, "198.51.100.2", BOB, 11.0)
    assert counts.try_dial(ALICE, 11.0).ticket is not None


def test_a_dialled_connection_is_refused_when_it_proves_the_key_of_a_banned_peer() -> None:
    counts = limiter(per_peer=1)
    assert enter(counts, "198.51.100.1", BOB)
    counts.ban(ALICE, "", 10.0)
    for peer, proves in ((ALICE, False), (BOB, True)):
        ticket = counts.try_dial(None, 0.0).ticket
        assert ticket is not None
        assert counts.prove(ticket, peer, 0.0) is proves
    assert counts.connections == 2, "the limit per peer is one of accepted connections"
    assert counts.refused == {"banned": 1}


def test_a_ban_without_an_address_is_of_the_peer_alone() -> None:
    counts = limiter()
    assert counts.try_dial(ALICE, 0.0).ticket is not None, "a dialled connection has no address here"
    try_accept(counts, "198.51.100.1")
    assert counts.ban(BOB, "", 10.0) == []
    assert counts.bans.active(0.0) == [BOB]


def test_what_is_remembered_is_bounded() -> None:
    counts = limiter(burst=1)
    for number in range(REMEMBERED + 1):
        ticket = try_accept(counts, f"203.0.{number >> 8}.{number & 255}")
        assert ticket is not None
        counts.leave(ticket)
    assert try_accept(counts, "203.0.0.1") is None, "its burst is used up"
    assert try_accept(counts, "203.0.0.0") is not None, "it was seen longest ago and is forgotten"


def test_dials_wait_for_their_turn_and_too_many_are_refused() -> None:
    queue = DialQueue(ConnectionSettings(dials=2, dials_wanted=4))
    keys: list[DialKey] = [ALICE, BOB, ("/ip4/198.51.100.1/tcp/1",), ("/ip4/198.51.100.2/tcp/1",)]

    def want(key: DialKey, port: int) -> bool:
        addrs = (f"/ip4/203.0.113.1/tcp/{port}",)
        return queue.want(key, addrs, (), 0.0) == addrs

    assert all(want(key, port) for port, key in enumerate(keys))
    assert not want(PeerId(b"c" * 32), 5)
    assert queue.start_due() == keys[:2]
    assert queue.start_due() == []
    queue.ended(BOB)
    assert (len(queue), queue.start_due()) == (3, [keys[2]])
    assert want(BOB, 6), "it may be wanted again"
    for key in (ALICE, keys[2]):
        queue.ended(key)
    assert queue.start_due() == [keys[3], BOB]


def test_a_dial_whose_target_is_not_allowed_now_takes_no_place() -> None:
    queue = DialQueue(ConnectionSettings(dial_again_s=60.0))
    addrs = ("/ip4/203.0.113.1/tcp/1",)
    assert queue.want(ALICE, addrs, (), 0.0) == addrs
    assert queue.want(BOB, addrs, (), 59.0) == ()
    assert len(queue) == 1
    assert queue.want(BOB, addrs, (), 60.0) == addrs


def test_both_ends_use_the_same_of_two_links() -> None:
    for ours in (True, False):
        here = max((True, False), key=lambda outbound: link_rank(ALICE, BOB, outbound=outbound, since=outbound is ours))
        there = max((True, False), key=lambda outbound: link_rank(BOB, ALICE, outbound=outbound, since=0.0))
        assert here, "the smaller peer id dialled it"
        assert not there


def test_of_links_that_the_same_end_dialled_the_newest_is_used() -> None:
    for outbound in (True, False):
        old, new = (link_rank(ALICE, BOB, outbound=outbound, since=since) for since in (1.0, 2.0))
        assert new > old


@pytest.mark.parametrize("busy", ["", "inbound", "jobs", "neighbour", "used"])
def test_only_an_unused_link_that_nobody_needs_is_idle(busy: str) -> None:
    settings = ConnectionSettings(idle_s=60.0)
    assert is_idle(
        settings,
        outbound=busy != "inbound",
        jobs=int(busy == "jobs"),
        kept=busy == "neighbour",
        unused_s=59.9 if busy == "used" else 60.0,
    ) == (not busy)
