"""Real daemons on a virtual network: ``p2pnode.node`` built and run as it is, many times in one process.

Each daemon has a host of its own (``10.x.y.1``), a home with its own key and database, libp2p over virtual TCP, its
HTTP API on its own virtual loopback, and the mock engine.  Instead of the machine it gets ``Environment`` made of the
virtual clock, dice from the seed, no threads and no hardware to look for.  Not here: the network (``virtualnet``) and
what is asked of the daemons (the tests, ``bench``).

What stands for many machines here is one process, so a statement of gossip that one daemon has read and whose
signature it has checked is one object for all of them, on which both are remembered: as in ``simulations``, and as the
daemon itself does with those of the DHT.  :func:`repeatable` sees to it.  Each daemon still asks, and a statement that
differs in one bit is another one.
"""

from __future__ import annotations

import functools
import hashlib
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio
from libp2p.network import connection_pruner, swarm
from libp2p.network.connection import swarm_connection
from libp2p.peer import peerdata

import p2pnode.swarm.libp2p  # noqa: F401 - else the first daemon imports it, in a thread
from p2pnode import node
from p2pnode.config import Config, load_config
from p2pnode.environment import Environment
from p2pnode.hardware.probe import Survey
from p2pnode.state.home import open_home
from p2pnode.state.paths import Paths
from protocol.ids import PeerId, peer_text
from protocol.statements.envelope import parse_again
from protocol.wire import messages
from tests.fullstack.virtualnet import Time, VirtualNet

#: Unix time at which every virtual world begins (any whole number would do; marks and statements need one).
EPOCH: Final = 1_800_000_000.0
PORT: Final = 4411
API_PORT: Final = 8411
MODEL: Final = "mock-8b"


def wall() -> float:
    """Unix seconds in the virtual world."""
    return EPOCH + trio.current_time()


async def _no_hardware() -> Survey:
    await trio.lowlevel.checkpoint()
    return Survey()


def _say_nothing(facts: dict[str, Any], **_: Any) -> None:
    del facts


class Member:
    """One daemon; stays the same over restarts of it."""

    def __init__(self, number: int, home: Path, config: Config, seed: int) -> None:
        self.number = number
        self.host = f"10.{number >> 8 & 255}.{number & 255}.1"
        self.api_port = API_PORT
        self.paths = Paths(home)
        self.config = config
        self.seed = seed
        self.lives = 0
        self.daemon: node.Daemon
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.paths.node_key.touch(mode=0o600)
        self.paths.node_key.write_bytes(hashlib.sha256(f"{seed} key {number}".encode()).digest())

    @property
    def peer(self) -> PeerId:
        return self.daemon.swarm.me

    @property
    def address(self) -> str:
        """What others bootstrap from."""
        return f"/ip4/{self.host}/tcp/{PORT}/p2p/{peer_text(self.peer)}"

    def rng(self) -> random.Random:
        """A die of its own for each machine of each life."""
        self.lives += 1
        return random.Random(f"{self.seed} {self.number} {self.lives}")

    @property
    def alive(self) -> bool:
        return not self.ended.is_set()

    def sees(self) -> int:
        """Others that it holds for alive."""
        return sum(record.state == "alive" and not record.is_self for record in self.daemon.swarm.view.records())


class Daemons:
    """All members, on one network."""

    def __init__(
        self, net: VirtualNet, folder: Path, nursery: trio.Nursery, seed: int = 1, profile: str = "wan"
    ) -> None:
        self.net = net
        self.members: list[Member] = []
        self._folder = folder
        self._nursery = nursery
        self._seed = seed
        self._profile = profile

    async def add(
        self,
        *,
        seeds: tuple[str, ...] | None = None,
        engine: str = "mock",
        environ: dict[str, str] | None = None,
        **flags: Any,
    ) -> Member:
        """Start one more, bootstrapped from the first unless told otherwise."""
        number = len(self.members) + 1
        if seeds is None:
            # Who has nobody to ask is given an address where nobody is, so that it does not ask the public list.
            seeds = (self.members[0].address,) if self.members else ("/ip4/10.255.255.1/tcp/1",)
        listen = f"/ip4/10.{number >> 8 & 255}.{number & 255}.1/tcp/{PORT}"
        given = {"listen": listen, "api": f"127.0.0.1:{API_PORT}", "no_auth": True, "bootstrap": seeds}
        given |= {"engine": engine, "profile": self._profile, "name": f"node{number}", **flags}
        member = Member(number, self._folder / f"node{number}", load_config(None, given, {}), self._seed)
        self.members.append(member)
        await self.start(member, environ)
        return member

    async def start(self, member: Member, environ: dict[str, str] | None = None) -> None:
        """Begin a life of a member; it is ready when this returns."""
        member.scope, member.ended = trio.CancelScope(), trio.Event()
        around = Environment(wall, member.rng, _no_hardware, _say_nothing, environ or {}, threads=False)
        await self._nursery.start(self._life, member, around)

    async def _life(self, member: Member, around: Environment, *, task_status: trio.TaskStatus[Any]) -> None:
        try:
            with self.net.at(member.host), member.scope, open_home(member.paths, wall, threads=False) as home:
                member.daemon = await node.build(member.config, home, around)
                await node.live(member.daemon, task_status=task_status)
        except* trio.ClosedResourceError:
            if not member.scope.cancel_called:
                raise
            # It was killed: a dead process does not notice that its sockets are gone.
        finally:
            member.ended.set()

    async def stop(self, member: Member) -> None:
        """As after SIGTERM: it says goodbye and finishes what runs."""
        member.daemon.stopping.ask()
        await member.ended.wait()

    async def kill(self, member: Member) -> None:
        """As after SIGKILL: its kernel says RST to everybody."""
        self.net.reset(member.host)
        await self._end(member)

    async def unplug(self, member: Member) -> None:
        """It loses its power, and nobody is told."""
        self.net.vanish(member.host)
        await self._end(member)

    async def _end(self, member: Member) -> None:
        member.daemon.home.ledger.close()  # who dies so has no last words for the disk either
        member.scope.cancel()
        await member.ended.wait()

    async def settle(self, within_s: float = 120.0) -> float:
        """Wait until every living member sees all others; gives the seconds it took."""
        began = trio.current_time()
        living = [member for member in self.members if member.alive]
        with trio.fail_after(within_s):
            while any(member.sees() < len(living) - 1 for member in living):  # noqa: ASYNC110
                await trio.sleep(0.1)
        return trio.current_time() - began


@asynccontextmanager
async def daemons(
    count: int, folder: Path, *, net: VirtualNet | None = None, seed: int = 1, profile: str = "wan", **flags: Any
) -> AsyncIterator[Daemons]:
    """That many daemons, the first being the others' bootstrap."""
    net = net or VirtualNet()
    with net.install():
        async with trio.open_nursery() as lives:
            all_of_them = Daemons(net, folder, lives, seed, profile)
            for _ in range(count):
                await all_of_them.add(**flags)
            yield all_of_them
            lives.cancel_scope.cancel()


class _LibraryClock:
    """What py-libp2p's modules take for the module ``time``."""

    time = staticmethod(wall)
    monotonic = staticmethod(trio.current_time)


#: Modules of py-libp2p that measure time by themselves and matter to a connection.
_WITH_CLOCKS: Final = (swarm, swarm_connection, connection_pruner, peerdata)


def repeatable(main: Callable[[], Coroutine[Any, Any, Any]], seed: int = 1) -> Any:
    """Run ``main`` on a virtual clock, with a scheduler that shuffles by the seed.

    The scheduler's switch is private to trio (its own Hypothesis plug-in throws it); without it, this is refused.
    """
    run = trio._core._run
    switch = hasattr(run, "_ALLOW_DETERMINISTIC_SCHEDULING") and isinstance(getattr(run, "_r", None), random.Random)
    if not switch or not Time.fits():
        raise RuntimeError("this trio has no deterministic scheduling: timing would not repeat")
    before = run._ALLOW_DETERMINISTIC_SCHEDULING, run._r.getstate(), random.getstate()
    parse = messages.parse
    run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    run._r.seed(seed)
    random.seed(seed)  # libraries roll it
    for module in _WITH_CLOCKS:
        vars(module)["time"] = _LibraryClock
    vars(messages)["parse"] = parse_again
    try:
        return trio.run(main, clock=Time().clock)
    finally:
        run._ALLOW_DETERMINISTIC_SCHEDULING = before[0]  # type: ignore[misc]
        run._r.setstate(before[1])
        random.setstate(before[2])
        for module in _WITH_CLOCKS:
            vars(module)["time"] = time
        vars(messages)["parse"] = parse


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is an ``async def``, on a clock that jumps and a scheduler that repeats."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        repeatable(functools.partial(test, *args, **kwargs))

    return run
