"""Encodes values to bytes and decodes them under limits; msgpack from other nodes is decoded only here.

The framing (``mux``) has checked the length before.  Unpacking limits every container, because 1 MiB of empty maps
would otherwise become 77 MB of objects.  ``msgspec.convert`` then returns a typed, frozen value or raises.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgpack
import msgspec

from protocol.errors import BadFrame

T = TypeVar("T")

#: Largest message outside a job, bytes; a push of records is limited to it.
MAX_MESSAGE_BYTES: Final = 64 * 1024
MAX_ARRAY: Final = 1024
MAX_STRING: Final = 4096

_encoder = msgspec.msgpack.Encoder()


def pack(value: msgspec.Struct) -> bytes:
    """Encode one of our structs (msgpack)."""
    return _encoder.encode(value)


def _finite(value: object) -> bool:
    """Whether all numbers in an unpacked value are finite; its only containers are tuples."""
    if type(value) is float:
        return value - value == 0.0
    if type(value) is tuple:
        for item in value:  # no generator, because this runs for every value of every message
            kind = type(item)
            if (kind is tuple or kind is float) and not _finite(item):
                return False
    return True


def unpack(data: bytes, kind: type[T]) -> T:
    """Decode into ``kind``; raises ``BadFrame`` unless the data is one well-formed, finite value of that type."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise BadFrame(f"a message of {len(data)} bytes")
    try:
        raw = msgpack.unpackb(
            data,
            raw=False,
            use_list=False,
            strict_map_key=True,
            max_array_len=MAX_ARRAY,
            max_map_len=0,
            max_str_len=MAX_STRING,
            max_bin_len=MAX_MESSAGE_BYTES,
            max_ext_len=0,
        )
        if not _finite(raw):
            raise BadFrame("not a finite number")
        return msgspec.convert(raw, kind)
    except (
        ValueError,
        TypeError,
        RecursionError,
        OverflowError,
        msgpack.UnpackException,
        msgspec.ValidationError,
    ) as e:
        raise BadFrame(str(e)[:200]) from None
