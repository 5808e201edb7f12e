"""Addresses as text, and what a node tells of its own."""

from __future__ import annotations

import pytest

from p2pnode.swarm.libp2p import Libp2pNet, _reachable, _targets
from p2pnode.swarm.net import Address, BadAddress, NetError, is_loopback, parse_address
from protocol.ids import PeerId, peer_text
from tests.p2pnode.swarm.idle_machine import running, seed_of

ALICE = PeerId(b"a" * 32)


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/203.0.113.7/tcp/4411",
        "/ip6/2001:db8::1/tcp/0",
        "/dns/node.example/tcp/65535",
        f"/ip4/203.0.113.7/tcp/4411/p2p/{peer_text(ALICE)}",
    ],
)
def test_addresses_are_read_and_written_alike(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "/", "nonsense", "/ip4/203.0.113.7", "/ip4/203.0.113.7/udp/1", "/ip4/203.0.113.7/tcp/x",
        "/ip4/203.0.113.7/tcp/65536", "/ip4/203.0.113.7/tcp/-1", "/ip4/203.0.113.7/tcp/¹", "/ip4/::1/tcp/1",
        "/ip6/203.0.113.7/tcp/1", "/ip4/host/tcp/1", "/dns/a b/tcp/1", "/dns//tcp/1", "x/ip4/1.2.3.4/tcp/1",
        "/ip4/203.0.113.7/tcp/1/p2p/short", "/ip4/203.0.113.7/tcp/1/ws/x", "/ip4/203.0.113.7/tcp/1/p2p",
        "/dns/" + "a" * 600 + "/tcp/1",
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadAddress, match=r"should look like /ip4/"):
        parse_address(text)


def test_what_is_dialled_is_of_that_peer_once_and_not_us() -> None:
    bob = PeerId(b"b" * 32)
    plain = "/ip4/203.0.113.7/tcp/1"
    given = (plain, plain, f"{plain}/p2p/{peer_text(ALICE)}", f"{plain}/p2p/{peer_text(bob)}", "nonsense")
    assert _targets(ALICE, given, bob) == {Address("203.0.113.7", 1, ALICE): plain}
    assert list(_targets(None, given, bob)) == [Address("203.0.113.7", 1), Address("203.0.113.7", 1, ALICE)]
    assert len(_targets(None, [f"/ip4/203.0.113.7/tcp/{port}" for port in range(50)], bob)) == 8


def test_a_wildcard_is_told_as_an_address_that_can_be_dialled() -> None:
    assert _reachable("203.0.113.7") == ["203.0.113.7"]
    for wildcard in ("0.0.0.0", "::"):
        (address,) = _reachable(wildcard)
        assert address not in ("0.0.0.0", "::")


def test_loopback_is_known() -> None:
    assert is_loopback("127.0.0.9")
    assert is_loopback("::1")
    assert is_loopback("localhost")
    assert not is_loopback("203.0.113.7")
    assert not is_loopback("node.example")


async def test_announced_addresses_replace_the_bound_ones() -> None:
    net = Libp2pNet(seed_of(1), ["/ip4/127.0.0.1/tcp/0"], announce=["/dns/node.example/tcp/4411"])
    async with running(net):
        assert net.addrs() == (f"/dns/node.example/tcp/4411/p2p/{peer_text(net.local_id)}",)


async def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    with pytest.raises(NetError, match=r"cannot listen on /ip4/203\.0\.113\.7/tcp/1"):
        await Libp2pNet(seed_of(1), ["/ip4/203.0.113.7/tcp/1"]).run()


def test_listening_on_nonsense_is_an_error_at_once() -> None:
    with pytest.raises(BadAddress):
        Libp2pNet(seed_of(1), ["/ip4/nowhere/tcp/1"])


async def test_ipv6_works_where_there_is_any() -> None:
    one, two = (Libp2pNet(seed_of(number), ["/ip6/::1/tcp/0"]) for number in (1, 2))
    try:
        async with running(one), running(two):
            link = await one.dial(two.local_id, two.addrs())
            assert link.address == "::1"
            await link.aclose()
    except* NetError:
        pytest.skip("this machine has no IPv6")
