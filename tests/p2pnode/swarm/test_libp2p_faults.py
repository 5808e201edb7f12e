"""Defects of py-libp2p 0.8.1 that show when peers come and go: dialling, dying, freezing, closing, starting again.

The other half of the suite to be run before the pin is changed; see ``test_libp2p_defects``.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from libp2p.stream_muxer.yamux.yamux import YamuxStream

from p2pnode.swarm.libp2p import Libp2pNet
from p2pnode.swarm.net import Address, LinkBroken, NetError, PeerUnreachable, PortInUse
from p2pnode.swarm.peerlink import Channel
from p2pnode.swarm.swarm import Swarm
from p2pnode.swarm.tcp_listener import connect
from protocol.effects import Dial
from protocol.events import LinkDown
from protocol.wire.messages import REQ
from tests.p2pnode.swarm.idle_machine import (
    ANY_PORT,
    StandIn,
    ask,
    eventually,
    honest,
    knows,
    real_net,
    running,
    seed_of,
)

ROOT = Path(__file__).resolve().parents[3]

# --- dialling: D5, D6, D17 -------------------------------------------------------------------------------------------


async def test_a_dead_first_address_does_not_matter() -> None:
    async with running(real_net(1)) as swarm, running(real_net(2)) as other:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            dead = f"/ip4/127.0.0.1/tcp/{closed.getsockname()[1]}"
            silent = "/ip4/203.0.113.1/tcp/4411"
            for _ in range(3):  # and nothing is remembered against the peer
                with trio.fail_after(5):
                    link = await swarm._net.dial(other.me, (dead, silent, "nonsense", *other.addrs))
                assert link.via == other.addrs[0]
                await link.aclose()
            with pytest.raises(PeerUnreachable, match="refused"):
                await swarm._net.dial(other.me, (dead,))
            with pytest.raises(PeerUnreachable, match="no address"):
                await swarm._net.dial(other.me, ("nonsense",))


@pytest.mark.parametrize("repetition", range(3))
async def test_simultaneous_dialling_ends_with_one_link(repetition: int) -> None:
    nets = [real_net(1), real_net(2)]
    machines = [StandIn(), StandIn()]
    async with running(nets[0], machines[0]) as one, running(nets[1], machines[1]) as two:
        one._perform(Dial(two.me, two.addrs))
        two._perform(Dial(one.me, one.addrs))
        for machine in machines:
            await machine.until(lambda machine=machine: bool(machine.linked))
        await trio.sleep(0.3)
        await eventually(lambda: len(one.links()) == len(two.links()) == 1)
        assert not any(machine.of(LinkDown) for machine in machines)
        assert await ask(one, two.me) == b"hello"
        assert await ask(two, one.me) == b"hello"


# --- life and death: D7, D8, D18, M11 --------------------------------------------------------------------------------


@asynccontextmanager
async def peer_process(number: int) -> AsyncIterator[tuple[subprocess.Popen[str], tuple[str, ...]]]:
    child = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-m", "tests.p2pnode.swarm.peer_process", str(number)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout is not None
        line = await trio.to_thread.run_sync(child.stdout.readline)
        yield child, tuple(line.split())
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


@pytest.mark.slow
@pytest.mark.parametrize(("how", "within_s"), [(signal.SIGKILL, 1.0), (signal.SIGSTOP, 5.0)])
async def test_a_peer_that_dies_or_freezes_in_mid_stream_is_noticed(how: signal.Signals, within_s: float) -> None:
    machine = StandIn()
    async with peer_process(5) as (child, addrs), running(real_net(1), machine) as swarm:
        peer = real_net(5).local_id
        swarm._links.addrs[peer] = addrs
        channel = await swarm.open_job(peer)
        await channel.send(REQ, b"")
        await channel.receive()
        os.kill(child.pid, how)
        with pytest.raises(LinkBroken), trio.fail_after(within_s):
            await _read_on(channel)
        await machine.until(lambda: bool(machine.of(LinkDown)))
        assert swarm.links() == []


async def _read_on(channel: Channel) -> None:
    while True:
        await channel.receive()


async def test_no_listener_outlives_its_node_and_the_port_works_again() -> None:
    net = real_net(1)
    async with running(net) as swarm:
        await honest(swarm)
        port = net._gateway.bound[0].port
    with pytest.raises(OSError, match=r"refused|multiple|connect"):
        await trio.open_tcp_stream("127.0.0.1", port)
    for _ in range(3):
        async with running(real_net(1, f"/ip4/127.0.0.1/tcp/{port}")) as again:
            await honest(again)


async def test_a_port_in_use_is_an_error() -> None:
    net = real_net(1)
    async with running(net):
        taken = f"/ip4/127.0.0.1/tcp/{net._gateway.bound[0].port}"
        second = Libp2pNet(seed_of(2), [ANY_PORT, taken])
        with pytest.raises(PortInUse, match="choose another"):
            await second.run()
        assert second._gateway._listeners == []


async def test_a_stack_that_fails_is_started_again_on_the_same_port() -> None:
    async def defect() -> None:
        raise RuntimeError("a defect of the library")

    net, machine = real_net(1), StandIn()
    async with running(net, machine) as swarm, running(real_net(2)) as other:
        knows(other, swarm)
        assert await ask(other, swarm.me) == b"hello"
        net._host.get_network().manager.run_task(defect)  # type: ignore[union-attr, attr-defined]
        await machine.until(lambda: bool(machine.of(LinkDown)))
        await eventually(lambda: net._host is not None)
        assert net.restarts == 1
        knows(other, swarm)
        assert await ask(other, swarm.me) == b"hello"


@pytest.mark.slow
async def test_closing_with_forty_peers_costs_about_what_meeting_them_does() -> None:
    """The library takes 0.2 s for each, one after the other: forty times as long as dialling them all."""
    net = real_net(100)
    async with trio.open_nursery() as nursery:
        visitors = [real_net(number) for number in range(200, 240)]
        for visitor in visitors:
            await nursery.start(visitor.run)
        async with running(net) as hub:
            begun = trio.current_time()
            for visitor in visitors:
                nursery.start_soon(_stay, visitor, hub)
            await eventually(lambda: net.limiter.open >= 40, 20)
            met = trio.current_time()
        assert trio.current_time() - met < 10 * (met - begun)
        nursery.cancel_scope.cancel()


async def _stay(visitor: Libp2pNet, hub: Swarm) -> None:
    with suppress(NetError):
        link = await visitor.dial(hub.me, hub.addrs)
        while await link.receive_some():
            pass


async def test_what_ended_unread_goes_when_the_next_stream_comes() -> None:
    """The library wakes a task for each connection every half minute, only to look for such streams."""
    async with running(real_net(1)) as swarm, running(real_net(2)) as other:
        link = await swarm._net.dial(other.me, other.addrs)
        await link.send_all(b"")  # the dialler's proposals leave with its first data
        await eventually(lambda: other._net._links)
        muxed = next(iter(other._net._links))._muxed
        dead = YamuxStream(99, muxed, False)
        dead.closed, dead._closed_at = True, trio.current_time() - 100
        muxed.streams[99], muxed.stream_buffers[99] = dead, bytearray(b"unread")
        await link._muxed.open_stream()
        await eventually(lambda: 99 not in muxed.streams)
        assert 99 not in muxed.stream_buffers


async def test_a_connection_that_is_reset_at_once_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = trio.SocketStream(trio.socket.socket())  # not connected any more, as after a reset

    async def reset_at_once(host: str, port: int) -> trio.SocketStream:
        return stream

    monkeypatch.setattr(trio, "open_tcp_stream", reset_at_once)
    with pytest.raises(OSError, match="not connected"):
        await connect(Address("127.0.0.1", 1))
    assert stream.socket.fileno() == -1
