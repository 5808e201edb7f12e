"""Hostile peers for the tests: the library as it comes, without what ``libp2p_workarounds`` does to it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import libp2p
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.network.config import RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.secio import transport as secio
from libp2p.security.tls.transport import PROTOCOL_ID as TLS_ID
from libp2p.security.tls.transport import TLSTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from p2pnode.swarm.libp2p import Libp2pNet
from p2pnode.swarm.libp2p_workarounds import quiet
from p2pnode.swarm.tcp_listener import connect
from protocol.ids import libp2p_bytes

HELLO_LINE = b"\x13/multistream/1.0.0\n"


def security(kind: str, keys: KeyPair) -> dict[Any, Any]:
    """One way of securing a connection, as the only one offered."""
    return {
        "noise": lambda: {NOISE_ID: NoiseTransport(keys, create_new_x25519_key_pair().private_key)},
        "plaintext": lambda: {PLAINTEXT_PROTOCOL_ID: InsecureTransport(keys)},
        "tls": lambda: {TLS_ID: TLSTransport(keys)},
        "secio": lambda: {secio.ID: secio.Transport(keys)},
    }[kind]()


@asynccontextmanager
async def stranger(
    kind: str = "noise", keys: KeyPair | None = None, listen: bool = False, muxers: dict[Any, Any] | None = None
) -> AsyncIterator[Any]:
    """A host of the library itself.  Its own failures stay here, of any kind; those of the test do not."""
    quiet()
    of_the_test: list[Exception] = []
    keys = keys or create_new_key_pair()
    host = libp2p.new_host(key_pair=keys, sec_opt=security(kind, keys), muxer_opt=muxers or {YAMUX_ID: Yamux})
    host.get_network().retry_config = RetryConfig(max_retries=0)  # type: ignore[attr-defined]
    addrs = [Multiaddr("/ip4/127.0.0.1/tcp/0")] if listen else []
    host.sockets = []  # type: ignore[attr-defined]
    try:
        async with host.run(addrs):
            try:
                yield host
            except Exception as error:
                of_the_test.append(error)
                raise
            finally:
                for front in host.sockets:  # type: ignore[attr-defined]
                    front.cut()
                with trio.CancelScope(shield=True), trio.move_on_after(2):
                    for listener in list(host.get_network().listeners.values()):  # type: ignore[attr-defined]
                        await listener.close()
    except* Exception:
        if of_the_test:
            raise


def impostor(victim: Libp2pNet) -> KeyPair:
    """Keys that claim the victim's public key and do not own its private one."""
    public = create_new_key_pair(victim._seed).public_key
    mine = create_new_key_pair().private_key
    mine.get_public_key = lambda: public  # type: ignore[method-assign]
    return KeyPair(mine, public)


async def intrude(host: Any, victim: Libp2pNet) -> Any:
    """A connection from a stranger to the victim; its muxer."""
    front = await connect(victim._gateway.bound[0])
    host.sockets.append(front)
    with trio.fail_after(5):
        raw = RawConnection(front, True)
        conn = await host.get_network().upgrade_outbound_raw_conn(raw, ID(libp2p_bytes(victim.local_id)))
    return conn.muxed_conn


class Speaker:
    """What the library's negotiation needs of a stream, without its states."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    async def write(self, text: str) -> None:
        line = text.encode() + b"\n"
        await self.stream.write(bytes([len(line)]) + line)

    async def read(self) -> str:
        (length,) = await self.stream.read(1)
        return bytes(await self.stream.read(length)).decode().rstrip("\n")


async def stream_of(muxed: Any, protocol: str) -> Any:
    """A stream on which ``protocol`` was agreed upon."""
    stream = await muxed.open_stream()
    with trio.fail_after(5):
        await MultiselectClient().select_one_of([protocol], Speaker(stream))  # type: ignore[arg-type, list-item]
    return stream


async def socket_from(source: str, victim: Libp2pNet) -> trio.SocketStream:
    """A TCP connection to the victim from another address of this machine's loopback network."""
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    await sock.bind((source, 0))
    await sock.connect(("127.0.0.1", victim._gateway.bound[0].port))
    return trio.SocketStream(sock)
