"""An outbound connection in two flights instead of five: both ends are p2pnode, so a proposal is hardly ever refused.

The dialler does not wait for the answer to a proposal before it sends what follows:

====== ========================================================= =================================================
flight dialler                                                   listener
====== ========================================================= =================================================
1      multistream header, ``/noise``, Noise message 1           the same two lines, Noise message 2
2      Noise message 3, and encrypted: header, ``/yamux/1.0.0``, the same lines, the stream's acknowledgement, HELLO
       the opening of a stream, header, ``/p2pnode/link/1``,
       HELLO
====== ========================================================= =================================================

With TCP's own round trip that is three.  A listener needs no change: it reads exactly what it needs, line by line.
The handshake is the library's own Noise XX.  Flight 2 leaves after message 2 was verified, so the peer has proven the
dialled key before anything but an ephemeral key was sent to it.  Noise is the only proposal, and a peer that answers
with something else gets :class:`AnsweredDifferently`: the caller then dials again and lets the library negotiate,
which offers nothing but Noise either.  Not here: that second dial and the stream's own lines (``libp2p``), the
encrypted lines of the answer (``frame_decoder``).
"""

from __future__ import annotations

import re
from typing import Any, Final

from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.utils import encode_delim

from p2pnode.swarm.net import NetError
from p2pnode.swarm.tcp_listener import AcceptedStream
from p2pnode.swarm.yamux import ContainedYamux
from protocol.ids import PeerId, libp2p_bytes, peer_from_text, peer_text


def proposal(protocol: str) -> bytes:
    """The header of multistream-select and the line that proposes ``protocol``.  A peer that agrees repeats both."""
    return encode_delim(b"/multistream/1.0.0") + encode_delim(protocol.encode())


_NOISE: Final = proposal(NOISE_ID)
_YAMUX: Final = proposal(YAMUX_ID)
#: Who has proven its key, in the library's error, whose text ``library_check`` holds.
_FOUND: Final = re.compile(r"remote_peer_id_from_pubkey=(\w+)")


class AnotherPeer(NetError):
    """Another peer has proven its key at this address."""

    def __init__(self, peer: PeerId) -> None:
        super().__init__(f"another peer is at this address: {peer_text(peer)}")
        self.peer = peer


class AnsweredDifferently(NetError):
    """The peer did not repeat the proposal; the library has to negotiate with it on another connection."""


class ProposedConnection(RawConnection):
    """The connection of one Noise handshake: writes wait for the next read, and the first one carries the proposal."""

    def __init__(self, tcp: AcceptedStream) -> None:
        super().__init__(tcp, True)
        self._held = _NOISE
        self._expected = _NOISE

    async def write(self, data: bytes) -> None:
        self._held += data

    async def read(self, n: int | None = None) -> bytes:
        if self._held:
            await super().write(self.take_held())
        answer = b""
        while self._expected:
            data = await super().read(len(self._expected))
            answer += data
            if not data:
                raise ConnectionClosedError("the peer hung up", transport="tcp")
            if not self._expected.startswith(data):
                raise AnsweredDifferently(f"it does not offer Noise at once: {answer[:64]!r}")
            self._expected = self._expected[len(data) :]
        return await super().read(n)

    def take_held(self) -> bytes:
        """What was written since the last read; the caller sends it."""
        held, self._held = self._held, b""
        return held


async def propose(network: Any, tcp: AcceptedStream, peer: PeerId | None) -> ContainedYamux:
    """A connection of the library's ``network`` over ``tcp`` to ``peer``, or to any peer if it is None.

    Nothing of flight 2 was sent when it returns; the next write sends it.  Raises ``AnsweredDifferently`` and the
    library's exceptions; the caller cuts the socket.
    """
    raw = ProposedConnection(tcp)
    noise = network.upgrader.security_multistream.transports[NOISE_ID]
    expected = ID(libp2p_bytes(peer)) if peer is not None else None
    try:
        session = await noise.secure_outbound(raw, expected)
    except PeerIDMismatchesPubkey as error:
        found = _FOUND.search(str(error))
        raise (AnotherPeer(peer_from_text(found[1])) if found else error) from error
    proven = session.get_remote_peer()
    if expected is not None and proven != expected:  # the library has checked this, before it wrote message 3
        raise NetError("another peer is at this address")
    if proven == network.get_peer_id():
        raise NetError("that is this node itself")
    session.negotiated_security_protocol = str(NOISE_ID)
    muxed = ContainedYamux(session, proven, is_initiator=True)
    muxed.negotiated_muxer_protocol = str(YAMUX_ID)  # type: ignore[attr-defined]  # as the library annotates it
    muxed.propose(raw.take_held(), _YAMUX)
    await network.add_conn(muxed, direction="outbound")
    return muxed
