"""What the tests of this folder share: a machine that decides nothing, and swarms around it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from p2pnode.swarm.libp2p import Libp2pNet
from p2pnode.swarm.net import Net
from p2pnode.swarm.peerlink import Channel
from p2pnode.swarm.swarm import OnJob, Swarm
from protocol.effects import Effect
from protocol.events import Event, LinkDown, LinkUp
from protocol.ids import PeerId
from protocol.settings import PROFILES, ConnectionSettings, NodeSettings
from protocol.wire.messages import DELTA, END, REQ

SETTINGS = PROFILES["test"]
ANY_PORT = "/ip4/127.0.0.1/tcp/0"


class Nobody:
    """A peer view without peers."""

    def get(self, peer: PeerId) -> None:
        return None


class StandIn:
    """A machine that writes down what happens and says what it is told to say."""

    def __init__(
        self, script: Callable[[Event], list[Effect]] = lambda event: [], first: tuple[Effect, ...] = ()
    ) -> None:
        self.view = Nobody()
        self.events: list[Event] = []
        self._script = script
        self._first = first
        self._changed = trio.Event()

    def start(self, now: float, wall: float) -> list[Effect]:
        return list(self._first)

    def handle(self, event: Event, now: float, wall: float) -> list[Effect]:
        self.events.append(event)
        self._changed.set()
        self._changed = trio.Event()
        return self._script(event)

    def keeps(self, peer: PeerId) -> bool:
        """No link is kept for its own sake."""
        return False

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, done: Callable[[], bool], seconds: float = 10) -> None:
        with trio.fail_after(seconds):
            while not done():
                await self._changed.wait()

    @property
    def linked(self) -> set[PeerId]:
        up: set[PeerId] = set()
        for event in self.events:
            if isinstance(event, LinkUp):
                up.add(event.peer)
            elif isinstance(event, LinkDown):
                up.discard(event.peer)
        return up


async def echo(channel: Channel, frames: list[tuple[int, bytes]]) -> None:
    """A worker that sends the REQ back as a DELTA, then END."""
    assert frames[0][0] == REQ
    await channel.send(DELTA, frames[0][1])
    await channel.send(END, b"")
    channel.close()


async def ask(swarm: Swarm, peer: PeerId, payload: bytes = b"hello") -> bytes:
    """One job to an :func:`echo` worker."""
    async with await swarm.open_job(peer) as channel:
        await channel.send(REQ, payload)
        answer = b""
        while True:
            for kind, piece in await channel.receive():
                if kind == END:
                    channel.close()
                    return answer
                answer += piece


def seed_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


def real_net(
    number: int,
    listen: str = ANY_PORT,
    limits: ConnectionSettings = SETTINGS.connections,
    *,
    loopback_exempt: bool = True,
) -> Libp2pNet:
    """Tests run on one address, so most are exempt from the limits per address, which have tests of their own."""
    return Libp2pNet(seed_of(number), [listen], limits=limits, loopback_exempt=loopback_exempt)


@asynccontextmanager
async def running(
    net: Net,
    machine: StandIn | None = None,
    on_job: OnJob = echo,
    network: str = "test",
    settings: NodeSettings = SETTINGS,
) -> AsyncIterator[Swarm]:
    """A swarm that lives as long as the block."""
    swarm = Swarm(net, machine or StandIn(), settings, network, on_job)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(swarm.run)
        yield swarm
        nursery.cancel_scope.cancel()


def knows(swarm: Swarm, *others: Swarm) -> None:
    """Tell a swarm where others are (its machine would)."""
    for other in others:
        swarm._links.addrs[other.me] = other.addrs


async def eventually(condition: Callable[[], object], seconds: float = 5) -> None:
    """Wait for something that nobody announces."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


@asynccontextmanager
async def victim(
    limits: ConnectionSettings = SETTINGS.connections, *, loopback_exempt: bool = True
) -> AsyncIterator[Libp2pNet]:
    """A node that has to answer an honest peer at the end, and not to have been restarted."""
    net = real_net(1, limits=limits, loopback_exempt=loopback_exempt)
    async with running(net) as swarm:
        yield net
        await honest(swarm)
        assert net.restarts == 0
        assert swarm.faults == 0


async def honest(target: Swarm) -> None:
    """An honest peer asks."""
    async with running(real_net(2)) as visitor:
        knows(visitor, target)
        with trio.fail_after(10):
            assert await ask(visitor, target.me) == b"hello"
