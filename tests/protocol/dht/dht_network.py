"""Many ``Dht`` machines on one heap: latency, dead nodes and links, everything repeatable from a seed.

A fake as a product: it carries encoded messages, refuses what the link would refuse and answers every ``Dial``.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from itertools import count

from protocol.codec import MAX_MESSAGE_BYTES
from protocol.dht.dht import Dht
from protocol.effects import Dial, Effect, Found, Hangup, Penalise, Send, SetTimer, TimerKey
from protocol.ids import PeerId
from protocol.settings import PROFILES, DhtSettings
from protocol.statements.keys import Ed25519Signer
from protocol.wire.messages import decode, encode, kind_of

#: Wall clock minus monotonic clock of everybody.
EPOCH = 1_700_000_000.0
TEST = PROFILES["test"].dht


def signer(number: int) -> Ed25519Signer:
    return Ed25519Signer(number.to_bytes(32, "big"))


class Member:
    """One node: its machine, its links, and what came of its questions."""

    def __init__(self, number: int, settings: DhtSettings, group: str) -> None:
        self.signer = signer(number)
        self.me = self.signer.peer_id
        self.addrs = (f"/ip4/10.0.0.1/tcp/{number}",)
        self.group = group
        self.dht = Dht(self.me, settings, random.Random(number))
        self.links: set[PeerId] = set()
        self.timers: dict[TimerKey, float] = {}
        self.found: dict[int, tuple[float, Found]] = {}
        self.blamed: list[Penalise] = []
        self.alive = True
        self.bytes_out = 0
        self.dials = 0


class DhtNetwork:
    """The world in which the machines live.

    ``silent_s``: how long a dead peer's links seem to stand.  ``refusal_s``: how long a dial to it hangs (by default
    its machine is there and refuses at once).
    """

    def __init__(
        self,
        size: int,
        seed: int = 1,
        settings: DhtSettings = TEST,
        silent_s: float = 2.0,
        refusal_s: float = 0.0,
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 100.0
        self.latency = lambda: self.rng.uniform(0.001, 0.02)
        self.silent_s = silent_s
        self.refusal_s = refusal_s
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._queries = count(1)
        self.members = [Member(number + 1, settings, f"10.0.{number}") for number in range(size)]
        self.by_peer = {member.me: member for member in self.members}
        for member in self.members:
            self.perform(member, member.dht.start(self.now))

    # --- time ----------------------------------------------------------------------------------------------------

    def at(self, delay: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now + delay, next(self._order), action))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        self.now = end

    # --- effects -------------------------------------------------------------------------------------------------

    def perform(self, member: Member, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(peer, message):
                    kind, data = kind_of(message), encode(message)
                    assert len(data) <= MAX_MESSAGE_BYTES
                    member.bytes_out += len(data) + 8
                    self.at(self.latency(), lambda p=peer, k=kind, d=data: self._deliver(member, p, k, d))
                case SetTimer(key, at):
                    assert key[0] == "dht"
                    member.timers[key] = at
                    self.at(max(0.0, at - self.now), lambda k=key, t=at: self._fire(member, k, t))
                case Dial(peer, addrs):
                    assert peer is not None
                    member.dials += 1
                    self.at(3 * self.latency(), lambda p=peer, a=addrs: self._dialled(member, p, a))
                case Hangup(peer, _):
                    self.cut(member, peer)
                case Found():
                    member.found[effect.query] = (self.now, effect)
                case Penalise():
                    member.blamed.append(effect)
                case _:
                    raise AssertionError(effect)

    def _fire(self, member: Member, key: TimerKey, at: float) -> None:
        if member.alive and member.timers.get(key) == at:
            self.perform(member, member.dht.timer(key, self.now, self.now + EPOCH))

    def _deliver(self, sender: Member, peer: PeerId, kind: int, data: bytes) -> None:
        receiver = self.by_peer.get(peer)
        if receiver is not None and receiver.alive and peer in sender.links and sender.me in receiver.links:
            message = decode(kind, data)
            self.perform(receiver, receiver.dht.on_message(sender.me, message, self.now, self.now + EPOCH))

    def _dialled(self, member: Member, peer: PeerId, addrs: tuple[str, ...]) -> None:
        other = self.by_peer.get(peer)
        if not member.alive:
            return
        if other is not None and other.alive and set(other.addrs) & set(addrs):
            self.link(member, other)
        else:
            failed = lambda: self.perform(member, member.dht.dial_failed(peer, self.now))  # noqa: E731
            self.at(self.refusal_s, failed)

    # --- links and deaths ----------------------------------------------------------------------------------------

    def link(self, one: Member, other: Member) -> None:
        one.links.add(other.me)
        other.links.add(one.me)
        self.perform(one, one.dht.link_up(other.me, other.addrs, other.group, self.now))
        self.perform(other, other.dht.link_up(one.me, one.addrs, one.group, self.now))

    def cut(self, member: Member, peer: PeerId) -> None:
        for one, other in ((member, peer), (self.by_peer[peer], member.me)):
            if other in one.links:
                one.links.discard(other)
                self.perform(one, one.dht.link_down(other, self.now))

    def kill(self, member: Member) -> None:
        """Without a word: its peers notice ``silent_s`` later."""
        member.alive = False
        for peer in sorted(member.links):
            self.at(self.silent_s, lambda p=peer: self.cut(self.by_peer[p], member.me))

    def join(self, settle_s: float = 10.0) -> None:
        """Everybody comes in through somebody who is there already."""
        for index, member in enumerate(self.members[1:], start=1):
            self.at(0.05 * index, lambda m=member, i=index: self.link(m, self.members[self.rng.randrange(i)]))
        self.run(0.05 * len(self.members) + settle_s)

    def alive(self) -> list[Member]:
        return [member for member in self.members if member.alive]

    # --- questions -----------------------------------------------------------------------------------------------

    def ask(self, member: Member, question: str, key: bytes) -> int:
        query = next(self._queries)
        self.perform(member, getattr(member.dht, question)(query, key, self.now))
        return query

    def answer(self, member: Member, question: str, key: bytes, patience_s: float = 5.0) -> tuple[float, Found]:
        """Seconds it took, and what came of it."""
        begun = self.now
        query = self.ask(member, question, key)
        while query not in member.found and self.now < begun + patience_s:
            self.run(0.01)
        when, found = member.found[query]
        return when - begun, found
