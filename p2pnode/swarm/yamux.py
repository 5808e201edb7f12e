"""py-libp2p's yamux with complete frames and bounded memory, and a fast path for our stream past the library's tasks.

``ContainedYamux`` subclasses the library's connection; ``ContainedMuxers`` makes the library use it.  Not here: the
list of defects that this works around (``libp2p_workarounds``), the multiplexer inside our stream
(``protocol.wire.mux``).
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

from p2pnode.swarm.frame_decoder import DATA, HEADER, READ_BYTES, WINDOW_UPDATE, FrameDecoder
from p2pnode.swarm.tcp_listener import AcceptedStream
from p2pnode.swarm.wakeup import AutoResetEvent

log = logging.getLogger(__name__)

#: Most unread bytes of one connection: twice our stream's largest window.  More is an attack.
BUFFERED_BYTES: Final = 2 << 20
#: Longest time to write a frame, and to receive its body, seconds (measured: 20 s separates dead from slow).
FRAME_S: Final = 20.0
#: Windows of our stream (measured): small for this many bytes, then large enough for a long fast line.
_SMALL_CARRIED: Final = 64 * 1024
_LARGE_WINDOW: Final = 1 << 20
#: Payload of one frame: with its header it fills exactly one Noise message (65,535 less the tag of 16, less 12).
_FRAME_BYTES: Final = 65_507
#: Pause between two checks of a closed window, seconds (the library's own).
_WINDOW_POLL_S: Final = 0.01


class ContainedYamux(Yamux):
    """Yamux that writes complete frames or cuts the connection, and whose memory is bounded."""

    def __init__(self, secured_conn: ISecureConn, peer_id: ID, is_initiator: bool | None = None) -> None:
        super().__init__(secured_conn, peer_id, is_initiator)
        self.tcp: AcceptedStream = secured_conn.tcp  # type: ignore[attr-defined]  # ``ContainedNoise`` adds it
        self.decoder = FrameDecoder(secured_conn, self._deliver)
        self.secured_conn = cast(ISecureConn, self.decoder)
        #: Sealed by ``send_now`` and not taken by the kernel yet: it must be sent before other data.
        self._unsent = b""
        #: ``send_on`` has not written all of its data, or was cancelled: no other write may come in between.
        self._sending = False
        #: Our stream and the function that takes its data while its reader waits; and whether that reader must return.
        self._sink: tuple[int, Callable[[bytes], bool]] | None = None
        self._waiting = self._stirred = False

    async def start(self) -> None:
        try:
            await super().start()
        except Exception as error:
            log.debug("yamux_ended", extra={"address": self.tcp.address, "error": repr(error)})
        finally:
            self.event_started.set()
            self.tcp.cut()

    def propose(self, first: bytes, lines: bytes) -> None:
        """Before the start: send ``first`` and the encrypted ``lines`` with the first frame, and expect ``lines`` back.

        A peer that answers with something else is cut off.
        """
        self._unsent = first + self.decoder.seal(lines)
        self.decoder.expect(lines)

    async def _measure_rtt_loop(self) -> None:
        """Do nothing: our own PING measures, and two ends that answer each other's pings can block for ever."""
        await trio.lowlevel.checkpoint()

    _stale_stream_sweeper = _measure_rtt_loop  #: ``guard`` sweeps, so that an idle link wakes no task for it

    async def _write_frame(self, data: bytes) -> None:
        """Write at once if no other task writes and the kernel takes it: no task switch, and no deadline to set."""
        lock = self._write_lock
        if lock.locked():
            await lock.acquire()
        else:
            lock.acquire_nowait()
        try:
            packet = self._unsent + (self.decoder.seal(data) if data else b"")
            self._unsent = b""
            rest = packet[self.tcp.send_now(packet) :] if packet else b""
            if not rest:
                return
            with trio.CancelScope(shield=True, deadline=trio.current_time() + FRAME_S) as scope:
                await self.tcp.write(rest)
        finally:
            lock.release()
        if scope.cancelled_caught:
            self.tcp.cut()
            raise ConnectionClosedError("a frame could not be written in time", transport="tcp")

    def _deliver(self, number: int, data: bytes) -> bool:
        """Take plain data as ``handle_incoming`` would; False if that function has to handle it."""
        stream, buffer = self.streams.get(number), self.stream_buffers.get(number)
        if stream is None or buffer is None or stream.closed or self.streams_lock.locked():
            return False
        if self._waiting and not buffer and self._pass_to_sink(stream, data):
            return True
        if len(data) + sum(map(len, self.stream_buffers.values())) > BUFFERED_BYTES:
            return False
        buffer += data
        stream.recv_window = max(0, stream.recv_window - len(data))
        self.stream_events[number].set()
        return True

    def _pass_to_sink(self, stream: YamuxStream, data: bytes) -> bool:
        """Pass data to the sink without the buffer; False if the sink refuses it or the window must be opened."""
        shut = stream.target_recv_window - stream.recv_window + len(data)
        number, take = self._sink or (0, None)
        if take is None or number != stream.stream_id or 2 * shut >= stream.target_recv_window or not take(data):
            return False
        stream.recv_window -= len(data)
        stream._pending_recv_release += len(data)
        return True

    def sink(self, stream: YamuxStream, take: Callable[[bytes], bool] | None) -> None:
        """Pass data of our stream to ``take`` while :meth:`take` waits; :meth:`take` gets the data that it refuses."""
        self._sink = (stream.stream_id, take) if take is not None else None

    def stir(self, stream: YamuxStream) -> None:
        """Make :meth:`take` return without data."""
        self._stirred = True
        if (event := self.stream_events.get(stream.stream_id)) is not None:
            event.set()

    async def _read_data_body(self, length: int) -> bytes:
        """Raise ``TooSlowError`` above the bounds: it ends the connection in ``handle_incoming``."""
        if length + sum(map(len, self.stream_buffers.values())) > BUFFERED_BYTES:
            raise trio.TooSlowError
        with trio.fail_after(FRAME_S):
            return bytes(await self.secured_conn.read(length))

    async def send_on(self, stream: YamuxStream, data: bytes) -> None:
        """Write to our stream; only one task may.  If the connection is gone, it raises the library's exceptions.

        A cancelled call may have written a part, so :meth:`room` is 0 from then on.  Without data, it waits until
        nothing is :meth:`unsent`.
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
        """The number of bytes that :meth:`send_now` takes."""
        if self._sending or self._unsent or self._write_lock.locked() or self._ended(stream) or self._nursery is None:
            return 0
        return min(stream.send_window, _FRAME_BYTES)

    def send_now(self, stream: YamuxStream, data: bytes) -> None:
        """Write at most :meth:`room` bytes to our stream without waiting; it raises the same as ``send_on``."""
        stream.send_window -= len(data)
        packet = self.decoder.seal(HEADER.pack(0, DATA, 0, stream.stream_id, len(data)) + data)
        self._unsent = packet[self.tcp.send_now(packet) :]
        if self._unsent and self._nursery is not None:
            self._nursery.start_soon(self._send_rest)

    def unsent(self) -> bool:
        """Whether the kernel has not taken all written data yet, of any task."""
        return self._sending or bool(self._unsent) or self._write_lock.locked()

    async def _send_rest(self) -> None:
        """Send the rest of ``send_now``, unless another write has sent it."""
        with suppress(ConnectionClosedError):
            if self._unsent:
                await self._write_frame(b"")

    def _ended(self, stream: YamuxStream) -> bool:
        return stream.closed or stream.send_closed or self.event_shutting_down.is_set()

    async def take(self, stream: YamuxStream) -> bytes:
        """Data of our stream, at least one byte and at most ``READ_BYTES``; empty at its end, or after ``stir``.

        The bound is for peers that ignore the window: their data must not become one long turn and millions of frames.
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
            event = self.stream_events.get(number)
            ended = stream.recv_closed or stream.closed or self.event_shutting_down.is_set()
            if buffer is None or event is None or ended or self._stirred:
                self._stirred = False
                return b""
            if not isinstance(event, AutoResetEvent):  # the library's own kind of event must be remade for each wait
                event = AutoResetEvent()
                self.stream_events[number] = cast(trio.Event, event)
            self._waiting = True
            try:
                await event.wait()
            finally:
                self._waiting = False

    def limit_window(self, stream: YamuxStream) -> None:
        """Keep the library's reads of a stream (negotiation, identify, ping) from doubling its window each time."""

        async def tune(*, bytes_read: int = 0) -> None:
            await self._open_window(stream, bytes_read)

        stream._auto_tune_and_send_window_update = tune  # type: ignore[method-assign]  # for this stream only

    async def _open_window(self, stream: YamuxStream, taken: int) -> None:
        """Send one WINDOW_UPDATE per half window, not per read (measured: a third of the CPU)."""
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
