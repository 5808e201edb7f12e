"""Five hundred hostile frames over real sockets on each protocol, to a node with its real machine behind them.

After each fifty an honest neighbour asks, which is answered; and at the end somebody new joins.  What a frame may do
is end its own connection or ban its sender, so the attacker comes back under a new name each time.
"""

from __future__ import annotations

import logging
import random
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio

from p2pnode.swarm.libp2p import LINK_PROTOCOL, Libp2pNet
from p2pnode.swarm.swarm import Swarm
from protocol.dht.routing_table import model_key
from protocol.ids import ModelId, PeerId
from protocol.node import Node
from protocol.statements.adverts import Advert, Load, ModelOffer, Provider
from protocol.statements.envelope import statement
from protocol.statements.keys import Ed25519Signer
from protocol.wire import messages as m
from tests.p2pnode.swarm.attackers import HELLO_LINE, intrude, stranger, stream_of
from tests.p2pnode.swarm.idle_machine import SETTINGS, ask, echo, eventually, real_net, seed_of

FRAMES = 500
PER_CONNECTION = 50
#: Seconds for what takes 0.2 s on an idle machine: a bound for a node that hangs, not for a slow machine.
PATIENCE_S = 60.0
IDENTIFY, PUSH, PING = "/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/ping/1.0.0"
#: No protocol agreed upon, and a last frame that is not even yamux.
NONE = ""
WALL = 1_800_000_000.0
SIGNERS = [Ed25519Signer(seed_of(500 + number)) for number in range(8)]
ADVERT = Advert(1, "name", models=(ModelOffer("model", bytes(16)),), addrs=("/ip4/203.0.113.1/tcp/4411",))


def real_node(number: int, net: Libp2pNet, *seeds: Libp2pNet) -> Swarm:
    known = tuple((seed.local_id, seed.addrs()) for seed in seeds)
    machine = Node(Ed25519Signer(seed_of(number)), SETTINGS, random.Random(number), 1, known)
    return Swarm(net, machine, SETTINGS, "test", echo, wall=lambda: WALL + trio.current_time())


@asynccontextmanager
async def joined(number: int, *seeds: Libp2pNet) -> AsyncIterator[Swarm]:
    net = real_net(number)
    swarm = real_node(number, net, *seeds)
    async with trio.open_nursery() as nursery:
        await nursery.start(swarm.run)
        swarm.advertise(Advert(1, f"node-{number}", addrs=swarm.addrs))
        swarm.report_load(Load())
        yield swarm
        nursery.cancel_scope.cancel()


# --- what is said ----------------------------------------------------------------------------------------------------


def statements(rng: random.Random, wall: float) -> list[bytes]:
    """Well-signed statements, of which mutations are made."""
    signer = rng.choice(SIGNERS)
    values = (ADVERT, Load(), Provider(bytes(16), ADVERT.addrs))
    return [statement(signer, value, (1, rng.randrange(1 << 20)), wall, 60).wire for value in values]


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Almost right: bits turned, a piece cut out, a piece put in."""
    wire = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        if not wire:
            break
        position = rng.randrange(len(wire))
        match rng.randrange(3):
            case 0:
                wire[position] ^= 1 << rng.randrange(8)
            case 1:
                del wire[position : position + rng.randrange(1, 40)]
            case 2:
                wire[position:position] = rng.randbytes(rng.randrange(1, 40))
    return bytes(wire)


def said(rng: random.Random, wall: float) -> tuple[int, bytes]:
    """A message of some kind, right or almost."""
    key, job, wires = rng.randbytes(32), rng.randbytes(16), statements(rng, wall)
    entries = tuple((rng.randrange(4), rng.randbytes(32), rng.randrange(9), 1) for _ in range(rng.randrange(20)))
    contacts = tuple(m.Contact(rng.randbytes(32), ("/ip4/127.0.0.1/tcp/1", "x")) for _ in range(rng.randrange(20)))
    message = rng.choice(
        (
            m.Digest(entries=entries, reply=True),
            m.Digest(buckets=rng.randbytes(2048), reply=True),
            m.Digest(listed=tuple(range(rng.randrange(256))), entries=entries, reply=rng.random() < 0.5),
            m.Doubt(key, rng.randrange(1 << 60), 1),
            m.DhtQuery(rng.randrange(1 << 32), key, values=True),
            m.DhtReply(rng.randrange(1 << 32), contacts, tuple(wires)),
            m.DhtStore(model_key(ModelId(bytes(16))), wires[2]),
            m.JobRequest(job, "/v1/completions", "model", 10),
            m.Accept(job),
            m.Busy(1),
            m.Refuse(400, "code", "message"),
            m.End("stop", 1, 1, bytes(32)),
            m.Hello(1, "test"),
        )
    )
    if rng.random() < 0.3:
        sealed = [mutated(rng, wire)[:4096] if rng.random() < 0.5 else wire for wire in wires]
        return m.RECORDS, _array(sealed)
    return m.kind_of(message), m.encode(message)


def _array(wires: list[bytes]) -> bytes:
    """``Records`` as no honest node would encode it: of wires that are not statements."""
    body = b"".join(b"\xc5" + struct.pack(">H", len(wire)) + wire for wire in wires)
    return b"\x91" + bytes([0x90 + len(wires)]) + body


def frame(channel: int, kind: int, payload: bytes) -> bytes:
    return struct.pack(">II", channel, kind << 24 | len(payload)) + payload


def hostile_frame(rng: random.Random, wall: float) -> bytes:
    """A frame of our link: well framed most of the time, so that it gets past the multiplexer."""
    kind, payload = said(rng, wall)
    if rng.random() < 0.6:
        payload = mutated(rng, payload) if rng.random() < 0.8 else rng.randbytes(rng.randrange(200))
    channel = 0 if kind < 32 else rng.choice((1, 1, 3, 5, 2, 0xFFFFFFFF))
    data = frame(channel, kind, payload)
    match rng.randrange(60):
        case 0:
            data = mutated(rng, data)
        case 1:
            data = frame(rng.randrange(4), rng.randrange(256), rng.randbytes(rng.randrange(20)))
    return data


def hostile_packet(rng: random.Random) -> bytes:
    """For the library's own protocols: random bytes, with a length in front, true or not."""
    body = rng.randbytes(rng.randrange(1, 400))
    return rng.choice((b"", bytes([len(body) & 127]), b"\xff\xff\xff\xff\x07", b"\x80" * 12)) + body


# --- to whom ---------------------------------------------------------------------------------------------------------


async def attack(host: Any, net: Libp2pNet, protocol: str, rng: random.Random, wall: float) -> int:
    """One connection's worth; how many frames were handed over before the victim had enough of it."""
    sent = 0
    with suppress(Exception), trio.move_on_after(2):
        muxed = await intrude(host, net)
        if protocol == LINK_PROTOCOL:
            stream = await stream_of(muxed, protocol)
            await stream.write(frame(0, m.HELLO, m.encode(m.Hello(1, "test"))))
            while sent < PER_CONNECTION:
                sent += 1
                await stream.write(hostile_frame(rng, wall))
        while sent < PER_CONNECTION:
            sent += 1
            if protocol == NONE:
                stream = await muxed.open_stream()
                await stream.write(hostile_packet(rng))
            elif protocol == PUSH:  # not offered: said without waiting for leave
                stream = await muxed.open_stream()
                line = PUSH.encode() + b"\n"
                await stream.write(HELLO_LINE + bytes([len(line)]) + line + hostile_packet(rng))
            else:
                stream = await stream_of(muxed, protocol)
                await stream.write(hostile_packet(rng))
            await (stream.reset if rng.random() < 0.5 else stream.close)()
        if protocol == NONE:
            await muxed._write_frame(rng.randbytes(rng.randrange(1, 64)))
    await trio.sleep(0.02)
    return sent


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [IDENTIFY, PUSH, PING, LINK_PROTOCOL, NONE])
async def test_five_hundred_hostile_frames_harm_nobody(protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(protocol)
    caplog.set_level(logging.WARNING)
    async with joined(1) as victim:
        net: Any = victim._net
        async with joined(2, net) as neighbour:
            await eventually(
                lambda: neighbour.view.get(victim.me) is not None and victim.view.get(neighbour.me), PATIENCE_S
            )
            sent = 0
            while sent < FRAMES:
                async with stranger() as host:
                    sent += await attack(host, net, protocol, rng, WALL + trio.current_time())
                with trio.fail_after(PATIENCE_S):
                    assert await ask(neighbour, victim.me) == b"hello"
            async with joined(3, net) as late:
                await eventually(lambda: knows_all(late, victim.me, neighbour.me), PATIENCE_S)
                assert await ask(late, victim.me) == b"hello"
        assert (victim.faults, net.restarts) == (0, 0)
        if protocol == LINK_PROTOCOL:  # it came past the multiplexer, and the machine saw it
            stats = victim._node.stats()
            assert victim.gossip_messages["records", "in"] > FRAMES / 20
            assert stats["forged"] > 0
            assert stats["records_new"] > 2
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def knows_all(swarm: Swarm, *peers: PeerId) -> bool:
    return all((record := swarm.view.get(peer)) is not None and record.advert is not None for peer in peers)
