"""The typed messages of a link, and the frame kind of each.

A frame (``mux``) has a channel, a kind and a payload.  Kinds below 16 belong to the link itself, kinds 16 to 31 travel
on channel 0 between nodes, and kinds from 32 on belong to the job of their channel.  Fields are only ever appended.
Not here: the reaction to a message (the machines).
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from protocol.codec import MAX_MESSAGE_BYTES, pack, unpack
from protocol.errors import BadFrame
from protocol.statements.envelope import Envelope, parse

Key32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Job16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
Code = Annotated[str, Meta(max_length=64)]
Text = Annotated[str, Meta(max_length=1024)]
Wire = Annotated[bytes, Meta(max_length=4096)]
Feature = Annotated[str, Meta(max_length=32)]
Tally = Annotated[int, Meta(ge=0, lt=1 << 31)]

# --- frame kinds -------------------------------------------------------------------------------------------------
HELLO: Final = 0
PING: Final = 1
PONG: Final = 2
CREDIT: Final = 3
RST: Final = 4
GOAWAY: Final = 5

RECORDS: Final = 16
DIGEST: Final = 17
DOUBT: Final = 18
DHT_QUERY: Final = 20
DHT_REPLY: Final = 21
DHT_STORE: Final = 22
WATCH: Final = 24
FRESH_LOAD: Final = 25
FULL: Final = 26

REQ: Final = 32
BODY: Final = 33
ACCEPT: Final = 34
BUSY: Final = 35
REFUSE: Final = 36
DELTA: Final = 37
BEAT: Final = 38
END: Final = 39

# --- the link ----------------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """First frame in each direction.  ``network`` names the swarm: links between different ones are closed.

    ``features`` names the optional parts of the protocol that the sender speaks (``features``).
    """

    protocol: Annotated[int, Meta(ge=1, le=65535)]
    network: Code
    agent: Code = ""
    addrs: Annotated[tuple[Text, ...], Meta(max_length=8)] = ()
    observed: Text = ""
    features: Annotated[tuple[Feature, ...], Meta(max_length=32)] = ()


# --- between nodes (channel 0) -------------------------------------------------------------------------------------


class Records(msgspec.Struct, frozen=True):
    """Statements pushed to a neighbour.  In memory they are envelopes, on the wire their sealed bytes."""

    envelopes: tuple[Envelope, ...]


class Digest(msgspec.Struct, frozen=True, array_like=True):
    """The versions that the sender holds, so that the receiver can send newer ones.

    ``buckets`` is the hash per bucket of the author space (8 bytes each) or empty; ``entries`` are
    ``(kind, author, inc, seq)`` of the buckets numbered in ``listed``.  ``reply`` asks the receiver to answer with
    its own digest of the same buckets; ``have`` announces entries that the receiver may request.
    """

    buckets: Annotated[bytes, Meta(max_length=8 * 256)] = b""
    listed: Annotated[tuple[int, ...], Meta(max_length=256)] = ()
    entries: Annotated[tuple[tuple[int, Key32, int, int], ...], Meta(max_length=1024)] = ()
    reply: bool = False
    have: bool = False


class Doubt(msgspec.Struct, frozen=True, array_like=True):
    """The sender could not reach ``peer``, whose newest known load is ``(inc, seq)``: a reason to probe it."""

    peer: Key32
    inc: int
    seq: int


class DhtQuery(msgspec.Struct, frozen=True, array_like=True):
    """Ask for the nodes closest to ``target`` (32-byte key) and, with ``values``, for the statements under it."""

    query: Annotated[int, Meta(ge=0, lt=1 << 32)]
    target: Key32
    values: bool = False


class Contact(msgspec.Struct, frozen=True, array_like=True):
    """A peer and its last working addresses, as a hint."""

    peer: Key32
    addrs: Annotated[tuple[Text, ...], Meta(max_length=4)] = ()


class DhtReply(msgspec.Struct, frozen=True, array_like=True):
    """Answer to :class:`DhtQuery`: closer contacts, and sealed statements stored under the target."""

    query: Annotated[int, Meta(ge=0, lt=1 << 32)]
    contacts: Annotated[tuple[Contact, ...], Meta(max_length=20)] = ()
    values: Annotated[tuple[Wire, ...], Meta(max_length=20)] = ()


class DhtStore(msgspec.Struct, frozen=True, array_like=True):
    """Ask the receiver to store a sealed statement under ``target``."""

    target: Key32
    value: Wire


class Watch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The sender routes jobs to the receiver and wants its load told; or, if not ``on``, no longer."""

    on: bool = True


class FreshLoad(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The load of the sender as it is now (``statements.adverts.Load`` has the meaning of the fields).

    ``yours``: how many of the jobs, running or waiting, are the receiver's.
    """

    running: Tally = 0
    waiting: Tally = 0
    slots: Tally = 0
    queued_prefill_tokens: Tally = 0
    kv_permille: Annotated[int, Meta(ge=0, le=1000)] = 0
    status: Annotated[int, Meta(ge=0, le=3)] = 0
    yours: Tally = 0


class Full(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The answer to a ``Watch``: the sender has no room for one more watcher, ask another peer."""


# --- a job (its own channel) ---------------------------------------------------------------------------------------


class JobRequest(msgspec.Struct, frozen=True, array_like=True):
    """The entry asks the worker to run a job; ``body_bytes`` of BODY frames follow at once.

    ``path`` is one of the OpenAI paths; ``deadline_ms`` is the time left until the caller's deadline, 0 for none.
    """

    job: Job16
    path: Code
    model: Annotated[str, Meta(max_length=128)]
    body_bytes: Annotated[int, Meta(ge=0, le=16 * 1024 * 1024)]
    stream: bool = False
    usage: bool = False
    prompt_tokens: Annotated[int, Meta(ge=0, lt=1 << 31)] = 0
    max_tokens: Annotated[int, Meta(ge=0, lt=1 << 31)] = 0
    deadline_ms: Annotated[int, Meta(ge=0, lt=1 << 40)] = 0


class Accept(msgspec.Struct, frozen=True, array_like=True):
    """The worker took the job.  ``ttft_ms`` is its promise for the first token, 0 for none."""

    job: Job16
    queue_position: Annotated[int, Meta(ge=0, lt=1 << 31)] = 0
    ttft_ms: Annotated[int, Meta(ge=0, lt=1 << 31)] = 0
    load: FreshLoad | None = None


class Busy(msgspec.Struct, frozen=True, array_like=True):
    """The worker cannot take the job now, which is no failure."""

    retry_ms: Annotated[int, Meta(ge=0, lt=1 << 31)] = 0
    running: Annotated[int, Meta(ge=0, lt=1 << 31)] = 0
    waiting: Annotated[int, Meta(ge=0, lt=1 << 31)] = 0
    load: FreshLoad | None = None


class Refuse(msgspec.Struct, frozen=True, array_like=True):
    """The worker refuses the job.  ``status`` is the corresponding HTTP status.

    ``final`` means that the request itself is wrong, so another peer cannot help; ``param`` names its field.
    It comes before or after ACCEPT, but never after the first DELTA.
    """

    status: Annotated[int, Meta(ge=400, le=599)]
    code: Code
    message: Text
    param: Code = ""
    final: bool = False
    load: FreshLoad | None = None


class End(msgspec.Struct, frozen=True, array_like=True):
    """The signed end of a job, without which an answer is incomplete.

    ``finish`` is ``stop`` (the answer is complete) or ``error``; ``sha256`` covers all DELTA payloads in order;
    ``signature`` is the worker's over ``END_DOMAIN || job || msgpack of the other fields``.
    """

    finish: Code
    tokens_in: Annotated[int, Meta(ge=0, lt=1 << 40)]
    tokens_out: Annotated[int, Meta(ge=0, lt=1 << 40)]
    sha256: Annotated[bytes, Meta(min_length=32, max_length=32)]
    message: Text = ""
    signature: Annotated[bytes, Meta(max_length=64)] = b""


NodeMessage = Records | Digest | Doubt | DhtQuery | DhtReply | DhtStore | Watch | FreshLoad | Full
JobMessage = JobRequest | Accept | Busy | Refuse | End
Message = Hello | NodeMessage | JobMessage

_TYPES: Final[dict[int, type[Message]]] = {
    HELLO: Hello,
    DIGEST: Digest,
    DOUBT: Doubt,
    DHT_QUERY: DhtQuery,
    DHT_REPLY: DhtReply,
    DHT_STORE: DhtStore,
    WATCH: Watch,
    FRESH_LOAD: FreshLoad,
    FULL: Full,
    REQ: JobRequest,
    ACCEPT: Accept,
    BUSY: Busy,
    REFUSE: Refuse,
    END: End,
}
_KINDS: Final[dict[type[Message], int]] = {kind: number for number, kind in _TYPES.items()} | {Records: RECORDS}


class _Sealed(msgspec.Struct, frozen=True, array_like=True):
    wires: Annotated[tuple[Wire, ...], Meta(max_length=512)]


def kind_of(message: Message) -> int:
    """The frame kind that carries this message."""
    return _KINDS[type(message)]


def encode(message: Message) -> bytes:
    """The payload of the frame that carries this message."""
    if isinstance(message, Records):
        return pack(_Sealed(tuple(envelope.wire for envelope in message.envelopes)))
    return pack(message)


def decode(kind: int, payload: bytes) -> Message:
    """The message in a frame; raises ``BadFrame`` or ``BadEnvelope``.  The machines check signatures."""
    if len(payload) > MAX_MESSAGE_BYTES:
        raise BadFrame(f"{len(payload)} bytes in a message of kind {kind}")
    if kind == RECORDS:
        return Records(tuple(map(parse, unpack(payload, _Sealed).wires)))
    if kind not in _TYPES:
        raise BadFrame(f"no message of kind {kind}")
    return unpack(payload, _TYPES[kind])
