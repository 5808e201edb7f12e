"""What nodes say of themselves: there and back, bounded, and readable by older versions."""

from __future__ import annotations

import msgpack
import msgspec
import pytest

from protocol.errors import BadEnvelope, UnknownStatement
from protocol.statements.adverts import MAX_MODELS, Advert, Gpu, Load, ModelOffer, ModelState, Provider, Status, offers
from protocol.statements.envelope import parse, read, seal, statement
from protocol.statements.keys import ADVERT, LOAD, Ed25519Signer
from tests.protocol.harness import advert_of

SIGNER = Ed25519Signer(bytes(32))
WALL = 1_800_000_000.0


@pytest.mark.parametrize(
    "value",
    [
        advert_of(3),
        Advert(1),
        Load(),
        Load(int(Status.LEFT), 1, 2, 3, 4, 5, 6, 7, 8, 9, True, 11),
        Provider(bytes(16), ("a",)),
    ],
)
def test_there_and_back(value: Advert | Load | Provider) -> None:
    assert read(parse(statement(SIGNER, value, (1, 2), WALL, 60).wire)) == value


def test_sizes_are_what_the_design_says() -> None:
    assert len(statement(SIGNER, advert_of(3), (1, 1), WALL, 120).wire) < 1400
    busy = Load(1, 80_000, 12, 8, 32, 734, 65_536, 4_210, 99, 78, True, 92)
    assert len(statement(SIGNER, busy, (1_800_000_000, 4_000_000), WALL, 3600).wire) <= 200


def test_properties() -> None:
    warm = ModelOffer("a", bytes(16))
    cold = ModelOffer("b", b"1" * 16, state=int(ModelState.ON_DISK))
    advert = Advert(1, gpus=(Gpu("x", 2, 100), Gpu("y", 1, 50)), models=(warm, cold))
    assert advert.vram_mib == 250
    assert advert.offer("b") is cold
    assert advert.offer("c") is None
    assert (warm.warm, cold.warm) == (True, False)
    assert offers(advert) == {bytes(16): warm, b"1" * 16: cold}


def test_a_newer_version_with_more_fields_is_understood() -> None:
    raw = [*msgspec.to_builtins(advert_of(1)), "a new field", [1, 2, 3]]
    raw[6] = [[*gpu, "new"] for gpu in raw[6]]
    raw[7] = [[*model, 1.0, b"new"] for model in raw[7]]
    envelope = seal(SIGNER, ADVERT, (1, 1), WALL, 60, msgpack.packb(raw))
    assert read(envelope) == advert_of(1)


@pytest.mark.parametrize(
    "raw",
    [
        [],
        [0],
        [1, "x" * 65],
        [1, "", "", "", "", "", [], [["m", bytes(16)]] * (MAX_MODELS + 1)],
        [1, "", "", "", "", "", [], [["m", bytes(15)]]],
        [1, "", "", "", "", "", [], [], ["/ip4/1.2.3.4/tcp/1"] * 5],
        [1, "", "", "", "", "", [["gpu", 0]]],
        [1, "", "", "", "", "", [["gpu", 1, -1]]],
    ],
)
def test_claims_out_of_range_are_refused_though_signed(raw: list[object]) -> None:
    with pytest.raises(UnknownStatement):
        read(seal(SIGNER, ADVERT, (1, 1), WALL, 60, msgpack.packb(raw)))


def test_content_is_not_looked_at_before_the_signature() -> None:
    wire = bytearray(seal(SIGNER, LOAD, (1, 1), WALL, 60, b"\xc1 not msgpack").wire)
    wire[60] ^= 1
    with pytest.raises(BadEnvelope, match="signature"):
        read(parse(bytes(wire)))
