"""The HTTP server: its own socket, a bounded number of connections, timers, and a shutdown that always ends.

hypercorn parses HTTP/1.1 (``connection``).  Its accept loop is not used: it has no limits, and a client that stopped
reading blocks its shutdown.
"""

from __future__ import annotations

import errno
import importlib.metadata
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext

from p2pnode.config import is_loopback
from p2pnode.http.asgi import App
from p2pnode.http.connection import WRITE_IDLE_S, Connection

#: Connections that the kernel may queue before they are accepted.
BACKLOG: Final = 256
#: Seconds between two checks of the connections' deadlines.
SWEEP_S: Final = 0.25
#: Milliseconds after which the kernel closes a connection whose client acknowledges nothing (guess: a minute).
USER_TIMEOUT_MS: Final = 60_000
#: Seconds to wait when the process has no descriptor left (trio does the same).
NO_DESCRIPTOR_S: Final = 0.1
#: The line of hypercorn whose protocol classes ``connection`` builds on.
HYPERCORN: Final = "0.18."

_log = structlog.get_logger("p2pnode.http")


class ApiAddressProblem(Exception):
    """The API cannot listen at the configured address; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the server.  Only ``connections`` applies to loopback."""

    connections: int = 256
    per_address: int = 32
    #: Seconds a running answer may take after the request to stop.
    drain_s: float = 30.0
    write_idle_s: float = WRITE_IDLE_S


class Settings(Config):
    """The part of hypercorn's configuration that its protocol reads: no log; the date is cached for a second."""

    accesslog = None
    errorlog = None
    keep_alive_max_requests = 1 << 60
    h11_max_incomplete_size = 16 * 1024

    def __init__(self) -> None:
        self._second = 0
        self._headers: list[tuple[bytes, bytes]] = []

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        del protocol
        if (second := int(time.time())) != self._second:
            self._second, self._headers = second, [(b"date", formatdate(second, usegmt=True).encode())]
        return self._headers


async def listen(host: str, port: int) -> trio.socket.SocketType:
    """A listening socket; raises ``ApiAddressProblem``."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = trio.socket.socket(family, kind, number)
    except OSError as error:
        raise ApiAddressProblem(f"{host} is no address of this machine ({error}): choose another with --api") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; inherited by the connections
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        await sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise ApiAddressProblem(
                f"another program listens on {host}:{port}: stop it, or choose another port with --api {host}:0"
            ) from None
        raise ApiAddressProblem(f"cannot listen on {host}:{port} ({error.strerror}): choose another --api") from None
    except BaseException:
        sock.close()
        raise
    return sock


class Server:
    """Accepts, bounds and closes the connections of one app."""

    def __init__(self, app: App, limits: Limits = Limits(), watch: Callable[[int], None] = lambda _: None) -> None:
        found = importlib.metadata.version("hypercorn")
        if not found.startswith(HYPERCORN):
            raise RuntimeError(f"p2pnode works with hypercorn {HYPERCORN}*, not {found}: pip install 'hypercorn~=0.18'")
        self._app = app
        self._limits = limits
        self._watch = watch
        self._config = Settings()
        self._context = WorkerContext(None)
        self._connections: set[Connection] = set()
        self._by_address: Counter[str] = Counter()
        self._empty = trio.Event()
        self._some = trio.Event()

    async def run(self, sock: trio.socket.SocketType, stop: trio.Event, *, task_status: trio.TaskStatus[int]) -> None:
        """Serve until ``stop``, then let running answers finish for at most ``drain_s``.  Reports the port."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep)
            with sock:
                accepting = trio.CancelScope()
                nursery.start_soon(self._accept, sock, nursery, accepting)
                task_status.started(sock.getsockname()[1])
                await stop.wait()
                accepting.cancel()
            await self._context.terminated.set()
            await self._drain()
            nursery.cancel_scope.cancel()

    async def _drain(self) -> None:
        for connection in list(self._connections):
            if connection.idle:
                connection.drop()
        with trio.move_on_after(self._limits.drain_s):
            while self._connections:
                self._empty = trio.Event()
                await self._empty.wait()

    async def _accept(self, sock: trio.socket.SocketType, nursery: trio.Nursery, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                try:
                    accepted, _ = await sock.accept()
                except OSError as error:
                    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                        _log.warning("no_descriptor_left", fix="raise the limit of open files: ulimit -n 4096")
                        self._evict_oldest(None)
                        await trio.sleep(NO_DESCRIPTOR_S)
                    continue
                self._admit(accepted, nursery)

    def _admit(self, accepted: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self._app, self._config, self._context, accepted, self._limits.write_idle_s)
        except OSError:  # the client left before it was accepted
            accepted.close()
            return
        if not self._find_room(connection.address):
            connection.turn_away()
            return
        self._connections.add(connection)
        self._some.set()
        self._by_address[connection.address] += 1
        self._watch(len(self._connections))
        nursery.start_soon(self._serve, connection)

    async def _serve(self, connection: Connection) -> None:
        try:
            await connection.run()
        except Exception:
            _log.exception("connection_failed")
        finally:
            self._forget(connection)
            if not self._connections:
                self._empty.set()

    def _forget(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self._by_address[connection.address] -= 1
            if not self._by_address[connection.address]:
                del self._by_address[connection.address]
            self._watch(len(self._connections))

    def _find_room(self, address: str) -> bool:
        """Whether one more fits; if not, it replaces one without a running request."""
        bounded = not is_loopback(address)
        if bounded and self._by_address[address] >= self._limits.per_address:
            return self._evict_oldest(address)
        if len(self._connections) >= self._limits.connections:
            return self._evict_oldest(None)
        return True

    def _evict_oldest(self, address: str | None) -> bool:
        waiting = [c for c in self._connections if c.evictable and address in (None, c.address)]
        if not waiting:
            return False
        oldest = min(waiting, key=lambda connection: connection.opened)
        self._forget(oldest)
        oldest.drop()
        return True

    async def _sweep(self) -> None:
        while True:
            if not self._connections:  # an idle node must not wake up
                self._some = trio.Event()
                await self._some.wait()
            await trio.sleep(SWEEP_S)
            now = trio.current_time()
            for connection in [c for c in self._connections if c.deadline < now]:
                await connection.expire()


async def serve(
    app: App,
    host: str,
    port: int,
    *,
    stop: trio.Event | None = None,
    limits: Limits = Limits(),
    watch: Callable[[int], None] = lambda _: None,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``app`` until ``stop`` is set or the task is cancelled; ``started`` gets the port.

    Raises:
      ApiAddressProblem: the address cannot be bound.
    """
    server = Server(app, limits, watch)
    await server.run(await listen(host, port), trio.Event() if stop is None else stop, task_status=task_status)
