"""The frame decoder: plain data bypasses the library, everything else is read by it, byte for byte."""

from __future__ import annotations

import struct
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from noise.connection import NoiseConnection
from noise.exceptions import NoiseInvalidMessage, NoiseMaxNonceError

from p2pnode.swarm.frame_decoder import BufferedPackets, FrameDecoder, ciphers


def frame(kind: int, flags: int, stream: int, length: int, body: bytes = b"") -> bytes:
    return struct.pack("!BBHII", 0, kind, flags, stream, length) + body


def plain(stream: int, body: bytes) -> bytes:
    return frame(0, 0, stream, len(body), body)


class Stuff:
    """A socket that has these packets, and a session that seals nothing."""

    def __init__(self, *packets: bytes, rest: bytes = b"", refused: int = 99) -> None:
        self.data = b"".join(struct.pack("!H", len(packet)) + packet for packet in packets)
        self.delivered: list[tuple[int, bytes]] = []
        session = SimpleNamespace(tcp="the socket", _drain=lambda _: rest)
        session.conn = SimpleNamespace(encrypt=bytes, decrypt=bytes, read_writer=BufferedPackets(self))
        self.refused = refused
        self.decoder: Any = FrameDecoder(session, self.deliver)

    def deliver(self, stream: int, data: bytes) -> bool:
        if stream != self.refused:
            self.delivered.append((stream, data))
        return stream != self.refused

    async def read(self, n: int) -> bytes:
        await trio.lowlevel.checkpoint()
        data, self.data = self.data[:n], self.data[n:]
        return data


async def test_plain_data_passes_the_library_by() -> None:
    stuff = Stuff(plain(1, b"one") + plain(1, b"two"), plain(3, b"three"), frame(2, 1, 0, 7))
    assert await stuff.decoder.read(12) == frame(2, 1, 0, 7)
    assert stuff.delivered == [(1, b"one"), (1, b"two"), (3, b"three")]
    with pytest.raises(IncompleteReadError):
        await stuff.decoder.read(12)


@pytest.mark.parametrize(
    "odd",
    [
        frame(0, 1, 1, 4, b"syn!"),
        frame(0, 4, 1, 4, b"fin!"),
        plain(99, b"what is refused"),
        frame(1, 0, 1, 1000),
        frame(1, 8, 1, 0),
        frame(3, 0, 0, 1),
        frame(9, 0, 1, 1 << 31),
        frame(0, 0, 1, 0),
    ],
)
async def test_everything_else_is_read_by_the_library(odd: bytes) -> None:
    stuff = Stuff(plain(1, b"before") + odd + plain(1, b"after"), frame(2, 1, 0, 7))
    assert await stuff.decoder.read(12) == odd[:12]
    if odd[12:]:
        assert await stuff.decoder.read(len(odd) - 12) == odd[12:]
    assert stuff.delivered == [(1, b"before")]
    assert await stuff.decoder.read(12) == frame(2, 1, 0, 7)
    assert stuff.delivered == [(1, b"before"), (1, b"after")]


async def test_a_body_in_pieces_is_read_by_the_library() -> None:
    """That puts a deadline on it."""
    whole = plain(1, b"x" * 100)
    stuff = Stuff(whole[:5], whole[5:40], whole[40:] + plain(1, b"after"), frame(2, 1, 0, 7))
    assert await stuff.decoder.read(12) == whole[:12]
    assert await stuff.decoder.read(100) == b"x" * 100
    assert await stuff.decoder.read(12) == frame(2, 1, 0, 7)
    assert stuff.delivered == [(1, b"after")]


async def test_a_body_in_crumbs_is_put_together_once() -> None:
    """Not for every crumb, or a peer could make this node copy the square of what it sends."""
    size, count = 50_000, 2_000
    stuff = Stuff(frame(0, 0, 1, size), b"x" * (size - count), *[b"y"] * count, frame(2, 1, 0, 7))
    decoder, seen, copied = stuff.decoder, b"", 0

    def opened(data: bytes) -> bytes:
        nonlocal seen, copied
        if decoder._rest is not seen:
            seen = decoder._rest
            copied += len(seen)
        return bytes(data)

    decoder._open = opened
    assert await decoder.read(12) == frame(0, 0, 1, size)
    assert await decoder.read(size) == b"x" * (size - count) + b"y" * count
    assert await decoder.read(12) == frame(2, 1, 0, 7)
    assert copied <= 2 * size


async def test_what_the_session_had_read_already_comes_first() -> None:
    whole = plain(1, b"early") + frame(2, 1, 0, 7)
    stuff = Stuff(whole[20:], rest=whole[:20])
    assert stuff.decoder.tcp == "the socket"
    assert await stuff.decoder.read(12) == frame(2, 1, 0, 7)
    assert stuff.delivered == [(1, b"early")]


async def test_an_empty_packet_ends_it() -> None:
    with pytest.raises(ConnectionClosedError):
        await Stuff(b"").decoder.read(12)


@pytest.mark.parametrize("piece", [plain(1, b"x"), frame(2, 1, 0, 7)])
async def test_a_flood_is_not_one_long_turn(piece: bytes) -> None:
    stuff = Stuff(*[piece] * 2000, b"")
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        with suppress(ConnectionClosedError):
            while True:
                await stuff.decoder.read(12)
        nursery.cancel_scope.cancel()
    assert stuff.data == b""
    assert turns >= 2000 // 40


def test_what_is_too_long_for_a_packet_leaves_in_several() -> None:
    data = bytes(range(256)) * 600
    sealed = Stuff().decoder.seal(data)
    pieces = []
    while sealed:
        size = int.from_bytes(sealed[:2], "big")
        pieces.append(sealed[2 : 2 + size])
        sealed = sealed[2 + size :]
    assert b"".join(pieces) == data
    assert [len(piece) for piece in pieces] == [65519, 65519, len(data) - 2 * 65519]


def test_packets_are_sealed_as_the_library_does_and_a_changed_one_is_refused() -> None:
    ours, theirs = (NoiseConnection.from_name(b"Noise_NN_25519_ChaChaPoly_SHA256") for _ in range(2))
    ours.set_as_initiator()
    theirs.set_as_responder()
    ours.start_handshake()
    theirs.start_handshake()
    theirs.read_message(ours.write_message())
    ours.read_message(theirs.write_message())
    seal, unseal = ciphers(ours.noise_protocol)
    for size in (0, 1, 300):
        assert theirs.decrypt(seal(b"x" * size)) == b"x" * size
        assert unseal(theirs.encrypt(b"y" * size)) == b"y" * size
    with pytest.raises(NoiseInvalidMessage):
        unseal(bytes(20))
    for asked_again in (ours.encrypt, ours.decrypt):  # no number is used twice
        with pytest.raises(NoiseMaxNonceError):
            asked_again(bytes(20))
