"""The counts in front of accepted sockets, one bound at a time."""

from __future__ import annotations

from p2pnode.swarm.connection_limiter import GRACE_S, REMEMBERED, AcceptLimits, ConnectionLimiter, Ticket
from protocol.ids import PeerId

ALICE, BOB = PeerId(b"a" * 32), PeerId(b"b" * 32)


class Turned:
    """Counts who was turned out."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def try_accept(
    limiter: ConnectionLimiter, address: str, now: float = 0.0, turned: Turned | None = None
) -> Ticket | None:
    return limiter.try_accept(address, now, turned or Turned())


def enter(
    limiter: ConnectionLimiter, address: str, peer: PeerId, now: float = 0.0, turned: Turned | None = None
) -> Ticket | None:
    ticket = try_accept(limiter, address, now, turned)
    return ticket if ticket is not None and limiter.proven(ticket, peer, now) else None


def test_pending_sockets_of_one_address_are_few() -> None:
    limiter = ConnectionLimiter(AcceptLimits())
    tickets = [try_accept(limiter, "198.51.100.1") for _ in range(5)]
    assert [ticket is not None for ticket in tickets] == [True] * 4 + [False]
    assert limiter.refused == {"pending per address": 1}
    assert try_accept(limiter, "198.51.100.2") is not None
    assert tickets[0] is not None
    limiter.leave(tickets[0])
    assert try_accept(limiter, "198.51.100.1") is not None


def test_the_accept_rate_is_bounded_per_address() -> None:
    limiter = ConnectionLimiter(AcceptLimits(burst=3, rate=10.0))

    def visit(now: float) -> bool:
        ticket = try_accept(limiter, "198.51.100.1", now)
        if ticket is not None:
            limiter.leave(ticket)
        return ticket is not None

    assert [visit(0.0) for _ in range(4)] == [True, True, True, False]
    assert visit(0.1)
    assert not visit(0.1)
    assert [visit(100.0) for _ in range(4)] == [True, True, True, False], "a long pause saves no more than the burst"


def test_when_too_many_wait_the_oldest_makes_room() -> None:
    limiter = ConnectionLimiter(AcceptLimits(pending=3))
    turned = Turned()
    first = try_accept(limiter, "198.51.100.1", 0.0, turned)
    try_accept(limiter, "198.51.100.2")
    try_accept(limiter, "198.51.100.3")
    assert try_accept(limiter, "198.51.100.4", GRACE_S / 2) is None
    assert turned.count == 0
    assert try_accept(limiter, "198.51.100.4", 2 * GRACE_S) is not None
    assert turned.count == 1
    assert limiter.pending == 3
    assert first is not None
    assert not limiter.proven(first, ALICE, 2.0), "who was turned out cannot come in"


def test_connections_are_bounded_per_peer_per_address_and_in_all() -> None:
    limiter = ConnectionLimiter(AcceptLimits(inbound=6, per_address=3, per_peer=2))
    assert enter(limiter, "198.51.100.1", ALICE)
    assert enter(limiter, "198.51.100.2", ALICE)
    assert not enter(limiter, "198.51.100.3", ALICE)
    assert limiter.refused == {"per peer": 1}
    assert enter(limiter, "198.51.100.1", BOB)
    assert enter(limiter, "198.51.100.1", PeerId(b"c" * 32))
    assert try_accept(limiter, "198.51.100.1") is None
    assert limiter.refused["per address"] == 1
    assert enter(limiter, "198.51.100.4", PeerId(b"d" * 32))
    assert enter(limiter, "198.51.100.5", PeerId(b"e" * 32))
    assert try_accept(limiter, "198.51.100.6") is None
    assert limiter.refused["inbound"] == 1
    assert limiter.open == 6


def test_a_network_group_is_bounded_unless_it_is_private() -> None:
    limiter = ConnectionLimiter(AcceptLimits(per_group=5))
    entered = [
        enter(limiter, f"{network}.{number}", PeerId(bytes([number]) * 31 + network[:1].encode()))
        for network in ("198.51.100", "192.168.7")
        for number in range(1, 9)
    ]
    assert [ticket is not None for ticket in entered] == [True] * 5 + [False] * 3 + [True] * 8
    assert limiter.refused == {"per group": 3}
    assert [try_accept(limiter, f"2001:db8:1:{number}::1") is not None for number in range(7)] == [True] * 5 + [
        False
    ] * 2
    assert entered[0] is not None
    limiter.leave(entered[0])
    assert try_accept(limiter, "198.51.100.77") is not None


def test_loopback_is_spared_only_where_asked() -> None:
    strict, local = ConnectionLimiter(AcceptLimits()), ConnectionLimiter(AcceptLimits(loopback_exempt=True))
    for _ in range(4):
        assert try_accept(strict, "127.0.0.1")
    assert not try_accept(strict, "127.0.0.1")
    for _ in range(60):
        assert try_accept(local, "127.0.0.1")
    assert all(try_accept(local, "198.51.100.1") for _ in range(4))
    assert not try_accept(local, "198.51.100.1")
    local.ban(ALICE, "127.0.0.1", 10.0)
    assert local.banned(ALICE, 9.0)


def test_a_ban_holds_for_peer_and_address_and_ends() -> None:
    limiter = ConnectionLimiter(AcceptLimits())
    inside, outside = Turned(), Turned()
    enter(limiter, "198.51.100.1", ALICE, turned=inside)
    try_accept(limiter, "198.51.100.2", turned=outside)
    limiter.ban(ALICE, "198.51.100.2", 10.0)
    assert (inside.count, outside.count) == (1, 1)
    assert try_accept(limiter, "198.51.100.2", 9.0) is None
    assert not enter(limiter, "198.51.100.3", ALICE, 9.0)
    assert enter(limiter, "198.51.100.3", ALICE, 11.0)
    assert enter(limiter, "198.51.100.2", BOB, 11.0)


def test_what_is_remembered_is_bounded() -> None:
    limiter = ConnectionLimiter(AcceptLimits())
    for number in range(REMEMBERED + 10):
        ticket = try_accept(limiter, f"203.0.{number >> 8}.{number & 255}")
        assert ticket is not None
        limiter.leave(ticket)
        limiter.ban(PeerId(number.to_bytes(32, "big")), f"192.0.{number >> 8}.{number & 255}", 10.0)
    assert len(limiter._buckets) == len(limiter._banned_peers) == len(limiter._banned_addresses) == REMEMBERED
