"""One link over memory: HELLO, channels, and what ends them."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from p2pnode.swarm.net import LinkBroken
from p2pnode.swarm.peerlink import QUEUE_BYTES, Channel, ChannelReset, PeerLink
from protocol.errors import BadFrame, LocalProtocolError, RemoteProtocolError
from protocol.ids import PeerId
from protocol.settings import LinkSettings
from protocol.wire.messages import BODY, DELTA, DOUBT, GOAWAY, HELLO, REQ, Doubt, Hello, encode
from protocol.wire.mux import FRAME_OVERHEAD
from tests.fakes import MemoryLink, MemorySwitch

ME, PEER = PeerId(b"m" * 32), PeerId(b"p" * 32)
SAID = Hello(1, "test", "agent/1", ("/ip4/203.0.113.7/tcp/1",), "198.51.100.1")


class Owner:
    """Writes down what the link tells."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, bytes]] = []
        self.channels: list[Channel] = []
        self.rtts: list[float] = []
        self.faults: list[RemoteProtocolError] = []

    async def on_message(self, link: PeerLink, kind: int, payload: bytes) -> None:
        self.messages.append((kind, payload))

    def take_message(self, link: PeerLink, kind: int, payload: bytes) -> bool:
        return False

    def on_channel(self, link: PeerLink, channel: Channel) -> None:
        self.channels.append(channel)

    def on_rtt(self, link: PeerLink, seconds: float) -> None:
        self.rtts.append(seconds)

    def on_fault(self, link: PeerLink, error: RemoteProtocolError) -> None:
        self.faults.append(error)


async def pair(delay: float = 0.001) -> tuple[MemoryLink, MemoryLink]:
    switch = MemorySwitch(delay=delay)
    one, two = switch.net(ME), switch.net(PEER)
    two.running = True
    mine = await one.dial(PEER, two.addrs())
    return mine, await two.accept()


@asynccontextmanager
async def linked(settings: LinkSettings | None = None) -> AsyncIterator[tuple[PeerLink, PeerLink, Owner, Owner]]:
    """Two ends of a link that stands."""
    settings = settings or LinkSettings()
    ends = [PeerLink(stream, settings) for stream in await pair()]
    owners = [Owner(), Owner()]
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as greeting:
            for end in ends:
                greeting.start_soon(end.greet, SAID)
        for end, owner in zip(ends, owners, strict=True):
            nursery.start_soon(end.run, owner)
        yield ends[0], ends[1], owners[0], owners[1]
        nursery.cancel_scope.cancel()


async def test_both_say_hello(autojump_clock: trio.testing.MockClock) -> None:
    async with linked() as (mine, theirs, _, _):
        assert mine.hello == theirs.hello == SAID
        assert (mine.outbound, theirs.outbound) == (True, False)


async def test_a_link_uses_the_features_that_both_list() -> None:
    ends = [PeerLink(stream, LinkSettings()) for stream in await pair()]
    async with trio.open_nursery() as greeting:
        greeting.start_soon(ends[0].greet, Hello(1, "test", features=("a", "b", "c")))
        greeting.start_soon(ends[1].greet, Hello(1, "test", features=("d", "c", "a")))
    assert ends[0].features == ends[1].features == ("a", "c")


@pytest.mark.parametrize(
    ("first", "error"),
    [
        (b"", LinkBroken),
        (struct.pack(">II", 0, DOUBT << 24 | 1) + b"x", BadFrame),
        (struct.pack(">II", 0, HELLO << 24 | 1) + b"x", BadFrame),
        (struct.pack(">II", 1, REQ << 24), BadFrame),
        (b"GET / HTTP/1.1\r\n\r\n" + b"x" * 64, RemoteProtocolError),
    ],
)
async def test_whoever_says_something_else_is_not_let_in(
    first: bytes, error: type[Exception], autojump_clock: trio.testing.MockClock
) -> None:
    mine, theirs = await pair()
    if first:
        await theirs.send_all(first)
    else:
        theirs.cut()
    with pytest.raises(error):
        await PeerLink(mine, LinkSettings()).greet(SAID)


async def test_what_comes_right_behind_hello_is_not_lost(autojump_clock: trio.testing.MockClock) -> None:
    mine, theirs = await pair()
    hello, doubt = encode(SAID), encode(Doubt(PEER, 1, 1))
    await theirs.send_all(
        struct.pack(">II", 0, HELLO << 24 | len(hello))
        + hello
        + struct.pack(">II", 0, DOUBT << 24 | len(doubt))
        + doubt
    )
    link, owner = PeerLink(mine, LinkSettings()), Owner()
    await link.greet(SAID)
    with trio.move_on_after(1):
        await link.run(owner)
    assert owner.messages == [(DOUBT, doubt)]


async def test_a_second_hello_ends_the_link(autojump_clock: trio.testing.MockClock) -> None:
    async with linked() as (mine, theirs, owner, _):
        theirs.mux.send(0, HELLO, encode(SAID))
        theirs.kick()
        await trio.sleep(1)
        assert mine.reason
        assert len(owner.faults) == 1


async def test_a_goodbye_ends_the_link(autojump_clock: trio.testing.MockClock) -> None:
    async with linked() as (mine, theirs, owner, _):
        theirs.mux.send(0, GOAWAY, b"")
        theirs.kick()
        await trio.sleep(1)
        assert mine.reason == "the peer is leaving"
        assert not owner.faults
        with pytest.raises(LinkBroken):
            mine.open()
        assert not mine.post(Doubt(PEER, 1, 1))


async def test_frames_of_a_job_keep_their_order(autojump_clock: trio.testing.MockClock) -> None:
    async with linked() as (mine, _, _, owner):
        channel = mine.open()
        await channel.send(REQ, b"0")
        for number in range(1, 100):
            await channel.send(BODY, str(number).encode())
        await trio.sleep(1)
        (other,) = owner.channels
        assert other.inbound
        assert await other.receive() == [(REQ, b"0"), *[(BODY, str(number).encode()) for number in range(1, 100)]]
        await other.send(DELTA, b"done")
        other.close()
        other.close()
        assert await channel.receive() == [(DELTA, b"done")]
        channel.close()
        assert mine.channels == 0
        with pytest.raises(ChannelReset, match="the job is over"):
            await channel.receive()
        with pytest.raises(ChannelReset):
            await channel.send(BODY, b"late")


async def test_what_came_before_a_reset_can_still_be_read(autojump_clock: trio.testing.MockClock) -> None:
    async with linked() as (mine, _, _, owner):
        channel = mine.open()
        await channel.send(REQ, b"")
        await trio.sleep(1)
        (other,) = owner.channels
        await other.send(DELTA, b"some")
        await trio.sleep(1)
        other.reset(3)
        await trio.sleep(1)
        assert not channel.open
        assert await channel.receive() == [(DELTA, b"some")]
        with pytest.raises(ChannelReset) as caught:
            await channel.receive()
        assert caught.value.code == 3


async def test_a_sender_waits_for_credit_and_can_be_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    async with linked() as (mine, _, _, owner):
        channel = mine.open()
        await channel.send(REQ, b"")
        sent = 0
        with trio.move_on_after(5):
            while True:
                await channel.send(BODY, b"x" * 60_000)
                sent += 60_000
        assert sent == 240_000
        (other,) = owner.channels
        await other.receive()
        with trio.fail_after(5):
            await channel.send(BODY, b"x" * 60_000)


async def test_a_queue_that_the_network_does_not_take_holds_senders_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with linked(LinkSettings(ping_s=50, dead_s=100)) as (mine, _, _, _):
        mine._link._net.switch.freeze(PEER)  # type: ignore[attr-defined]
        async with trio.open_nursery() as nursery:

            async def upload() -> None:
                channel = mine.open()
                await channel.send(REQ, b"")
                while True:
                    await channel.send(BODY, b"x" * 30_000)

            for _ in range(40):
                nursery.start_soon(upload)
            await trio.sleep(5)
            assert QUEUE_BYTES <= mine.mux.waiting_bytes < QUEUE_BYTES + 40 * (30_000 + FRAME_OVERHEAD)
            mine._link._net.switch.thaw()  # type: ignore[attr-defined]
            await trio.sleep(5)
            assert mine.mux.waiting_bytes == 0, "it all left, and what is missing is credit"
            nursery.cancel_scope.cancel()


async def test_round_trips_are_measured(autojump_clock: trio.testing.MockClock) -> None:
    async with linked() as (mine, _, owner, _):
        await trio.sleep(1)
        assert owner.rtts
        assert mine.rtt_s == pytest.approx(0.002, rel=0.5)


async def test_a_link_that_retires_waits_for_its_jobs(autojump_clock: trio.testing.MockClock) -> None:
    async with linked() as (mine, theirs, _, _):
        channel = mine.open()
        await channel.send(REQ, b"")
        mine.retire("rotation")
        await trio.sleep(3)
        assert not mine.reason
        channel.close()
        await trio.sleep(1)
        assert mine.reason == "rotation"
        assert theirs.reason == "the connection ended"


async def test_a_peer_may_not_open_more_channels_than_allowed(autojump_clock: trio.testing.MockClock) -> None:
    async with linked(LinkSettings(channels=4)) as (mine, theirs, owner, _):
        for _ in range(4):
            await mine.open().send(REQ, b"")
        with pytest.raises(LocalProtocolError):
            mine.open()
        theirs.mux._settings = LinkSettings(channels=1000)
        for _ in range(10):
            await theirs.open().send(REQ, b"")
        await trio.sleep(1)
        assert owner.faults
        assert mine.reason
