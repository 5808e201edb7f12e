"""Bytes to values under limits: whatever comes in, a typed value or ``BadFrame`` comes out."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codec import MAX_ARRAY, MAX_MESSAGE_BYTES, MAX_STRING, pack, unpack
from protocol.errors import BadFrame
from protocol.statements.adverts import Advert, Load


class Sample(msgspec.Struct, frozen=True, array_like=True):
    number: float = 0.0
    many: tuple[float, ...] = ()


def test_there_and_back() -> None:
    assert unpack(pack(Sample(1.5, (2.0, 3.0))), Sample) == Sample(1.5, (2.0, 3.0))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\xc0",
        b"\x91\x01\x01",
        b"\x91" * 2000 + b"\x01",
        b"\x91" * (MAX_MESSAGE_BYTES - 1) + b"\x01",
        b"\x81\x01\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\xc7\x00\x01",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xa1\xff",
        msgpack.packb([1.0, ["x"]]),
        msgpack.packb([True]),
        msgpack.packb([1.0, [0.0] * (MAX_ARRAY + 1)]),
        msgpack.packb([1.0, [], "x" * (MAX_STRING + 1)]),
        msgpack.packb([1.0, [], {"a": 1}]),
        msgpack.packb([2**64 - 1, [float("nan")]]),
        msgpack.packb([float("inf")]),
        msgpack.packb([0.0, [[float("-inf")]]]),
        bytes(MAX_MESSAGE_BYTES + 1),
    ],
    ids=range(22),
)
def test_hostile_bytes_are_a_bad_frame(data: bytes) -> None:
    with pytest.raises(BadFrame):
        unpack(data, Sample)


class Carrier(msgspec.Struct, frozen=True, array_like=True):
    content: Any


@pytest.mark.parametrize(
    ("largest", "too_large"),
    [
        (bytes(65_536 - 4), bytes(65_536 - 3)),  # one byte for the array, three for the length of the bytes
        ("s" * 4096, "s" * 4097),
        ((0,) * 1024, (0,) * 1025),
    ],
    ids=["message", "text", "array"],
)
def test_the_limits_are_those_of_the_protocol(largest: object, too_large: object) -> None:
    """64 KiB a message, 4,096 bytes a text, 1,024 items an array: other implementations rely on these numbers."""
    fits = Carrier(largest)
    assert unpack(pack(fits), Carrier) == fits
    with pytest.raises(BadFrame):
        unpack(pack(Carrier(too_large)), Carrier)


def test_fields_of_a_newer_version_are_ignored() -> None:
    assert unpack(msgpack.packb([1.0, [2.0], "new", [1, [2]], b"raw"]), Sample) == Sample(1.0, (2.0,))


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200))
def test_anything_gives_a_value_or_a_bad_frame(data: bytes) -> None:
    for kind in (Advert, Load, Sample):
        with contextlib.suppress(BadFrame):
            assert isinstance(unpack(data, kind), kind)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=20)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@settings(deadline=None, max_examples=300)
@given(st.lists(JSON, max_size=14))
def test_any_msgpack_gives_a_value_or_a_bad_frame(raw: list[object]) -> None:
    with contextlib.suppress(BadFrame):
        unpack(msgpack.packb(raw), Advert)
