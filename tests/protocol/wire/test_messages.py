"""Messages on the wire: every kind there and back, and nothing else gets in."""

from __future__ import annotations

import contextlib

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codec import MAX_MESSAGE_BYTES
from protocol.errors import BadEnvelope, BadFrame, RemoteProtocolError
from protocol.statements.adverts import Load
from protocol.statements.envelope import statement
from protocol.statements.keys import Ed25519Signer
from protocol.wire import messages as m

KEY = bytes(range(32))
JOB = bytes(range(16))
EVERY = [
    m.Hello(1, "open", "p2pnode/0.1", ("/ip4/1.2.3.4/tcp/1",), "1.2.3.4", ("a", "b")),
    m.Digest(bytes(2048), tuple(range(256)), ((1, KEY, 2, 3),) * 1024, True),
    m.Doubt(KEY, 1, 2),
    m.DhtQuery(1, KEY, True),
    m.DhtReply(1, (m.Contact(KEY, ("a",)),) * 20, (b"x",) * 20),
    m.DhtStore(KEY, b"sealed"),
    m.Watch(False),
    m.FreshLoad(1, 2, 3, 4, 5, 1, 6),
    m.Full(),
    m.JobRequest(JOB, "/v1/completions", "m", 10, True, True, 1, 2, 3),
    m.Accept(JOB, 1, 2, m.FreshLoad(1, 2, 3, 4, 5, 1, 6)),
    m.Busy(1, 2, 3, m.FreshLoad(1)),
    m.Refuse(400, "code", "message", "param", True, m.FreshLoad()),
    m.End("stop", 1, 2, bytes(32), "", bytes(64)),
]


@pytest.mark.parametrize("message", EVERY, ids=lambda message: type(message).__name__)
def test_there_and_back(message: m.Message) -> None:
    payload = m.encode(message)
    assert m.decode(m.kind_of(message), payload) == message
    assert len(payload) <= MAX_MESSAGE_BYTES


def test_records_travel_as_they_were_sealed() -> None:
    envelopes = tuple(statement(Ed25519Signer(bytes((i,)) * 32), Load(), (1, i), 1.8e9, 60) for i in range(3))
    sent = m.Records(envelopes)
    got = m.decode(m.kind_of(sent), m.encode(sent))
    assert isinstance(got, m.Records)
    assert [envelope.wire for envelope in got.envelopes] == [envelope.wire for envelope in envelopes]


@pytest.mark.parametrize("kind", [m.PING, m.BODY, m.DELTA, 19, 255, -1])
def test_other_kinds_are_no_messages(kind: int) -> None:
    with pytest.raises(BadFrame, match="kind"):
        m.decode(kind, b"\x90")


def test_too_long_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(BadFrame, match="bytes"):
        m.decode(m.RECORDS, bytes(MAX_MESSAGE_BYTES + 1))


@pytest.mark.parametrize(
    "raw",
    [[[b"x"]], [[bytes(200)]], [[b"\x01\x01" + bytes(118)]]],
    ids=["short", "zeros", "no ttl"],
)
def test_a_record_with_a_wrong_header_is_a_bad_envelope(raw: list[object]) -> None:
    with pytest.raises(BadEnvelope):
        m.decode(m.RECORDS, msgpack.packb(raw))


@pytest.mark.parametrize("raw", [[[bytes(4097)]], [[b""] * 513], ["x"], []])
def test_too_many_or_too_long_records_are_a_bad_frame(raw: list[object]) -> None:
    with pytest.raises(BadFrame):
        m.decode(m.RECORDS, msgpack.packb(raw))


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 40), st.binary(max_size=300))
def test_anything_gives_a_message_or_an_error_of_the_peer(kind: int, payload: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        m.decode(kind, payload)
