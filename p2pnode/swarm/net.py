"""The seam between this node and whatever carries its bytes: a ``Net`` gives ``Link``s, byte streams to proven peers.

Implemented by ``libp2p.Libp2pNet`` and, in memory, by ``tests.fakes.MemoryNet``; used by ``swarm.Swarm`` only.  What is
said on a link is not its business (``peerlink``).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from protocol.errors import InvalidPeerId
from protocol.ids import PeerId, peer_from_text, peer_text


class NetError(Exception):
    """Something between this node and the network failed."""


class PeerUnreachable(NetError):
    """The peer could not be reached at any of its addresses."""


class LinkBroken(NetError):
    """The link to the peer is gone; whatever ran on it has failed."""


class PortInUse(NetError):
    """Another program listens on that port; stop it, or choose another with --listen (port 0 picks a free one)."""


class BadAddress(NetError):
    """This is not an address; it should look like /ip4/203.0.113.7/tcp/4411/p2p/12D3KooW…"""


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address of a peer.  ``host`` is an IP or, for ``/dns…``, a name; ``peer`` is who should answer there."""

    host: str
    port: int
    peer: PeerId | None = None

    def __str__(self) -> str:
        suffix = f"/p2p/{peer_text(self.peer)}" if self.peer else ""
        return f"/{_family(self.host)}/{self.host}/tcp/{self.port}{suffix}"


class Link(Protocol):
    """A stream of bytes to ``peer``, whose key was proven.  One task may send while another receives."""

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
        """The address that was dialled, as it was given; empty if the peer dialled."""
        ...

    async def send_all(self, data: bytes) -> None:
        """Send all of it, behind all that is ``unsent``, if only that; raises ``LinkBroken``.

        Not to be used again after it was cancelled.
        """
        ...

    def room(self) -> int:
        """Bytes that ``send_now`` takes: none while ``send_all`` is under way, nor after one that was cancelled.

        A link may have none ever.
        """
        ...

    def send_now(self, data: bytes) -> None:
        """``send_all`` without waiting, for at most ``room`` bytes; raises ``LinkBroken``.

        What the network does not take at once leaves soon, and before anything else, but is lost if the link is cut.
        """
        ...

    def unsent(self) -> bool:
        """Whether the network has still to take some of what was sent."""
        ...

    async def receive_some(self) -> bytes:
        """At least one byte; empty when the link has ended, whatever ended it, or after ``stir``."""
        ...

    def offer(self, take: Callable[[bytes], bool]) -> None:
        """Give ``take`` what comes while somebody waits in ``receive_some``; what it refuses is there to receive.

        A link need not: then everything is there to receive.
        """
        ...

    def stir(self) -> None:
        """``take`` wants ``receive_some`` to return."""
        ...

    async def aclose(self) -> None:
        """End the link at once, both ways; never raises."""
        ...

    def cut(self) -> None:
        """``aclose`` without waiting: whoever sends or receives on the link sees its end."""
        ...


class Net(Protocol):
    """Opens and accepts links for one identity."""

    @property
    def local_id(self) -> PeerId: ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled; ``started`` once :meth:`addrs` is final.  Raises ``PortInUse`` or ``BadAddress``."""
        ...

    async def dial(self, peer: PeerId | None, addrs: tuple[str, ...]) -> Link:
        """A link to ``peer`` over whichever address answers first; raises ``PeerUnreachable``.

        ``peer`` is None for a seed of unknown identity: whoever answers is taken, and proves its key all the same.
        """
        ...

    async def accept(self) -> Link:
        """The next link that somebody else opened."""
        ...

    def addrs(self) -> tuple[str, ...]:
        """Where this node can be reached, as far as it knows, each with ``/p2p/<id>``."""
        ...

    def ban(self, peer: PeerId, address: str, seconds: float) -> None:
        """Refuse this peer and this IP address for a while and drop what stands."""
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
