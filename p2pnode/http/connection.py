"""One connection of the API: hypercorn's HTTP/1.1 protocol between a socket and the ASGI app.

It replaces hypercorn's own ``TCPServer``, which shields writes without a limit (a client that stops reading blocks the
shutdown for ever), starts two timer tasks per request, and has no timer for slow heads.  Here nothing is shielded: a
write without progress, a cancelled server and a client that leaves each end the connection and its app.  The
connection closes from its own task, never from the app's.  Limits on the number of connections are the server's.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Final

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from p2pnode.http.asgi import App, Message, Scope, Send
from p2pnode.http.errors import JSON, ApiError
from p2pnode.http.http1 import Http1, Inbox, Paused, head_error
from p2pnode.http.request_id import new_request_id

#: Seconds for the whole head of a request, from the connection or the first byte (DESIGN 2.7).
HEAD_S: Final = 5.0
#: Seconds a connection may stay idle between two requests (clients pool connections for 60 s or less).
REST_S: Final = 75.0
#: Seconds without progress of a write after which the client counts as gone (DESIGN 2.7).
WRITE_IDLE_S: Final = 30.0
#: Seconds and bytes to read on after an answer that came before the end of its request.  Otherwise the client would
#: receive a reset instead of the answer (guess).
LINGER_S: Final = 1.0
LINGER_BYTES: Final = 1024 * 1024
#: Bytes read at once.
READ_BYTES: Final = 64 * 1024


def _plain(address: tuple[str, int]) -> tuple[str, int]:
    """Host and port; an IPv4 address that a dual-stack socket mapped to IPv6 is shown as IPv4."""
    return address[0].removeprefix("::ffff:"), address[1]


class Connection:
    """An accepted socket until it is closed.  The server enforces ``deadline`` (trio clock)."""

    def __init__(
        self, app: App, config: Config, context: WorkerContext, sock: trio.socket.SocketType, write_idle_s: float
    ) -> None:
        self._app = app
        self._config = config
        self._write_idle_s = write_idle_s
        # A second socket object would close the descriptor twice, so both use the one inside trio's.
        self._socket = sock
        self._raw: socket.socket = sock._sock
        self._lock = trio.Lock()
        self._corked: list[bytes] | None = None
        self._reading = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._gone = False
        self._heard = False
        self._served = False
        #: Bytes that arrived while an answer is under way; None while the protocol takes bytes.
        self._ahead: bytes | None = None
        self._peeking: trio.CancelScope | None = None
        self._task: trio.lowlevel.Task | None = None
        #: It waits for the head of a request.
        self.idle = True
        #: It waits for the rest of a body.
        self.uploading = False
        self.opened = trio.current_time()
        self.deadline = self.opened + HEAD_S
        self.address = ""
        self._protocol = self._http(context)

    def _http(self, context: WorkerContext) -> Http1:
        server, client = _plain(self._socket.getsockname()), _plain(self._socket.getpeername())
        self.address = client[0]
        state = ConnectionState({"connection": self})
        return Http1(self._app, self._config, context, self, state, False, client, server, self._event)

    # --- life ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve requests until one side closes the connection."""
        self._task = trio.lowlevel.current_task()
        try:
            async with trio.open_nursery() as self._nursery:
                with self._reading:
                    await self._read()
                if self._gone:
                    self._nursery.cancel_scope.cancel()
            if not self._gone and not self._protocol_is_done():
                await self._linger()
        finally:
            self._socket.close()

    def _protocol_is_done(self) -> bool:
        """Whether the client has sent its last request completely."""
        return self._protocol.connection.their_state in (h11.DONE, h11.CLOSED, h11.MUST_CLOSE)

    async def _read(self) -> None:
        while True:
            if self._ahead is not None and self.idle:
                data, self._ahead = self._ahead, None
            elif (received := await self._receive()) is None:
                continue
            elif not received:
                self._gone = True
                await self._protocol.handle(Closed())
                return
            elif self._ahead is not None or self._protocol.answers():
                self._ahead = (self._ahead or b"") + received
                continue
            else:
                data = received
            if self._served and self.idle and not self._heard:
                # The first byte of a further request starts the time limit of its head.
                self.deadline = trio.current_time() + HEAD_S
            self._heard = True
            try:
                await self._protocol.feed(data)
            except Paused:
                self._ahead = b""

    async def _receive(self) -> bytes | None:
        """The next bytes, empty at the end; None once the answer is complete and the pipelined bytes can be fed.

        Reading continues during an answer, because only a read notices that the client left.
        """
        received: bytes | None = None
        try:
            if self._ahead is None:
                received = await self._socket.recv(READ_BYTES)
            else:
                with trio.CancelScope() as self._peeking:
                    if len(self._ahead) >= READ_BYTES:
                        await trio.sleep_forever()
                    received = await self._socket.recv(READ_BYTES)
        except OSError:
            return b""
        return received

    async def _linger(self) -> None:
        """Read on for a moment after an early answer: if the socket closed at once, a reset could overtake it."""
        with suppress(OSError), trio.move_on_after(LINGER_S):
            self._socket.shutdown(socket.SHUT_WR)
            read = 0
            while read < LINGER_BYTES and (data := await self._socket.recv(READ_BYTES)):
                read += len(data)

    def turn_away(self) -> None:
        """Answer 503 as far as the kernel takes it at once, and close."""
        error = ApiError(
            503, "no_capacity", "Too many connections: close some, or try later.", retry_after=1.0, close=True
        )
        body = error.encoded()
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", JSON), *error.headers()]
        headers.append((b"x-request-id", new_request_id().encode()))
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        with suppress(OSError):
            self._raw.send(b"HTTP/1.1 503 Service Unavailable\r\n" + head + b"\r\n" + body)
            self._raw.shutdown(socket.SHUT_WR)
        self._socket.close()

    @property
    def evictable(self) -> bool:
        """Whether a full server may close it for a new connection: no request of it runs yet."""
        return self.idle or self.uploading

    def drop(self) -> None:
        """End it now: the client is gone, or the server closes it."""
        self._gone = True
        self._reading.cancel()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def expire(self) -> None:
        """The deadline has passed: answer 408 to a slow head, and close an idle connection without an answer."""
        self.deadline = inf
        if self.idle and self._heard:
            with trio.move_on_after(LINGER_S):
                await self._protocol.refuse(head_error(408))
                self._close()
                return
        self.drop()

    def _close(self) -> None:
        """The answer is complete: stop reading, and let ``run`` close."""
        self._reading.cancel()

    # --- what hypercorn's protocol asks for ------------------------------------------------------------------------

    async def _event(self, event: Event) -> None:
        if type(event) is RawData:
            await self._write(event.data)
        elif type(event) is Updated:
            self._turn(event.idle)
        elif type(event) is Closed:
            await self.flush()
            self._close()
            if trio.lowlevel.current_task() is self._task and self._nursery is not None:
                # The client broke the protocol, so its earlier request ends as well.
                self._nursery.cancel_scope.cancel()

    def _turn(self, idle: bool) -> None:
        self.idle = idle
        if idle and self._peeking is not None:
            self._peeking.cancel()
        self._served = True
        self._heard = False
        self.deadline = trio.current_time() + REST_S if idle else inf

    async def spawn_app(
        self, app: App, config: Config, scope: Scope, send: Callable[[Message | None], Awaitable[None]]
    ) -> Send:
        """Run the app for one request; returns the function that delivers its messages."""
        del config
        inbox = Inbox()
        assert self._nursery is not None
        self._nursery.start_soon(self._run_app, app, scope, inbox, send)
        return inbox.put

    async def _run_app(
        self, app: App, scope: Scope, inbox: Inbox, send: Callable[[Message | None], Awaitable[None]]
    ) -> None:
        try:
            await app(scope, inbox.get, send)
        finally:
            inbox.close()
        await send(None)  # hypercorn: answer 500 if the app forgot to answer
        await self.flush()

    # --- writing ---------------------------------------------------------------------------------------------------

    def cork(self) -> None:
        """Buffer writes until :meth:`flush`, so that they leave in one piece."""
        if self._corked is None:
            self._corked = []

    async def flush(self) -> None:
        """Write the buffered data."""
        if self._corked is not None:
            waiting, self._corked = self._corked, None
            await self._write(b"".join(waiting))

    async def _write(self, data: bytes) -> None:
        """Send all of it, without a checkpoint if the kernel takes it at once.  A client that left is no error."""
        if not data or self._gone:
            return
        if self._corked is not None:
            self._corked.append(data)
            return
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()
        try:
            await self._send(data)
        except OSError:
            self.drop()
        finally:
            self._lock.release()

    async def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while True:
            try:
                sent = self._raw.send(rest)
            except BlockingIOError:
                sent = 0
            if sent == len(rest):
                return
            rest = rest[sent:]
            with trio.move_on_after(self._write_idle_s) as idle:
                await self._socket.wait_writable()
            if idle.cancelled_caught:
                self.drop()
                return
