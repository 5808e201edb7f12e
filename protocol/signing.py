"""Signed statements: what a node says of itself, sealed so that anyone can relay it and nobody can change it.

Layout of the wire form (all integers big-endian), 120 bytes and the payload::

    version u8 | kind u8 | author 32 | inc u64 | seq u32 | issued u64 (ms, Unix) | ttl u16 (s) | signature 64 | payload

The signature (Ed25519, RFC 8032) is over ``domain(kind) || header || payload``: the bytes as received, never a
re-encoding, and never the same under another domain.  Order of validation: length, header, signature; the payload is
decoded by the caller, after the signature held (libp2p RFC 0002 discards without deserialising, too).

Not here: what a payload means (``adverts``), which statement is newer than which (``gossip``).
"""

from __future__ import annotations

import functools
import hashlib
import struct
from typing import TYPE_CHECKING, Any, Final, Protocol

import nacl.bindings
import nacl.exceptions

from protocol.errors import BadEnvelope, LocalProtocolError, StaleStatement
from protocol.ids import PEER_ID_BYTES, PeerId

if TYPE_CHECKING:
    from protocol.adverts import Advert, Load, Provider
    from protocol.freshness import Seen

ENVELOPE_VERSION: Final = 1
_HEADER = struct.Struct(">BB32sQIQH")
SIGNATURE_BYTES: Final = 64
OVERHEAD_BYTES: Final = _HEADER.size + SIGNATURE_BYTES
#: Longest payload of any statement; with the overhead a record stays under 4 KiB (DESIGN 3.1).
MAX_PAYLOAD_BYTES: Final = 4096 - OVERHEAD_BYTES
#: Longest life a statement may claim, seconds (threat model: a replayed statement lives no longer than this).
MAX_TTL_S: Final = 3600
#: Statements that :func:`parse_again` remembers (guess: 10 MB at most).
_REMEMBERED: Final = 8192
#: Authors of statements, of either kind, of whom every statement has the same key object (guess: all marks of a node;
#: measured: 18 MB at most): what is looked up for every statement received is then found by identity.
_AUTHORS: Final = 65536
#: The last incarnation.
MAX_INC: Final = (1 << 64) - 1

ADVERT: Final = 1
LOAD: Final = 2
PROVIDER: Final = 3
_DOMAINS: Final = {
    ADVERT: b"p2pnode/advert/1\0",
    LOAD: b"p2pnode/load/1\0",
    PROVIDER: b"p2pnode/provider/1\0",
}
#: The END of a job is signed under a domain of its own; it never travels in an envelope.
END_DOMAIN: Final = b"p2pnode/end/1\0"


class Signer(Protocol):
    """Whoever holds a private key."""

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


@functools.lru_cache(_AUTHORS)
def _key(author: PeerId, kind: int) -> tuple[PeerId, int]:
    return author, kind


class Envelope:
    """One statement, parsed as far as its fixed header.  Immutable by convention and shared between all who hold it.

    ``issued`` is seconds since the epoch by the author's clock, ``ttl`` seconds, ``key`` what marks are kept under.
    :meth:`check` verifies the signature once and remembers the result on the object, so that a simulation of ten
    thousand holders of the same object verifies it once; ``value`` (what it says, once ``adverts`` has decoded it),
    ``tag``, and ``seen`` (the last mark of those who do not hold it) are remembered for the same reason.
    """

    __slots__ = (
        "_tag",
        "_verified",
        "author",
        "inc",
        "issued",
        "key",
        "kind",
        "payload",
        "seen",
        "seq",
        "ttl",
        "value",
        "wire",
    )

    def __init__(
        self, kind: int, author: PeerId, inc: int, seq: int, issued: float, ttl: int, payload: bytes, wire: bytes
    ) -> None:
        self.kind = kind
        #: A pair of author and kind; said to be anything so that compiled code, too, keeps the one object of the pair.
        self.key: Any = _key(author, kind)
        self.author: PeerId = self.key[0]
        self.inc = inc
        self.seq = seq
        self.issued = issued
        self.ttl = ttl
        self.payload = payload
        self.wire = wire
        self.value: Advert | Load | Provider | None = None
        self.seen: Seen | None = None
        self._verified: bool | None = None
        self._tag = 0

    @property
    def version(self) -> tuple[int, int]:
        """``(inc, seq)``: the order of one author's statements of one kind."""
        return (self.inc, self.seq)

    @property
    def body(self) -> bytes:
        """What is signed: header and payload, without the signature."""
        return self.wire[: _HEADER.size] + self.payload

    @property
    def tag(self) -> int:
        """The hash of kind, author and version, 64 bits and never 0: what digests are made of."""
        if not self._tag:
            digest = hashlib.blake2b(self.wire[1:46], digest_size=8).digest()  # kind, author, inc, seq
            self._tag = int.from_bytes(digest, "big") or 1
        return self._tag

    def check(self) -> bool:
        """Whether the signature holds over the bytes received; that of an unknown kind never does."""
        if self._verified is None:
            header = self.wire[: _HEADER.size]
            signature = self.wire[_HEADER.size : OVERHEAD_BYTES]
            domain = _DOMAINS.get(self.kind)
            self._verified = domain is not None and verify(self.author, domain + header + self.payload, signature)
        return self._verified


def seal(signer: Signer, kind: int, version: tuple[int, int], issued: float, ttl: int, payload: bytes) -> Envelope:
    """Sign ``payload``; raises ``LocalProtocolError`` where the result would be refused by everybody."""
    if kind not in _DOMAINS:
        raise LocalProtocolError(f"no statement of kind {kind}")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise LocalProtocolError(f"a statement of {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} can be sent")
    if not 0 < ttl <= MAX_TTL_S:
        raise LocalProtocolError(f"a ttl of {ttl} s; it has to be 1 to {MAX_TTL_S}")
    inc, seq = version
    if not (0 <= inc <= MAX_INC and 0 <= seq < 1 << 32 and 0 <= issued * 1000 < 1 << 63):
        raise LocalProtocolError(f"version {version} or time {issued} out of range")
    header = _HEADER.pack(ENVELOPE_VERSION, kind, signer.peer_id, inc, seq, round(issued * 1000), ttl)
    signature = signer.sign(_DOMAINS[kind] + header + payload)
    envelope = parse(header + signature + payload)
    envelope._verified = True
    return envelope


def parse(wire: bytes) -> Envelope:
    """Read the header of a statement; raises ``BadEnvelope``.  The signature is *not* yet checked.

    A kind that this version does not know is no error: a newer node may have made it, and its relayer understood it.
    """
    if not OVERHEAD_BYTES <= len(wire) <= OVERHEAD_BYTES + MAX_PAYLOAD_BYTES:
        raise BadEnvelope(f"{len(wire)} bytes")
    version, kind, author, inc, seq, issued_ms, ttl = _HEADER.unpack_from(wire)
    if version != ENVELOPE_VERSION:
        raise BadEnvelope(f"version {version}")
    if not 0 < ttl <= MAX_TTL_S:
        raise BadEnvelope(f"ttl {ttl} s")
    return Envelope(kind, PeerId(author), inc, seq, issued_ms / 1000, ttl, wire[OVERHEAD_BYTES:], bytes(wire))


#: ``parse`` for statements that come again and again, as those of the DHT do: the same bytes give the same object, on
#: which signature and value are remembered.
parse_again: Final = functools.lru_cache(_REMEMBERED)(parse)


def remaining_s(envelope: Envelope, wall: float, skew_s: float) -> float:
    """How long to keep a statement that arrives now, seconds, to be counted on the receiver's monotonic clock.

    ``wall`` is our clock (Unix seconds), ``skew_s`` the error of the author's that is tolerated (DESIGN 2.1).
    Raises ``StaleStatement``, for which nobody is to blame: too old, or from the future.
    """
    left = envelope.issued + envelope.ttl - wall + skew_s
    if left <= 0:
        raise StaleStatement(f"expired {-left:.0f} s ago")
    if envelope.issued > wall + skew_s:
        raise StaleStatement(f"issued {envelope.issued - wall:.0f} s in the future")
    return min(float(envelope.ttl), left)
