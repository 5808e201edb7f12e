"""A dial in two flights: its round trips in virtual time, what it sends to whom, and which peers are dialled twice.

The tests on a virtual network count exactly: nothing there takes time but the way, 50 ms in each direction.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import msgspec
import pytest
import trio
from libp2p.stream_muxer.mplex.mplex import MPLEX_PROTOCOL_ID, Mplex

from p2pnode.swarm import libp2p
from p2pnode.swarm.net import PeerUnreachable
from p2pnode.swarm.proposal import proposal
from p2pnode.swarm.swarm import Swarm
from protocol.ids import PeerId, peer_from_libp2p
from protocol.settings import ConnectionSettings
from protocol.statements.keys import Ed25519Signer
from tests.fullstack.daemons import in_virtual_time
from tests.fullstack.virtualnet import VirtualNet
from tests.p2pnode.swarm.attackers import HELLO_LINE, stranger
from tests.p2pnode.swarm.idle_machine import SETTINGS, ask, knows, real_net, running, seed_of

HERE, THERE = "10.0.0.1", "10.0.0.2"
TRIP_S = 0.1
#: All that a dialler sends before it knows the peer's key: both lines, and an ephemeral key with its length.
FLIGHT_1 = len(proposal("/noise")) + 2 + 32


@asynccontextmanager
async def far_apart(net: VirtualNet) -> AsyncIterator[tuple[Swarm, Swarm]]:
    """A node on each host; they know each other's addresses."""
    async with AsyncExitStack() as stack:
        stack.enter_context(net.install())
        swarms = []
        for number, host in enumerate((HERE, THERE), 1):
            with net.at(host):
                swarms.append(await stack.enter_async_context(running(real_net(number, f"/ip4/{host}/tcp/4411"))))
        knows(swarms[0], swarms[1])
        stack.enter_context(net.at(HERE))  # what a test starts
        yield swarms[0], swarms[1]


async def dialled(swarm: Swarm, peer: PeerId | None, addrs: tuple[str, ...]) -> str:
    """Dial until both HELLOs were exchanged; what was wrong."""
    dialling = swarm._links.dial(peer, addrs, asked=False)
    assert dialling is not None
    await dialling.done.wait()
    return dialling.problem


# --- round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("as_before", "trips"), [(False, 3.0), (True, 7.0)])
def test_a_dial_takes_three_round_trips_with_both_hellos(
    as_before: bool, trips: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    @in_virtual_time
    async def measured() -> None:
        async with far_apart(VirtualNet(TRIP_S / 2)) as (one, two):
            began = trio.current_time()
            assert await dialled(one, two.me, two.addrs) == ""
            assert trio.current_time() - began == pytest.approx(trips * TRIP_S, rel=0.02)
            began = trio.current_time()
            assert await ask(one, two.me) == b"hello"
            assert trio.current_time() - began == pytest.approx(TRIP_S, rel=0.02)

    if as_before:  # as 0.1.0: the library waits for each answer
        monkeypatch.setattr(libp2p, "propose", libp2p.negotiate)
    measured()


@in_virtual_time
async def test_the_first_job_leaves_right_behind_hello() -> None:
    async with far_apart(VirtualNet(TRIP_S / 2)) as (one, two):
        began = trio.current_time()
        assert await ask(one, two.me, bytes(20_000)) == bytes(20_000)
        assert trio.current_time() - began == pytest.approx(3 * TRIP_S, rel=0.02)
        began = trio.current_time()
        assert await ask(one, two.me) == b"hello"
        assert trio.current_time() - began == pytest.approx(TRIP_S, rel=0.02)
        assert [link.channels for link in one._links] == [0]


@in_virtual_time
async def test_a_job_behind_a_hello_that_is_not_answered_has_not_reached_its_peer() -> None:
    net = VirtualNet(TRIP_S / 2)
    async with far_apart(net) as (one, two):
        two._links._network = "another"
        with pytest.raises(PeerUnreachable, match="another network"):
            await ask(one, two.me)
        assert one._links.for_job(two.me) is None
        assert one._net.limiter.connections == 0  # type: ignore[attr-defined]
        two._links._network = "test"
        await trio.sleep(2)  # an address at which no link stood has a pause
        assert await ask(one, two.me) == b"hello"


@in_virtual_time
async def test_a_seed_of_unknown_key_takes_no_more() -> None:
    async with far_apart(VirtualNet(TRIP_S / 2)) as (one, two):
        began = trio.current_time()
        assert await dialled(one, None, (f"/ip4/{THERE}/tcp/4411",)) == ""
        assert trio.current_time() - began == pytest.approx(3 * TRIP_S, rel=0.02)
        assert [link.peer for link in one._links] == [two.me]


# --- what is sent before the key is known ----------------------------------------------------------------------------


@in_virtual_time
async def test_another_key_at_the_address_gets_an_ephemeral_key_and_nothing_else() -> None:
    net = VirtualNet(TRIP_S / 2)
    async with far_apart(net) as (one, two):
        expected = real_net(3).local_id
        addr = two.addrs[0].split("/p2p/")[0]
        assert "another peer" in await dialled(one, expected, (addr,))
        await trio.sleep(1)
        assert net.bytes_out[HERE] == FLIGHT_1
        assert one._net.limiter.connections == 0  # type: ignore[attr-defined]


@in_virtual_time
async def test_a_node_that_dials_itself_hears_so() -> None:
    async with far_apart(VirtualNet(TRIP_S / 2)) as (one, _):
        assert "this node itself" in await dialled(one, None, (f"/ip4/{HERE}/tcp/4411",))
        await trio.sleep(1)
        assert one._net.limiter.connections == 0  # type: ignore[attr-defined]


# --- peers that answer with something else ---------------------------------------------------------------------------


class Front:
    """A port; ``serve(stream, number)`` runs for each connection, numbered from 0."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections = 0

    @property
    def addr(self) -> str:
        return f"/ip4/127.0.0.1/tcp/{self.port}"


Serve = Callable[[trio.SocketStream, int], Awaitable[None]]


@asynccontextmanager
async def front(serve: Serve) -> AsyncIterator[Front]:
    async def numbered(stream: trio.SocketStream) -> None:
        me.connections += 1
        await serve(stream, me.connections - 1)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, numbered, 0)
        me = Front(listeners[0].socket.getsockname()[1])
        yield me
        nursery.cancel_scope.cancel()


async def carry(near: trio.SocketStream, target: Swarm, most: int = 1 << 16) -> None:
    """Pass everything on to a node and back, at most so many bytes at once."""
    bound = target._net._gateway.bound[0]  # type: ignore[attr-defined]

    async def one_way(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                for start in range(0, len(data), most):
                    await sink.send_all(data[start : start + most])
        await sink.aclose()

    async with await trio.open_tcp_stream(bound.host, bound.port) as far, trio.open_nursery() as nursery:
        nursery.start_soon(one_way, near, far)
        nursery.start_soon(one_way, far, near)


async def test_an_answer_may_come_in_pieces() -> None:
    async def dribble(near: trio.SocketStream, _: int) -> None:
        await carry(near, two, most=7)

    async with running(real_net(1)) as one, running(real_net(2)) as two, front(dribble) as port:
        one._links.addrs[two.me] = (port.addr,)
        assert await ask(one, two.me) == b"hello"
        assert port.connections == 1


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("answer", [b"\x03na\n", HELLO_LINE + b"\x03na\n", HELLO_LINE + b"\x07/noisy\n"])
async def test_a_peer_that_answers_differently_is_dialled_again_with_patience(answer: bytes, known: bool) -> None:
    async def odd_at_first(near: trio.SocketStream, number: int) -> None:
        if number == 0:
            await near.send_all(answer)
            await trio.sleep_forever()
        await carry(near, two)

    async with running(real_net(1)) as one, running(real_net(2)) as two, front(odd_at_first) as port:
        assert await dialled(one, two.me if known else None, (port.addr,)) == ""
        assert port.connections == (2 if known else 3)  # the library's dialler has to know the key beforehand
        assert await ask(one, two.me) == b"hello"


@pytest.mark.parametrize("answer", [b"", HELLO_LINE[:5], HELLO_LINE])
async def test_a_peer_that_hangs_up_is_dialled_once(answer: bytes) -> None:
    async def hangs_up(near: trio.SocketStream, _: int) -> None:
        if answer:
            await near.send_all(answer)
        await near.aclose()

    async with running(real_net(1)) as one, front(hangs_up) as port:
        assert await dialled(one, real_net(2).local_id, (port.addr,)) != ""
        assert port.connections == 1
        assert one._net.limiter.connections == 0  # type: ignore[attr-defined]


async def test_garbage_instead_of_noise_is_the_end() -> None:
    async def garbage(near: trio.SocketStream, _: int) -> None:
        await near.receive_some()
        await near.send_all(proposal("/noise") + b"\x00\x60" + bytes(96))
        await trio.sleep_forever()

    async with running(real_net(1)) as one, front(garbage) as port:
        assert await dialled(one, real_net(2).local_id, (port.addr,)) != ""
        assert port.connections == 1


async def test_only_yamux_is_spoken() -> None:
    async with running(real_net(1)) as one, stranger(listen=True, muxers={MPLEX_PROTOCOL_ID: Mplex}) as other:
        peer = peer_from_libp2p(other.get_id().to_bytes())
        where = tuple(str(addr) for addr in other.get_transport_addrs())
        assert "hung up" in await dialled(one, peer, where)
        assert one._net.limiter.connections == 0  # type: ignore[attr-defined]


async def test_a_peer_without_our_protocol_says_so_in_time() -> None:
    async with running(real_net(1)) as one, stranger(listen=True) as other:
        peer = peer_from_libp2p(other.get_id().to_bytes())
        where = tuple(str(addr) for addr in other.get_transport_addrs())
        assert await dialled(one, peer, where) == "it does not speak the protocol of p2pnode"


async def test_a_dial_of_a_claimed_address_shows_who_is_there_and_no_other_claim_is_dialled_soon() -> None:
    patient = msgspec.structs.replace(SETTINGS, connections=ConnectionSettings(dial_again_s=3600.0))
    async with running(real_net(1), settings=patient) as one, running(real_net(2)) as two:
        claims = [Ed25519Signer(seed_of(number)).peer_id for number in range(10, 14)]
        bare = two.addrs[0].split("/p2p/")[0]
        assert "another peer is at this address" in await dialled(one, claims[0], (bare,))
        assert [one._links.dial(claim, (bare,), asked=False) for claim in claims] == [None] * 4
        assert await dialled(one, two.me, (bare,)) == ""
