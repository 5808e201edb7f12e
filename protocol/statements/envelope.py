"""Signed statements: every node can relay them, and only their author can make them.

Layout of the wire form (all integers big-endian), 120 bytes and the payload::

    version u8 | kind u8 | author 32 | inc u64 | seq u32 | issued u64 (ms, Unix) | ttl u16 (s) | signature 64 | payload

The signature (Ed25519, RFC 8032) covers ``domain(kind) || header || payload``, in the bytes as received and never
re-encoded.  The domain prevents its use for another kind.  Order of validation: length, header, signature;
:func:`read` decodes the payload only after the signature was verified (as libp2p RFC 0002 does).

Not here: the fields of a payload (``adverts``) and the order of statements (``versions``).
"""

from __future__ import annotations

import functools
import hashlib
import math
import struct
from typing import Any, Final

from protocol.codec import pack, unpack
from protocol.errors import BadEnvelope, BadFrame, LocalProtocolError, StaleStatement, UnknownStatement
from protocol.ids import PeerId
from protocol.statements.adverts import Advert, Load, Provider
from protocol.statements.keys import ADVERT, LOAD, PROVIDER, SIGNATURE_BYTES, Signer, verify

ENVELOPE_VERSION: Final = 1
_HEADER = struct.Struct(">BB32sQIQH")
OVERHEAD_BYTES: Final = _HEADER.size + SIGNATURE_BYTES
#: Longest payload of any statement; with the overhead a record stays under 4 KiB (DESIGN 3.1).
MAX_PAYLOAD_BYTES: Final = 4096 - OVERHEAD_BYTES
#: Longest life of a statement, seconds (threat model: it bounds the life of a replayed statement).
MAX_TTL_S: Final = 3600
#: Statements in the cache of :func:`parse_again` (guess: 10 MB at most).
_REMEMBERED: Final = 8192
#: Author and kind pairs whose statements share one key object (guess: all marks of a node; measured: 18 MB at most).
#: The look-up for each received statement then compares by identity.
_AUTHORS: Final = 65536
#: Author and kind: the key of a mark.
Key = tuple[PeerId, int]
#: The time of a statement that was not seen since the node started.
UNSEEN: Final = -math.inf
#: The last incarnation.
MAX_INC: Final = (1 << 64) - 1

_DOMAINS: Final = {
    ADVERT: b"p2pnode/advert/1\0",
    LOAD: b"p2pnode/load/1\0",
    PROVIDER: b"p2pnode/provider/1\0",
}


@functools.lru_cache(_AUTHORS)
def _key(author: PeerId, kind: int) -> tuple[PeerId, int]:
    return author, kind


class Mark:
    """The newest statement of one author and kind.

    ``until`` is the expiry of that statement (monotonic), ``UNSEEN`` if it was seen before a restart only.
    ``envelope`` is the statement itself while the view holds it.  ``tag`` is its hash for digests, which include it
    until it expires.  ``keep`` is the expiry of a mark from before a restart; other marks expire ``marks_s`` after
    ``until``.

    While the statements of a key are held, the key has one mark object, which lists can use in place of the key.  A
    statement that is not held replaces the mark (:class:`Seen`), and lists then have to drop the old one.
    """

    __slots__ = ("envelope", "inc", "keep", "seq", "tag", "until")

    def __init__(self, inc: int, seq: int, tag: int = 0, until: float = UNSEEN, keep: float = UNSEEN) -> None:
        self.inc = inc
        self.seq = seq
        self.tag = tag
        self.until = until
        self.keep = keep
        self.envelope: Envelope | None = None

    def lives(self, now: float) -> bool:
        """Whether the statement was seen since the start and has not expired."""
        return self.until > now


class Seen(Mark):
    """The mark of a statement that is not held.  It is never changed, only replaced, so nodes can share the object."""

    __slots__ = ()


class Envelope:
    """One statement with its parsed header.  It is immutable by convention, and all its holders share it.

    ``issued`` is seconds since the epoch by the author's clock, ``ttl`` is in seconds, ``key`` is the key of its mark.
    :meth:`check` verifies the signature once and caches the result on the object: in a simulation, ten thousand
    holders share it.  ``value`` (the decoded payload), ``tag`` and ``seen`` (the last mark of nodes that do not hold
    it) are cached for the same reason.
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
        #: A pair of author and kind; typed ``Any``, because compiled code would rebuild a typed tuple.
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
        """The signed bytes: header and payload, without the signature."""
        return self.wire[: _HEADER.size] + self.payload

    @property
    def tag(self) -> int:
        """The hash of kind, author and version for digests, 64 bits and never 0."""
        if not self._tag:
            digest = hashlib.blake2b(self.wire[1:46], digest_size=8).digest()  # kind, author, inc, seq
            self._tag = int.from_bytes(digest, "big") or 1
        return self._tag

    def check(self) -> bool:
        """Whether the signature is valid for the received bytes; for an unknown kind it never is."""
        if self._verified is None:
            header = self.wire[: _HEADER.size]
            signature = self.wire[_HEADER.size : OVERHEAD_BYTES]
            domain = _DOMAINS.get(self.kind)
            self._verified = domain is not None and verify(self.author, domain + header + self.payload, signature)
        return self._verified


def seal(signer: Signer, kind: int, version: tuple[int, int], issued: float, ttl: int, payload: bytes) -> Envelope:
    """Sign ``payload``; raises ``LocalProtocolError`` if every receiver would refuse the result."""
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
    """Read the header of a statement; raises ``BadEnvelope``.  It does *not* check the signature.

    An unknown kind is no error: a newer node may have made the statement, and another one relayed it.
    """
    if not OVERHEAD_BYTES <= len(wire) <= OVERHEAD_BYTES + MAX_PAYLOAD_BYTES:
        raise BadEnvelope(f"{len(wire)} bytes")
    version, kind, author, inc, seq, issued_ms, ttl = _HEADER.unpack_from(wire)
    if version != ENVELOPE_VERSION:
        raise BadEnvelope(f"version {version}")
    if not 0 < ttl <= MAX_TTL_S:
        raise BadEnvelope(f"ttl {ttl} s")
    return Envelope(kind, PeerId(author), inc, seq, issued_ms / 1000, ttl, wire[OVERHEAD_BYTES:], bytes(wire))


#: ``parse`` with a cache, for statements that arrive repeatedly, as those of the DHT do: equal bytes give the same
#: object, with its cached signature check and value.
parse_again: Final = functools.lru_cache(_REMEMBERED)(parse)


def remaining_s(envelope: Envelope, wall: float, skew_s: float) -> float:
    """The remaining life of a statement that arrives now, seconds, on the receiver's monotonic clock.

    ``wall`` is our clock (Unix seconds), ``skew_s`` the tolerated error of the author's clock (DESIGN 2.1).
    Raises ``StaleStatement``, without blame, for a statement that is too old or from the future.
    """
    left = envelope.issued + envelope.ttl - wall + skew_s
    if left <= 0:
        raise StaleStatement(f"expired {-left:.0f} s ago")
    if envelope.issued > wall + skew_s:
        raise StaleStatement(f"issued {envelope.issued - wall:.0f} s in the future")
    return min(float(envelope.ttl), left)


_TYPES: Final[dict[int, type[Advert | Load | Provider]]] = {ADVERT: Advert, LOAD: Load, PROVIDER: Provider}
_KINDS: Final = {Advert: ADVERT, Load: LOAD, Provider: PROVIDER}


def statement(
    signer: Signer, value: Advert | Load | Provider, version: tuple[int, int], issued: float, ttl: int
) -> Envelope:
    """Seal a value; ``issued`` in seconds since the epoch, ``ttl`` in seconds."""
    return seal(signer, _KINDS[type(value)], version, issued, ttl, pack(value))


def read(envelope: Envelope) -> Advert | Load | Provider:
    """Decode the payload; raises ``BadEnvelope``, or ``UnknownStatement`` if a newer version may allow it.

    The value is cached on the envelope for all holders of the object.
    """
    if envelope.value is not None:
        return envelope.value
    if envelope.kind not in _TYPES:
        raise UnknownStatement(f"kind {envelope.kind}")
    if not envelope.check():
        raise BadEnvelope("signature")
    try:
        envelope.value = value = unpack(envelope.payload, _TYPES[envelope.kind])
    except BadFrame as error:
        raise UnknownStatement(error.detail) from None
    return value
