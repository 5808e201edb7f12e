"""Every known defect of py-libp2p 0.8.1 against our own node, over real sockets: to be run before the pin is changed.

The numbers D1 to D18 and M1 to M13 are those of the table in ``p2pnode/swarm/libp2p_workarounds.py``; what is not in it
is explained at its test.  A victim passes when an honest peer gets its answer afterwards and its stack was not even
restarted.  Hostile frames on each protocol, with the real machine behind them, are in ``test_hostile_frames``.
"""

from __future__ import annotations

import random
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

from p2pnode.swarm import library_check
from p2pnode.swarm.frame_decoder import BufferedPackets
from p2pnode.swarm.libp2p import LINK_PROTOCOL, Libp2pNet
from p2pnode.swarm.libp2p_workarounds import STREAMS
from p2pnode.swarm.library_check import WrongLibrary, check_library
from p2pnode.swarm.net import NetError, PeerUnreachable
from p2pnode.swarm.peerlink import Channel
from p2pnode.swarm.yamux import ContainedYamux
from protocol.events import LinkDown, LinkUp
from protocol.ids import peer_from_libp2p
from protocol.settings import ConnectionSettings
from protocol.wire.messages import BODY, DELTA, HELLO, REQ
from tests.p2pnode.swarm.attackers import HELLO_LINE, impostor, intrude, socket_from, stranger, stream_of
from tests.p2pnode.swarm.idle_machine import (
    SETTINGS,
    StandIn,
    ask,
    echo,
    eventually,
    knows,
    real_net,
    running,
    victim,
)

ROOT = Path(__file__).resolve().parents[3]


# --- the pin ---------------------------------------------------------------------------------------------------------


def test_the_installed_library_is_the_known_one() -> None:
    check_library()


def test_another_text_of_a_known_function_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(iter(library_check.KNOWN))
    monkeypatch.setitem(library_check.KNOWN, name, "0" * 16)
    with pytest.raises(WrongLibrary, match=name.rpartition(":")[2]):
        check_library()
    monkeypatch.setitem(library_check.KNOWN, "libp2p.nothing:Gone.away", "0" * 16)
    with pytest.raises(WrongLibrary, match=r"Gone\.away"):
        check_library()


async def test_another_version_is_refused_before_anything_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_check, "PINNED", "0.8.0")
    with pytest.raises(WrongLibrary, match=r"install libp2p==0\.8\.1\. Found"):
        await real_net(1).run()


# --- who is who: D3, M1, M2, M3 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plaintext", "tls", "secio"])
async def test_only_noise_gets_in(kind: str) -> None:
    async with victim() as net:
        async with stranger(kind) as host:
            with pytest.raises(Exception, match=r"security|secur"):
                await intrude(host, net)
        assert net.limiter.open == 0


async def test_nobody_gets_in_under_another_name() -> None:
    async with victim() as net:
        async with stranger("plaintext", keys=impostor(real_net(3))) as host:
            with pytest.raises(Exception, match=r"security|secur"):
                await intrude(host, net)
        assert net.limiter.open == 0


@pytest.mark.parametrize("kind", ["plaintext", "tls", "secio"])
async def test_only_noise_is_spoken_outwards(kind: str) -> None:
    alice = real_net(3)
    keys = impostor(alice) if kind == "plaintext" else None
    async with running(real_net(1)) as swarm, stranger(kind, keys, listen=True) as fake:
        where = tuple(str(addr) for addr in fake.get_transport_addrs())
        with pytest.raises(PeerUnreachable):
            await swarm._net.dial(alice.local_id, where)
        with pytest.raises(PeerUnreachable):
            await swarm._net.dial(None, where)


async def test_another_key_at_the_address_is_refused() -> None:
    async with running(real_net(1)) as swarm, running(real_net(2)) as other:
        where = tuple(addr.split("/p2p/")[0] for addr in other.addrs)
        with pytest.raises(PeerUnreachable):
            await swarm._net.dial(real_net(3).local_id, where)
        link = await swarm._net.dial(None, where)
        assert link.peer == other.me
        assert link.via == where[0]
        await link.aclose()


async def test_keys_of_other_kinds_are_refused() -> None:
    async with victim() as net:
        async with stranger("noise", keys=libp2p_rsa()) as host:
            with suppress(Exception):
                muxed = await intrude(host, net)
                await stream_of(muxed, LINK_PROTOCOL)
        assert net.limiter.open == 0


def libp2p_rsa() -> Any:
    from libp2p.crypto.rsa import create_new_key_pair

    return create_new_key_pair(1024)


# --- what is said to it: D1, D2, M4, M5, M7, M8 ----------------------------------------------------------------------

NEGOTIATIONS = {
    "not utf-8": HELLO_LINE + b"\x05\xff\xfe\xfd\xfc\n",
    "not utf-8 at once": b"\x05\xff\xfe\xfd\xfc\n",
    "huge length": HELLO_LINE + b"\xff\xff\xff\xff\x7f" + b"a" * 100,
    "endless length": b"\xff" * 20,
    "unknown protocol": HELLO_LINE + b"\x0d/meshsub/1.1\n",
    "pubsub garbage": HELLO_LINE + b"\x0f/meshsub/1.1.0\n" + b"\x32" + b"\xff" * 50,
    "identify push garbage": HELLO_LINE + b"\x13/ipfs/id/push/1.0.0"[:20] + b"\n" + b"\xff" * 40,
    "empty": b"",
    "zero lines": b"\x00" * 64,
}


@pytest.mark.parametrize("case", NEGOTIATIONS)
async def test_a_malformed_negotiation_harms_nobody(case: str) -> None:
    async with victim() as net, stranger() as host:
        muxed = await intrude(host, net)
        for ending in ("close", "reset", "leave open"):
            stream = await muxed.open_stream()
            await stream.write(NEGOTIATIONS[case])
            if ending != "leave open":
                await getattr(stream, ending)()
        await trio.sleep(0.1)


async def test_a_handler_that_raises_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    calm = Libp2pNet._on_stream

    async def boom(self: Libp2pNet, stream: Any) -> None:
        raise ValueError("a defect of ours")

    async with victim() as net:
        monkeypatch.setattr(net._host.multiselect, "handlers", dict(net._host.multiselect.handlers))  # type: ignore[union-attr]
        net._host.set_stream_handler(LINK_PROTOCOL, lambda stream: boom(net, stream))  # type: ignore[union-attr, arg-type]
        async with running(real_net(3)) as visitor:
            link = await visitor._net.dial(net.local_id, net.addrs())
            assert await link.receive_some() == b""
            await link.aclose()
        net._host.set_stream_handler(LINK_PROTOCOL, lambda stream: calm(net, stream))  # type: ignore[union-attr, arg-type]


YAMUX_FRAMES = {
    "unknown type": struct.pack("!BBHII", 0, 9, 0, 7, 5),
    "data on no stream": struct.pack("!BBHII", 0, 0, 0, 999, 5) + b"hello",
    "go away": struct.pack("!BBHII", 0, 3, 0, 0, 1),
    "unknown version": struct.pack("!BBHII", 77, 0, 0, 1, 5) + b"hello",
    "huge body": struct.pack("!BBHII", 0, 0, 1, 5, 0xFFFFFFFF),
    "large body": struct.pack("!BBHII", 0, 0, 1, 5, 3 << 20),
    "window of 4 GiB": struct.pack("!BBHII", 0, 1, 1, 5, 0xFFFFFFFF) * 3,
    "syn twice": struct.pack("!BBHII", 0, 1, 1, 5, 0) * 2,
    "syn and reset": struct.pack("!BBHII", 0, 1, 9, 5, 0) * 5,
    "syn on our side": struct.pack("!BBHII", 0, 1, 1, 2, 0),
    "ping flood": struct.pack("!BBHII", 0, 2, 1, 0, 1) * 2000,
    "all flags": struct.pack("!BBHII", 0, 0, 15, 7, 0),
}


@pytest.mark.parametrize("case", YAMUX_FRAMES)
async def test_malformed_muxer_frames_harm_nobody(case: str) -> None:
    async with victim() as net, stranger() as host:
        muxed = await intrude(host, net)
        await muxed._write_frame(YAMUX_FRAMES[case])
        await trio.sleep(0.1)


@pytest.mark.slow
async def test_a_hundred_raw_handshakes_of_garbage() -> None:
    rng = random.Random(3)
    async with victim() as net:
        for number in range(100):
            stream = await socket_from("127.0.0.1", net)
            beginning = [b"", HELLO_LINE, HELLO_LINE + b"\x07/noise\n"][number % 3]
            with suppress(trio.BrokenResourceError):
                await stream.send_all(beginning + rng.randbytes(rng.randrange(500)))
            if number % 2:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.aclose()


# --- how much of it: D9, D15, M9, M10 --------------------------------------------------------------------------------


@pytest.mark.slow
async def test_three_hundred_idle_sockets_of_one_address_lock_nobody_out() -> None:
    async with victim(ConnectionSettings(pending_s=2.0), loopback_exempt=False) as net:
        idle = [await socket_from("127.0.0.9", net) for _ in range(300)]
        await trio.sleep(0.2)
        assert net.limiter.pending <= net.limiter.settings.pending_per_address
        async with running(real_net(3)) as visitor:
            link = await visitor._net.dial(net.local_id, net.addrs())
            await link.aclose()
        await eventually(lambda: not net.limiter.pending)
        for stream in idle:
            await stream.aclose()


async def test_a_proven_peer_that_opens_no_link_is_sent_away() -> None:
    async with victim(ConnectionSettings(unlinked_s=0.2)) as net, stranger() as host:
        await intrude(host, net)
        await eventually(lambda: not net.limiter.open)


async def test_places_come_back() -> None:
    """The library holds the place of an inbound connection until the host ends."""
    few = ConnectionSettings(inbound=4, connections=6)
    async with victim(few) as net, running(real_net(3)) as visitor:
        for _ in range(20):
            link = await visitor._net.dial(net.local_id, net.addrs())
            await link.aclose()
            await eventually(lambda: not net.limiter.open)


async def test_dialled_connections_are_counted_and_places_come_back() -> None:
    net = real_net(1, limits=ConnectionSettings(connections=1))
    async with running(net), running(real_net(2)) as one, running(real_net(3)) as other:
        for _ in range(3):
            link = await net.dial(one.me, one.addrs)
            with pytest.raises(PeerUnreachable, match="as many connections"):
                await net.dial(other.me, other.addrs)
            await link.aclose()
        with pytest.raises(PeerUnreachable):
            await net.dial(other.me, ("/ip4/127.0.0.1/tcp/1",))
        assert net.limiter.connections == 0


async def test_a_banned_peer_is_not_dialled() -> None:
    async with running(real_net(1)) as swarm, running(real_net(2)) as other:
        swarm._net.ban(other.me, "127.0.0.1", 60.0)
        with pytest.raises(PeerUnreachable, match="is banned for now"):
            await swarm._net.dial(other.me, other.addrs)
        where = tuple(addr.split("/p2p/")[0] for addr in other.addrs)
        with pytest.raises(PeerUnreachable):
            await swarm._net.dial(None, where)


@pytest.mark.slow
async def test_many_unfinished_streams_end_the_connection() -> None:
    async with victim() as net, stranger() as host:
        muxed = await intrude(host, net)
        opened = 0
        with suppress(Exception), trio.move_on_after(10):
            for _ in range(512):
                stream = await muxed.open_stream()
                opened += 1
                await stream.write(b"\x7f" * 1000)
        await eventually(lambda: not net.limiter.open)
        assert opened < 512
        assert opened >= STREAMS


async def test_what_nobody_reads_is_not_kept() -> None:
    """A peer that pays no heed to the window of a stream loses the connection at a few MiB."""
    async with victim() as net, stranger() as host:
        muxed = await intrude(host, net)
        stream = await stream_of(muxed, LINK_PROTOCOL)  # its reader waits for HELLO and gets it never
        stream.send_window = 1 << 40
        sent = 0
        with suppress(Exception), trio.move_on_after(10):
            while sent < 64 << 20:
                await stream.write(struct.pack(">II", 0, HELLO << 24 | 0xFFFFFF) + b"\0" * 60_000)
                sent += 60_000
        assert sent < 64 << 20
        await eventually(lambda: not net.limiter.open)


async def test_a_peer_that_ignores_credit_is_cut() -> None:
    machine = StandIn()
    async with running(real_net(1), machine, on_job=_sleep) as swarm, running(real_net(2)) as other:
        knows(other, swarm)
        channel = await other.open_job(swarm.me)
        await channel.send(REQ, b"")
        mux = channel._link.mux
        with suppress(NetError), trio.move_on_after(10):
            while True:
                mux._channels[channel.id].credit = 1 << 30
                await channel.send(BODY, b"x" * 60_000)
        await machine.until(lambda: bool(machine.of(LinkDown)))
        assert "credit" in machine.of(LinkDown)[0].reason


async def _sleep(channel: Channel, frames: list[tuple[int, bytes]]) -> None:
    await trio.sleep_forever()


@pytest.mark.slow
async def test_a_stalled_reader_neither_grows_memory_nor_ends_the_link() -> None:
    """D9, D10, M12: for longer than the library's own 5 s."""
    async with running(real_net(1), on_job=_flood) as worker, running(real_net(2)) as entry:
        knows(entry, worker)
        stalled = await entry.open_job(worker.me)
        await stalled.send(REQ, b"")
        await trio.sleep(6)
        assert stalled._size <= SETTINGS.link.credit_bytes
        assert next(iter(worker._links)).mux.waiting_bytes <= SETTINGS.link.credit_bytes
        other = await entry.open_job(worker.me)
        await other.send(REQ, b"")
        with trio.fail_after(5):
            assert await other.receive()
            assert await stalled.receive()
        other.reset()
        stalled.reset()


async def _flood(channel: Channel, frames: list[tuple[int, bytes]]) -> None:
    while True:
        await channel.send(DELTA, b"x" * 10_000)


# --- cancellation: D4 -----------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_thousand_cancellations_lose_no_connection() -> None:
    """While writing, while opening, while reading, each at a random moment; a job in between has to work."""
    rng = random.Random(5)
    machine = StandIn()
    async with running(real_net(1), on_job=_flood_or_echo) as worker, running(real_net(2), machine) as entry:
        knows(entry, worker)
        await ask(entry, worker.me)
        for number in range(1000):
            with trio.move_on_after(rng.uniform(0, 0.006)):
                async with await entry.open_job(worker.me) as channel:
                    await channel.send(REQ, b"flood" if number % 3 == 0 else b"")
                    while number % 3 == 0:
                        await channel.receive()
                    while number % 3 == 1:
                        await channel.send(BODY, b"x" * rng.randrange(30_000))
            if number % 50 == 0:
                with trio.fail_after(5):
                    assert await ask(entry, worker.me) == b"hello"
        await ask(entry, worker.me)
        assert machine.of(LinkDown) == []
        assert len(machine.of(LinkUp)) == 1
        assert entry.links()[0]["channels"] == 0
        await eventually(lambda: not worker.links()[0]["channels"])


async def _flood_or_echo(channel: Channel, frames: list[tuple[int, bytes]]) -> None:

    if frames[0][1] == b"flood":
        await _flood(channel, frames)
    elif frames[0][1]:
        await echo(channel, frames)
    else:
        while True:
            await channel.receive()


@pytest.mark.slow
async def test_cancelled_dials_leave_nothing_behind() -> None:
    rng = random.Random(6)
    async with victim() as net, running(real_net(3)) as visitor:
        for _ in range(100):
            with trio.move_on_after(rng.uniform(0, 0.008)):
                link = await visitor._net.dial(net.local_id, net.addrs())
                await link.aclose()
        await eventually(lambda: not (net.limiter.open or net.limiter.pending))
        assert not visitor._net._links  # type: ignore[attr-defined]


# --- small print: M13, the root logger, what is offered ---------------------------------------------------------------


async def test_a_packet_may_come_in_any_number_of_pieces() -> None:
    class Dripping:
        def __init__(self, data: bytes) -> None:
            self.data = data

        async def read(self, n: int) -> bytes:
            piece, self.data = self.data[:100], self.data[100:]
            return piece

    packets = BufferedPackets(Dripping(struct.pack("!H", 60_000) + b"x" * 60_000 + b"\0\x01y"))
    assert await packets.read_msg() == b"x" * 60_000
    assert await packets.read_msg() == b"y"


async def test_what_was_sent_at_once_is_taken_in_pieces() -> None:
    """A peer that ignores windows must not make one long turn of megabytes of frames."""
    muxed = ContainedYamux.__new__(ContainedYamux)
    stream = SimpleNamespace(stream_id=1, recv_closed=True, closed=True)
    opened: list[int] = []

    async def open_window(stream: object, taken: int) -> None:
        opened.append(taken)

    muxed._open_window = open_window  # type: ignore[method-assign]
    muxed.stream_buffers = {1: bytearray(b"ab" * 100_000)}
    muxed.stream_events = {}
    muxed.event_shutting_down = trio.Event()
    pieces = [await muxed.take(stream) for _ in range(5)]  # type: ignore[arg-type]
    assert b"".join(pieces) == b"ab" * 100_000
    assert opened == [65536, 65536, 65536, 200_000 - 3 * 65536]


async def test_nothing_is_offered_but_identify_ping_and_our_link() -> None:
    async with victim() as net, stranger() as host:
        assert set(net._host.multiselect.handlers) == {"/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", LINK_PROTOCOL}  # type: ignore[union-attr]
        address = Multiaddr(net.addrs()[0].split("/p2p/")[0])
        muxed = await intrude(host, net)
        assert peer_from_libp2p(muxed.peer_id.to_bytes()) == net.local_id
        ping = await stream_of(muxed, "/ipfs/ping/1.0.0")
        await ping.write(b"p" * 32)
        assert await ping.read(32) == b"p" * 32
        identify = await stream_of(muxed, "/ipfs/id/1.0.0")
        assert LINK_PROTOCOL.encode() in await identify.read(4096)
        assert PeerInfo(ID(muxed.peer_id.to_bytes()), [address])


@pytest.mark.slow
def test_the_library_writes_nothing_to_stderr() -> None:
    script = """
import logging, trio
from tests.p2pnode.swarm.idle_machine import ask, knows, real_net, running
from p2pnode.swarm.net import NetError
async def main():
    async with running(real_net(1)) as one:
        async with running(real_net(2)) as two:
            knows(one, two)
            await ask(one, two.me)
            stream = await trio.open_tcp_stream("127.0.0.1", one._net._gateway.bound[0].port)
            await stream.send_all(b"garbage" * 10)
            await stream.aclose()
            await two._net.dial(None, (one.addrs[0].split("/p2p/")[0],))
        try:
            await one._net.dial(two.me, ("/ip4/127.0.0.1/tcp/1",))
        except NetError:
            pass
trio.run(main)
assert logging.getLogger().handlers == [], "somebody configured the root logger"
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", script],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
