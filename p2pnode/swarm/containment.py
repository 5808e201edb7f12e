"""What has to be taken from py-libp2p 0.8.1 with gloves on: the defects and their cures, in one place.

Nothing of the library is patched but its use of the root logger; it is subclassed, or its objects are replaced one by
one where a host is built.  The code leans on the inside of the functions in ``KNOWN``, so ``check_library`` refuses
any other version or text of them.  Before the pin moves: run ``tests/p2pnode/swarm/test_libp2p_*.py``, read what
changed in these functions, then write the new hashes down (``python -m p2pnode.swarm.containment`` prints them).

====== ========================================================== ===================================================
defect what 0.8.1 does                                            the cure
====== ========================================================== ===================================================
D1, D2 an exception in a stream handler ends the process          ``guard`` here; ``libp2p`` restarts a host that ends
D3     plaintext is offered: anybody can be anybody               ``build_host``: Noise and nothing else
D4     cancelling a writer breaks the connection for all          ``ContainedYamux._write_frame``: shielded, bounded
D5, D6 dialling waits 250 ms and tries one address                ``libp2p`` dials each address itself
D7     a frozen peer is never noticed                             PING in ``protocol.wire.mux``, bounded writes here
D8     listening sockets outlive the host and share their port    ``accept_gateway``
D9,D10 windows of 16 MiB, a write limit of 5 s                    ``send_on`` and ``take`` here, credit in ``link``
D15    silent sockets fill the places; places never come back     ``accept_gateway``
D17    simultaneous dialling makes two connections                ``swarm`` keeps one
D18    closing takes 0.2 s for each connection                    the sockets are cut, nobody waits
M10    streams that nobody reads hold what they were sent         ``STREAMS`` and ``BUFFERED_BYTES`` here
M13    a packet that comes in more than 101 pieces is an error    ``BufferedPackets`` in ``frame_decoder``
====== ========================================================== ===================================================
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import inspect
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, cast

import trio
from libp2p.abc import IMuxedConn, IRawConnection, ISecureConn
from libp2p.crypto.ed25519 import create_new_key_pair as create_new_ed25519_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TMuxerOptions, TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.host.ping import ID as PING_ID
from libp2p.identity.identify.identify import ID as IDENTIFY_ID
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection import swarm_connection
from libp2p.network.swarm import Swarm as LibSwarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.rcmgr.connection_limits import ConnectionLimits
from libp2p.rcmgr.manager import ResourceLimits, ResourceManager
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from libp2p.tools import utils as lib_tools
from libp2p.transport.upgrader import TransportUpgrader

from p2pnode.swarm.accept_gateway import AcceptedStream, AcceptGateway, GatewayTransport
from p2pnode.swarm.frame_decoder import DATA, HEADER, READ_BYTES, WINDOW_UPDATE, BufferedPackets, FrameDecoder, ciphers
from p2pnode.swarm.net import NetError
from p2pnode.swarm.wakeup import AutoResetEvent
from protocol.errors import InvalidPeerId
from protocol.ids import peer_from_libp2p
from protocol.settings import ConnectionSettings

log = logging.getLogger(__name__)

PINNED: Final = "0.8.1"
#: Functions whose inside matters here, with the beginning of the SHA-256 of their text in the pinned version.
KNOWN: Final[dict[str, str]] = {
    "libp2p.stream_muxer.yamux.yamux:Yamux.__init__": "3b11a2a71ca444ca",
    "libp2p.stream_muxer.yamux.yamux:Yamux._cleanup_on_error": "4fed61a999a34989",
    "libp2p.stream_muxer.yamux.yamux:Yamux._measure_rtt_loop": "86222ce6e35836fd",
    "libp2p.stream_muxer.yamux.yamux:Yamux._read_data_body": "54cc06c91ba6ee15",
    "libp2p.stream_muxer.yamux.yamux:Yamux._write_frame": "16ff969cdd0d2b1b",
    "libp2p.stream_muxer.yamux.yamux:Yamux._sweep_stale_streams": "0b1a5033e707e138",
    "libp2p.stream_muxer.yamux.yamux:Yamux.handle_incoming": "ad15ff6943feac20",
    "libp2p.stream_muxer.yamux.yamux:Yamux.open_stream": "f3e0ef79ec21d0cb",
    "libp2p.stream_muxer.yamux.yamux:Yamux.start": "bd1a114758a61e42",
    "libp2p.stream_muxer.yamux.yamux:YamuxStream._auto_tune_and_send_window_update": "6ebcbd822fe7f996",
    "libp2p.stream_muxer.yamux.yamux:YamuxStream.read": "ca585f2199fd4e83",
    "libp2p.stream_muxer.muxer_multistream:MuxerMultistream.new_conn": "91d21f40f524ad99",
    "noise.backends.default.ciphers:ChaCha20Cipher.format_nonce": "0116b7da61887c16",
    "libp2p.security.noise.io:BaseNoiseMsgReadWriter.read_msg": "b2fa218c135c82c0",
    "libp2p.security.noise.io:BaseNoiseMsgReadWriter.write_msg": "00818920318f86aa",
    "libp2p.security.noise.patterns:PatternXX.handshake_inbound": "d2f509f2c5b65643",
    "libp2p.security.noise.patterns:PatternXX.handshake_outbound": "8d2a997bd6b0bbd6",
    "libp2p.security.noise.transport:Transport.secure_inbound": "4c447c4ea56267b1",
    "libp2p.security.noise.transport:Transport.secure_outbound": "f5be8851b898cbf1",
    "libp2p.security.secure_session:SecureSession._drain": "a697c9f38d7b2e6c",
    "libp2p.security.secure_session:SecureSession.read": "eeba14a89cf12325",
    "libp2p.io.utils:read_exactly": "ae12723eff6b556d",
    "libp2p.transport.upgrader:TransportUpgrader.upgrade_security": "70dd214038eced03",
    "libp2p.network.connection.swarm_connection:SwarmConn.close": "442c6259a8e9e45e",
    "libp2p.network.connection.swarm_connection:SwarmConn._handle_muxed_stream": "fb51f8a3e37c9800",
    "libp2p.network.swarm:Swarm._do_handle_inbound_connection": "c22fdfd5289f671c",
    "libp2p.network.swarm:Swarm._handle_inbound_connection": "0800fdf9770ed8e6",
    "libp2p.network.swarm:Swarm.add_conn": "d469d71b3ed1f4df",
    "libp2p.network.swarm:Swarm.listen": "c23f133cd5acc0a9",
    "libp2p.network.swarm:Swarm.run": "15ac9440b4fed110",
    "libp2p.network.swarm:Swarm.upgrade_outbound_raw_conn": "54a8867681b2f4f0",
    "libp2p.host.basic_host:BasicHost.__init__": "6a81506e92fbd211",
    "libp2p.host.basic_host:BasicHost._swarm_stream_handler": "cec985884b1ba269",
    "libp2p.host.basic_host:BasicHost.run": "49d086030a367765",
}

#: Streams that may be open on one connection: ours, identify, ping, and room for a peer in a hurry (guess).
STREAMS: Final = 16
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
#: The library's own bounds are this many times those of the door, so that they never speak first.
_SECOND_WALL: Final = 4


class WrongLibrary(NetError):
    """The installed py-libp2p is not the one that p2pnode knows how to contain; install libp2p==0.8.1."""


def check_library() -> None:
    """Raise ``WrongLibrary`` unless the library is, function by function, the one whose defects are known."""
    found = importlib.metadata.version("libp2p")
    if found != PINNED:
        raise WrongLibrary(f"{WrongLibrary.__doc__} Found {found}.")
    changed = [name for name, expected in KNOWN.items() if source_hash(name) != expected]
    if changed:
        raise WrongLibrary(f"{WrongLibrary.__doc__} Its text differs in {', '.join(changed)}.")


def source_hash(name: str) -> str:
    """Hash of the text of ``module:qualified.name``; empty if there is no such thing."""
    module_name, _, path = name.partition(":")
    try:
        target: Any = importlib.import_module(module_name)
        for part in path.split("."):
            target = getattr(target, part)
        return hashlib.sha256(inspect.getsource(target).encode()).hexdigest()[:16]
    except (ImportError, AttributeError, OSError, TypeError):
        return ""


def quiet() -> None:
    """Keep the library off the root logger and off stderr.

    It reports every peer that hangs up as an error, without a handler, so that Python prints it to stderr.  Whoever
    wants to see that sets ``LIBP2P_DEBUG``, which is the library's own.
    """
    if not os.environ.get("LIBP2P_DEBUG"):
        logging.getLogger("libp2p").setLevel(logging.CRITICAL + 1)
    # These two modules call logging.debug() and logging.warning(), which configures the root logger.
    for module in (swarm_connection, lib_tools):
        vars(module)["logging"] = logging.getLogger("libp2p.root")


class ContainedNoise(NoiseTransport):
    """Noise XX that tells the door who came in, and marks the session with its socket (``front``)."""

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        return self._adopt(await super().secure_inbound(conn), conn)

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        return self._adopt(await super().secure_outbound(conn, peer_id), conn)

    def _adopt(self, session: Any, conn: Any) -> ISecureConn:
        front: AcceptedStream = conn.stream
        try:
            peer = peer_from_libp2p(session.get_remote_peer().to_bytes())
        except InvalidPeerId as error:
            front.cut()
            raise HandshakeFailure(str(error)) from error
        if not front.prove(peer):
            front.cut()
            raise HandshakeFailure("not admitted")
        session.front = front
        session.conn.read_writer = BufferedPackets(front)
        session.conn.encrypt, session.conn.decrypt = ciphers(session.conn.noise_state.noise_protocol)
        return session  # type: ignore[no-any-return]  # a SecureSession, whose base class does not declare its parts


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


class NoInitiative(AutoConnector):
    """The library's wish to have more connections, switched off: the machines of ``protocol`` decide who is dialled."""

    async def run_background_task(self, nursery: trio.Nursery) -> None:  # noqa: ARG002
        await trio.lowlevel.checkpoint()

    async def maybe_connect(self) -> None:
        await trio.lowlevel.checkpoint()

    def record_disconnect(self, peer_id: ID) -> None:
        """Nothing: it would be remembered for every peer that ever came."""


class ContainedMuxers(MuxerMultistream):
    """Negotiates yamux and makes it a ``ContainedYamux`` (the library names its own class there)."""

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        protocol, _ = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        muxed = ContainedYamux(conn, peer_id, is_initiator=conn.is_initiator)
        return self._annotate_connection(muxed, conn, protocol)


def build_host(seed: bytes, front: AcceptGateway, bounds: ConnectionSettings) -> BasicHost:
    """A host with Noise, yamux, identify and ping, explicit limits, and none of the library's own initiative."""
    keys = create_new_ed25519_key_pair(seed)
    noise = ContainedNoise(keys, noise_privkey=create_new_x25519_key_pair().private_key)
    patience_s = max(1, round(bounds.pending_s))
    muxers: TMuxerOptions = {TProtocol(YAMUX_ID): ContainedYamux}
    upgrader = TransportUpgrader({NOISE_ID: noise}, muxers, negotiate_timeout=patience_s)
    upgrader.muxer_multistream = ContainedMuxers(muxers, negotiate_timeout=patience_s)
    peer_id = ID.from_pubkey(keys.public_key)
    peerstore = PeerStore()
    peerstore.add_key_pair(peer_id, keys)
    swarm = LibSwarm(
        peer_id,
        peerstore,
        upgrader,
        transports=[GatewayTransport(front)],
        retry_config=RetryConfig(max_retries=0),
        connection_config=_connection_config(bounds),
    )
    swarm.auto_connector = NoInitiative(swarm, auto_connect_interval=3600)
    swarm.set_resource_manager(_resource_bounds(bounds), enable_stream_semaphore=False)
    host = BasicHost(swarm, negotiate_timeout=patience_s, disable_identify_address_discovery=True)
    # No identify of our own, no tags per peer: HELLO says what we want to know, and what is not run cannot fail.
    swarm.notifees.clear()
    for protocol in [known for known in host.multiselect.handlers if known not in (IDENTIFY_ID, PING_ID)]:
        del host.multiselect.handlers[protocol]
    swarm.set_stream_handler(guard(swarm.common_stream_handler))
    return host


def guard(inner: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """A stream handler that survives what is said to it, and hangs up on a peer that opens too many streams."""

    async def guarded(stream: Any) -> None:
        muxed: ContainedYamux = stream.muxed_conn
        try:
            async with muxed.streams_lock:
                muxed._sweep_stale_streams()
            if len(muxed.streams) > STREAMS:
                log.debug("too_many_streams", extra={"address": muxed.front.address, "most": STREAMS})
                muxed.front.cut()
                return
            muxed.tame(stream.muxed_stream)
            await inner(stream)
        except Exception as error:
            log.debug("stream_failed", extra={"address": muxed.front.address, "error": repr(error)})
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
                await stream.reset()

    return guarded


def _connection_config(bounds: ConnectionSettings) -> ConnectionConfig:
    """The door is in front, so these bounds are only a second wall: a dead connection counts here for 0.2 s more."""
    return ConnectionConfig(
        max_connections=_SECOND_WALL * bounds.connections,
        min_connections=0,
        low_watermark=0,
        high_watermark=_SECOND_WALL * bounds.connections,
        max_connections_per_peer=_SECOND_WALL * bounds.per_peer,
        auto_connect_interval=3600,
        inbound_upgrade_timeout=bounds.pending_s,
        outbound_upgrade_timeout=bounds.pending_s,
        inbound_stream_protocol_negotiation_timeout=bounds.pending_s,
        outbound_stream_protocol_negotiation_timeout=bounds.pending_s,
    )


def _resource_bounds(bounds: ConnectionSettings) -> ResourceManager:
    """Explicit limits, and none of the parts that refuse everybody after a few failures."""
    most = _SECOND_WALL * bounds.connections
    limits = ConnectionLimits(
        max_established_inbound=most,
        max_established_outbound=most,
        max_established_per_peer=_SECOND_WALL * bounds.per_peer,
        max_established_total=most,
    )
    return ResourceManager(
        limits=ResourceLimits(max_connections=most, max_streams=STREAMS * bounds.connections),
        connection_limits=limits,
        enable_connection_tracking=False,
        enable_metrics=False,
        enable_memory_limits=False,
        enable_circuit_breaker=False,
        enable_graceful_degradation=False,
        enable_rate_limiting=False,
    )


if __name__ == "__main__":
    for known in KNOWN:
        print(f'    "{known}": "{source_hash(known)}",')  # noqa: T201
