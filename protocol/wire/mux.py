"""The multiplexer of one byte stream between two nodes: many jobs, one writer, no I/O.

Not here: sockets, tasks and waiting (the driver of a link), and the meaning of messages (``messages``).

Theory of operation
-------------------
A frame is ``channel u32 | kind u8 | length u24 | payload``, big-endian.  Channel 0 carries messages between the nodes
(kinds below 32); every other channel is one job (kinds from 32 on).  Two rules explain the rest:

* *``send`` only queues.*  ``data_to_send`` returns queued frames as one write of at most ``write_bytes`` (or one
  larger frame).  Frames that queue up during a write leave together, which makes the link fast.  Order: the link's
  own frames (PING, PONG, CREDIT, RST), then channel 0 (at most half of the write while jobs wait), then the channels
  round robin with ``quantum_bytes`` per turn.  Bytes of a long frame beyond its turn are deducted from the next one,
  so an upload cannot delay the tokens of other jobs.
* *Credit bounds the receiver's memory.*  On a channel a sender may have ``credit_bytes`` outstanding, counted as
  payload + 8 for each frame.  The receiver calls ``consumed`` when it has processed frames, and returns credit in a
  CREDIT frame as soon as half of it is consumed.  Channel 0 has no credit: the sender bounds its queue, and ``send``
  returns False for a dropped frame.

The first frame of a channel, a REQ on an id that the receiver does not hold, opens it; the dialler's ids are odd, the
acceptor's even.  RST cancels from either end: it overtakes and discards the queued frames of its channel, and never
precedes the REQ that it cancels.  Frames in flight when a channel ends arrive late and are dropped silently.

======== ============================ ======================================= ===========
state    what happens                 what is done                            next state
======== ============================ ======================================= ===========
(none)   ``open()``                   an id is allocated                      open
(none)   REQ, the peer's parity       ``Opened``, ``Frame``                   open
(none)   REQ, our parity              ``BadFrame``                            link ends
(none)   any other job frame, RST     dropped                                 (none)
open     job frame within credit      ``Frame``                               open
open     job frame beyond credit      ``CreditExceeded``                      link ends
open     RST                          queue discarded, ``Reset``              (none)
open     ``reset()``                  queue discarded, RST queued             (none)
open     ``close()``, queue empty     forgotten                               (none)
open     ``close()``, frames queued   they are still sent                     draining
draining last frame sent              forgotten                               (none)
draining job frame, CREDIT            dropped                                 draining
draining RST                          queue discarded                         (none)
======== ============================ ======================================= ===========
"""

from __future__ import annotations

import struct
from collections import deque
from enum import IntEnum
from typing import Final

import msgspec

from protocol.errors import BadFrame, CreditExceeded, LocalProtocolError, RemoteProtocolError
from protocol.rng import Rng
from protocol.settings import LinkSettings
from protocol.wire.messages import CREDIT, GOAWAY, HELLO, PING, PONG, REQ, RST

_HEADER: Final = struct.Struct(">II")  # channel, kind << 24 | length
_U32: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")
#: Bytes of a frame beside its payload; they count against the credit, so that empty frames are not free.
FRAME_OVERHEAD: Final = _HEADER.size
#: Kinds from here on belong to jobs.
_JOB_KINDS: Final = 32
_NODE_KINDS: Final = 16
_MAX_CHANNEL: Final = (1 << 32) - 1
#: A ``tick`` that comes later than this many ``ping_s`` after its deadline shows that this node stood still (guess: an
#: event loop under load is late by milliseconds).
LATE_PERIODS: Final = 0.1
#: A busy link is also pinged, every this many ``ping_s``, to measure the round trip (guess).
RTT_PERIODS: Final = 4


class ResetCode(IntEnum):
    """The reason of a cancellation.  Unknown codes stay numbers."""

    CANCELLED = 0
    DEADLINE = 1
    SLOW_READER = 2
    BAD_JOB = 3
    INTERNAL = 4


class Opened(msgspec.Struct, frozen=True, gc=False):
    """The peer opened a channel; its REQ is the ``Frame`` that follows."""

    channel: int


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A frame for the driver: HELLO, GOAWAY, a message on channel 0, or a frame of a job."""

    channel: int
    kind: int
    payload: bytes


class Reset(msgspec.Struct, frozen=True, gc=False):
    """The peer cancelled a channel, which no longer exists here."""

    channel: int
    code: int


class Credited(msgspec.Struct, frozen=True, gc=False):
    """The peer returned credit: ``credit(channel)`` has grown."""

    channel: int


class Rtt(msgspec.Struct, frozen=True, gc=False):
    """A PING came back after ``seconds``."""

    seconds: float


class Dead(msgspec.Struct, frozen=True, gc=False):
    """The peer sent nothing for ``dead_s`` and did not answer a PING: close the link."""


LinkEvent = Opened | Frame | Reset | Credited | Rtt | Dead


class _Channel:
    """Both directions of one job."""

    __slots__ = ("allowance", "closing", "credit", "id", "out", "owed", "started", "turn")

    def __init__(self, channel: int, credit: int, started: bool) -> None:
        self.id = channel
        self.out: deque[bytes] = deque()  # not empty exactly while the channel is in ``Mux._ready``
        self.credit = credit  # bytes that we may still send
        self.allowance = credit  # bytes that the peer may still send
        self.owed = 0  # bytes consumed and not yet returned
        self.turn = 0  # bytes left of this turn; negative after a frame that exceeded it
        self.started = started  # whether the peer knows the channel
        self.closing = False


class Mux:
    """One end of a link.  ``dialer`` says whether this end made the connection.

    The peer must not be able to predict ``rng``: with the next PING known it could answer early and seem near.
    """

    def __init__(self, settings: LinkSettings, dialer: bool, rng: Rng) -> None:
        if 2 * (settings.frame_bytes + FRAME_OVERHEAD) > settings.credit_bytes:
            raise LocalProtocolError("credit_bytes has to hold two of the longest frames, or a sender waits for ever")
        if not 0 < settings.ping_s < settings.dead_s:
            raise LocalProtocolError("ping_s has to be shorter than dead_s")
        self._settings = settings
        self._parity = 1 if dialer else 0
        self._next = 1 if dialer else 2
        self._channels: dict[int, _Channel] = {}
        self._draining: dict[int, _Channel] = {}
        self._taken = [0, 0]  # by parity; draining channels count, or unread answers would accumulate
        # Output: the link's own frames, channel 0, and the channels with queued frames.
        self._urgent: deque[bytes] = deque()
        self._control: deque[bytes] = deque()
        self._ready: deque[_Channel] = deque()
        self._urgent_bytes = self._control_bytes = self._job_bytes = 0
        # Input: the beginning of a frame, and how many bytes it will have.
        self._rest = bytearray()
        self._need = FRAME_OVERHEAD
        self._broken: RemoteProtocolError | None = None
        # Life: when a frame last came, when we last pinged, and since when silence is unanswered.
        self._heard: float | None = None
        self._pinged: float | None = None
        self._asked: float | None = None
        self._rng = rng
        self._nonce = b""

    # --- sending -------------------------------------------------------------------------------------------------

    def open(self) -> int:
        """Allocate a channel for a new job; its first frame, a REQ, tells the peer."""
        if self._taken[self._parity] >= self._settings.channels:
            raise LocalProtocolError(f"{self._settings.channels} jobs are open on this link")
        if self._next > _MAX_CHANNEL:
            raise LocalProtocolError("this link has used up its channels; make a new one")
        channel = self._next
        self._next += 2
        self._taken[self._parity] += 1
        self._channels[channel] = _Channel(channel, self._settings.credit_bytes, started=False)
        return channel

    def credit(self, channel: int) -> int:
        """Bytes (payload + 8 each frame) that may be sent now; 0 if the channel is gone."""
        found = self._channels.get(channel)
        return found.credit if found is not None else 0

    def send(self, channel: int, kind: int, payload: bytes) -> bool:
        """Queue one frame.  False: the queue of channel 0 is full, and the frame was dropped.

        Raises ``LocalProtocolError`` for a channel that is not open, a frame that is too long, or missing credit.
        """
        size = len(payload)
        if size > self._settings.frame_bytes:
            raise LocalProtocolError(f"a frame of {size} bytes; at most {self._settings.frame_bytes} can be sent")
        frame = _HEADER.pack(channel, kind << 24 | size) + payload
        if channel == 0:
            return self._send_control(kind, frame)
        found = self._channels.get(channel)
        if found is None or kind < _JOB_KINDS:
            raise LocalProtocolError(f"channel {channel} is not open for a frame of kind {kind}")
        size += FRAME_OVERHEAD
        if size > found.credit:
            raise LocalProtocolError(f"{size} bytes on channel {channel} with a credit of {found.credit}")
        found.credit -= size
        if not found.out:
            self._ready.append(found)
        found.out.append(frame)
        self._job_bytes += size
        return True

    def _send_control(self, kind: int, frame: bytes) -> bool:
        if kind >= _JOB_KINDS or (kind < _NODE_KINDS and kind not in (HELLO, GOAWAY)):
            raise LocalProtocolError(f"a frame of kind {kind} on channel 0")
        if self._control_bytes + len(frame) > self._settings.control_queue_bytes:
            return False
        self._control.append(frame)
        self._control_bytes += len(frame)
        return True

    def reset(self, channel: int, code: int = ResetCode.CANCELLED) -> None:
        """Cancel a job at once; no effect if the channel is gone."""
        found = self._channels.get(channel)
        if found is not None:
            self._forget(found)
            if found.started:
                self._push(channel, RST, _U32.pack(code))

    def close(self, channel: int) -> None:
        """Forget a channel after its normal end; its queued frames are still sent.  No effect if it is gone."""
        found = self._channels.get(channel)
        if found is not None:
            del self._channels[channel]
            if found.out:
                found.closing = True
                self._draining[channel] = found
            else:
                self._taken[channel & 1] -= 1

    def consumed(self, channel: int, size: int) -> None:
        """The driver has processed received frames of ``size`` bytes in all (payload + 8 each)."""
        found = self._channels.get(channel)
        if found is None:
            return
        found.owed += size
        if found.owed + found.allowance > self._settings.credit_bytes:
            raise LocalProtocolError(f"more consumed on channel {channel} than was received")
        if 2 * found.owed >= self._settings.credit_bytes:
            self._push(channel, CREDIT, _U32.pack(found.owed))
            found.allowance += found.owed
            found.owed = 0

    def _push(self, channel: int, kind: int, payload: bytes) -> None:
        self._urgent.append(_HEADER.pack(channel, kind << 24 | len(payload)) + payload)
        self._urgent_bytes += FRAME_OVERHEAD + len(payload)

    def _discard(self, channel: _Channel) -> None:
        if channel.out:
            self._job_bytes -= sum(map(len, channel.out))
            channel.out.clear()
            self._ready.remove(channel)

    def _forget(self, channel: _Channel) -> None:
        del self._channels[channel.id]
        self._taken[channel.id & 1] -= 1
        self._discard(channel)

    # --- writing -------------------------------------------------------------------------------------------------

    @property
    def has_data(self) -> bool:
        """Whether ``data_to_send`` would return data."""
        return bool(self._urgent or self._control or self._ready)

    @property
    def waiting_bytes(self) -> int:
        """Queued bytes that ``data_to_send`` has not returned yet."""
        return self._urgent_bytes + self._control_bytes + self._job_bytes

    def data_to_send(self) -> bytes:
        """The next write; ``b""`` if nothing is queued.  Returned data counts as sent."""
        limit = self._settings.write_bytes
        parts: list[bytes] = []
        if self.waiting_bytes <= limit:
            parts += self._urgent
            parts += self._control
            self._urgent.clear()
            self._control.clear()
            for channel in self._ready:
                parts += channel.out
                channel.out.clear()
                self._emptied(channel)
            self._ready.clear()
            self._urgent_bytes = self._control_bytes = self._job_bytes = 0
            return b"".join(parts)
        size = self._move(self._urgent, parts, 0, limit)
        self._urgent_bytes -= size
        before = size
        size = self._move(self._control, parts, size, limit // 2 if self._ready else limit)
        self._control_bytes -= size - before
        self._job_bytes -= self._rounds(parts, size, limit)
        return b"".join(parts)

    def _move(self, queue: deque[bytes], parts: list[bytes], size: int, limit: int) -> int:
        """Move frames from a queue until a write of ``limit`` is full; a first frame always fits."""
        while queue and (not parts or size + len(queue[0]) <= limit):
            frame = queue.popleft()
            size += len(frame)
            parts.append(frame)
        return size

    def _rounds(self, parts: list[bytes], size: int, limit: int) -> int:
        """Deficit round robin over the ready channels; returns the bytes moved."""
        ready = self._ready
        before = size
        while ready:
            channel = ready[0]
            out = channel.out
            if channel.turn <= 0:
                channel.turn += self._settings.quantum_bytes
            while out and channel.turn > 0:
                if parts and size + len(out[0]) > limit:
                    return size - before  # the turn continues in the next write
                frame = out.popleft()
                channel.started = True
                channel.turn -= len(frame)
                size += len(frame)
                parts.append(frame)
            if out:
                ready.rotate(-1)
            else:
                ready.popleft()
                self._emptied(channel)
        return size - before

    def _emptied(self, channel: _Channel) -> None:
        channel.started = True
        channel.turn = min(channel.turn, 0)
        if channel.closing:
            del self._draining[channel.id]
            self._taken[channel.id & 1] -= 1

    # --- receiving -----------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> list[LinkEvent]:
        """Parse bytes, cut at any position.  After a ``RemoteProtocolError`` every further call raises it again."""
        if self._broken is not None:
            raise self._broken
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < self._need:
                return []
            data = bytes(rest)
            rest.clear()
        events: list[LinkEvent] = []
        try:
            used = self._parse(data, events, now)
            if self._urgent_bytes > self._settings.control_queue_bytes:
                raise BadFrame("asks for answers and does not read them")
        except RemoteProtocolError as error:
            self._broken = error
            raise
        if used:
            self._heard = now
            self._asked = None
        rest += data[used:]
        return events

    def _parse(self, data: bytes, events: list[LinkEvent], now: float) -> int:
        """The hot loop: turn complete frames into events.  Returns the bytes used, and stores the next frame's need."""
        position, end, longest = 0, len(data), self._settings.frame_bytes
        unpack, find, append = _HEADER.unpack_from, self._channels.get, events.append
        self._need = FRAME_OVERHEAD
        while end - position >= 8:
            channel, word = unpack(data, position)
            length = word & 0xFFFFFF
            kind = word >> 24
            if length > longest:
                raise BadFrame(f"a frame of {length} bytes; at most {longest} are allowed")
            start = position + 8
            stop = start + length
            if stop > end:
                self._need = length + 8
                break
            position = stop
            payload = data[start:stop]
            if kind < _JOB_KINDS:
                self._link_frame(channel, kind, payload, events, now)
                continue
            found = find(channel)
            if found is None:
                found = self._unknown(channel, kind)
                if found is None:
                    continue
                append(Opened(channel))
            left = found.allowance - length - 8
            if left < 0:
                raise CreditExceeded(f"channel {channel}")
            found.allowance = left
            append(Frame(channel, kind, payload))
        return position

    def _unknown(self, channel: int, kind: int) -> _Channel | None:
        """A job frame on a channel that is not open: it begins a job, or it is late."""
        if channel == 0:
            raise BadFrame(f"a frame of kind {kind} on channel 0")
        if kind != REQ or channel in self._draining:
            return None
        if channel & 1 == self._parity:
            raise BadFrame(f"channel {channel} is not the peer's to open")
        # Tolerate half as many again: the peer may have seen the end of a job before this end forgot its channel.
        if self._taken[channel & 1] >= self._settings.channels * 3 // 2:
            raise BadFrame(f"more than {self._settings.channels} channels")
        self._taken[channel & 1] += 1
        opened = self._channels[channel] = _Channel(channel, self._settings.credit_bytes, started=True)
        return opened

    def _link_frame(self, channel: int, kind: int, payload: bytes, events: list[LinkEvent], now: float) -> None:
        if kind in (CREDIT, RST):
            if channel == 0 or len(payload) != _U32.size:
                raise BadFrame(f"kind {kind}, {len(payload)} bytes on channel {channel}")
            self._channel_frame(channel, kind, _U32.unpack(payload)[0], events)
            return
        if channel != 0:
            raise BadFrame(f"a frame of kind {kind} on channel {channel}")
        if kind in (PING, PONG):
            if len(payload) != _U64.size:
                raise BadFrame(f"a PING of {len(payload)} bytes")
            if kind == PING:
                self._push(0, PONG, payload)
            elif self._pinged is not None and payload == self._nonce:
                self._nonce = b""  # a second PONG is ignored
                events.append(Rtt(max(0.0, now - self._pinged)))
        elif kind >= _NODE_KINDS or kind in (HELLO, GOAWAY):
            events.append(Frame(0, kind, payload))
        # The other kinds of the link are reserved: a newer peer may send them, and this version ignores them.

    def _channel_frame(self, channel: int, kind: int, number: int, events: list[LinkEvent]) -> None:
        found = self._channels.get(channel)
        if found is None:
            draining = self._draining.get(channel)
            if draining is not None and kind == RST:
                del self._draining[channel]
                self._taken[channel & 1] -= 1
                self._discard(draining)
        elif kind == RST:
            self._forget(found)
            events.append(Reset(channel, number))
        else:
            found.credit += number
            if found.credit > self._settings.credit_bytes:
                raise BadFrame(f"more credit on channel {channel} than was used")
            events.append(Credited(channel))

    # --- life ----------------------------------------------------------------------------------------------------

    def next_deadline(self, now: float) -> float:
        """The time of the next ``tick`` (monotonic seconds).  The first call starts the clock."""
        if self._heard is None:
            self._heard = now
        if self._pinged is None:
            return now
        due = min(max(self._heard, self._pinged) + self._settings.ping_s, self._pinged + self._rtt_s)
        return due if self._asked is None else min(due, self._asked + self._patience_s)

    def tick(self, now: float) -> list[LinkEvent]:
        """Queue a PING if one is due; ``[Dead()]`` if an earlier one was not answered in time.

        The time limit starts with the first unanswered PING, not with the last frame.  So a node that slept itself (a
        closed laptop, SIGSTOP) pings before it gives up its links.  If it slept while a PING was unanswered, the call
        comes late, and the answer may wait in the kernel: the time limit starts again.
        """
        if self.next_deadline(now) > now:
            return []
        if self._asked is not None and now >= self._asked + self._patience_s:
            if now <= self._asked + self._patience_s + LATE_PERIODS * self._settings.ping_s:
                return [Dead()]
            self._asked = now
        if self._asked is None and self._heard is not None and now >= self._heard + self._settings.ping_s:
            self._asked = now
        self.ping(now)
        return []

    def ping(self, now: float) -> None:
        """Queue a PING now; its answer is reported as ``Rtt``."""
        self._nonce = _U64.pack(self._rng.getrandbits(64))
        self._pinged = now
        self._push(0, PING, self._nonce)

    @property
    def _patience_s(self) -> float:
        return self._settings.dead_s - self._settings.ping_s

    @property
    def _rtt_s(self) -> float:
        return RTT_PERIODS * self._settings.ping_s
