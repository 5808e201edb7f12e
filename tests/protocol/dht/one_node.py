"""One DHT machine, the peers that it has links to, and statements to give it."""

from __future__ import annotations

import random

from protocol.dht.dht import Dht
from protocol.dht.routing_table import model_key
from protocol.effects import Effect, Send
from protocol.ids import ModelId, PeerId
from protocol.settings import DhtSettings
from protocol.statements.adverts import Advert, Provider
from protocol.statements.envelope import Envelope, statement
from protocol.wire.messages import DhtQuery, DhtReply, DhtStore
from tests.protocol.dht.dht_network import EPOCH, TEST, signer

MODEL = ModelId(b"m" * 16)
NOW = 100.0
WALL = NOW + EPOCH


def name(number: int) -> PeerId:
    """A peer that never signs anything."""
    return PeerId(number.to_bytes(32, "big"))


def provider(number: int, seq: int = 1, model: bytes = MODEL, issued: float = WALL, ttl: int = 3600) -> Envelope:
    return statement(signer(number), Provider(model, (f"/ip4/10.0.0.1/tcp/{number}",)), (1, seq), issued, ttl)


def advert(number: int, seq: int = 1, issued: float = WALL, ttl: int = 120) -> Envelope:
    return statement(signer(number), Advert(1, addrs=(f"/ip4/10.0.0.1/tcp/{number}",)), (1, seq), issued, ttl)


def forged(envelope: Envelope) -> bytes:
    return envelope.wire[:-1] + bytes([envelope.wire[-1] ^ 1])


def addrs_of(number: int) -> tuple[str, ...]:
    return (f"/ip4/10.0.0.1/tcp/{number}",)


def of(effects: list[Effect], kind: type) -> list:
    return [effect for effect in effects if isinstance(effect, kind)]


def questions(effects: list[Effect]) -> dict[PeerId, DhtQuery]:
    return {e.peer: e.message for e in of(effects, Send) if isinstance(e.message, DhtQuery)}


def machine(limits: DhtSettings = TEST) -> Dht:
    return Dht(signer(1).peer_id, limits, random.Random(1))


def linked(node: Dht, *numbers: int, now: float = NOW) -> None:
    """Links to peers who answer every question with nothing, until the look-ups of the join are over."""
    for number in numbers:
        effects = node.link_up(signer(number).peer_id, addrs_of(number), "", now)
        while asked := questions(effects):
            effects = [
                effect
                for peer, query in asked.items()
                for effect in node.on_message(peer, DhtReply(query.query), now, now + EPOCH)
            ]


def reply(node: Dht, effects: list[Effect], number: int, now: float = NOW, **fields: object) -> list[Effect]:
    peer = signer(number).peer_id
    return node.on_message(peer, DhtReply(questions(effects)[peer].query, **fields), now, now + EPOCH)


def store(node: Dht, number: int, envelope: Envelope | bytes, key: bytes = b"", now: float = NOW) -> list[Effect]:
    wire = envelope if isinstance(envelope, bytes) else envelope.wire
    return node.on_message(signer(number).peer_id, DhtStore(key or model_key(MODEL), wire), now, now + EPOCH)


def stored(effects: list[Effect]) -> set[PeerId]:
    return {e.peer for e in of(effects, Send) if isinstance(e.message, DhtStore)}


def place(node: Dht, effects: list[Effect], now: float = NOW) -> set[PeerId]:
    """Answer every question with nothing; who got a statement in the end."""
    replicas = stored(effects)
    while asked := questions(effects):
        effects = [e for p, q in asked.items() for e in node.on_message(p, DhtReply(q.query), now, now + EPOCH)]
        replicas |= stored(effects)
    return replicas
