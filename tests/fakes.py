"""Fakes that the tests (and nobody else) run the daemon on.

``MemorySwitch`` is a network in memory: any number of ``MemoryNet``s, latency, links that break, partitions, peers
that crash or freeze.  Under ``trio.testing.MockClock`` with a seeded ``random.Random`` it repeats itself exactly.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from p2pnode.swarm.net import Address, BadAddress, LinkBroken, PeerUnreachable, parse_address
from protocol.ids import PeerId, short

#: Bytes under way in one direction of a link before the sender waits.
WINDOW = 1 << 20


@dataclass(slots=True, eq=False)
class _Pipe:
    """One direction of a link: chunks with the time at which they arrive."""

    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    size: int = 0
    ended: bool = False
    changed: trio.Event = field(default_factory=trio.Event)

    def notify(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class MemoryLink:
    """One end of a link in memory."""

    def __init__(self, net: MemoryNet, peer: PeerId, address: str, via: str, out: _Pipe, into: _Pipe) -> None:
        self.peer = peer
        self.address = address
        self.via = via
        self.outbound = bool(via)
        self._net = net
        self._out = out
        self._in = into
        self._sending = False

    async def send_all(self, data: bytes) -> None:
        self._sending = True
        await trio.lowlevel.checkpoint()
        pipe = self._out
        while pipe.size >= WINDOW and not pipe.ended:
            await pipe.changed.wait()
        self._sending = False
        if pipe.ended:
            raise LinkBroken(f"the link to {short(self.peer)} is gone")
        arrival = trio.current_time() + self._net.switch.latency(self._net.local_id, self.peer)
        if pipe.chunks:
            arrival = max(arrival, pipe.chunks[-1][0])
        pipe.chunks.append((arrival, bytes(data)))
        pipe.size += len(data)
        pipe.notify()

    def room(self) -> int:
        return 0

    def send_now(self, data: bytes) -> None:
        raise AssertionError(f"{len(data)} bytes at once, and there is no room")

    def unsent(self) -> bool:
        return self._sending

    def offer(self, take: Callable[[bytes], bool]) -> None:
        """Everything is there to receive."""

    def stir(self) -> None:
        raise AssertionError("nothing was offered")

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint()
        pipe = self._in
        while True:
            if pipe.chunks and not self._net.switch.held(self.peer, self._net.local_id):
                arrival, data = pipe.chunks[0]
                if arrival > trio.current_time():
                    with trio.move_on_at(arrival):
                        await pipe.changed.wait()
                    continue
                pipe.chunks.pop(0)
                pipe.size -= len(data)
                pipe.notify()
                return data
            if pipe.ended:
                return b""
            await pipe.changed.wait()

    async def aclose(self) -> None:
        self.cut()
        await trio.lowlevel.checkpoint()

    def cut(self) -> None:
        for pipe in (self._out, self._in):
            pipe.ended = True
            pipe.notify()
        self._net.switch.forget(self)

    def wake(self) -> None:
        """A partition healed: look again."""
        self._in.notify()


class MemoryNet:
    """The ``Net`` of one node on a switch."""

    def __init__(self, switch: MemorySwitch, peer: PeerId, address: str) -> None:
        self.switch = switch
        self.local_id = peer
        self.address = address
        self.running = False
        self.bans: dict[PeerId | str, float] = {}
        self._send, self._accepted = trio.open_memory_channel[MemoryLink](math.inf)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self.running = True
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            self.switch.crash(self.local_id)

    async def accept(self) -> MemoryLink:
        return await self._accepted.receive()

    async def dial(self, peer: PeerId | None, addrs: tuple[str, ...]) -> MemoryLink:
        problems = ["no address to dial"]
        for text in addrs:
            try:
                address = parse_address(text)
            except BadAddress as error:
                problems.append(str(error))
                continue
            expected = address.peer if address.peer is not None else peer
            if peer is not None and expected != peer:
                continue
            try:
                return await self.switch.connect(self, expected, address.host, text)
            except PeerUnreachable as error:
                problems.append(str(error))
        raise PeerUnreachable("; ".join(problems))

    def addrs(self) -> tuple[str, ...]:
        return (str(Address(self.address, 4411, self.local_id)),)

    def ban(self, peer: PeerId, address: str, seconds: float) -> None:
        until = trio.current_time() + seconds
        self.bans[peer] = until
        for link in self.switch.links_of(self.local_id):
            if link.peer == peer:
                link.cut()

    def deliver(self, link: MemoryLink) -> None:
        self._send.send_nowait(link)


class MemorySwitch:
    """The network between the nodes.  ``delay`` is one way, in seconds, with ``jitter`` on top."""

    def __init__(self, rng: random.Random | None = None, delay: float = 0.001, jitter: float = 0.0) -> None:
        self.rng = rng or random.Random(0)
        self.delay = delay
        self.jitter = jitter
        self.dials = 0
        self._nets: dict[str, MemoryNet] = {}
        self._links: dict[MemoryLink, None] = {}
        self._groups: dict[PeerId, int] = {}
        self._frozen: set[PeerId] = set()

    def net(self, peer: PeerId, address: str = "") -> MemoryNet:
        """A place on the network; an address of its own unless one is given."""
        number = len(self._nets) + 1
        net = MemoryNet(self, peer, address or f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        self._nets[net.address] = net
        return net

    async def connect(self, net: MemoryNet, peer: PeerId | None, host: str, via: str) -> MemoryLink:
        self.dials += 1
        target = self._nets.get(host)
        await trio.sleep(3 * self.latency(net.local_id, target.local_id if target else net.local_id))
        if target is None or not target.running or (peer is not None and target.local_id != peer):
            raise PeerUnreachable(f"{host}: connection refused")
        if target is net:
            raise PeerUnreachable("that is this node itself")
        if self.held(net.local_id, target.local_id) or self.held(target.local_id, net.local_id):
            await trio.sleep_forever()
        now = trio.current_time()
        if target.bans.get(net.local_id, now) > now or net.bans.get(target.local_id, now) > now:
            raise PeerUnreachable(f"{host}: not admitted")
        there, back = _Pipe(), _Pipe()
        mine = MemoryLink(net, target.local_id, target.address, via, there, back)
        theirs = MemoryLink(target, net.local_id, net.address, "", back, there)
        self._links[mine] = self._links[theirs] = None
        target.deliver(theirs)
        return mine

    def latency(self, one: PeerId, other: PeerId) -> float:
        """Seconds for the next chunk from one to the other."""
        return self.delay + self.rng.random() * self.jitter

    def held(self, source: PeerId, target: PeerId) -> bool:
        """Whether nothing gets from source to target now: a partition, or one of them is frozen."""
        if source in self._frozen or target in self._frozen:
            return True
        return self._groups.get(source, 0) != self._groups.get(target, 0)

    def links_of(self, peer: PeerId) -> list[MemoryLink]:
        """This peer's ends of its links, in the order they were made."""
        return [link for link in self._links if link._net.local_id == peer]

    def forget(self, link: MemoryLink) -> None:
        self._links.pop(link, None)

    # --- faults --------------------------------------------------------------------------------------------------

    def crash(self, peer: PeerId) -> None:
        """All links of a peer break and it can no longer be dialled, until its net runs again."""
        for net in self._nets.values():
            if net.local_id == peer:
                net.running = False
        for link in self.links_of(peer):
            link.cut()

    def freeze(self, *peers: PeerId) -> None:
        """Nothing goes to or from these peers, and nothing breaks (SIGSTOP, a pulled cable)."""
        self._frozen.update(peers)

    def thaw(self) -> None:
        """Everybody goes on."""
        self._frozen.clear()
        self._wake()

    def partition(self, *groups: list[PeerId]) -> None:
        """Peers of different groups no longer hear each other; whoever is named in none is in a group of the rest."""
        self._groups = {peer: number for number, group in enumerate(groups, 1) for peer in group}

    def heal(self) -> None:
        """The partition is over; what was held arrives."""
        self._groups.clear()
        self._wake()

    def break_links(self, share: float) -> int:
        """Break this share of all links at random; gives how many."""
        ends = [link for link in self._links if link.outbound]
        chosen = self.rng.sample(ends, round(share * len(ends)))
        for link in chosen:
            link.cut()
        return len(chosen)

    def _wake(self) -> None:
        for link in list(self._links):
            link.wake()
