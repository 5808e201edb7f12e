"""What is sent and received without waiting, over real sockets: in order, whole, and held back where it has to be."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from p2pnode.swarm.driver import INBOX_PER_PEER
from p2pnode.swarm.libp2p import Libp2pLink
from p2pnode.swarm.peerlink import PeerLink
from p2pnode.swarm.swarm import Swarm
from p2pnode.swarm.tcp_listener import AcceptedStream
from protocol.effects import Effect, Send
from protocol.events import Event, LinkDown, LinkUp, Received, RoundTrip
from protocol.ids import PeerId
from protocol.settings import LinkSettings
from protocol.wire.messages import BODY, DOUBT, REQ, Doubt, Hello
from protocol.wire.mux import Mux
from tests.p2pnode.swarm.idle_machine import StandIn, ask, eventually, knows, real_net, running
from tests.p2pnode.swarm.test_peerlink import Owner


@asynccontextmanager
async def two_ends() -> AsyncIterator[tuple[Libp2pLink, Libp2pLink]]:
    one, other = real_net(1), real_net(2)
    async with trio.open_nursery() as nursery:
        await nursery.start(one.run)
        await nursery.start(other.run)
        dialled = await other.dial(one.local_id, one.addrs())
        await dialled.send_all(b"")  # its proposals, which leave with its first data
        with trio.fail_after(5):
            yield dialled, await one.accept()
        nursery.cancel_scope.cancel()


async def heard(link: Libp2pLink, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := await link.receive_some()):
        data += piece
    return data


async def test_what_the_kernel_does_not_take_leaves_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whatever is sent at once the kernel takes a part, or nothing: the rest may neither be lost nor overtaken."""
    rng, calm = random.Random(1), AcceptedStream.send_now
    async with two_ends() as (mine, theirs):
        monkeypatch.setattr(
            AcceptedStream, "send_now", lambda self, data: calm(self, data[: rng.choice((0, 1, len(data)))])
        )
        sent = b""
        for number in range(200):  # in all less than a window: nobody reads before the end
            piece = rng.randbytes(rng.randrange(1, 2000))
            if number % 3 and len(piece) <= mine.room():
                mine.send_now(piece)
                sent += piece
                if rng.random() < 0.5:
                    continue
                assert not mine._muxed._unsent or mine.room() == 0
            else:
                await mine.send_all(piece)
                sent += piece
            if number % 10 == 0:
                await trio.sleep(0.001)
        await trio.testing.wait_all_tasks_blocked()
        assert mine._muxed._unsent == b"", "nobody needs to write again for the rest to leave"
        assert await heard(theirs, len(sent)) == sent


async def test_there_is_no_room_where_a_window_is_shut_or_the_link_has_ended() -> None:
    async with two_ends() as (mine, _):
        assert mine.room() > 0
        mine._stream.send_window = 10
        assert mine.room() == 10
        mine.cut()
        assert mine.room() == 0


async def test_nothing_overtakes_what_waits_for_its_window() -> None:
    """While the window is shut nobody holds the lock; when it opens, the rest of what was begun comes next."""
    big = random.Random(3).randbytes(400 * 1024)  # more than a window
    async with two_ends() as (mine, theirs), trio.open_nursery() as nursery:
        whole = trio.Event()

        async def send() -> None:
            await mine.send_all(big)
            whole.set()

        nursery.start_soon(send)
        while mine._stream.send_window:  # noqa: ASYNC110
            await trio.sleep(0.001)
        got = b""
        while not whole.is_set():
            assert mine.room() == 0
            mine._stream.send_window += 1  # an update of the window, and the sender has not looked again
            assert mine.room() == 0
            mine._stream.send_window -= 1
            got += await theirs.receive_some()
        got += await heard(theirs, len(big) - len(got))
        await eventually(lambda: mine.room() >= 6)
        mine.send_now(b"behind")
        assert got + await heard(theirs, 6) == big + b"behind"


async def test_there_is_no_room_behind_what_was_cancelled() -> None:
    async with two_ends() as (mine, _):
        with trio.move_on_after(0.05) as waited:
            await mine.send_all(bytes(400 * 1024))
        assert waited.cancelled_caught
        mine._stream.send_window += 1000
        assert mine.room() == 0


@asynccontextmanager
async def two_links() -> AsyncIterator[tuple[PeerLink, PeerLink]]:
    """Two ends that have greeted; neither runs."""
    async with two_ends() as ends:
        mine, theirs = (PeerLink(end, LinkSettings()) for end in ends)
        async with trio.open_nursery() as nursery:
            for link in (mine, theirs):
                nursery.start_soon(link.greet, Hello(1, "test", "agent/1", (), "127.0.0.1"))
        yield mine, theirs


async def test_gossip_does_not_break_into_an_upload() -> None:
    listener = Owner()
    body = [random.Random(number).randbytes(16_000) for number in range(10)]
    async with two_links() as (mine, theirs), trio.open_nursery() as nursery:

        async def upload() -> None:
            channel = mine.open()
            for number, piece in enumerate(body):
                await channel.send(BODY if number else REQ, piece)

        async def gossip() -> None:
            for number in range(100):
                mine.post(Doubt(bytes(32), number, 1), hold=True)
                mine.hurry()
                await trio.sleep(0.001)

        nursery.start_soon(mine.run, Owner())
        for _ in range(2):  # in all a bit more than a window, so that all has been taken for the last write
            nursery.start_soon(upload)
        while mine._link._stream.send_window:  # type: ignore[attr-defined]  # noqa: ASYNC110
            await trio.sleep(0.001)
        nursery.start_soon(gossip)
        await trio.sleep(0.01)
        nursery.start_soon(theirs.run, listener)
        await eventually(lambda: len(listener.messages) == 100 and len(listener.channels) == 2)
        for channel in listener.channels:
            frames: list[bytes] = []
            while len(frames) < len(body):
                frames += [payload for _, payload in await channel.receive()]
            assert frames == body
        assert {kind for kind, _ in listener.messages} == {DOUBT}
        assert not listener.faults
        assert mine.reason == theirs.reason == ""
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("takes", [0, 10])
@pytest.mark.parametrize("end", ["retire", "flush"])
async def test_what_was_said_at_once_is_not_lost_at_the_end(
    end: str, takes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel has not taken it, and nothing is left in the multiplexer."""
    listener = Owner()
    async with two_links() as (mine, theirs), trio.open_nursery() as nursery:
        nursery.start_soon(mine.run, Owner())
        nursery.start_soon(theirs.run, listener)
        await eventually(lambda: mine.rtt_s and theirs.rtt_s)
        with monkeypatch.context() as full:
            calm = AcceptedStream.send_now
            full.setattr(AcceptedStream, "send_now", lambda self, data: calm(self, data[:takes]))
            mine.post(Doubt(bytes(32), 1, 1), hold=True)
            mine.hurry()
        assert mine._link.unsent()
        assert not mine.mux.has_data
        if end == "retire":
            mine.retire("enough")
        else:
            await mine.flush()
            assert not mine._link.unsent()
            mine.stop("enough")
        await eventually(lambda: theirs.reason)
        assert [kind for kind, _ in listener.messages] == [DOUBT]
        assert (mine.reason, theirs.reason) == ("enough", "the connection ended")


async def test_a_link_that_retires_waits_for_a_full_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of what was said at once is being written, by the connection, when the link is told to end."""
    listener, go_on = Owner(), trio.Event()
    async with two_links() as (mine, theirs), trio.open_nursery() as nursery:
        nursery.start_soon(mine.run, Owner())
        nursery.start_soon(theirs.run, listener)
        await eventually(lambda: mine.rtt_s and theirs.rtt_s)
        write = AcceptedStream.write

        async def late(self: AcceptedStream, data: bytes) -> None:
            await go_on.wait()
            await write(self, data)

        monkeypatch.setattr(AcceptedStream, "send_now", lambda *_: 0)
        monkeypatch.setattr(AcceptedStream, "write", late)
        mine.post(Doubt(bytes(32), 1, 1), hold=True)
        mine.hurry()
        await trio.testing.wait_all_tasks_blocked()
        mine.retire("enough")
        nursery.start_soon(mine.flush)
        await trio.testing.wait_all_tasks_blocked()
        assert not mine.reason
        assert len(nursery.child_tasks) == 3
        go_on.set()
        await eventually(lambda: theirs.reason)
        assert [kind for kind, _ in listener.messages] == [DOUBT]
        assert mine.reason == "enough"


async def test_what_is_refused_is_there_to_receive_and_nothing_overtakes_it() -> None:
    rng = random.Random(2)
    async with two_ends() as (mine, theirs):
        taken: list[bytes] = []

        def take(data: bytes) -> bool:
            if rng.random() < 0.5:
                return False
            taken.append(data)
            return True

        async def read() -> None:
            while data := await theirs.receive_some():
                taken.append(data)

        theirs.offer(take)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            sent = b""
            for _ in range(300):  # in all more than a window, so that it has to be opened
                piece = rng.randbytes(rng.randrange(1, 4000))
                sent += piece
                await mine.send_all(piece)
                if rng.random() < 0.3:
                    await trio.lowlevel.checkpoint()
            with trio.fail_after(5):
                while sum(map(len, taken)) < len(sent):  # noqa: ASYNC110
                    await trio.sleep(0.01)
            theirs.stir()
        assert b"".join(taken) == sent


def doubts(peer: PeerId, count: int) -> list[Effect]:
    return [Send(peer, Doubt(bytes(32), number, 1)) for number in range(count)]


async def test_a_peer_with_much_to_say_is_heard_in_order() -> None:
    """More than its share of the inbox comes in one write: the rest waits in the link."""
    many = 10 * INBOX_PER_PEER

    def talk(event: Event) -> list[Effect]:
        return doubts(event.peer, many) if isinstance(event, LinkUp) else []

    listener = StandIn()
    async with running(real_net(1), listener) as one, running(real_net(2), StandIn(talk)) as other:
        knows(other, one)
        assert await ask(other, one.me) == b"hello"
        await eventually(lambda: len(listener.of(Received)) == many)
        said = [event.message.inc for event in listener.of(Received)]  # type: ignore[union-attr]
        assert said == list(range(many))
        assert await ask(other, one.me) == b"hello"


@pytest.mark.parametrize("broken", ["room", "send_now", "data_to_send", "waiting_bytes", "tick"])
async def test_a_defect_where_no_task_of_a_link_runs_ends_that_link_only(
    broken: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In what the driver's task and the ping scheduler call for all links."""
    async with running(real_net(1)) as one, running(real_net(2)) as other, running(real_net(3)) as third:
        for peer in (one, third):
            knows(other, peer)
            assert await ask(other, peer.me) == b"hello"
        link = other._links.get(one.me)
        assert link is not None
        await eventually(lambda: link.rtt_s)
        if broken == "tick":
            hurt: type = type("Hurt", (Mux,), {"tick": lambda *_: 1 / 0, "next_deadline": lambda _, now: now})
            link.mux.__class__ = hurt
            other._links._pings.add(link)
        else:
            if broken in ("room", "send_now"):
                monkeypatch.setattr(link._link, broken, lambda *_: 1 / 0)
            elif broken == "data_to_send":
                link.mux.__class__ = type("Hurt", (Mux,), {broken: lambda _: 1 / 0})
            else:
                link.mux.__class__ = type("Hurt", (Mux,), {broken: property(lambda _: 1 / 0)})
            other._perform(Send(one.me, Doubt(bytes(32), 1, 1)))
            other._driver.put(RoundTrip(third.me, 0.1))  # a turn of the driver
        await eventually(lambda: link.reason)
        await eventually(lambda: other._links.get(one.me) is None)
        (defect,) = [record for record in caplog.records if record.message == "link_defect"]
        assert defect.exc_info is not None
        assert isinstance(defect.exc_info[1], ZeroDivisionError)
        assert await ask(other, third.me) == b"hello"
        assert await ask(other, one.me) == b"hello", "over a new link"


async def test_a_defect_while_a_message_is_taken_ends_that_link_only(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = StandIn(lambda event: doubts(event.peer, 1) if isinstance(event, RoundTrip) else [])
    async with running(real_net(1)) as one, running(real_net(2), machine) as other, running(real_net(3)) as third:
        knows(third, one)
        knows(other, one)
        with monkeypatch.context() as broken:
            broken.setattr(Swarm, "take_message", lambda *_: 1 / 0)
            link = await other.open_job(one.me)
            await machine.until(lambda: bool(machine.of(LinkDown)))
            assert not link.open
            assert await ask(third, one.me) == b"hello"
        assert await ask(other, one.me) == b"hello"
