"""Our own TCP transport under py-libp2p: this module opens, counts and closes the sockets.

The library's listener shares its port with any other program (SO_REUSEPORT), outlives its host, counts a socket against
its limit of 250 before the handshake, and does not free the slot of an inbound connection until the host ends.  Here
the port is exclusive, ``protocol.membership.connections`` decides before the library sees a socket, silent sockets are
cut, and the end of a socket ends all tasks that were started for it.  Not here: the limits themselves.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence

import trio
from libp2p.abc import IListener, IRawConnection, ITransport
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from multiaddr import Multiaddr

from p2pnode.swarm.net import Address, BadAddress, NetError, PortInUse, parse_address
from protocol.ids import PeerId, short
from protocol.membership.connections import ConnectionLimiter, Ticket

log = logging.getLogger(__name__)

#: Connections the kernel completes before we accept them (the usual value).
BACKLOG = 128
#: Errors when the process is out of file descriptors or buffers: wait and try again.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
_EXHAUSTED_PAUSE_S = 0.1

#: Bytes of one read, if the library sets no limit (trio's own default).
READ_BYTES = 64 * 1024

Upgrade = Callable[["AcceptedStream"], Awaitable[None]]


class AcceptedStream(TrioTCPStream):
    """A TCP socket with the library's interface, which can be cut without waiting."""

    def __init__(self, stream: trio.SocketStream, address: str, port: int) -> None:
        super().__init__(stream)
        self.address = address
        self.closed = trio.Event()
        self.proven = trio.Event()
        self.linked = trio.Event()
        self.ticket: Ticket | None = None
        self.gateway: AcceptGateway | None = None
        self.on_cut: Callable[[], None] = lambda: None
        self._cached_remote_address = (address, port)

    async def read(self, n: int | None = None) -> bytes:
        if n is None:
            n = READ_BYTES
        try:
            received: bytes = await self.stream.socket.recv(n)
            return received
        except (OSError, trio.ClosedResourceError):
            return b""

    def send_now(self, data: bytes) -> int:
        """Send as much as the kernel takes without waiting.  No other task may be in :meth:`write` now.

        trio's own send is always a checkpoint, so this uses the socket inside trio's.
        """
        try:
            sent: int = self.stream.socket._sock.send(data)
            return sent
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise ConnectionClosedError("the TCP connection is gone", transport="tcp") from error

    async def write(self, data: bytes) -> None:
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError("the TCP connection is gone", transport="tcp") from error

    async def close(self) -> None:
        self.cut()
        await trio.lowlevel.checkpoint()

    def cut(self) -> None:
        """Close the socket now; tasks that wait on it see its end."""
        self.stream.socket.close()
        for event in (self.closed, self.proven, self.linked):
            event.set()
        if self.gateway is not None and self.ticket is not None:
            self.gateway.release(self.ticket)
        self.on_cut()

    def prove(self, peer: PeerId) -> bool:
        """Noise has authenticated ``peer``; False if its connection is refused."""
        if self.closed.is_set():
            return False
        admitted = True
        if self.gateway is not None and self.ticket is not None:
            admitted = self.gateway.limiter.prove(self.ticket, peer, trio.current_time())
        if admitted:
            self.proven.set()
        return admitted


class AcceptGateway:
    """The listening sockets of one node.  They survive a crash of the library's host; ``upgrade`` is its callback."""

    def __init__(self, limiter: ConnectionLimiter) -> None:
        self.limiter = limiter
        self.upgrade: Upgrade | None = None
        self.bound: list[Address] = []
        self._listeners: list[trio.SocketListener] = []
        self._streams: dict[Ticket, AcceptedStream] = {}

    async def bind(self, addrs: Sequence[str]) -> None:
        """Bind every address; on ``PortInUse``, ``BadAddress`` or ``NetError`` none stays open."""
        try:
            for text in addrs:
                self._listeners.append(await _listen(parse_address(text), text))
        except BaseException:
            self.close()
            raise
        for listener in self._listeners:
            host, port = listener.socket.getsockname()[:2]
            self.bound.append(Address(host, port))

    def close(self) -> None:
        """Close the listening sockets; accepted ones stay open."""
        for listener in self._listeners:
            listener.socket.close()
        self._listeners.clear()

    def ban(self, peer: PeerId, address: str, seconds: float) -> None:
        """Refuse the peer and the address for a while, and cut their sockets."""
        for ticket in self.limiter.ban(peer, address, trio.current_time() + seconds):
            self._streams[ticket].cut()

    def release(self, ticket: Ticket) -> None:
        """The socket of ``ticket`` is closed."""
        self.limiter.leave(ticket)
        self._streams.pop(ticket, None)

    async def dial(self, target: Address, peer: PeerId | None) -> AcceptedStream:
        """A TCP connection that is counted; raises ``NetError`` if this node must not dial now, or ``OSError``."""
        verdict = self.limiter.try_dial(peer, trio.current_time())
        if verdict.ticket is None:
            if peer is not None and verdict.reason == "banned":
                raise NetError(f"{short(peer)} is banned for now")
            raise NetError("this node has as many connections as it may have")
        try:
            stream = await connect(target)
        except BaseException:
            self.limiter.leave(verdict.ticket)
            raise
        self._hold(stream, verdict.ticket)
        return stream

    def _hold(self, stream: AcceptedStream, ticket: Ticket) -> None:
        stream.ticket, stream.gateway = ticket, self
        self._streams[ticket] = stream

    async def serve(self) -> None:
        """Accept until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                for listener in self._listeners:
                    nursery.start_soon(self._accept, listener, nursery)
        finally:
            self.close()

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                await trio.sleep(_EXHAUSTED_PAUSE_S)
                continue
            try:
                address, port = stream.socket.getpeername()[:2]
            except OSError:
                stream.socket.close()
                continue
            accepted = AcceptedStream(stream, address, port)
            verdict = self.limiter.try_accept(address, trio.current_time())
            if verdict.evicted is not None:
                self._streams[verdict.evicted].cut()
            if verdict.ticket is not None:
                self._hold(accepted, verdict.ticket)
            if verdict.ticket is None or self.upgrade is None:
                accepted.cut()
            else:
                nursery.start_soon(self._serve_socket, accepted, self.upgrade)

    async def _serve_socket(self, accepted: AcceptedStream, upgrade: Upgrade) -> None:
        """Run all of the library's work for one socket, and end it with the socket."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_contained, upgrade, accepted)
                await self._watch(accepted)
                accepted.cut()
                nursery.cancel_scope.cancel()
        finally:
            accepted.cut()

    async def _watch(self, accepted: AcceptedStream) -> None:
        """Return when the socket has ended or missed a deadline."""
        bounds = self.limiter.settings
        with trio.move_on_after(bounds.pending_s) as in_time:
            await accepted.proven.wait()
        if in_time.cancelled_caught:
            return
        with trio.move_on_after(bounds.unlinked_s) as in_time:
            await accepted.linked.wait()
        if not in_time.cancelled_caught:
            await accepted.closed.wait()


class GatewayListener(IListener):
    """The library's listener: it passes the library's callback to the gateway, and reports the bound addresses."""

    def __init__(self, gateway: AcceptGateway, upgrade: Upgrade) -> None:
        self._gateway = gateway
        self._upgrade = upgrade

    async def listen(self, maddr: Multiaddr) -> None:  # noqa: ARG002
        self._gateway.upgrade = self._upgrade
        await trio.lowlevel.checkpoint()

    async def close(self) -> None:
        if self._gateway.upgrade is self._upgrade:
            self._gateway.upgrade = None
        await trio.lowlevel.checkpoint()

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        return tuple(Multiaddr(str(address)) for address in self._gateway.bound)


class GatewayTransport(ITransport):
    """The only transport of the host: TCP, through :class:`AcceptGateway` inwards and :func:`connect` outwards."""

    def __init__(self, gateway: AcceptGateway) -> None:
        self._gateway = gateway

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        return RawConnection(await connect(parse_address(str(maddr))), True)

    def create_listener(self, handler_function: Upgrade) -> IListener:
        return GatewayListener(self._gateway, handler_function)

    def can_dial(self, maddr: Multiaddr) -> bool:
        return [protocol.name for protocol in maddr.protocols()][1:2] == ["tcp"]

    def can_listen(self, maddr: Multiaddr) -> bool:
        return self.can_dial(maddr)

    def protocols(self) -> list[str]:
        return ["tcp"]


async def connect(address: Address) -> AcceptedStream:
    """A TCP connection; raises ``OSError``."""
    stream = await trio.open_tcp_stream(address.host, address.port)
    try:
        host, port = stream.socket.getpeername()[:2]
    except OSError:  # the other end has reset it already
        stream.socket.close()
        raise
    return AcceptedStream(stream, host, port)


async def _contained(upgrade: Upgrade, accepted: AcceptedStream) -> None:
    try:
        await upgrade(accepted)
    except Exception as error:
        log.debug("connection_failed", extra={"address": accepted.address, "error": repr(error)})
    finally:
        accepted.cut()


async def _listen(address: Address, text: str) -> trio.SocketListener:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        # A restart within a minute must work.  Sharing the port with another program must not (no SO_REUSEPORT).
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await sock.bind((address.host, address.port))
        sock.listen(BACKLOG)
        return trio.SocketListener(sock)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"port {address.port} of {address.host} is taken: {_doc(PortInUse)}") from None
        if isinstance(error, socket.gaierror):
            raise BadAddress(f"cannot listen on {text}: give an IP address of this machine") from None
        raise NetError(f"cannot listen on {text}: {error.strerror or error}") from None
    except BaseException:
        sock.close()
        raise


def _doc(error: type[Exception]) -> str:
    return (error.__doc__ or "").strip()
