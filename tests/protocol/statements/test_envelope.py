"""Sealed statements: nothing but what was signed gets through (T-S1, T-S2)."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import BadEnvelope, LocalProtocolError, StaleStatement
from protocol.statements.envelope import MAX_PAYLOAD_BYTES, MAX_TTL_S, OVERHEAD_BYTES, parse, remaining_s, seal
from protocol.statements.keys import ADVERT, LOAD, PROVIDER, Ed25519Signer

SIGNER = Ed25519Signer(bytes(32))
WALL = 1_800_000_000.0


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from((ADVERT, LOAD, PROVIDER)),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(1, MAX_TTL_S),
    st.binary(max_size=MAX_PAYLOAD_BYTES),
)
def test_sealed_and_parsed_is_the_same(kind: int, inc: int, seq: int, ttl: int, payload: bytes) -> None:
    envelope = parse(seal(SIGNER, kind, (inc, seq), WALL, ttl, payload).wire)
    assert (envelope.kind, envelope.version, envelope.ttl, envelope.payload) == (kind, (inc, seq), ttl, payload)
    assert (envelope.author, envelope.issued) == (SIGNER.peer_id, WALL)
    assert envelope.check()
    assert len(envelope.wire) == OVERHEAD_BYTES + len(payload) <= 4096
    assert envelope.body == envelope.wire[:56] + payload


@pytest.mark.parametrize(
    ("kind", "version", "issued", "ttl", "payload"),
    [
        (9, (1, 1), WALL, 10, b""),
        (LOAD, (1, 1), WALL, 0, b""),
        (LOAD, (1, 1), WALL, MAX_TTL_S + 1, b""),
        (LOAD, (1, 1), WALL, 10, bytes(MAX_PAYLOAD_BYTES + 1)),
        (LOAD, (-1, 1), WALL, 10, b""),
        (LOAD, (2**64, 1), WALL, 10, b""),
        (LOAD, (1, 2**32), WALL, 10, b""),
        (LOAD, (1, 1), -1.0, 10, b""),
        (LOAD, (1, 1), 1e30, 10, b""),
    ],
)
def test_what_nobody_would_take_cannot_be_sealed(
    kind: int, version: tuple[int, int], issued: float, ttl: int, payload: bytes
) -> None:
    with pytest.raises(LocalProtocolError):
        seal(SIGNER, kind, version, issued, ttl, payload)


WIRE = seal(SIGNER, LOAD, (7, 8), WALL, 60, b"payload").wire


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        WIRE[: OVERHEAD_BYTES - 1],
        WIRE + bytes(4096),
        b"\x02" + WIRE[1:],
        WIRE[:54] + struct.pack(">H", 0) + WIRE[56:],
        WIRE[:54] + struct.pack(">H", MAX_TTL_S + 1) + WIRE[56:],
    ],
    ids=["empty", "short", "long", "version", "no ttl", "long ttl"],
)
def test_wrong_headers_are_refused_before_the_signature(wire: bytes) -> None:
    with pytest.raises(BadEnvelope):
        parse(wire)


def accepted(wire: bytes) -> bool:
    try:
        return parse(wire).check()
    except BadEnvelope:
        return False


@pytest.mark.slow
def test_ten_thousand_mutated_envelopes_and_none_is_accepted() -> None:
    rng = random.Random(1)
    wires = [
        seal(
            Ed25519Signer(bytes((i,)) * 32),
            rng.choice((ADVERT, LOAD, PROVIDER)),
            (i, i),
            WALL + i,
            60,
            bytes(rng.randbytes(9 * i)),
        ).wire
        for i in range(1, 21)
    ]
    assert all(accepted(wire) for wire in wires)
    for _ in range(10_000):
        wire = bytearray(rng.choice(wires))
        kind = rng.randrange(5)
        if kind == 0:  # one bit
            wire[rng.randrange(len(wire))] ^= 1 << rng.randrange(8)
        elif kind == 1:  # one byte
            position = rng.randrange(len(wire))
            wire[position] ^= rng.randrange(1, 256)
        elif kind == 2:  # cut
            del wire[rng.randrange(len(wire)) :]
        elif kind == 3:  # longer
            wire += rng.randbytes(rng.randrange(1, 40))
        else:  # the head of one statement, the tail of another
            other = rng.choice([w for w in wires if w != bytes(wire)])
            cut = rng.randrange(3, min(len(wire), OVERHEAD_BYTES))
            wire[cut:] = other[cut:]
        assert not accepted(bytes(wire))


def test_the_same_signature_under_another_domain_is_refused() -> None:
    for kind in (ADVERT, PROVIDER):
        assert not accepted(WIRE[:1] + bytes((kind,)) + WIRE[2:])
    raw = SIGNER.sign(WIRE[:56] + b"payload")  # without any domain
    assert not accepted(WIRE[:56] + raw + b"payload")


def test_a_kind_of_a_newer_version_is_read_and_never_believed() -> None:
    envelope = parse(WIRE[:1] + b"\x07" + WIRE[2:])
    assert envelope.kind == 7
    assert not envelope.check()


def test_the_result_is_remembered_on_the_object() -> None:
    envelope = parse(WIRE)
    assert envelope.check()
    envelope.wire = bytes(len(WIRE))
    assert envelope.check()


@pytest.mark.parametrize(
    ("age", "left"),
    [(0.0, 60.0), (60.0, 60.0), (119.0, 60.0), (170.0, 10.0), (-119.0, 60.0), (-120.0, 60.0)],
)
def test_a_clock_two_minutes_wrong_is_tolerated(age: float, left: float) -> None:
    assert remaining_s(parse(WIRE), WALL + age, 120.0) == pytest.approx(left)


@pytest.mark.parametrize("age", [180.0, 600.0, -121.0, -600.0, 1e9, -1e9])
def test_a_clock_further_off_is_stale_and_nobody_is_blamed(age: float) -> None:
    with pytest.raises(StaleStatement) as caught:
        remaining_s(parse(WIRE), WALL + age, 120.0)
    assert caught.value.blame == 0
