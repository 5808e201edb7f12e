"""Workarounds for known defects in py-libp2p 0.8.1, and the host that is built with them.

The library is not patched, except for its use of the root logger.  Its classes are subclassed, and ``build_host``
replaces its objects one by one.  The workarounds depend on the inside of some functions of the library, so
``library_check`` refuses any other version or text of them.  Before the pin moves: run
``tests/p2pnode/swarm/test_libp2p_*.py``, read the changes in these functions, then write down the new hashes.

====== ========================================================== ===================================================
defect behaviour of 0.8.1                                         workaround
====== ========================================================== ===================================================
D1, D2 an exception in a stream handler ends the process          ``guard`` here; ``libp2p`` restarts a host that ends
D3     plaintext is offered: any peer can claim any identity      ``build_host``: Noise only
D4     cancelling a writer breaks the connection for all          ``yamux``: writes are shielded and bounded
D5, D6 dialling waits 250 ms and tries one address                ``libp2p`` dials each address itself
D7     a frozen peer is never noticed                             PING in ``protocol.wire.mux``, writes in ``yamux``
D8     listening sockets outlive the host and share their port    ``tcp_listener``
D9,D10 windows of 16 MiB, a write limit of 5 s                    ``yamux`` (``send_on``, ``take``), credit in ``mux``
D15    silent sockets fill all slots; slots are never freed       ``tcp_listener``
D17    simultaneous dialling makes two connections                ``swarm`` keeps one
D18    closing takes 0.2 s for each connection                    the sockets are cut, no task waits
M10    unread streams keep all data that they received            ``STREAMS`` here, ``BUFFERED_BYTES`` in ``yamux``
M13    a packet in more than 101 pieces is an error               ``BufferedPackets`` in ``frame_decoder``
====== ========================================================== ===================================================
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from libp2p.abc import IRawConnection, ISecureConn
from libp2p.crypto.ed25519 import create_new_key_pair as create_new_ed25519_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TMuxerOptions, TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.host.ping import ID as PING_ID
from libp2p.identity.identify.identify import ID as IDENTIFY_ID
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
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.tools import utils as lib_tools
from libp2p.transport.upgrader import TransportUpgrader

from p2pnode.swarm.frame_decoder import BufferedPackets, ciphers
from p2pnode.swarm.tcp_listener import AcceptedStream, AcceptGateway, GatewayTransport
from p2pnode.swarm.yamux import ContainedMuxers, ContainedYamux
from protocol.errors import InvalidPeerId
from protocol.ids import peer_from_libp2p
from protocol.settings import ConnectionSettings

log = logging.getLogger(__name__)

#: Most streams of one connection: ours, identify, ping, and some reserve (guess).
STREAMS: Final = 16
#: The library's own bounds are this many times those of ``connections``, which refuses first.
_LIBRARY_FACTOR: Final = 4


def quiet() -> None:
    """Keep the library off the root logger and off stderr.

    It reports every closed connection as an error, without a handler, so Python prints it to stderr.  The library's
    own variable ``LIBP2P_DEBUG`` keeps these messages.
    """
    if not os.environ.get("LIBP2P_DEBUG"):
        logging.getLogger("libp2p").setLevel(logging.CRITICAL + 1)
    # These two modules call logging.debug() and logging.warning(), which configures the root logger.
    for module in (swarm_connection, lib_tools):
        vars(module)["logging"] = logging.getLogger("libp2p.root")


class ContainedNoise(NoiseTransport):
    """Noise XX, which reports the authenticated peer to the gateway, and adds the socket (``tcp``) to the session."""

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        return self._adopt(await super().secure_inbound(conn), conn)

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        return self._adopt(await super().secure_outbound(conn, peer_id), conn)

    def _adopt(self, session: Any, conn: Any) -> ISecureConn:
        tcp: AcceptedStream = conn.stream
        try:
            peer = peer_from_libp2p(session.get_remote_peer().to_bytes())
        except InvalidPeerId as error:
            tcp.cut()
            raise HandshakeFailure(str(error)) from error
        if not tcp.prove(peer):
            tcp.cut()
            raise HandshakeFailure("not admitted")
        session.tcp = tcp
        session.conn.read_writer = BufferedPackets(tcp)
        session.conn.encrypt, session.conn.decrypt = ciphers(session.conn.noise_state.noise_protocol)
        return session  # type: ignore[no-any-return]  # a SecureSession, whose base class does not declare its parts


class NoInitiative(AutoConnector):
    """Switches off the library's auto-connector: the machines of ``protocol`` decide which peers to dial."""

    async def run_background_task(self, nursery: trio.Nursery) -> None:  # noqa: ARG002
        await trio.lowlevel.checkpoint()

    async def maybe_connect(self) -> None:
        await trio.lowlevel.checkpoint()

    def record_disconnect(self, peer_id: ID) -> None:
        """Do nothing: the library would store a record for every peer for ever."""


def build_host(seed: bytes, gateway: AcceptGateway, bounds: ConnectionSettings) -> BasicHost:
    """A host with Noise, yamux, identify and ping, explicit limits, and no dials of its own."""
    keys = create_new_ed25519_key_pair(seed)
    noise = ContainedNoise(keys, noise_privkey=create_new_x25519_key_pair().private_key)
    timeout_s = max(1, round(bounds.pending_s))
    muxers: TMuxerOptions = {TProtocol(YAMUX_ID): ContainedYamux}
    upgrader = TransportUpgrader({NOISE_ID: noise}, muxers, negotiate_timeout=timeout_s)
    upgrader.muxer_multistream = ContainedMuxers(muxers, negotiate_timeout=timeout_s)
    peer_id = ID.from_pubkey(keys.public_key)
    peerstore = PeerStore()
    peerstore.add_key_pair(peer_id, keys)
    swarm = LibSwarm(
        peer_id,
        peerstore,
        upgrader,
        transports=[GatewayTransport(gateway)],
        retry_config=RetryConfig(max_retries=0),
        connection_config=_connection_config(bounds),
    )
    swarm.auto_connector = NoInitiative(swarm, auto_connect_interval=3600)
    swarm.set_resource_manager(_resource_bounds(bounds), enable_stream_semaphore=False)
    host = BasicHost(swarm, negotiate_timeout=timeout_s, disable_identify_address_discovery=True)
    # Without the library's identify requests and tags per peer: HELLO has all that we need.
    swarm.notifees.clear()
    for protocol in [known for known in host.multiselect.handlers if known not in (IDENTIFY_ID, PING_ID)]:
        del host.multiselect.handlers[protocol]
    swarm.set_stream_handler(guard(swarm.common_stream_handler))
    return host


def guard(inner: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """A stream handler that survives exceptions, and cuts the connection of a peer that opens too many streams."""

    async def guarded(stream: Any) -> None:
        muxed: ContainedYamux = stream.muxed_conn
        try:
            async with muxed.streams_lock:
                muxed._sweep_stale_streams()
            if len(muxed.streams) > STREAMS:
                log.debug("too_many_streams", extra={"address": muxed.tcp.address, "most": STREAMS})
                muxed.tcp.cut()
                return
            muxed.limit_window(stream.muxed_stream)
            await inner(stream)
        except Exception as error:
            log.debug("stream_failed", extra={"address": muxed.tcp.address, "error": repr(error)})
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
                await stream.reset()

    return guarded


def _connection_config(bounds: ConnectionSettings) -> ConnectionConfig:
    """Bounds above ours, which refuse first: here a dead connection counts for 0.2 s longer."""
    return ConnectionConfig(
        max_connections=_LIBRARY_FACTOR * bounds.connections,
        min_connections=0,
        low_watermark=0,
        high_watermark=_LIBRARY_FACTOR * bounds.connections,
        max_connections_per_peer=_LIBRARY_FACTOR * bounds.per_peer,
        auto_connect_interval=3600,
        inbound_upgrade_timeout=bounds.pending_s,
        outbound_upgrade_timeout=bounds.pending_s,
        inbound_stream_protocol_negotiation_timeout=bounds.pending_s,
        outbound_stream_protocol_negotiation_timeout=bounds.pending_s,
    )


def _resource_bounds(bounds: ConnectionSettings) -> ResourceManager:
    """Explicit limits, without the parts that refuse all peers after a few failures."""
    most = _LIBRARY_FACTOR * bounds.connections
    limits = ConnectionLimits(
        max_established_inbound=most,
        max_established_outbound=most,
        max_established_per_peer=_LIBRARY_FACTOR * bounds.per_peer,
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
