"""Whatever a peer says, a node raises nothing, believes nothing unsigned, and does not grow without bound."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from protocol.dht.routing_table import model_key
from protocol.effects import Effect, Penalise, Send
from protocol.errors import RemoteProtocolError
from protocol.events import Advertise, DialFailed, FindProviders, LinkDown, LinkUp, Received, TimerFired
from protocol.ids import ModelId, PeerId
from protocol.node import Node
from protocol.settings import PROFILES
from protocol.statements.adverts import Load, Provider
from protocol.statements.envelope import Envelope, parse, statement
from protocol.statements.keys import ADVERT, LOAD
from protocol.wire import messages as m
from tests.protocol.harness import WALL, addr_of, advert_of, signer_of

pytestmark = pytest.mark.slow

HOSTILE = [signer_of(1000 + index) for index in range(6)]
MODEL = ModelId(bytes(16))


class Victim:
    """A node with links to hostile peers; what it asks for is noted, and its questions are answered with lies."""

    def __init__(self) -> None:
        self.node = Node(signer_of(0), PROFILES["wan"], random.Random(1), 1, ())
        self.now = 0.0
        self.asked: list[tuple[PeerId, m.DhtQuery]] = []
        self.blamed: set[PeerId] = set()
        self.note(self.node.start(0.0, WALL))
        self.feed(Advertise(advert_of(0)))
        for index, signer in enumerate(HOSTILE):
            self.link(signer.peer_id, index)

    def link(self, peer: PeerId, index: int) -> None:
        self.feed(LinkUp(peer, index % 2 == 0, f"203.0.{index % 256}.1", (addr_of(index),)))

    def feed(self, event: object) -> list[Effect]:
        effects = self.node.handle(event, self.now, WALL + self.now)  # type: ignore[arg-type]
        self.note(effects)
        return effects

    def note(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, m.DhtQuery):
                self.asked.append((effect.peer, effect.message))
            elif isinstance(effect, Penalise):
                self.blamed.add(effect.peer)

    def hear(self, peer: PeerId, kind: int, payload: bytes) -> None:
        """As the driver does: decoded, or held against the sender."""
        try:
            message = m.decode(kind, payload)
        except RemoteProtocolError:
            return
        if not isinstance(message, m.Hello | m.JobMessage):
            self.feed(Received(peer, message))


def alter(rng: random.Random, wire: bytes) -> bytes:
    """One bit, one byte, a cut, a tail, or the head of one and the tail of another."""
    changed = bytearray(wire)
    position = rng.randrange(len(changed))
    match rng.randrange(5):
        case 0:
            changed[position] ^= 1 << rng.randrange(8)
        case 1:
            changed[position] ^= rng.randrange(1, 256)
        case 2:
            del changed[position:]
        case 3:
            changed += rng.randbytes(rng.randrange(1, 40))
        case 4:
            changed[position:] = rng.randbytes(len(changed) - position)
    return bytes(changed)


def test_of_ten_thousand_mutated_statements_none_gets_into_the_view() -> None:
    rng = random.Random(1)
    victim = Victim()
    authors = [signer_of(index) for index in range(10, 30)]
    wires = [
        statement(author, value, (rng.randrange(1, 9), rng.randrange(9)), WALL, 3600).wire
        for number, author in enumerate(authors)
        for value in (advert_of(number), Load(running=number))
    ]
    before = victim.node.stats()
    for number in range(10_000):
        changed = alter(rng, rng.choice(wires))
        if changed in wires:
            continue
        victim.now += 0.001
        try:
            envelope = parse(changed)
        except RemoteProtocolError:
            continue
        victim.feed(Received(HOSTILE[number % 6].peer_id, m.Records((envelope,))))
    after = victim.node.stats()
    assert after["records_new"] == before["records_new"]
    assert after["forged"] > 1000
    assert {author for author, _ in victim.node.snapshot().marks} == {victim.node.me}
    assert not any(author.peer_id in victim.node.view for author in authors)
    assert victim.blamed == {signer.peer_id for signer in HOSTILE}


# --- any message -----------------------------------------------------------------------------------------------------


def sealed(rng: random.Random, victim: Victim) -> bytes:
    """A statement of a hostile author, well signed, of any version and nearly any time; sometimes altered."""
    signer = rng.choice(HOSTILE) if rng.random() < 0.3 else signer_of(rng.randrange(2000, 6000))
    value = rng.choice((advert_of(rng.randrange(60)), Load(status=rng.randrange(4)), Provider(MODEL, ("x",))))
    version = (rng.choice((0, 1, 1, (1 << 64) - 1)), rng.choice((0, 1, rng.randrange(1 << 32))))
    issued = max(0.0, WALL + victim.now + rng.choice((0.0, 0.0, 0.0, -100.0, 100.0, -1e6, 1e6, 1e15)))
    wire = statement(signer, value, version, min(issued, 9e15), rng.choice((1, 60, 3600))).wire
    return wire if rng.random() < 0.8 else alter(rng, wire)


def number(rng: random.Random) -> int:
    return rng.choice((0, 1, -1, rng.randrange(300), (1 << 64) - 1, -(1 << 63)))


def lie(rng: random.Random, victim: Victim) -> tuple[int, bytes]:
    """One message, well formed, that means harm."""
    key = rng.choice((rng.randbytes(32), victim.node.me, HOSTILE[0].peer_id, model_key(MODEL)))
    entries = tuple((number(rng), rng.randbytes(32), number(rng), number(rng)) for _ in range(rng.randrange(40)))
    contacts = tuple(
        m.Contact(rng.choice((rng.randbytes(32), victim.node.me)), (rng.choice(("", "x" * 900, addr_of(3))),) * 4)
        for _ in range(rng.randrange(21))
    )
    wires = [sealed(rng, victim)[:4096] for _ in range(rng.randrange(8))]
    query = victim.asked[-1][1].query if victim.asked and rng.random() < 0.8 else rng.getrandbits(32)
    message: m.Message = rng.choice(
        (
            m.Digest(entries=entries, reply=rng.random() < 0.5),
            m.Digest(buckets=rng.randbytes(rng.choice((0, 7, 2048))), reply=True),
            m.Digest(listed=tuple(number(rng) for _ in range(20)), entries=entries, reply=True),
            m.Doubt(key, number(rng), number(rng)),
            m.DhtQuery(rng.getrandbits(32), key, rng.random() < 0.5),
            m.DhtReply(query, contacts, tuple(wires)),
            m.DhtStore(key, (wires or [b""])[0]),
        )
    )
    if rng.random() < 0.3:
        good: list[Envelope] = []
        for wire in wires:
            try:
                good.append(parse(wire))
            except RemoteProtocolError:
                continue
        message = m.Records(tuple(good))
    return m.kind_of(message), m.encode(message)


def sizes(victim: Victim) -> dict[str, int]:
    """Everything that is kept by what others say or by who they are."""
    node = victim.node
    found: dict[str, int] = {}
    gossip, dht = node.gossip, node.dht
    machines = (
        node,
        gossip,
        gossip._validator,
        gossip._validator.clock,
        node.failure_detector,
        node.overlay,
        node.view,
    )
    for machine in (*machines, node.view._eviction, dht, dht.records, dht.own, dht.links, dht.searches):
        for name, value in vars(machine).items():
            if isinstance(value, dict | list | set):
                found[f"{type(machine).__name__}.{name}"] = len(value)
    found["marks"] = len(node.gossip._marks)
    return found


#: More than any of them may hold after what is said below; those that grow by design have bounds of their own.
MOST = {"marks": 16_000, "PeerView._rows": 5000, "PeerView._records": 4200, "FailureDetector._watched": 4200}
MOST_OF_THE_REST = 600


def settle(victim: Victim, rng: random.Random) -> None:
    """Time passes: every timer goes off, dials fail, and links come and go under ever new names."""
    for key in (("gossip", "tick"), ("gossip", "digest"), ("liveness", "sweep"), ("neighbours", "tick")):
        victim.feed(TimerFired(key))
    for key in (("neighbours", "rotate"), ("dht", "upkeep"), ("node", "publish")):
        victim.feed(TimerFired(key))
    for peer, addrs in list(victim.node.dht.links.dialling.items()):
        victim.feed(DialFailed(peer, addrs, "nobody"))
    newcomer = PeerId(rng.randbytes(32))
    victim.link(newcomer, rng.randrange(100))
    victim.feed(Received(newcomer, m.Digest(reply=True)))
    victim.feed(LinkDown(newcomer, "gone"))


@pytest.mark.parametrize("seed", [1, 2])
def test_no_message_raises_and_nothing_grows_without_bound(seed: int) -> None:
    rng = random.Random(seed)
    victim = Victim()
    for step in range(6000):
        victim.now += 0.05
        peer = rng.choice(HOSTILE).peer_id
        if victim.asked and rng.random() < 0.5:
            peer = victim.asked[-1][0]
        victim.hear(peer, *lie(rng, victim))
        if step % 20 == 0:
            settle(victim, rng)
        if step % 200 == 0:
            victim.feed(FindProviders(step, MODEL))
            del victim.asked[:-10]
    grown = {name: size for name, size in sizes(victim).items() if size > MOST.get(name, MOST_OF_THE_REST)}
    assert grown == {}
    mine: Callable[[int], Envelope | None] = victim.node.gossip.own
    for kind in (ADVERT, LOAD):
        statement_of_ours = mine(kind)
        assert statement_of_ours is not None
        assert statement_of_ours.check()
    assert victim.node.stats()["forged"] > 0
