"""Yamux of py-libp2p with whole frames and bounded memory, and our stream's fast path past the library's tasks.

``ContainedYamux`` subclasses the library's connection; ``ContainedMuxers`` makes the library use it.  Not here: the
list of defects that this works around (``containment``), the multiplexer inside our stream (``protocol.wire.mux``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final, cast

import trio
from libp2p.abc import IMuxedConn, ISecureConn
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from p2pnode.swarm.accept_gateway import AcceptedStream
from p2pnode.swarm.frame_decoder import DATA, HEADER, READ_BYTES, WINDOW_UPDATE, FrameDecoder
from p2pnode.swarm.wakeup import AutoResetEvent

log = logging.getLogger(__name__)

#: Bytes that may wait unread on one connection: our stream's largest window twice over.  More is an attack.
BUFFERED_BYTES: Final = 2 << 20
#: Longest a frame may take to be written, and its body to arrive, seconds (measured: 20 s separates dead from slow).
FRAME_S: Final = 20.0
#: Windows of our stream (measured): small until it carried this much, then one that fills a long fat line.
_SMALL_CARRIED: Final = 64 * 1024
_LARGE_WINDOW: Final = 1 << 20
#: Payload of one frame: with its header it fills exactly one Noise message (65,535 less the tag of 16, less 12).
_FRAME_BYTES: Final = 65_507
#: Pause between two looks at a window that is shut, seconds (the library's own).
_WINDOW_POLL_S: Final = 0.01


class ContainedYamux(Yamux):
    """Yamux whose frames are whole or the connection is gone, and whose memory is bounded."""

    def __init__(self, secured_conn: ISecureConn, peer_id: ID, is_initiator: bool | None = None) -> None:
        super().__init__(secured_conn, peer_id, is_initiator)
        self.front: AcceptedStream = secured_conn.front  # type: ignore[attr-defined]
        self.sieve = FrameDecoder(secured_conn, self._deliver)
        self.secured_conn = cast(ISecureConn, self.sieve)
        #: Sealed by ``send_now`` and not taken by the kernel: it leaves before anything else.
        self._unsent = b""
        #: ``send_on`` has not written all of what it was given, or never will: nothing may come between.
        self._sending = False
        #: Our stream, and who takes what comes on it while its reader waits; and whether that reader shall return.
        self._sink: tuple[int, Callable[[bytes], bool]] | None = None
        self._waiting = self._stirred = False

    async def start(self) -> None:
        try:
            await super().start()
        except Exception as error:
            log.debug("yamux_ended", extra={"address": self.front.address, "error": repr(error)})
        finally:
            self.event_started.set()
            self.front.cut()

    async def _measure_rtt_loop(self) -> None:
        """Nothing: our own PING measures; and two ends that answer each other's pings can block for good."""
        await trio.lowlevel.checkpoint()

    _stale_stream_sweeper = _measure_rtt_loop  #: ``guard`` sweeps: no link at rest wakes a task for it

    async def _write_frame(self, data: bytes) -> None:
        """At once if nobody else writes and the kernel takes it: then no task is switched and no deadline made."""
        lock = self._write_lock
        if lock.locked():
            await lock.acquire()
        else:
            lock.acquire_nowait()
        try:
            packet = self._unsent + (self.sieve.seal(data) if data else b"")
            self._unsent = b""
            rest = packet[self.front.send_now(packet) :] if packet else b""
            if not rest:
                return
            with trio.CancelScope(shield=True, deadline=trio.current_time() + FRAME_S) as scope:
                await self.front.write(rest)
        finally:
            lock.release()
        if scope.cancelled_caught:
            self.front.cut()
            raise ConnectionClosedError("a frame could not be written in time", transport="tcp")

    def _deliver(self, number: int, data: bytes) -> bool:
        """Plain data as ``handle_incoming`` would take it; False if that has more to say about it."""
        stream, buffer = self.streams.get(number), self.stream_buffers.get(number)
        if stream is None or buffer is None or stream.closed or self.streams_lock.locked():
            return False
        if self._waiting and not buffer and self._pour(stream, data):
            return True
        if len(data) + sum(map(len, self.stream_buffers.values())) > BUFFERED_BYTES:
            return False
        buffer += data
        stream.recv_window = max(0, stream.recv_window - len(data))
        self.stream_events[number].set()
        return True

    def _pour(self, stream: YamuxStream, data: bytes) -> bool:
        """Past the buffer, to whoever would be woken to take it; not if that one has to open the window then."""
        shut = stream.target_recv_window - stream.recv_window + len(data)
        number, take = self._sink or (0, None)
        if take is None or number != stream.stream_id or 2 * shut >= stream.target_recv_window or not take(data):
            return False
        stream.recv_window -= len(data)
        stream._pending_recv_release += len(data)
        return True

    def sink(self, stream: YamuxStream, take: Callable[[bytes], bool] | None) -> None:
        """Offer what comes on our stream to ``take`` while :meth:`take` waits, which then gets what was refused."""
        self._sink = (stream.stream_id, take) if take is not None else None

    def stir(self, stream: YamuxStream) -> None:
        """Let :meth:`take` return, with nothing."""
        self._stirred = True
        if (bell := self.stream_events.get(stream.stream_id)) is not None:
            bell.set()

    async def _read_data_body(self, length: int) -> bytes:
        """``TooSlowError`` is what ends the connection in ``handle_incoming``."""
        if length + sum(map(len, self.stream_buffers.values())) > BUFFERED_BYTES:
            raise trio.TooSlowError
        with trio.fail_after(FRAME_S):
            return bytes(await self.secured_conn.read(length))

    async def send_on(self, stream: YamuxStream, data: bytes) -> None:
        """Write to our stream; only one task may.  Raises whatever the library raises when the connection is gone.

        Whoever is cancelled may have written a part, so there is no :meth:`room` ever after.  Without data, it waits
        for what is :meth:`unsent`.
        """
        position, size = 0, len(data)
        self._sending = True
        if not data:
            await self._write_frame(b"")
        while position < size:
            if self._ended(stream):
                raise ConnectionClosedError("the stream is closed", transport="tcp")
            count = min(stream.send_window, _FRAME_BYTES, size - position)
            if count <= 0:
                await trio.sleep(_WINDOW_POLL_S)
                continue
            stream.send_window -= count
            header = HEADER.pack(0, DATA, 0, stream.stream_id, count)
            await self._write_frame(header + data[position : position + count])
            position += count
        self._sending = False

    def room(self, stream: YamuxStream) -> int:
        """Bytes that :meth:`send_now` takes."""
        if self._sending or self._unsent or self._write_lock.locked() or self._ended(stream) or self._nursery is None:
            return 0
        return min(stream.send_window, _FRAME_BYTES)

    def send_now(self, stream: YamuxStream, data: bytes) -> None:
        """Write at most :meth:`room` bytes to our stream without waiting; in what it raises it is as ``send_on``."""
        stream.send_window -= len(data)
        packet = self.sieve.seal(HEADER.pack(0, DATA, 0, stream.stream_id, len(data)) + data)
        self._unsent = packet[self.front.send_now(packet) :]
        if self._unsent and self._nursery is not None:
            self._nursery.start_soon(self._send_rest)

    def unsent(self) -> bool:
        """Whether the kernel has still to take some of what was written, by whomever."""
        return self._sending or bool(self._unsent) or self._write_lock.locked()

    async def _send_rest(self) -> None:
        """What the kernel did not take of a write that could not wait, unless another write took it along."""
        with suppress(ConnectionClosedError):
            if self._unsent:
                await self._write_frame(b"")

    def _ended(self, stream: YamuxStream) -> bool:
        return stream.closed or stream.send_closed or self.event_shutting_down.is_set()

    async def take(self, stream: YamuxStream) -> bytes:
        """What waits on our stream, at least one byte and at most ``READ_BYTES``; empty at its end, or when stirred.

        A peer that pays no heed to the window must not make one long turn, and millions of frames, of what it sent.
        """
        number = stream.stream_id
        while True:
            buffer = self.stream_buffers.get(number)
            if buffer:
                data = bytes(buffer[:READ_BYTES])
                del buffer[:READ_BYTES]
                self._stirred = False
                if buffer:
                    await trio.lowlevel.checkpoint()
                await self._open_window(stream, len(data))
                return data
            bell = self.stream_events.get(number)
            ended = stream.recv_closed or stream.closed or self.event_shutting_down.is_set()
            if buffer is None or bell is None or ended or self._stirred:
                self._stirred = False
                return b""
            if not isinstance(bell, AutoResetEvent):  # the library's own event, of which a new one is needed each time
                bell = AutoResetEvent()
                self.stream_events[number] = cast(trio.Event, bell)
            self._waiting = True
            try:
                await bell.wait()
            finally:
                self._waiting = False

    def tame(self, stream: YamuxStream) -> None:
        """Keep the library's reads of a stream (negotiation, identify, ping) from doubling its window each time."""

        async def tune(*, bytes_read: int = 0) -> None:
            await self._open_window(stream, bytes_read)

        stream._auto_tune_and_send_window_update = tune  # type: ignore[method-assign]

    async def _open_window(self, stream: YamuxStream, taken: int) -> None:
        """One WINDOW_UPDATE per half window, not per read (measured: a third of the CPU)."""
        stream._pending_recv_release += taken
        if stream._pending_recv_release > _SMALL_CARRIED:
            stream.target_recv_window = _LARGE_WINDOW
        waiting = len(self.stream_buffers.get(stream.stream_id, b""))
        increment = stream.target_recv_window - stream.recv_window - waiting
        if 2 * increment >= stream.target_recv_window:
            stream.recv_window += increment
            await self._write_frame(HEADER.pack(0, WINDOW_UPDATE, 0, stream.stream_id, increment))


class ContainedMuxers(MuxerMultistream):
    """Negotiates yamux and makes it a ``ContainedYamux`` (the library names its own class there)."""

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        protocol, _ = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        muxed = ContainedYamux(conn, peer_id, is_initiator=conn.is_initiator)
        return self._annotate_connection(muxed, conn, protocol)
