"""Ids of peers, jobs and models, and their text forms.

A ``PeerId`` is the raw Ed25519 public key (32 bytes).  Its text form is the libp2p peer id of that key, so the
identity that signs statements is the identity that Noise proves (libp2p specs, ``peer-ids/peer-ids.md``).
Not here: signatures (``statements/keys``).
"""

from __future__ import annotations

import hashlib
from typing import NewType

from protocol.errors import InvalidPeerId

PeerId = NewType("PeerId", bytes)
JobId = NewType("JobId", bytes)
ModelId = NewType("ModelId", bytes)

PEER_ID_BYTES = 32
JOB_ID_BYTES = 16
MODEL_ID_BYTES = 16

#: Multihash "identity", 36 bytes long, then the protobuf header of an Ed25519 public key (libp2p specs, peer-ids).
_LIBP2P_PREFIX = bytes((0x00, 0x24, 0x08, 0x01, 0x12, 0x20))
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS = {character: value for value, character in enumerate(_ALPHABET)}


def base58_encode(data: bytes) -> str:
    """Base58 in Bitcoin's alphabet; leading zero bytes become leading ``1``."""
    number = int.from_bytes(data, "big")
    text = ""
    while number:
        number, digit = divmod(number, 58)
        text = _ALPHABET[digit] + text
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + text


def base58_decode(text: str) -> bytes:
    """Inverse of :func:`base58_encode`; raises ``InvalidPeerId`` for a character outside the alphabet."""
    number = 0
    for character in text:
        if character not in _DIGITS:
            raise InvalidPeerId(f"{character!r} is not a base58 character")
        number = number * 58 + _DIGITS[character]
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")


def libp2p_bytes(peer: PeerId) -> bytes:
    """The 38 bytes of the libp2p peer id of this key."""
    return _LIBP2P_PREFIX + peer


def peer_text(peer: PeerId) -> str:
    """The libp2p peer id as text (``12D3KooW…``), 52 characters."""
    return base58_encode(libp2p_bytes(peer))


def peer_from_libp2p(data: bytes) -> PeerId:
    """The key inside a libp2p peer id; raises ``InvalidPeerId`` unless it is an inlined Ed25519 key."""
    if len(data) != len(_LIBP2P_PREFIX) + PEER_ID_BYTES or not data.startswith(_LIBP2P_PREFIX):
        raise InvalidPeerId("not the peer id of an Ed25519 key")
    return PeerId(data[len(_LIBP2P_PREFIX) :])


def peer_from_text(text: str) -> PeerId:
    """Parse ``12D3KooW…``; raises ``InvalidPeerId``."""
    if len(text) > 64:
        raise InvalidPeerId("too long for a peer id")
    return peer_from_libp2p(base58_decode(text))


def short(peer: PeerId) -> str:
    """The last eight characters of the text form, for logs and tables."""
    return peer_text(peer)[-8:]


def model_id(family: str, revision: str, quantization: str, template_hash: str, context: int) -> ModelId:
    """Fingerprint of a served model: two peers with equal fingerprints should give equal answers.

    ``context`` is in tokens.  BLAKE2b-128 over the length-prefixed fields.
    """
    digest = hashlib.blake2b(digest_size=MODEL_ID_BYTES)
    for field in (family, revision, quantization, template_hash, str(context)):
        raw = field.encode()
        digest.update(len(raw).to_bytes(4, "big") + raw)
    return ModelId(digest.digest())


def name_key(name: str) -> ModelId:
    """The DHT key for providers of a model with this *name*, independent of its fingerprint.

    A caller knows names, not fingerprints, so providers are published under both.
    """
    return model_id(name, "", "", "", 0)
