"""A network in memory for tests of the machines: real ``Node`` objects, one heap, virtual time.

It performs the effects as a driver would: links with latency, one link per pair, dials by address, timers, hang-ups.
It can break links, crash nodes (loudly, with a reset, or silently, noticed after ``DEAD_S``), cut the network in two
and count every byte that a node would put on the wire.  Nothing in it is random but what comes from its seed.
"""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from protocol.effects import Dial, Effect, Found, Hangup, PeerState, Penalise, Send, SetTimer, TimerKey
from protocol.events import (
    Advertise,
    DialFailed,
    Event,
    Leave,
    LinkDown,
    LinkUp,
    Received,
    ReportLoad,
    RoundTrip,
    TimerFired,
)
from protocol.ids import PeerId
from protocol.node import Node
from protocol.settings import PROFILES, NodeSettings
from protocol.statements.adverts import Advert, Gpu, Load, ModelOffer
from protocol.statements.keys import Ed25519Signer
from protocol.wire.messages import NodeMessage, Records, encode

#: Seconds until a silent peer's link counts as broken, between PINGs, and until a dial of nobody fails.
DEAD_S = 15.0
PING_S = 5.0
DIAL_TIMEOUT_S = 3.0
FRAME_BYTES = 8
WALL = 1_800_000_000.0


def signer_of(index: int) -> Ed25519Signer:
    """The key of the ``index``-th node; the same in every run."""
    return Ed25519Signer(index.to_bytes(32, "big"))


def addr_of(index: int, groups: int = 200) -> str:
    """A loopback-like address; every ``groups``-th node shares a network group."""
    return f"/ip4/10.{index % groups}.{index // groups % 250}.{1 + index // 50_000}/tcp/4411"


def advert_of(index: int, addr: str | None = None) -> Advert:
    """What a node with one GPU and two models says of itself."""
    models = tuple(
        ModelOffer(name, bytes((number,)) * 16, context=32768, quantization="awq", capabilities=("chat", "tools"))
        for number, name in enumerate(("llama-3.1-8b-instruct", "qwen2.5-7b-instruct"))
    )
    gpu = Gpu("NVIDIA GeForce RTX 4090", 1, 24564, 1008.0, 165.2, 165.2, 330.3, 660.6, 0.0, 8.9, 31.5)
    addrs = (addr_of(index),) if addr is None else (addr,) if addr else ()
    return Advert(1, f"node-{index}", "eu-west", "someone", "cuda", "550.54.14", (gpu,), models, addrs, "vllm", "0.1.0")


@dataclass
class Member:
    """One node of the network and what the network knows of it."""

    index: int
    node: Node
    addr: str
    up: bool = True
    links: dict[PeerId, bool] = field(default_factory=dict)
    timers: dict[TimerKey, float] = field(default_factory=dict)
    wall_jump: float = 0.0
    bytes_out: int = 0
    gossip_bytes: int = 0
    sent: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    penalties: list[Penalise] = field(default_factory=list)
    states: list[tuple[float, PeerState]] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)

    @property
    def peer(self) -> PeerId:
        return self.node.me


class MemoryNetwork:
    """Nodes, links between them, and a clock."""

    def __init__(self, settings: NodeSettings = PROFILES["wan"], seed: int = 1, latency: float = 0.02) -> None:
        self.settings = settings
        self.rng = random.Random(seed)
        self.latency = latency
        self.now = 1000.0
        self.members: list[Member] = []
        self.by_peer: dict[PeerId, Member] = {}
        self.by_addr: dict[str, Member] = {}
        #: Whether two members can reach each other; tests replace it to cut the network.
        self.reachable: Callable[[Member, Member], bool] = lambda a, b: True
        #: Sees every message as it arrives and may replace or drop (None) it.
        self.tamper: Callable[[Member, Member, NodeMessage], NodeMessage | None] = lambda a, b, message: message
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    # --- building ------------------------------------------------------------------------------------------------

    def add(
        self,
        seeds: Iterable[int] = (),
        advert: Advert | bool = True,
        inc: int = 1,
        index: int | None = None,
        **given: object,
    ) -> Member:
        """A new node that knows the members ``seeds`` by address and identity; ``advert`` False says nothing."""
        index = len(self.members) if index is None else index
        known = tuple((self.members[i].peer, (self.members[i].addr,)) for i in seeds)
        rng = random.Random(self.rng.getrandbits(64))
        node = Node(signer_of(index), self.settings, rng, inc, given.pop("seeds", known), **given)  # type: ignore[arg-type]
        member = Member(index, node, addr_of(index))
        if index < len(self.members):
            self.members[index] = member
        else:
            self.members.append(member)
        self.by_peer[member.peer] = self.by_addr[member.addr] = member
        self.perform(member, node.start(self.now, self.wall(member)))
        if advert is not False:
            self.feed(member, Advertise(advert_of(index) if advert is True else advert))  # type: ignore[arg-type]
            self.feed(member, ReportLoad(Load(slots=8, free_vram_mib=8000, tokens_s=40)))
        return member

    def grow(self, count: int, gap: float = 0.0) -> None:
        """``count`` nodes; the first is the seed of the others."""
        for _ in range(count):
            self.add(seeds=(0,) if self.members else ())
            self.run(gap)

    def wall(self, member: Member) -> float:
        return WALL + self.now + member.wall_jump

    # --- running -------------------------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, action))

    def run(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        self.now = end

    def run_until(self, condition: Callable[[], bool], most: float, step: float = 0.1) -> float:
        """Seconds until ``condition`` holds; fails after ``most``."""
        start = self.now
        while not condition():
            assert self.now - start < most, f"not within {most} s"
            self.run(step)
        return self.now - start

    def feed(self, member: Member, event: Event) -> list[Effect]:
        if not member.up:
            return []
        effects = member.node.handle(event, self.now, self.wall(member))
        self.perform(member, effects)
        return effects

    # --- effects -------------------------------------------------------------------------------------------------

    def perform(self, member: Member, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._send(member, effect)
            elif isinstance(effect, SetTimer):
                self._set_timer(member, effect.key, effect.at)
            elif isinstance(effect, Dial):
                self._dial(member, effect)
            elif isinstance(effect, Hangup):
                self.break_link(member.peer, effect.peer)
            elif isinstance(effect, Penalise):
                member.penalties.append(effect)
            elif isinstance(effect, PeerState):
                member.states.append((self.now, effect))
            elif isinstance(effect, Found):
                member.found.append(effect)

    def _send(self, member: Member, effect: Send) -> None:
        if effect.peer not in member.links:
            return
        size = len(encode(effect.message)) + FRAME_BYTES
        member.bytes_out += size
        kind = type(effect.message).__name__
        member.sent[kind] += 1
        if kind in ("Records", "Digest", "Doubt"):
            member.gossip_bytes += size
        other = self.by_peer[effect.peer]
        self.at(self.now + self.latency, lambda: self._arrive(member, other, effect.message))

    def _arrive(self, source: Member, target: Member, message: NodeMessage) -> None:
        if source.peer in target.links and target.up and self.reachable(source, target):
            changed = self.tamper(source, target, message)
            if changed is not None:
                self.feed(target, Received(source.peer, changed))

    def _set_timer(self, member: Member, key: TimerKey, at: float) -> None:
        member.timers[key] = at

        def fire() -> None:
            if member.timers.get(key) == at:
                del member.timers[key]
                self.feed(member, TimerFired(key))

        self.at(max(at, self.now), fire)

    def _dial(self, member: Member, effect: Dial) -> None:
        target = next((self.by_addr[addr] for addr in effect.addrs if addr in self.by_addr), None)

        def arrive() -> None:
            if (
                target is None
                or not (target.up and member.up and self.reachable(member, target))
                or target is member
                or (effect.peer is not None and target.peer != effect.peer)
            ):
                wait = 0.0 if target is not None and not target.up else DIAL_TIMEOUT_S
                self.at(
                    self.now + wait, lambda: self.feed(member, DialFailed(effect.peer, effect.addrs, "nobody")) and None
                )
            else:
                self.link(member, target, effect.addrs)

        self.at(self.now + 2 * self.latency, arrive)

    # --- links ---------------------------------------------------------------------------------------------------

    def link(self, dialler: Member, target: Member, addrs: tuple[str, ...] = ()) -> None:
        """A link between two members, if there is none yet."""
        if target.peer in dialler.links:
            return
        dialler.links[target.peer], target.links[dialler.peer] = True, False
        self.feed(dialler, LinkUp(target.peer, True, target.addr.split("/")[2], addrs or (target.addr,)))
        self.feed(target, LinkUp(dialler.peer, False, dialler.addr.split("/")[2], (dialler.addr,)))
        self.at(self.now + PING_S, lambda: self._ping(dialler, target))

    def _ping(self, a: Member, b: Member) -> None:
        if b.peer not in a.links or a.peer not in b.links:
            return
        if a.up and b.up and self.reachable(a, b):
            self.feed(a, RoundTrip(b.peer, 2 * self.latency))
            self.feed(b, RoundTrip(a.peer, 2 * self.latency))
            self.at(self.now + PING_S, lambda: self._ping(a, b))
        else:
            self.at(self.now + DEAD_S - PING_S, lambda: self.break_link(a.peer, b.peer))

    def break_link(self, a: PeerId, b: PeerId) -> None:
        """Both ends lose the link; whoever is up hears of it."""
        for here, there in ((a, b), (b, a)):
            member = self.by_peer[here]
            if member.links.pop(there, None) is not None:
                self.feed(member, LinkDown(there, "broken"))

    def crash(self, member: Member, loudly: bool = True) -> None:
        """The process is gone; ``loudly``: its peers get a reset at once."""
        member.up = False
        member.timers.clear()
        for other in list(member.links):
            if loudly:
                self.break_link(member.peer, other)

    def leave(self, member: Member) -> None:
        """Say goodbye, then go."""
        self.feed(member, Leave())
        self.run(3 * self.latency)
        self.crash(member)

    # --- asking --------------------------------------------------------------------------------------------------

    @property
    def alive(self) -> list[Member]:
        return [member for member in self.members if member.up]

    def knows(self, member: Member, other: Member) -> bool:
        """Whether ``member`` holds the newest advert and a load of ``other``."""
        record = member.node.view.get(other.peer)
        newest = other.node.gossip.own(1)
        return (
            record is not None
            and record.load is not None
            and record.advert_env is not None
            and newest is not None
            and record.advert_env.wire == newest.wire
        )

    def complete(self, member: Member) -> bool:
        """Whether ``member`` knows everybody who is there."""
        return all(self.knows(member, other) for other in self.alive if other is not member)

    def converged(self) -> bool:
        return all(self.complete(member) for member in self.alive)

    def links(self) -> list[tuple[PeerId, PeerId]]:
        """Every link once, in a fixed order."""
        return [(m.peer, peer) for m in self.members for peer, dialled in m.links.items() if dialled]

    def records_seen(self) -> int:
        return sum(member.node.stats()["records_in"] for member in self.members)  # type: ignore[misc]


def records(*envelopes: object) -> Records:
    """A push of these statements."""
    return Records(tuple(envelopes))  # type: ignore[arg-type]
