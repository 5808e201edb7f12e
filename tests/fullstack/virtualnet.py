"""A TCP network in virtual time, under real daemons: what ``trio.socket.socket`` gives while a ``VirtualNet`` is set.

*Theory of operation.*  Every socket belongs to a host, an IP address taken from the context in which it was made
(:meth:`VirtualNet.at`), so that the daemon's own code, which names no source address, still dials from the right one;
``127.0.0.1`` means that same host.  A connection is two pipes.  A pipe carries segments: each leaves when the sender's
uplink is free (``bytes_s``, one queue per host), arrives ``one_way_s(source, target)`` later and never overtakes the
one before.  What was sent and not yet read may not exceed ``window``; room made by a reader is known to the sender one
way later, as an acknowledgement would tell.  All that is on its way waits in a heap, and ``Time``, which jumps when
every task waits, jumps no further than to the earliest of it and hands it over: no task wakes for a segment in flight.

Faults: :meth:`cut` (one way or both) holds segments back like a network that loses them, and whoever waits too long
gets ``ETIMEDOUT``; :meth:`heal` delivers them; :meth:`reset` is a host whose processes were killed, :meth:`vanish` one
whose power failed, and :meth:`appear` its return, without memory of its connections.

Not here: loss and reordering inside TCP, slow start, name resolution, anything but IPv4 and streams.  The factory
belongs to one ``trio.run``; sockets of any other are the kernel's.
"""

from __future__ import annotations

import errno
import functools
import heapq
import itertools
import operator
import os
import socket as stdlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Self

import trio
import trio.testing
from trio.lowlevel import Abort, Task, checkpoint, current_task, reschedule, wait_task_rescheduled

#: Bytes sent and not yet read after which a sender waits (Linux: 16 KiB to send, 128 KiB to receive, both growing).
WINDOW: Final = 256 * 1024
#: Seconds between the attempts of a dial that nothing answers (Linux: 1 s, doubling, six times), then ``ETIMEDOUT``.
SYN_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
#: Seconds after which unacknowledged data end a connection (Linux, ``tcp_retries2`` = 15: about 15 minutes).
GIVE_UP_S: Final = 924.0
LOOPBACK: Final = "127.0.0.1"
Address = tuple[str, int]

_host: ContextVar[str] = ContextVar("virtual_host", default="10.255.255.254")


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Time:
    """Virtual time that passes when nothing else happens, for all deadlines and for one network.

    ``clock`` is trio's ``MockClock``, which may not be subclassed, with another way to jump.  That way looks at the
    deadlines inside trio's runner (private), so as to land on them exactly; :meth:`fits` says whether they are there.
    """

    def __init__(self) -> None:
        self.clock: Any = trio.testing.MockClock(autojump_threshold=0)
        self.clock._autojump = self._jump
        # What the clock would work out from the real one, a hundred times for each node and second.
        self.clock.current_time = functools.partial(operator.attrgetter("_virtual_base"), self.clock)
        self.clock.time = self
        self.net: VirtualNet | None = None

    @staticmethod
    def fits() -> bool:
        """Whether the insides that are used here are there."""
        deadlines = getattr(trio._core._run, "Deadlines", None)
        found = all(hasattr(deadlines, name) for name in ("next_deadline", "expire"))
        return found and hasattr(trio.testing.MockClock, "_autojump")

    def _jump(self) -> None:
        """To where somebody has something to do: not to every segment that nobody waits for, nor in two steps."""
        clock, net, runner = self.clock, self.net, trio._core._run.GLOBAL_RUN_CONTEXT.runner
        while not runner.runq:
            at: float = runner.deadlines.next_deadline()
            if net is not None:
                at = min(at, net.next_at)
            if at == float("inf"):
                return
            clock._virtual_base = max(clock._virtual_base, at)
            if net is not None:
                net.carry_due(at)
            if not runner.runq:
                runner.deadlines.expire(clock._virtual_base)


class Pipe:
    """One direction of a connection: segments on their way, bytes that arrived, and how it ended."""

    __slots__ = (
        "arrived", "broken", "end", "ended", "flying", "freed", "held", "last", "outstanding", "reader", "source",
        "target", "writer",
    )  # fmt: skip

    def __init__(self, source: str, target: str) -> None:
        self.source, self.target = source, target
        #: The socket that reads.
        self.end: VirtualSocket
        self.arrived = bytearray()
        #: Bytes sent whose reading the sender does not know of.
        self.outstanding = 0
        #: When the sender learns that how many bytes were read.
        self.freed: deque[tuple[float, int]] = deque()
        #: What a cut holds back: what it is, and since when.
        self.held: deque[tuple[Callable[..., None], tuple[Any, ...], float]] = deque()
        self.last = 0.0
        #: Segments on their way.
        self.flying = 0
        #: FIN has arrived.
        self.ended = False
        #: What the reader gets once all that arrived is read, or the writer at once.
        self.broken: OSError | None = None
        self.reader: Task | None = None
        self.writer: Task | None = None

    async def wait_to_read(self) -> None:
        """Until :meth:`wake_reader`."""
        assert self.reader is None, "two tasks read from one socket"
        self.reader = current_task()
        await wait_task_rescheduled(self._stop_reading)

    def _stop_reading(self, _: Any) -> Abort:
        self.reader = None
        return Abort.SUCCEEDED

    async def wait_to_write(self) -> None:
        """Until :meth:`wake_writer`."""
        assert self.writer is None, "two tasks write to one socket"
        self.writer = current_task()

        def abort(_: Any) -> Abort:
            self.writer = None
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)

    def wake_reader(self) -> None:
        task, self.reader = self.reader, None
        if task is not None:
            reschedule(task)

    def wake_writer(self) -> None:
        task, self.writer = self.writer, None
        if task is not None:
            reschedule(task)


class Face:
    """What the daemon's HTTP server takes for the kernel's socket inside trio's: calls that never wait."""

    def __init__(self, outer: VirtualSocket) -> None:
        self._outer = outer
        self.send = outer.send_now

    def shutdown(self, how: int) -> None:
        self._outer.shutdown(how)

    def fileno(self) -> int:
        return self._outer.fileno()


class VirtualSocket(trio.socket.SocketType):
    """One TCP socket of the network; errors are the kernel's."""

    def __init__(self, net: VirtualNet, host: str) -> None:
        self._net = net
        self.host = host
        self.number = next(net.numbers)
        self._sock: Any = Face(self)
        self._name: Address | None = None
        self._peer: Address | None = None
        self._into: Pipe | None = None
        self._out: Pipe | None = None
        self._backlog: deque[VirtualSocket] | None = None
        self._room = 0
        self._acceptor: Task | None = None
        self._shut = False
        self._closed = False
        net.sockets[self.number] = self

    # --- what is asked of any socket -------------------------------------------------------------------------------

    family = property(lambda _: stdlib.AF_INET)  # type: ignore[assignment]
    type = property(lambda _: stdlib.SOCK_STREAM)  # type: ignore[assignment]
    proto = property(lambda _: 0)  # type: ignore[assignment]

    @property
    def did_shutdown_SHUT_WR(self) -> bool:  # noqa: N802 - trio's name
        return self._shut

    def fileno(self) -> int:
        return -1 if self._closed else 1_000_000 + self.number

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<VirtualSocket {self.number} {self._name} to {self._peer}{' closed' if self._closed else ''}>"

    def setsockopt(self, *_: Any) -> None:
        """Taken as read."""

    def getsockopt(self, level: int, option: int, buflen: int = 0) -> Any:
        del buflen
        return int(self._backlog is not None and (level, option) == (stdlib.SOL_SOCKET, stdlib.SO_ACCEPTCONN))

    def getsockname(self) -> Address:
        return self._name or ("0.0.0.0", 0)

    def getpeername(self) -> Address:
        if self._closed:
            raise _error(errno.EBADF)
        if self._peer is None:
            raise _error(errno.ENOTCONN)
        return self._peer

    # --- coming together -------------------------------------------------------------------------------------------

    async def bind(self, address: Any) -> None:
        await checkpoint()
        host, port = address[0], address[1]
        if host not in (self.host, LOOPBACK, "0.0.0.0"):
            raise _error(errno.EADDRNOTAVAIL)
        port = port or self._net.free_port()
        if self._net.bound(self.host, host, port):
            raise _error(errno.EADDRINUSE)
        self._name = (host, port)

    def listen(self, backlog: int = 128) -> None:
        assert self._name is not None
        self._backlog, self._room = deque(), backlog
        self._net.listeners[self.host, *self._name] = self

    async def accept(self) -> tuple[VirtualSocket, Address]:
        if self._backlog is None:
            raise _error(errno.EINVAL)
        if self._closed:
            raise _error(errno.EBADF)
        if self._backlog:
            await checkpoint()
        while not self._backlog:
            self._acceptor = current_task()
            await wait_task_rescheduled(self._abort)
            if self._closed:
                raise trio.ClosedResourceError("the listener was closed")
        other = self._backlog.popleft()
        return other, other.getpeername()

    def _abort(self, _: Any) -> Abort:
        self._acceptor = None
        return Abort.SUCCEEDED

    async def connect(self, address: Any) -> None:
        await checkpoint()
        if self._closed:
            raise _error(errno.EBADF)
        host, port = address[0], address[1]
        target = self.host if host == LOOPBACK else host
        mine = LOOPBACK if host == LOOPBACK else self.host
        for patience in SYN_S:
            if self._net.open(self.host, target) and self._net.open(target, self.host):
                break
            await self._sleep(patience)
        else:
            raise _error(errno.ETIMEDOUT)
        there, back = self._net.one_way(self.host, target), self._net.one_way(target, self.host)
        await self._sleep(there)
        listener = self._net.listening(target, host, port)
        if listener is None or listener._backlog is None or len(listener._backlog) >= listener._room:
            await self._sleep(back)
            raise _error(errno.ECONNREFUSED)
        self._name = self._name if self._name and self._name[1] else (mine, self._net.free_port())
        other = VirtualSocket(self._net, target)
        other._name, other._peer = (host, port), self._name
        self._out, self._into = Pipe(self.host, target), Pipe(target, self.host)
        other._out, other._into = self._into, self._out
        self._into.end, self._out.end = self, other
        try:
            await self._sleep(back)
        except BaseException:
            other._reset()
            raise
        if other._closed:  # the listener, or its host, went away meanwhile
            raise _error(errno.ECONNREFUSED)
        self._peer = (host, port)
        self._net.post(self._out, listener._arrive, other)

    async def _sleep(self, seconds: float) -> None:
        """Wait inside a dial; closing the socket ends it."""
        await trio.sleep(seconds)
        if self._closed:
            raise trio.ClosedResourceError("the socket was closed")

    def _arrive(self, other: VirtualSocket) -> None:
        """The last step of a handshake reached this listener."""
        if self._closed or self._backlog is None:
            other._reset()
            return
        self._backlog.append(other)
        task, self._acceptor = self._acceptor, None
        if task is not None:
            reschedule(task)

    # --- talking ---------------------------------------------------------------------------------------------------

    def send_now(self, data: bytes | memoryview) -> int:
        """As much as the window takes, without waiting."""
        if self._closed:
            raise _error(errno.EBADF)
        pipe = self._out
        if pipe is None:
            raise _error(errno.ENOTCONN)
        if pipe.broken is not None:
            error, pipe.broken = pipe.broken, _error(errno.EPIPE)
            raise error
        if self._shut:
            raise _error(errno.EPIPE)
        count = min(len(data), self._net.room(pipe))
        if not count:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        pipe.outstanding += count
        self._net.post(pipe, self._net.deliver, pipe, bytes(data[:count]), size=count)
        return count

    async def send(self, data: Any, flags: int = 0, /) -> int:  # type: ignore[override]
        del flags
        await checkpoint()
        while True:
            try:
                return self.send_now(data)
            except BlockingIOError:
                await self.wait_writable()

    async def wait_writable(self) -> None:
        pipe = self._out
        assert pipe is not None
        while not self._closed and pipe.broken is None and self._net.room(pipe) == 0:
            self._net.tell_room(pipe)
            await pipe.wait_to_write()
        if self._closed:
            raise trio.ClosedResourceError("the socket was closed")

    async def recv(self, buflen: int, flags: int = 0, /) -> bytes:  # type: ignore[override]
        del flags
        pipe = self._into
        if self._closed:
            raise _error(errno.EBADF)
        if pipe is None:
            raise _error(errno.ENOTCONN)
        if pipe.arrived or pipe.ended or pipe.broken:
            await checkpoint()
        while not pipe.arrived:
            if self._closed:
                raise trio.ClosedResourceError("the socket was closed")
            if pipe.broken is not None:
                assert pipe.broken.errno is not None
                raise _error(pipe.broken.errno)  # a new one each time, as the kernel's: errors hold on to frames
            if pipe.ended:
                return b""
            await pipe.wait_to_read()
        if self._closed:
            raise trio.ClosedResourceError("the socket was closed")
        if len(pipe.arrived) <= buflen:
            data = bytes(pipe.arrived)
            pipe.arrived.clear()
        else:
            data = bytes(pipe.arrived[:buflen])
            del pipe.arrived[:buflen]
        self._net.acknowledge(pipe, len(data))
        return data

    async def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0, /) -> int:  # type: ignore[override]
        del flags
        view = memoryview(buffer)
        data = await self.recv(nbytes or len(view))
        view[: len(data)] = data
        return len(data)

    def is_readable(self) -> bool:
        pipe = self._into
        return pipe is not None and bool(pipe.arrived or pipe.ended or pipe.broken)

    # --- parting ---------------------------------------------------------------------------------------------------

    def shutdown(self, flag: int) -> None:
        if self._closed:
            raise _error(errno.EBADF)
        if self._out is None:
            raise _error(errno.ENOTCONN)
        if flag in (stdlib.SHUT_WR, stdlib.SHUT_RDWR) and not self._shut:
            self._shut = True
            if self._out.broken is None:
                self._net.post(self._out, self._net.finish, self._out)
        if flag in (stdlib.SHUT_RD, stdlib.SHUT_RDWR) and self._into is not None:
            self._into.ended = True
            self._into.wake_reader()

    def close(self) -> None:
        """FIN, or RST if something was left unread; whoever waits on the socket wakes up with its end."""
        if self._closed:
            return
        self._closed = True
        self._net.gone(self)
        if self._backlog is not None:
            for waiting in self._backlog:
                waiting._reset()
            self._backlog.clear()
        if self._acceptor is not None:
            reschedule(self._acceptor)
            self._acceptor = None
        if self._out is not None and self._into is not None:
            unread, self._into.arrived = len(self._into.arrived), bytearray()
            if self._out.broken is None:
                if unread:
                    self._net.post(self._out, self._net.refuse, self._out)
                elif not self._shut:
                    self._net.post(self._out, self._net.finish, self._out)
            self._into.wake_reader()
            self._out.wake_writer()

    def _reset(self) -> None:
        """End it with an RST, whatever was sent before."""
        if not self._closed:
            self._closed = True
            self._net.gone(self)
            if self._out is not None and self._into is not None:
                self._net.post(self._out, self._net.refuse, self._out)
                self._into.wake_reader()
                self._out.wake_writer()

    def die(self) -> None:
        """Its process is gone: whoever waits on it there is told nothing any more."""
        self._closed = True
        self._net.gone(self)
        for waiting in self._backlog or ():
            waiting._reset()
        if self._out is not None:
            self._net.post(self._out, self._net.refuse, self._out)

    def fail(self, number: int) -> None:
        """The connection is broken for this end."""
        for pipe in (self._into, self._out):
            if pipe is not None and pipe.broken is None:
                pipe.broken = _error(number)
        if self._into is not None:
            self._into.wake_reader()
        if self._out is not None:
            self._out.wake_writer()

    @property
    def closed(self) -> bool:
        return self._closed


class VirtualNet(trio.abc.SocketFactory):
    """The network.  ``one_way_s`` gives the seconds from one host to another, ``bytes_s`` a host's uplink."""

    def __init__(
        self,
        one_way_s: float | Callable[[str, str], float] = 0.0,
        bytes_s: float | Callable[[str], float] = float("inf"),
        window: int = WINDOW,
        give_up_s: float = GIVE_UP_S,
    ) -> None:
        self._one_way = one_way_s
        self._bytes_s = bytes_s
        self.window = window
        self.give_up_s = give_up_s
        self.numbers = itertools.count(1)
        self.sockets: dict[int, VirtualSocket] = {}
        self.listeners: dict[tuple[str, str, int], VirtualSocket] = {}
        #: Payload bytes and segments that each host sent to and got from others (loopback is not counted).
        self.bytes_out: Counter[str] = Counter()
        self.bytes_in: Counter[str] = Counter()
        self.segments: Counter[str] = Counter()
        #: Called with (time, source, target, bytes) for every segment that arrives: traces and digests.
        self.trace: Callable[[float, str, str, int], None] | None = None
        self._now: Callable[[], float] = trio.current_time
        self._cuts: Counter[tuple[str, str]] = Counter()
        self._vanished: set[str] = set()
        self._busy: dict[str, float] = {}
        self._ports = itertools.count(40_000)
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._holding: dict[Pipe, None] = {}

    # --- life ------------------------------------------------------------------------------------------------------

    def carry_due(self, now: float) -> None:
        """Everything that arrives until now."""
        while self._heap and self._heap[0][0] <= now:
            _, _, act, args = heapq.heappop(self._heap)
            act(*args)

    @property
    def next_at(self) -> float:
        """When something arrives."""
        return self._heap[0][0] if self._heap else float("inf")

    @contextmanager
    def install(self) -> Iterator[Self]:
        """Sockets made in this ``trio.run`` meanwhile belong to this network, and its clock carries their segments."""
        clock: Any = trio.lowlevel.current_clock()
        time: Time = clock.time
        before, time.net = trio.socket.set_custom_socket_factory(self), self
        self._now = clock.current_time  # what trio's own comes to, several times for each segment
        try:
            yield self
        finally:
            trio.socket.set_custom_socket_factory(before)
            time.net, self._now = None, trio.current_time

    @contextmanager
    def at(self, host: str) -> Iterator[None]:
        """Sockets made inside, and in tasks started inside, are those of ``host``."""
        token = _host.set(host)
        try:
            yield
        finally:
            _host.reset(token)

    def socket(self, family: Any = stdlib.AF_INET, kind: Any = stdlib.SOCK_STREAM, proto: int = 0) -> VirtualSocket:  # type: ignore[override]
        del proto
        if (family, kind) != (stdlib.AF_INET, stdlib.SOCK_STREAM):
            raise _error(errno.EAFNOSUPPORT)
        return VirtualSocket(self, _host.get())

    def free_port(self) -> int:
        """A port that nobody has used yet."""
        return next(self._ports)

    def bound(self, host: str, address: str, port: int) -> bool:
        """Whether one of the host's listeners has this port."""
        either = (address, "0.0.0.0") if address != "0.0.0.0" else (host, LOOPBACK, "0.0.0.0")
        return any((host, other, port) in self.listeners for other in either)

    def listening(self, host: str, address: str, port: int) -> VirtualSocket | None:
        """Who accepts there."""
        return self.listeners.get((host, address, port)) or self.listeners.get((host, "0.0.0.0", port))

    def gone(self, sock: VirtualSocket) -> None:
        """A socket was closed."""
        self.sockets.pop(sock.number, None)
        name = (sock.host, *sock.getsockname())
        if self.listeners.get(name) is sock:
            del self.listeners[name]

    def open_sockets(self, host: str | None = None) -> int:
        """Sockets that are not closed, of one host or of all."""
        return sum(host in (None, sock.host) for sock in self.sockets.values())

    # --- carrying --------------------------------------------------------------------------------------------------

    def one_way(self, source: str, target: str) -> float:
        """Seconds from one host to another; none inside a host."""
        if source == target:
            return 0.0
        return self._one_way(source, target) if callable(self._one_way) else self._one_way

    def post(self, pipe: Pipe, act: Callable[..., None], *args: Any, size: int = 0) -> None:
        """Send one thing through a pipe, behind all that was sent before."""
        now, source, target = self._now(), pipe.source, pipe.target
        if source in self._vanished:
            return
        leaves = now
        if source != target:
            self.bytes_out[source] += size
            self.segments[source] += 1
            rate = self._bytes_s(source) if callable(self._bytes_s) else self._bytes_s
            if size and rate != float("inf"):
                leaves = self._busy[source] = max(now, self._busy.get(source, 0.0)) + size / rate
        at = pipe.last = max(pipe.last, leaves + self.one_way(source, target))
        if at <= now and not pipe.flying and not pipe.held and self._passes(pipe):
            act(*args)  # inside one host, or over no distance, as the kernel's loopback does it
            return
        pipe.flying += 1
        self._at(at, self._carry, pipe, act, args)

    def _at(self, at: float, act: Callable[..., None], *args: Any) -> None:
        heapq.heappush(self._heap, (at, next(self._order), act, args))

    def _carry(self, pipe: Pipe, act: Callable[..., None], args: tuple[Any, ...]) -> None:
        """It has reached the other host, unless the network is cut just now."""
        pipe.flying -= 1
        if pipe.held or not self._passes(pipe):
            if not pipe.held:
                self._holding[pipe] = None
                self._at(self._now() + self.give_up_s, self._give_up, pipe)
            pipe.held.append((act, args, self._now()))
        else:
            act(*args)

    def _passes(self, pipe: Pipe) -> bool:
        """Whether what is on its way arrives; what had left before the power failed does."""
        if not self._cuts and not self._vanished:
            return True
        return not self._cuts[pipe.source, pipe.target] and pipe.target not in self._vanished

    def deliver(self, pipe: Pipe, data: bytes) -> None:
        """Bytes for the reader; a socket that is closed answers with an RST."""
        if pipe.source != pipe.target:
            self.bytes_in[pipe.target] += len(data)
            if self.trace is not None:
                self.trace(self._now(), pipe.source, pipe.target, len(data))
        end = pipe.end
        if end.closed:
            if end._out is not None:
                self.post(end._out, self.refuse, end._out)
            return
        if pipe.broken is None:
            pipe.arrived += data
            pipe.wake_reader()

    def finish(self, pipe: Pipe) -> None:
        """A FIN for the reader."""
        pipe.ended = True
        pipe.wake_reader()

    def refuse(self, pipe: Pipe) -> None:
        """An RST for the reader, which ends both directions."""
        if not pipe.end.closed:
            pipe.end.fail(errno.ECONNRESET)

    # --- the window ------------------------------------------------------------------------------------------------

    def room(self, pipe: Pipe) -> int:
        """Bytes that the sender may send now, as far as it knows."""
        now, freed = self._now(), pipe.freed
        if freed and self.open(pipe.target, pipe.source):
            while freed and freed[0][0] <= now:
                pipe.outstanding -= freed.popleft()[1]
        return max(0, self.window - pipe.outstanding)

    def acknowledge(self, pipe: Pipe, size: int) -> None:
        """The reader has taken bytes; the sender will know one way later."""
        at = self._now() + self.one_way(pipe.target, pipe.source)
        if pipe.freed and pipe.freed[-1][0] >= at:
            at, before = pipe.freed.pop()
            size += before
        pipe.freed.append((at, size))
        if pipe.writer is not None:
            self._at(at, pipe.wake_writer)

    def tell_room(self, pipe: Pipe) -> None:
        """The sender is about to wait: wake it when it learns of the room that was made."""
        if pipe.freed:
            self._at(pipe.freed[0][0], pipe.wake_writer)

    # --- faults ----------------------------------------------------------------------------------------------------

    def open(self, source: str, target: str) -> bool:
        """Whether anything gets from one host to the other now."""
        if source == target:
            return source not in self._vanished
        return not (self._cuts and self._cuts[source, target]) and not (
            self._vanished and (source in self._vanished or target in self._vanished)
        )

    def cut(self, source: str, target: str, *, both: bool = True) -> None:
        """Nothing gets from ``source`` to ``target`` any more (and back), until it is healed as often."""
        self._cuts[source, target] += 1
        if both:
            self._cuts[target, source] += 1

    def partition(self, *groups: list[str]) -> None:
        """Hosts of different groups do not hear each other."""
        for one, other in itertools.combinations(groups, 2):
            for a in one:
                for b in other:
                    self.cut(a, b)

    def heal(self) -> None:
        """No cut is left; what was held arrives."""
        self._cuts.clear()
        self._release()

    def reset(self, host: str) -> None:
        """The processes of a host are killed: its connections end with an RST, nobody listens.

        What runs on that host must be cancelled by the caller, and will not be woken by its sockets any more.
        """
        for sock in [sock for sock in self.sockets.values() if sock.host == host]:
            sock.die()

    def vanish(self, host: str) -> None:
        """A host loses its power: nothing from it or to it, and no word of farewell; see :meth:`reset`."""
        self._vanished.add(host)
        self.reset(host)

    def appear(self, host: str) -> None:
        """It is back, and knows nothing of its old connections."""
        self._vanished.discard(host)
        self._release()

    def _release(self) -> None:
        for pipe in list(self._holding):
            # Until this arrives, what left later waits behind it.
            self._at(self._now() + self.one_way(pipe.source, pipe.target), self._flush, pipe)
        for sock in self.sockets.values():
            if sock._out is not None:
                sock._out.wake_writer()

    def _flush(self, pipe: Pipe) -> None:
        """What was held is sent once more, and arrives unless there is another cut."""
        if self._passes(pipe):
            self._holding.pop(pipe, None)
            held, pipe.held = pipe.held, deque()
            for act, args, _ in held:
                act(*args)

    def _give_up(self, pipe: Pipe) -> None:
        """What a cut has held for too long: the sender's kernel ends the connection."""
        if pipe.held and self._now() - pipe.held[0][2] >= self.give_up_s:
            self._holding.pop(pipe, None)
            pipe.held.clear()
            sender = self._sender(pipe)
            if sender is not None and not sender.closed:
                sender.fail(errno.ETIMEDOUT)

    def _sender(self, pipe: Pipe) -> VirtualSocket | None:
        back = pipe.end._out
        return back.end if back is not None else None
