"""Identities: text and bytes, there and back, and what is not one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import InvalidPeerId
from protocol.ids import (
    PeerId,
    base58_decode,
    base58_encode,
    libp2p_bytes,
    model_id,
    name_key,
    peer_from_libp2p,
    peer_from_text,
    peer_text,
    short,
)
from protocol.statements.keys import Ed25519Signer

PEER = Ed25519Signer(bytes(32)).peer_id


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60))
def test_base58_is_reversible(data: bytes) -> None:
    assert base58_decode(base58_encode(data)) == data


def test_base58_agrees_with_bitcoin() -> None:
    assert base58_encode(b"Hello World!") == "2NEpo7TZRRrLZSi2U"
    assert base58_encode(b"\0\0\x28\x7f\xb4\xcd") == "11233QC4"


def test_text_form_is_the_libp2p_peer_id() -> None:
    # RFC 8032, test 1: the public key that belongs to this seed.
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    peer = Ed25519Signer(seed).peer_id
    assert peer.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert peer_text(peer).startswith("12D3KooW")
    assert len(peer_text(peer)) == 52
    assert peer_from_text(peer_text(peer)) == peer
    assert peer_from_libp2p(libp2p_bytes(peer)) == peer
    assert peer_text(peer).endswith(short(peer))
    assert len(short(peer)) == 8


@pytest.mark.parametrize(
    "text",
    ["", "12D3KooW", "0OIl", "1" * 65, base58_encode(bytes(38)), peer_text(PEER)[:-1], "Qm" + "a" * 44],
)
def test_what_is_no_peer_id_is_refused_with_advice(text: str) -> None:
    with pytest.raises(InvalidPeerId, match="12D3KooW"):
        peer_from_text(text)


def test_a_longer_multihash_is_refused() -> None:
    with pytest.raises(InvalidPeerId):
        peer_from_libp2p(libp2p_bytes(PeerId(PEER + b"\0")))


def test_every_field_of_a_model_counts() -> None:
    base = ("llama", "main", "awq", "abc", 8192)
    ids = {model_id(*base)}
    for index, other in enumerate(("qwen", "dev", "fp8", "abd", 4096)):
        changed = list(base)
        changed[index] = other
        ids.add(model_id(*changed))  # type: ignore[arg-type]
    assert len(ids) == 6
    assert all(len(fingerprint) == 16 for fingerprint in ids)
    assert model_id("ab", "c", "", "", 1) != model_id("a", "bc", "", "", 1)


def test_a_name_has_a_key_of_its_own() -> None:
    assert len(name_key("llama")) == 16
    assert name_key("llama") == name_key("llama") != name_key("Llama")
    assert name_key("llama") != model_id("llama", "main", "", "", 0)
