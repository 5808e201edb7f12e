"""``Net`` on py-libp2p, with the library's identity, Noise, yamux and identify, and our own sockets and dialler.

The dialler opens one stream ``/p2pnode/link/1`` per connection, and the end of that stream ends the connection.
Workarounds for defects of the library are in ``libp2p_workarounds`` and ``tcp_listener``.
"""

from __future__ import annotations

import functools
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.stream_muxer.yamux.yamux import YamuxStream
from multiaddr import Multiaddr

from p2pnode.swarm.libp2p_workarounds import build_host, quiet
from p2pnode.swarm.library_check import check_library
from p2pnode.swarm.net import Address, BadAddress, LinkBroken, NetError, PeerUnreachable, is_loopback, parse_address
from p2pnode.swarm.proposal import AnotherPeer, AnsweredDifferently, proposal, propose
from p2pnode.swarm.tcp_listener import AcceptedStream, AcceptGateway
from p2pnode.swarm.yamux import ContainedYamux
from protocol.errors import InvalidPeerId
from protocol.ids import PeerId, libp2p_bytes, peer_from_libp2p, short
from protocol.membership.connections import ConnectionLimiter
from protocol.settings import ConnectionSettings
from protocol.statements.keys import Ed25519Signer

log = logging.getLogger(__name__)

LINK_PROTOCOL: Final = "/p2pnode/link/1"
_GREETING: Final = proposal(LINK_PROTOCOL)

#: Addresses of one peer to dial, in parallel (an advert has at most 4, HELLO at most 8).
DIAL_ADDRS: Final = 8
#: Accepted links that wait for the swarm.
ACCEPT_QUEUE: Final = 32
#: First and longest pause before a failed host is rebuilt, seconds.
RESTART_S: Final = (0.05, 5.0)


#: Makes a socket to a peer (None: to any) a connection of the library.
Upgrade = Callable[[AcceptedStream, PeerId | None], Awaitable[ContainedYamux]]


class Libp2pLink:
    """One stream to one peer.  It ends together with its connection."""

    def __init__(self, peer: PeerId, muxed: ContainedYamux, stream: YamuxStream, via: str = "") -> None:
        self.peer = peer
        self.via = via
        self.outbound = bool(via)
        self.address = muxed.tcp.address
        self._muxed = muxed
        self._stream = stream
        #: The lines that propose our protocol, until they are sent with the first data; and the rest of the answer.
        self._proposal = self._expected = _GREETING if via else b""

    async def send_all(self, data: bytes) -> None:
        proposal, self._proposal = self._proposal, b""
        data = proposal + data
        try:
            await self._muxed.send_on(self._stream, data)
        except Exception as error:
            self.cut()
            raise LinkBroken(f"the connection to {short(self.peer)} is gone") from error

    def room(self) -> int:
        return 0 if self._proposal else self._muxed.room(self._stream)

    def send_now(self, data: bytes) -> None:
        try:
            self._muxed.send_now(self._stream, data)
        except Exception as error:
            self.cut()
            raise LinkBroken(f"the connection to {short(self.peer)} is gone") from error

    def unsent(self) -> bool:
        return self._muxed.unsent()

    async def receive_some(self) -> bytes:
        try:
            data = await self._muxed.take(self._stream)
        except Exception as error:
            log.debug("link_read_failed", extra={"peer": short(self.peer), "error": repr(error)})
            self.cut()
            return b""
        return await self._pass_answer(data) if self._expected else data

    async def _pass_answer(self, data: bytes) -> bytes:
        """What follows the peer's answer to our proposal."""
        answer, self._expected = self._expected[: len(data)], self._expected[len(data) :]
        if not data:
            return data
        if not data.startswith(answer):
            self.cut()
            raise PeerUnreachable("it does not speak the protocol of p2pnode")
        rest = data[len(answer) :]
        return rest or await self.receive_some()

    def offer(self, take: Callable[[bytes], bool]) -> None:
        self._muxed.sink(self._stream, take)

    def stir(self) -> None:
        self._muxed.stir(self._stream)

    async def aclose(self) -> None:
        self.cut()
        await trio.lowlevel.checkpoint()

    def cut(self) -> None:
        """Close the socket now; reader and writer see the end."""
        self._muxed.tcp.cut()
        self._muxed.event_shutting_down.set()
        self._muxed.sink(self._stream, None)  # the library keeps a connection for a while, so drop its references
        event = self._muxed.stream_events.get(self._stream.stream_id)
        if event is not None:
            event.set()


class Libp2pNet:
    """The network of one key.  ``listen`` are multiaddrs; ``announce`` replaces the addresses that others learn."""

    def __init__(
        self,
        seed: bytes,
        listen: Sequence[str],
        *,
        limits: ConnectionSettings | None = None,
        loopback_exempt: bool | None = None,
        announce: Sequence[str] = (),
    ) -> None:
        self._seed = seed
        self.local_id = Ed25519Signer(seed).peer_id
        self._listen = tuple(listen)
        self._announce = tuple(announce)
        if loopback_exempt is None:  # all peers of a node that listens on loopback have the same address
            loopback_exempt = all(is_loopback(parse_address(text).host) for text in self._listen)
        self.limiter = ConnectionLimiter(limits or ConnectionSettings(), loopback_exempt=loopback_exempt)
        self._gateway = AcceptGateway(self.limiter)
        self._host: BasicHost | None = None
        self._links: set[Libp2pLink] = set()
        self._send, self._accepted = trio.open_memory_channel[Libp2pLink](ACCEPT_QUEUE)
        self.restarts = 0

    # --- life ----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled; see ``Net.run``.  It also raises ``WrongLibrary``."""
        check_library()
        quiet()
        await self._gateway.bind(self._listen)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._supervise)
                nursery.start_soon(self._gateway.serve)
                task_status.started()
        finally:
            self._gateway.close()

    async def _supervise(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Keep a host running.  The end of a host is a defect, but must not end the node."""
        pause = RESTART_S[0]
        while True:
            started = trio.current_time()
            try:
                await self._run_host(task_status)
            except* Exception as group:
                self.restarts += 1
                log.warning("network_restarted", extra={"error": repr(group.exceptions[0])})
            # After a host that ran for a while, the pause is short again.
            pause = RESTART_S[0] if trio.current_time() - started > RESTART_S[1] else min(2 * pause, RESTART_S[1])
            await trio.sleep(pause)

    async def _run_host(self, task_status: trio.TaskStatus[None]) -> None:
        host = build_host(self._seed, self._gateway, self.limiter.settings)
        host.set_stream_handler(TProtocol(LINK_PROTOCOL), self._on_stream)
        try:
            async with host.run([Multiaddr(str(address)) for address in self._gateway.bound]):
                self._host = host
                if self.restarts == 0:
                    task_status.started()
                await trio.sleep_forever()
        finally:
            self._host = None
            self._gateway.upgrade = None
            for link in list(self._links):
                link.cut()

    # --- links ---------------------------------------------------------------------------------------------------

    async def accept(self) -> Libp2pLink:
        link: Libp2pLink = await self._accepted.receive()
        return link

    async def _on_stream(self, stream: INetStream) -> None:
        muxed: Any = stream.muxed_conn
        peer = peer_from_libp2p(muxed.peer_id.to_bytes())
        if muxed.tcp.linked.is_set():
            await stream.reset()  # one link per connection
            return
        muxed.tcp.linked.set()
        link = Libp2pLink(peer, muxed, stream.muxed_stream)  # type: ignore[attr-defined]  # not in its interface
        try:
            self._send.send_nowait(link)
        except trio.WouldBlock:
            link.cut()
            return
        self._track(link, muxed.tcp)

    def _track(self, link: Libp2pLink, tcp: AcceptedStream) -> None:
        """Track the link while its socket is open, so that the end of the host or a ban can end it."""
        self._links.add(link)
        tcp.on_cut = lambda: self._links.discard(link)

    async def dial(self, peer: PeerId | None, addrs: tuple[str, ...]) -> Libp2pLink:
        targets = _targets(peer, addrs, self.local_id)
        if not targets:
            raise PeerUnreachable("no address to dial")
        won: list[Libp2pLink] = []
        problems: dict[Address, Exception] = {}
        try:
            async with trio.open_nursery() as nursery:
                for target, text in targets.items():
                    nursery.start_soon(self._attempt, target, text, won, problems, nursery.cancel_scope)
        except BaseException:
            for link in won:
                link.cut()
            raise
        if not won:
            raise _unreachable(problems)
        return won[0]

    async def _attempt(
        self,
        target: Address,
        text: str,
        won: list[Libp2pLink],
        problems: dict[Address, Exception],
        race: trio.CancelScope,
    ) -> None:
        try:
            link = await self._dial_one(target, text)
        except Exception as error:
            problems[target] = error
        else:
            if won:
                link.cut()
            else:
                won.append(link)
                race.cancel()

    async def _dial_one(self, target: Address, via: str) -> Libp2pLink:
        host = self._host
        if host is None:
            raise NetError("the network stack is starting")
        try:
            return await self._connect(target, target.peer, via, functools.partial(propose, host.get_network()))
        except AnsweredDifferently as error:
            log.debug("slow_dial", extra={"address": target.host, "reason": str(error)})
            peer = target.peer if target.peer is not None else await self._who_is(host, target)
            return await self._connect(target, peer, via, functools.partial(negotiate, host.get_network()))

    async def _connect(self, target: Address, peer: PeerId | None, via: str, upgrade: Upgrade) -> Libp2pLink:
        tcp = await self._gateway.dial(target, peer)
        tcp.linked.set()  # this end opens the one link of this connection
        try:
            muxed = await upgrade(tcp, peer)
            link = Libp2pLink(peer_from_libp2p(muxed.peer_id.to_bytes()), muxed, await muxed.open_stream(), via)
            self._track(link, tcp)
            return link
        except BaseException:
            tcp.cut()
            raise

    async def _who_is(self, host: BasicHost, target: Address) -> PeerId:
        """The key that answers at an address, proven by a handshake of its own (seeds given without an id)."""
        tcp = await self._gateway.dial(target, None)
        try:
            raw = RawConnection(tcp, True)
            selector = host.get_network().upgrader.security_multistream  # type: ignore[attr-defined]  # not in INetwork
            protocol, noise = await selector.select_transport_and_protocol(raw, True)
            if protocol != NOISE_ID:
                raise NetError("it does not offer Noise")
            session = await noise.get_pattern().handshake_outbound(raw, None)
            peer = peer_from_libp2p(session.get_remote_peer().to_bytes())
        finally:
            tcp.cut()
        if peer == self.local_id:
            raise NetError("that is this node itself")
        return peer

    # --- addresses -----------------------------------------------------------------------------------------------

    def addrs(self) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for text in self._announce:
            given = parse_address(text)
            found[str(Address(given.host, given.port, self.local_id))] = None
        if not found:
            for bound in self._gateway.bound:
                for host in _reachable(bound.host):
                    found[str(Address(host, bound.port, self.local_id))] = None
        return tuple(found)

    def ban(self, peer: PeerId, address: str, seconds: float) -> None:
        self._gateway.ban(peer, address, seconds)
        for link in list(self._links):
            if link.peer == peer:
                link.cut()


async def negotiate(network: Any, tcp: AcceptedStream, peer: PeerId) -> ContainedYamux:
    """The library's own upgrade, which waits for each answer: six round trips."""
    conn = await network.upgrade_outbound_raw_conn(RawConnection(tcp, True), ID(libp2p_bytes(peer)))
    muxed: ContainedYamux = conn.muxed_conn
    return muxed


def _targets(peer: PeerId | None, addrs: Sequence[str], me: PeerId) -> dict[Address, str]:
    """The addresses to dial with their texts: valid, of the right peer, without duplicates."""
    targets: dict[Address, str] = {}
    for text in addrs:
        with suppress(BadAddress):
            address = parse_address(text)
            expected = address.peer if address.peer is not None else peer
            if expected != me and (peer is None or expected == peer) and len(targets) < DIAL_ADDRS:
                targets.setdefault(Address(address.host, address.port, expected), text)
    return targets


def _unreachable(problems: dict[Address, Exception]) -> PeerUnreachable:
    """What the failed dials of one peer have in common."""
    text = "; ".join(f"{target.host} port {target.port}: {_reason(error)}" for target, error in problems.items())
    others = {str(target): error.peer for target, error in problems.items() if isinstance(error, AnotherPeer)}
    refused = any(isinstance(error, ConnectionRefusedError | ConnectionResetError) for error in problems.values())
    return PeerUnreachable(text[:500], answered=refused or bool(others), others=others)


def _reachable(host: str) -> list[str]:
    """The addresses at which a socket bound to ``host`` is reachable; loopback only if there is no other."""
    wildcard = {"0.0.0.0": (socket.AF_INET, "192.0.2.1", "127.0.0.1"), "::": (socket.AF_INET6, "2001:db8::1", "::1")}  # noqa: S104
    if host not in wildcard:
        return [host]
    family, somewhere, loopback = wildcard[host]
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: the kernel only selects a source address (RFC 5737 and 3849 reserve these targets).
        probe.connect((somewhere, 9))
        own = probe.getsockname()[0]
        if not is_loopback(own):
            return [own]
    return [loopback]


def _reason(error: BaseException) -> str:
    """One line for the user about why a peer was not reached."""
    if isinstance(error, InvalidPeerId | NetError):
        return str(error)
    if isinstance(error, BaseExceptionGroup):
        return _reason(error.exceptions[0])
    if isinstance(error, OSError):
        if error.__cause__ is not None:  # trio tried several addresses of a name
            return _reason(error.__cause__)
        return (error.strerror or str(error)).lower()
    return (str(error) or type(error).__name__)[:160]
