"""Signs and verifies with Ed25519 (RFC 8032), and numbers the kinds of signed statements.

Not here: the layout of a statement (``envelope``) and the storage of a key (``p2pnode.state.keys``).
"""

from __future__ import annotations

from typing import Final, Protocol

import nacl.bindings
import nacl.exceptions

from protocol.errors import LocalProtocolError
from protocol.ids import PEER_ID_BYTES, PeerId

SIGNATURE_BYTES: Final = 64

ADVERT: Final = 1
LOAD: Final = 2
PROVIDER: Final = 3


class Signer(Protocol):
    """The holder of a private key."""

    @property
    def peer_id(self) -> PeerId: ...

    def sign(self, message: bytes) -> bytes:
        """64 bytes of Ed25519 signature."""
        ...


class Ed25519Signer:
    """A key in memory, made from its 32-byte seed."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise LocalProtocolError("an Ed25519 seed has 32 bytes")
        public, self._secret = nacl.bindings.crypto_sign_seed_keypair(seed)
        self._peer_id = PeerId(public)

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    def sign(self, message: bytes) -> bytes:
        return nacl.bindings.crypto_sign(message, self._secret)[:SIGNATURE_BYTES]


def verify(author: PeerId, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is the author's over ``message``; never raises for hostile input."""
    if len(author) != PEER_ID_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        nacl.bindings.crypto_sign_open(signature + message, author)
    except nacl.exceptions.BadSignatureError:
        return False
    return True
