"""This version and 0.1.0 read each other's messages and statements: fields are appended, with defaults, and ignored."""

from __future__ import annotations

import msgpack
import msgspec
import pytest

from protocol.codec import pack, unpack
from protocol.statements.adverts import Advert, Gpu, Load, ModelOffer, Provider
from protocol.wire import messages as m
from tests.protocol.wire.test_messages import EVERY
from tests.protocol.wire.version_0_1_0 import FIELDS, PLAIN, STATEMENTS, as_0_1_0

GPU = Gpu("RTX 4090", 2, 24_564, 1008.0, 165.0, 165.0, 330.0, 660.0, 0.0, 8.9, 25.0)
OFFER = ModelOffer("m", bytes(16), 1, 8192, "fp8", ("tools",), 0.1, 0.2, 9000, 8.0)
SAID = [
    Advert(1, "n", "r", "o", "cuda", "550", (GPU,), (OFFER,), ("/ip4/203.0.113.1/tcp/4411",), "vllm", "0.1.0"),
    Load(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, True, 90),
    Provider(bytes(16), ("/ip4/203.0.113.1/tcp/4411",)),
]


def known(value: object, names: tuple[str, ...]) -> list[object]:
    return [getattr(value, name) for name in names]


@pytest.mark.parametrize("message", EVERY, ids=lambda message: type(message).__name__)
def test_a_message_of_0_1_0_is_read(message: m.Message) -> None:
    kind = m.kind_of(message)
    if kind not in FIELDS:
        pytest.skip("0.1.0 does not know this message")
    short = as_0_1_0(kind, m.encode(message))
    assert short is not None
    assert len(msgpack.unpackb(short)) == len(FIELDS[kind])
    assert known(m.decode(kind, short), FIELDS[kind]) == known(message, FIELDS[kind])


@pytest.mark.parametrize("message", EVERY, ids=lambda message: type(message).__name__)
def test_what_a_later_version_appends_is_ignored(message: m.Message) -> None:
    kind = m.kind_of(message)
    longer = msgpack.packb([*msgpack.unpackb(m.encode(message)), "of the future", [1, b"x"]])
    assert m.decode(kind, longer) == message


@pytest.mark.parametrize("kind", FIELDS)
def test_fields_stand_where_0_1_0_reads_them(kind: int) -> None:
    names = [field.name for field in msgspec.structs.fields(m._TYPES[kind])] if kind != m.RECORDS else ["wires"]
    assert tuple(names[: len(FIELDS[kind])]) == FIELDS[kind]


@pytest.mark.parametrize("kind", STATEMENTS, ids=lambda kind: kind.__name__)
def test_statements_only_grow_at_their_end_and_by_defaults(kind: type[msgspec.Struct]) -> None:
    fields, names = msgspec.structs.fields(kind), STATEMENTS[kind]  # type: ignore[index]
    assert tuple(field.name for field in fields[: len(names)]) == names
    assert not any(field.required for field in fields[len(names) :])


@pytest.mark.parametrize("value", SAID, ids=lambda value: type(value).__name__)
def test_a_statement_of_0_1_0_is_read_and_a_longer_one_too(value: Advert | Load | Provider) -> None:
    array = msgpack.unpackb(pack(value))
    names = STATEMENTS[type(value)]
    assert known(unpack(msgpack.packb(array[: len(names)]), type(value)), names) == known(value, names)
    assert unpack(msgpack.packb([*array, "of the future"]), type(value)) == value


def test_0_1_0_passes_over_other_kinds_between_nodes_and_gets_none_of_a_job() -> None:
    assert as_0_1_0(31, b"\x90") is None
    assert all(as_0_1_0(kind, b"payload") == b"payload" for kind in PLAIN)
    with pytest.raises(AssertionError, match="does not know"):
        as_0_1_0(40, b"\x90")
