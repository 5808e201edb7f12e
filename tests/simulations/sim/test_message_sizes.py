"""The bytes that a message is charged are those that it has on the wire, for every kind there is."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.statements.envelope import Envelope, parse, seal
from protocol.statements.keys import Ed25519Signer
from protocol.wire.messages import (
    Contact,
    DhtQuery,
    DhtReply,
    DhtStore,
    Digest,
    Doubt,
    FreshLoad,
    Full,
    NodeMessage,
    Records,
    Watch,
    encode,
)
from simulations.sim.message_sizes import message_bytes

SIGNER = Ed25519Signer(b"s" * 32)
#: Bytes that an envelope has around what it says.
AROUND = len(seal(SIGNER, 1, (1, 1), 1.0, 1, b"").wire)


def envelope(size: int) -> Envelope:
    """A statement of so many bytes on the wire."""
    return parse(seal(SIGNER, 1, (1, size), 1.0, 1, bytes(size - AROUND)).wire)


keys = st.binary(min_size=32, max_size=32)
numbers = st.integers(0, (1 << 32) - 1)
versions = st.integers(0, (1 << 48) - 1)
sizes = st.integers(AROUND, 2048) | st.sampled_from([AROUND, 253, 254, 255, 256, 257, 1023, 2047, 2048])
contacts = st.builds(Contact, keys, st.lists(st.text(max_size=40), max_size=4).map(tuple))
kinds: dict[Any, st.SearchStrategy[Any]] = {
    Records: st.lists(sizes.map(envelope), max_size=40).map(lambda held: Records(tuple(held))),
    Digest: st.builds(
        Digest,
        st.integers(0, 256).map(lambda n: bytes(8 * n)),
        st.lists(st.integers(0, 255), max_size=30).map(tuple),
        st.lists(st.tuples(st.integers(1, 2), keys, numbers, versions), max_size=30).map(tuple),
        st.booleans(),
    ),
    Doubt: st.builds(Doubt, keys, numbers, numbers),
    DhtQuery: st.builds(DhtQuery, numbers, keys, st.booleans()),
    DhtReply: st.builds(
        DhtReply,
        numbers,
        st.lists(contacts, max_size=20).map(tuple),
        st.lists(sizes.map(lambda size: envelope(size).wire), max_size=5).map(tuple),
    ),
    DhtStore: st.builds(DhtStore, keys, sizes.map(lambda size: envelope(size).wire)),
    Watch: st.builds(Watch, st.booleans()),
    FreshLoad: st.builds(
        FreshLoad, numbers, numbers, numbers, numbers, st.integers(0, 1000), st.integers(0, 3), numbers
    ),
    Full: st.just(Full()),
}


def test_there_is_no_other_kind() -> None:
    assert set(kinds) == set(get_args(NodeMessage))


@pytest.mark.slow
@given(st.one_of(*kinds.values()))
def test_a_message_is_charged_what_it_has(message: NodeMessage) -> None:
    assert message_bytes(message) == len(encode(message))


def test_short_and_long_statements_many_and_few() -> None:
    for size in (AROUND, 255, 256, 2048):
        for count in (0, 1, 15, 16, 17, 100):
            message = Records((envelope(size),) * count)
            assert message_bytes(message) == len(encode(message)), (size, count)
