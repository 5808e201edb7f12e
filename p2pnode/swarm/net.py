"""The interface of the network: a ``Net`` opens and accepts ``Link``s, byte streams to authenticated peers.

``libp2p.Libp2pNet`` implements it, and ``tests.fakes.MemoryNet`` in memory; ``swarm.Swarm`` uses it.  Not here: the
messages on a link (``peerlink``).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import trio

from protocol.errors import InvalidPeerId
from protocol.ids import PeerId, peer_from_text, peer_text


class NetError(Exception):
    """The connection between this node and the network failed."""


class PeerUnreachable(NetError):
    """The peer could not be reached at any of its addresses.

    ``answered``: a host at one of them refused the connection, so this node's own network works.  ``tried``: False if
    none was dialled.  ``others``: the peers that have proven their keys there instead, by address.
    """

    def __init__(
        self, problem: str, *, answered: bool = False, tried: bool = True, others: Mapping[str, PeerId] | None = None
    ) -> None:
        super().__init__(problem)
        self.answered = answered
        self.tried = tried
        self.others = dict(others or {})


class LinkBroken(NetError):
    """The link to the peer is gone; all jobs on it have failed."""


class PortInUse(NetError):
    """Another program listens on that port; stop it, or choose another with --listen (port 0 picks a free one)."""


class BadAddress(NetError):
    """This is not an address; it should look like /ip4/203.0.113.7/tcp/4411/p2p/12D3KooW…"""


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address of a peer.  ``host`` is an IP or, for ``/dns…``, a name; ``peer`` is the expected peer."""

    host: str
    port: int
    peer: PeerId | None = None

    def __str__(self) -> str:
        suffix = f"/p2p/{peer_text(self.peer)}" if self.peer else ""
        return f"/{_family(self.host)}/{self.host}/tcp/{self.port}{suffix}"


class Link(Protocol):
    """A stream of bytes to ``peer``, which has proven its key.  One task may send while another receives."""

    @property
    def peer(self) -> PeerId: ...

    @property
    def address(self) -> str:
        """The remote IP address, as text."""
        ...

    @property
    def outbound(self) -> bool: ...

    @property
    def via(self) -> str:
        """The dialled address, unchanged; empty if the peer dialled."""
        ...

    async def send_all(self, data: bytes) -> None:
        """Send all of it, after all ``unsent`` data; raises ``LinkBroken``.

        After a cancelled call the link must not be used for sending any more.
        """
        ...

    def room(self) -> int:
        """Bytes that ``send_now`` takes: 0 during ``send_all``, and after a cancelled one.

        A link may always return 0.
        """
        ...

    def send_now(self, data: bytes) -> None:
        """``send_all`` without waiting, for at most ``room`` bytes; raises ``LinkBroken``.

        Data that the network does not take at once is sent soon and before other data, but a cut of the link drops it.
        """
        ...

    def unsent(self) -> bool:
        """Whether the network has not taken all sent data yet."""
        ...

    async def receive_some(self) -> bytes:
        """At least one byte; empty when the link has ended, or after ``stir``."""
        ...

    def offer(self, take: Callable[[bytes], bool]) -> None:
        """Pass arriving data to ``take`` while a task waits in ``receive_some``; data that it refuses is received.

        A link need not do so; then all data is received.
        """
        ...

    def stir(self) -> None:
        """Make ``receive_some`` return; called by ``take``."""
        ...

    async def aclose(self) -> None:
        """End the link at once in both directions; never raises."""
        ...

    def cut(self) -> None:
        """``aclose`` without waiting: tasks that send or receive on the link see its end."""
        ...


class Net(Protocol):
    """Opens and accepts links for one identity."""

    @property
    def local_id(self) -> PeerId: ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled; ``started`` once :meth:`addrs` is final.  Raises ``PortInUse`` or ``BadAddress``."""
        ...

    async def dial(self, peer: PeerId | None, addrs: tuple[str, ...]) -> Link:
        """A link to ``peer`` over the address that answers first; raises ``PeerUnreachable``.

        ``peer`` is None for a seed of unknown identity: any peer is accepted, and proves its key as usual.
        The caller sets a deadline.
        """
        ...

    async def accept(self) -> Link:
        """The next link that another node opened."""
        ...

    def addrs(self) -> tuple[str, ...]:
        """This node's addresses, as far as it knows them, each with ``/p2p/<id>``."""
        ...

    def ban(self, peer: PeerId, address: str, seconds: float) -> None:
        """Refuse this peer and this IP address for a while, and close their connections."""
        ...


def parse_address(text: str) -> Address:
    """Read ``/ip4|ip6|dns|dns4|dns6/<host>/tcp/<port>[/p2p/<id>]``; raises ``BadAddress``."""
    parts = text.split("/")
    if len(text) > 512 or len(parts) not in (5, 7) or parts[0] or parts[3] != "tcp":
        raise BadAddress(_say(text))
    kind, host, port = parts[1], parts[2], parts[4]
    if kind not in ("ip4", "ip6", "dns", "dns4", "dns6") or not _host_fits(kind, host):
        raise BadAddress(_say(text))
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise BadAddress(_say(text))
    peer = None
    if len(parts) == 7:
        if parts[5] != "p2p":
            raise BadAddress(_say(text))
        try:
            peer = peer_from_text(parts[6])
        except InvalidPeerId as error:
            raise BadAddress(f"{_say(text)} ({error})") from None
    return Address(host, int(port), peer)


def is_loopback(host: str) -> bool:
    """Whether this IP address (or name) is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host_fits(kind: str, host: str) -> bool:
    if kind.startswith("dns"):
        return 0 < len(host) <= 253 and host.isascii() and all(c.isalnum() or c in "-._" for c in host)
    try:
        return ipaddress.ip_address(host).version == int(kind[2])
    except ValueError:
        return False


def _family(host: str) -> str:
    try:
        return f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        return "dns"


def _say(text: str) -> str:
    return f"{(BadAddress.__doc__ or '').strip()}: {text[:120]!r}"
