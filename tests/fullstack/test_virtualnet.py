"""The virtual network behaves like the kernel's TCP where the daemon can tell: errors, order, windows, time."""

from __future__ import annotations

import errno
import math
from collections.abc import Awaitable, Callable

import pytest
import trio

from tests.fullstack.daemons import in_virtual_time
from tests.fullstack.virtualnet import SYN_S, VirtualNet

A, B = "10.0.0.1", "10.0.0.2"
Streams = tuple[trio.SocketStream, trio.SocketStream]


async def on(net: VirtualNet, body: Callable[[VirtualNet], Awaitable[None]]) -> None:
    with net.install():
        await body(net)


async def listener(net: VirtualNet, host: str = B, port: int = 80) -> trio.SocketListener:
    with net.at(host):
        sock = trio.socket.socket()
        await sock.bind((host, port))
        sock.listen()
        return trio.SocketListener(sock)


async def pair(net: VirtualNet) -> Streams:
    """A connection from A to B; both ends."""
    listening = await listener(net)
    with net.at(A):
        mine = await trio.open_tcp_stream(B, 80)
    theirs = await listening.accept()
    await listening.aclose()
    return mine, theirs


@in_virtual_time
async def test_a_dial_takes_a_round_trip_and_bytes_half_of_one() -> None:
    async def body(net: VirtualNet) -> None:
        mine, theirs = await pair(net)
        assert trio.current_time() == pytest.approx(0.15)  # SYN, SYN-ACK, ACK
        assert mine.socket.getpeername() == (B, 80) == theirs.socket.getsockname()
        assert theirs.socket.getpeername()[0] == A
        began = trio.current_time()
        await mine.send_all(b"one")
        await mine.send_all(b"two")
        assert await theirs.receive_some() in (b"onetwo", b"one")
        assert trio.current_time() - began == pytest.approx(0.05)
        assert (net.bytes_out[A], net.bytes_in[B], net.bytes_out[B]) == (6, 6, 0)

    await on(VirtualNet(0.05), body)


@in_virtual_time
async def test_each_way_has_its_own_latency() -> None:
    async def body(net: VirtualNet) -> None:
        mine, theirs = await pair(net)
        for sender, reader, seconds in ((mine, theirs, 0.2), (theirs, mine, 0.01)):
            began = trio.current_time()
            await sender.send_all(b"x")
            await reader.receive_some()
            assert trio.current_time() - began == pytest.approx(seconds)

    await on(VirtualNet(lambda source, target: 0.2 if source == A else 0.01), body)


@in_virtual_time
async def test_an_uplink_is_one_queue() -> None:
    async def body(net: VirtualNet) -> None:
        mine, theirs = await pair(net)
        began = trio.current_time()
        await mine.send_all(bytes(30_000))
        got = 0
        while got < 30_000:
            got += len(await theirs.receive_some())
        assert trio.current_time() - began == pytest.approx(3.0)

    await on(VirtualNet(0.0, bytes_s=10_000), body)


@in_virtual_time
async def test_who_does_not_read_stops_who_sends() -> None:
    async def body(net: VirtualNet) -> None:
        mine, theirs = await pair(net)
        with trio.move_on_after(10) as waiting:
            await mine.send_all(bytes(5000))
        assert waiting.cancelled_caught
        assert net.bytes_out[A] == 1000
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mine.send_all, bytes(1000))
            assert len(await theirs.receive_some()) == 1000
            assert len(await theirs.receive_some()) == 1000
        # Room is known one way after it was made, and what is sent then takes another.
        assert trio.current_time() - began == pytest.approx(0.1)

    await on(VirtualNet(0.05, window=1000), body)


@in_virtual_time
async def test_nobody_there_is_refused_and_a_cut_is_silence() -> None:
    async def body(net: VirtualNet) -> None:
        async def dial() -> int | None:
            with net.at(A), trio.socket.socket() as sock, pytest.raises(OSError) as caught:  # noqa: PT011
                await sock.connect((B, 80))
            return caught.value.errno

        assert await dial() == errno.ECONNREFUSED
        assert trio.current_time() == pytest.approx(0.1)
        await listener(net)
        net.cut(B, A, both=False)
        began = trio.current_time()
        assert await dial() == errno.ETIMEDOUT
        assert trio.current_time() - began == pytest.approx(sum(SYN_S))

    await on(VirtualNet(0.05), body)


@in_virtual_time
async def test_half_closed_the_other_half_goes_on() -> None:
    async def body(net: VirtualNet) -> None:
        mine, theirs = await pair(net)
        await mine.send_all(b"question")
        await mine.send_eof()
        assert await theirs.receive_some() == b"question"
        assert await theirs.receive_some() == b""
        await theirs.send_all(b"answer")
        assert await mine.receive_some() == b"answer"
        with pytest.raises(trio.ClosedResourceError):
            await mine.send_all(b"more")

    await on(VirtualNet(0.05), body)


@in_virtual_time
async def test_closing_ends_both_sides_and_leaves_nothing() -> None:
    async def body(net: VirtualNet) -> None:
        mine, theirs = await pair(net)
        async with trio.open_nursery() as nursery:

            async def reader() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await mine.receive_some()

            nursery.start_soon(reader)
            await trio.sleep(1)
            mine.socket.close()
        assert await theirs.receive_some() == b""
        await theirs.send_all(b"into the void")  # is answered with an RST
        await trio.sleep(1)
        with pytest.raises(trio.BrokenResourceError, match="reset"):
            await theirs.send_all(b"more")
        with pytest.raises(trio.BrokenResourceError, match="pipe"):
            await theirs.send_all(b"more")
        await theirs.aclose()
        assert net.open_sockets() == 0

    await on(VirtualNet(0.05), body)


@in_virtual_time
async def test_bytes_left_unread_make_the_end_a_reset() -> None:
    async def body(net: VirtualNet) -> None:
        mine, theirs = await pair(net)
        await mine.send_all(b"never read")
        await trio.sleep(1)
        await theirs.aclose()
        with pytest.raises(trio.BrokenResourceError, match="reset"):
            await mine.receive_some()

    await on(VirtualNet(0.05), body)


@in_virtual_time
async def test_a_cut_holds_and_a_heal_delivers_in_order() -> None:
    async def body(net: VirtualNet) -> None:
        mine, theirs = await pair(net)
        net.cut(A, B, both=False)
        await mine.send_all(b"1")
        await theirs.send_all(b"back")
        assert await mine.receive_some() == b"back"
        with trio.move_on_after(100) as silence:
            await theirs.receive_some()
        assert silence.cancelled_caught
        await mine.send_all(b"2")
        net.heal()
        await mine.send_all(b"3")
        await trio.sleep(1)
        assert await theirs.receive_some() == b"123"

    await on(VirtualNet(0.05), body)


@in_virtual_time
async def test_a_sender_gives_up_after_a_while() -> None:
    async def body(net: VirtualNet) -> None:
        mine, theirs = await pair(net)
        net.cut(A, B)
        await mine.send_all(b"lost")
        began = trio.current_time()
        with pytest.raises(trio.BrokenResourceError, match="timed out"):
            await mine.receive_some()
        assert trio.current_time() - began == pytest.approx(60, abs=0.1)
        assert theirs.socket.fileno() != -1

    await on(VirtualNet(0.05, give_up_s=60), body)


@in_virtual_time
async def test_a_killed_host_resets_and_a_vanished_one_says_nothing() -> None:
    async def body(net: VirtualNet) -> None:
        mine, _ = await pair(net)
        net.reset(B)
        with pytest.raises(trio.BrokenResourceError, match="reset"):
            await mine.receive_some()
        mine, _ = await pair(net)
        net.vanish(B)
        with trio.move_on_after(500) as silence:
            await mine.receive_some()
        assert silence.cancelled_caught
        await mine.send_all(b"are you there")
        net.appear(B)
        with pytest.raises(trio.BrokenResourceError, match="reset"):
            await mine.receive_some()

    await on(VirtualNet(0.05), body)


@in_virtual_time
async def test_a_cancelled_dial_leaves_nothing_behind() -> None:
    async def body(net: VirtualNet) -> None:
        listening = await listener(net)
        for patience in (0.01, 0.06, 0.09):
            with net.at(A), trio.move_on_after(patience) as given_up:
                await trio.open_tcp_stream(B, 80)
            assert given_up.cancelled_caught
        await trio.sleep(1)
        assert net.open_sockets() == 1
        await listening.aclose()
        assert net.open_sockets() == 0

    await on(VirtualNet(0.05), body)


@in_virtual_time
async def test_ports_and_loopback_are_a_hosts_own() -> None:
    async def body(net: VirtualNet) -> None:
        for host in (A, B):
            with net.at(host):
                here = trio.socket.socket()
                await here.bind(("127.0.0.1", 80))
                here.listen()
                stream = await trio.open_tcp_stream("127.0.0.1", 80)
                accepted, address = await here.accept()
                assert address[0] == "127.0.0.1"
                assert accepted.getsockname() == ("127.0.0.1", 80)
                await stream.send_all(b"x")
                assert trio.current_time() == 0
        with net.at(A):
            again = trio.socket.socket()
            with pytest.raises(OSError, match="in use") as caught:
                await again.bind(("127.0.0.1", 80))
            assert caught.value.errno == errno.EADDRINUSE
            with pytest.raises(OSError, match="assign"):
                await again.bind((B, 81))
        assert not net.bytes_out

    await on(VirtualNet(0.05), body)


@in_virtual_time
async def test_a_wait_for_room_ends_with_the_socket() -> None:
    async def body(net: VirtualNet) -> None:
        mine, theirs = await pair(net)
        await mine.send_all(bytes(1000))
        async with trio.open_nursery() as nursery:

            async def writer() -> None:
                with pytest.raises(trio.BrokenResourceError):
                    await mine.send_all(b"x")

            nursery.start_soon(writer)
            await trio.sleep(1)
            await theirs.aclose()
        assert math.isfinite(trio.current_time())

    await on(VirtualNet(0.05, window=1000), body)
