"""Drives one ``Mux`` over one ``Link``: one task reads, one task writes; ``ping_scheduler`` has the timer.

Only these tasks use the stream.  A job queues frames, and the writer sends all queued frames in one write, so a
cancelled job cannot leave half a frame behind.  Messages between nodes are small and rare, and a task switch costs
more than handling one.  So they are written at once if the network takes them (``hurry``), and handled right after
decryption if they need not wait (``_receive_inline``).  ``swarm`` owns the links; jobs use ``Channel``s only.
"""

from __future__ import annotations

import functools
import logging
import random
from types import TracebackType
from typing import Final, Protocol

import trio

from p2pnode.swarm.net import Link, LinkBroken, NetError
from p2pnode.swarm.ping_scheduler import PingScheduler
from p2pnode.swarm.wakeup import AutoResetEvent
from protocol.errors import BadFrame, LocalProtocolError, RemoteProtocolError
from protocol.ids import PeerId, short
from protocol.settings import LinkSettings
from protocol.wire.features import agreed
from protocol.wire.messages import GOAWAY, HELLO, Hello, NodeMessage, decode, encode, kind_of
from protocol.wire.mux import FRAME_OVERHEAD, Credited, Dead, Frame, LinkEvent, Mux, Opened, Reset, Rtt

log = logging.getLogger(__name__)

#: Bytes in the write queue before jobs have to wait (guess: four credits; a link that is slower than its jobs).
QUEUE_BYTES: Final = 1 << 20
#: Bytes that a job may queue before it lets other tasks run.
_RUN_BYTES: Final = 16 * 1024
_UNGUESSABLE: Final = random.SystemRandom()


class ChannelReset(NetError):
    """The other side cancelled this job, or we did."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class LinkOwner(Protocol):
    """The callbacks of a link."""

    async def on_message(self, link: PeerLink, kind: int, payload: bytes) -> None:
        """A message between nodes arrived; the link reads on after the return."""
        ...

    def take_message(self, link: PeerLink, kind: int, payload: bytes) -> bool:
        """``on_message``, if it need not wait; otherwise it does nothing and returns False."""
        ...

    def on_channel(self, link: PeerLink, channel: Channel) -> None:
        """The peer opened a channel; its first frame is there before a task can receive."""
        ...

    def on_rtt(self, link: PeerLink, seconds: float) -> None: ...

    def on_fault(self, link: PeerLink, error: RemoteProtocolError) -> None:
        """The peer broke the protocol; the link ends."""
        ...


class Channel:
    """One job on a link.  Every method may be cancelled at any point; leaving ``async with`` early cancels the job."""

    __slots__ = ("_ended", "_frames", "_link", "_room", "_run", "_size", "_wake", "id", "inbound", "peer")

    def __init__(self, link: PeerLink, number: int, inbound: bool) -> None:
        self.peer: PeerId = link.peer
        self.id = number
        self.inbound = inbound
        self._link = link
        self._frames: list[tuple[int, bytes]] = []
        self._size = 0
        self._run = 0
        self._wake: trio.Event | None = None
        self._room: trio.Event | None = None
        self._ended: NetError | None = None

    async def send(self, kind: int, payload: bytes) -> None:
        """Queue one frame, waiting for credit; raises ``ChannelReset`` or ``LinkBroken``."""
        size = len(payload) + FRAME_OVERHEAD
        link = self._link
        if self._run >= _RUN_BYTES:
            self._run = 0
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        while self._ended is None and (link.mux.credit(self.id) < size or link.crowded):
            self._room = trio.Event()
            if link.crowded:
                link.waiting.add(self)
            await self._room.wait()
        if self._ended is not None:
            raise self._ended
        link.mux.send(self.id, kind, payload)
        self._run += size
        link.kick()

    async def receive(self) -> list[tuple[int, bytes]]:
        """All frames that have arrived, at least one; raises ``ChannelReset`` or ``LinkBroken`` after the last one."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._frames:
            if self._ended is not None:
                raise self._ended
            self._wake = trio.Event()
            await self._wake.wait()
        frames, self._frames = self._frames, []
        size, self._size = self._size, 0
        if self._ended is None:
            self._link.mux.consumed(self.id, size)
            self._link.kick()
        return frames

    def reset(self, code: int = 0) -> None:
        """Cancel the job at both ends, without waiting; no effect after its end."""
        if self._ended is None:
            self._link.mux.reset(self.id, code)
            self._link.forget(self, ChannelReset("this node cancelled the job", code))

    def close(self) -> None:
        """The job ended normally; queued frames are still sent."""
        if self._ended is None:
            self._link.mux.close(self.id)
            self._link.forget(self, ChannelReset("the job is over"))

    @property
    def open(self) -> bool:
        """Whether frames can still be sent."""
        return self._ended is None

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reset()

    def put(self, kind: int, payload: bytes) -> None:
        """A frame arrived (called by the link)."""
        self._frames.append((kind, payload))
        self._size += len(payload) + FRAME_OVERHEAD
        if self._wake is not None:
            self._wake.set()

    def unblock(self) -> None:
        """Credit arrived, or the queue is shorter (called by the link)."""
        if self._room is not None:
            self._room.set()

    def end(self, reason: NetError) -> None:
        """No more frames will arrive (called by the link)."""
        if self._ended is None:
            self._ended = reason
        self.unblock()
        if self._wake is not None:
            self._wake.set()


class PeerLink:
    """One link to one peer, from HELLO to its end."""

    def __init__(self, link: Link, settings: LinkSettings) -> None:
        self.peer = link.peer
        self.outbound = link.outbound
        self.address = link.address
        self.via = link.via
        self.mux = Mux(settings, dialer=link.outbound, rng=_UNGUESSABLE)
        self.hello: Hello | None = None
        #: The optional parts of the protocol that both ends speak; known after :meth:`greet`.
        self.features: tuple[str, ...] = ()
        self.since = self.used = trio.current_time()
        self.rtt_s: float | None = None
        self.bytes_in = self.bytes_out = 0
        self.dropped = 0
        self.reason = ""
        self.retired = False
        self._farewell = ""
        self.waiting: set[Channel] = set()
        self._link = link
        self._channels: dict[int, Channel] = {}
        self._early: list[LinkEvent] = []
        self._defect: Exception | None = None  # ``_read`` raises it
        self._failure: Exception | None = None  # ``run`` raises it
        self._scope = trio.CancelScope()
        self._kicked = AutoResetEvent()
        self._flushed: trio.Event | None = None

    # --- for jobs and for the swarm ------------------------------------------------------------------------------

    def open(self) -> Channel:
        """A channel for a new job; raises ``LinkBroken`` or, when too many are open, ``LocalProtocolError``."""
        if self.reason:
            raise LinkBroken(self.reason)
        channel = Channel(self, self.mux.open(), inbound=False)
        self._channels[channel.id] = channel
        return channel

    def post(self, message: NodeMessage, *, hold: bool = False) -> int:
        """Queue a message between nodes; returns its bytes, or 0 if the queue is full.

        ``hold``: the caller has more messages, and calls :meth:`hurry` after the last one.
        """
        self.used = trio.current_time()
        payload = encode(message)
        sent = not self.reason and self.mux.send(0, kind_of(message), payload)
        self.dropped += not sent
        if not hold:
            self.kick()
        return FRAME_OVERHEAD + len(payload) if sent else 0

    @property
    def channels(self) -> int:
        return len(self._channels)

    @property
    def crowded(self) -> bool:
        return self.mux.waiting_bytes >= QUEUE_BYTES

    def kick(self) -> None:
        """Wake the writer."""
        self._kicked.set()

    def hurry(self) -> None:
        """Write the queue at once if the network takes all of it; otherwise wake the writer.

        A task that serves all links may call this or :meth:`tick`.  So a defect ends this link only, and ``run``
        raises it.
        """
        try:
            size = self.mux.waiting_bytes
            if not size or self.waiting or self._flushed or self._farewell or size > self._link.room():
                self.kick()
                return
            data = self.mux.data_to_send()
            self._link.send_now(data)
            self.bytes_out += len(data)
            if len(data) < size:
                self.kick()
        except LinkBroken as error:
            self.stop(str(error))
        except Exception as error:
            self._fail(error)

    def forget(self, channel: Channel, reason: NetError) -> None:
        """Forget a channel."""
        self._channels.pop(channel.id, None)
        self.waiting.discard(channel)
        self.used = trio.current_time()
        channel.end(reason)
        self.kick()

    def retire(self, reason: str) -> None:
        """End the link as soon as it has no jobs and the queue was sent."""
        self.retired = True
        self._farewell = reason
        self.kick()

    def stop(self, reason: str) -> None:
        """End the link now."""
        if not self.reason:
            self.reason = reason
        self._link.cut()
        self._scope.cancel()

    def give_up(self, reason: NetError) -> None:
        """End a link that has not greeted; its jobs get ``reason``."""
        self.stop(str(reason))
        for channel in list(self._channels.values()):
            self.forget(channel, reason)

    def _fail(self, defect: Exception) -> None:
        self._failure = self._failure or defect
        self.stop("this node closed the link")

    async def flush(self) -> None:
        """Wait until the network has taken all queued frames."""
        while (self.mux.has_data or self._link.unsent()) and not self.reason:
            self.kick()
            self._flushed = self._flushed or trio.Event()
            await self._flushed.wait()

    # --- life ----------------------------------------------------------------------------------------------------

    async def greet(self, hello: Hello) -> Hello:
        """Exchange HELLO: :meth:`say` and :meth:`hear`.  The caller sets the deadline."""
        await self.say(hello)
        return await self.hear(hello)

    async def say(self, hello: Hello) -> None:
        """Send HELLO; raises ``LinkBroken``.  Jobs may be opened from now on."""
        self.mux.send(0, HELLO, encode(hello))
        await self._link.send_all(self.mux.data_to_send())

    async def hear(self, said: Hello) -> Hello:
        """Wait for the other HELLO and send what jobs say meanwhile.  Raises a ``NetError`` or ``RemoteProtocolError``.

        A writer must not be cancelled in the middle of a frame: it ends by itself when HELLO has come.
        """
        problem: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(functools.partial(self._write, until_hello=True))
            try:
                self.features = agreed(said.features, (await self._hear()).features)
            except (NetError, RemoteProtocolError) as error:
                problem = error
                nursery.cancel_scope.cancel()
            self.kick()
        if problem is not None:
            raise problem
        assert self.hello is not None
        return self.hello

    async def _hear(self) -> Hello:
        while self.hello is None:
            data = await self._link.receive_some()
            if not data:
                raise LinkBroken("the peer hung up before it said HELLO")
            self.bytes_in += len(data)
            self._early += self.mux.receive(data, trio.current_time())
            if self._early:
                first = self._early.pop(0)
                if not isinstance(first, Frame) or first.kind != HELLO:
                    raise BadFrame("something else came before HELLO")
                message = decode(HELLO, first.payload)
                self.hello = message if isinstance(message, Hello) else None
        return self.hello

    async def run(self, owner: LinkOwner, pings: PingScheduler | None = None) -> None:
        """Carry frames until the link ends; ``reason`` then says why.  It raises only defects.

        ``pings`` is the timer of all links of a node; without it, the link has its own.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    if pings is None:
                        pings = PingScheduler()
                        nursery.start_soon(pings.run)
                    pings.add(self)
                    await self._read(owner)
            if self._failure is not None:
                raise self._failure
        finally:
            self.stop("this node closed the link")
            self._tell_flushed()
            for channel in list(self._channels.values()):
                self.forget(channel, LinkBroken(f"the link to {short(self.peer)} broke: {self.reason}"))

    async def _read(self, owner: LinkOwner) -> None:
        """Handle data that ``_receive_inline`` refuses: a message that has to wait, and all data after it."""
        mux, receive = self.mux, self._link.receive_some
        self._link.offer(functools.partial(self._receive_inline, owner))
        try:
            while True:
                early, self._early = self._early, []
                for event in early:
                    if not self._take(event, owner) and isinstance(event, Frame):
                        await owner.on_message(self, event.kind, event.payload)
                if mux.has_data:
                    self.hurry()
                data = await receive()
                if self._defect is not None:
                    raise self._defect
                if data:
                    self.bytes_in += len(data)
                    self._early += mux.receive(data, trio.current_time())
                elif not self._early:
                    self.stop("the connection ended")
                    return
        except RemoteProtocolError as error:
            owner.on_fault(self, error)
            self.stop(str(error))

    def _receive_inline(self, owner: LinkOwner, data: bytes) -> bool:
        """Handle data right after decryption, while ``_read`` waits, without waking a task.  False: not now."""
        if self._early or self._defect is not None:
            return False
        self.bytes_in += len(data)
        try:
            events = self.mux.receive(data, trio.current_time())
            for number, event in enumerate(events):
                if not self._take(event, owner):
                    self._early += events[number:]
                    break
        except Exception as error:  # ``_read`` raises it, because the caller is the reader of the whole connection
            self._defect = error
        if self._early or self._defect is not None:
            self._link.stir()
        elif self.mux.has_data:
            self.hurry()
        return True

    def _take(self, event: LinkEvent, owner: LinkOwner) -> bool:
        """Handle an event; False if it is a message that has to wait."""
        find = self._channels.get
        if type(event) is Frame:
            if not event.channel:
                return self._between_nodes(event, owner)
            if (channel := find(event.channel)) is not None:
                channel.put(event.kind, event.payload)
        elif type(event) is Credited:
            if (channel := find(event.channel)) is not None:
                channel.unblock()
        elif type(event) is Opened:
            channel = self._channels[event.channel] = Channel(self, event.channel, inbound=True)
            owner.on_channel(self, channel)
        elif type(event) is Reset:
            if (channel := find(event.channel)) is not None:
                self.forget(channel, ChannelReset(f"{short(self.peer)} cancelled the job", event.code))
        elif type(event) is Rtt:
            self.rtt_s = event.seconds
            owner.on_rtt(self, event.seconds)
        return True

    def _between_nodes(self, frame: Frame, owner: LinkOwner) -> bool:
        if frame.kind == GOAWAY:
            self.stop("the peer is leaving")
        elif frame.kind == HELLO:
            raise BadFrame("a second HELLO")
        else:
            self.used = trio.current_time()
            return owner.take_message(self, frame.kind, frame.payload)
        return True

    async def _write(self, *, until_hello: bool = False) -> None:
        """The only task that writes.  Frames that queue up during a write leave together in the next one."""
        mux, send, unsent = self.mux, self._link.send_all, self._link.unsent
        try:
            while True:
                while mux.has_data or unsent():  # so that data of ``send_now`` is not lost when the link ends
                    data = mux.data_to_send()
                    if self.waiting and not self.crowded:
                        self._unblock_all()
                    await send(data)
                    self.bytes_out += len(data)
                    if until_hello and self.hello is not None:
                        return
                    if mux.has_data:
                        await trio.lowlevel.checkpoint()  # a write that need not wait is no checkpoint
                if until_hello and self.hello is not None:
                    return
                self._tell_flushed()
                if self._farewell and not self._channels:
                    self.stop(self._farewell)
                    return
                await self._kicked.wait()
        except LinkBroken as error:
            self.stop(str(error))

    def _tell_flushed(self) -> None:
        if self._flushed is not None:
            self._flushed.set()
            self._flushed = None

    def _unblock_all(self) -> None:
        waiting, self.waiting = self.waiting, set()
        for channel in waiting:
            channel.unblock()

    # --- for the ping scheduler ----------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether this link has ended."""
        return bool(self.reason)

    def next_deadline(self, now: float) -> float:
        """The time of the next :meth:`tick`."""
        return self.mux.next_deadline(now)

    def tick(self, now: float) -> None:
        """Send a PING, or end the link if the peer did not answer."""
        try:
            for event in self.mux.tick(now):
                if isinstance(event, Dead):
                    self.stop("no sign of life")
            if self.mux.has_data:
                self.hurry()
        except Exception as error:
            self._fail(error)


__all__ = ["Channel", "ChannelReset", "LinkOwner", "LocalProtocolError", "PeerLink"]
