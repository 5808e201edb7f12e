"""Signatures: Ed25519 as in RFC 8032, and hostile keys that do not raise."""

from __future__ import annotations

import pytest

from protocol.errors import LocalProtocolError
from protocol.ids import PeerId
from protocol.statements.keys import Ed25519Signer, verify

SIGNER = Ed25519Signer(bytes(32))


def test_a_seed_has_32_bytes() -> None:
    with pytest.raises(LocalProtocolError, match="32 bytes"):
        Ed25519Signer(bytes(31))


def test_ed25519_agrees_with_rfc_8032() -> None:
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    signature = Ed25519Signer(seed).sign(b"\x72")
    assert signature.hex().startswith("92a009a9f0d4cab8720e820b5f642540")
    assert verify(Ed25519Signer(seed).peer_id, b"\x72", signature)


def test_hostile_keys_and_signatures_do_not_raise() -> None:
    assert not verify(PeerId(b"short"), b"", bytes(64))
    assert not verify(SIGNER.peer_id, b"", bytes(63))
    for author in (bytes(32), b"\xff" * 32, b"\x01" + bytes(31)):  # small order, not on the curve, the neutral element
        assert not verify(PeerId(author), b"message", bytes(64))
