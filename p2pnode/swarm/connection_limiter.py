"""Who may come in: counts per address and in total, kept in front of every accepted socket.

A socket is *pending* from its acceptance until Noise has proven a key, then *open* until it is closed.  Bounds are
those of the DESIGN 3.1.  Pure bookkeeping: the caller (``accept_gateway``) passes the time and does what it is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from p2pnode.swarm.net import is_loopback
from protocol.ids import PeerId
from protocol.subnet import limited, network_group

#: Addresses whose accept rate is remembered at once; the least recently seen is forgotten first.
REMEMBERED = 4096
#: A pending socket younger than this is not pushed out by a newcomer, seconds (guess: a handshake on a slow line).
GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class AcceptLimits:
    """Bounds on what others may open towards this node (DESIGN 3.1)."""

    #: Sockets accepted per second and address, and how many at once after a pause.
    rate: float = 10.0
    burst: int = 40
    #: Sockets that have not yet proven a key: in total, per address, and for how many seconds each.
    pending: int = 64
    pending_per_address: int = 4
    pending_s: float = 5.0
    #: Seconds from the proof of a key to the link's first stream.
    unlinked_s: float = 10.0
    #: Connections: in total; inbound in total, per address, per public /24 or /48, and per peer.
    connections: int = 256
    inbound: int = 192
    per_address: int = 8
    per_group: int = 32
    per_peer: int = 2
    #: Whether 127.0.0.0/8 and ::1 are spared what is counted per address (several nodes on one machine: tests, demo).
    loopback_exempt: bool = False


@dataclass(slots=True, eq=False)
class Ticket:
    """One accepted socket.  ``turn_out`` closes it without waiting."""

    address: str
    since: float
    turn_out: Callable[[], None]
    group: str
    peer: PeerId | None = None


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


@dataclass(slots=True)
class ConnectionLimiter:
    """The counts.  ``refused`` says how often each bound was the reason."""

    settings: AcceptLimits
    refused: dict[str, int] = field(default_factory=dict)
    _pending: list[Ticket] = field(default_factory=list)
    _open: set[Ticket] = field(default_factory=set)
    _buckets: dict[str, _Bucket] = field(default_factory=dict)
    _banned_addresses: dict[str, float] = field(default_factory=dict)
    _banned_peers: dict[PeerId, float] = field(default_factory=dict)

    def try_accept(self, address: str, now: float, turn_out: Callable[[], None]) -> Ticket | None:
        """A socket was accepted from ``address``; None means: close it."""
        reason = self._objection(address, now)
        if reason:
            self.refused[reason] = self.refused.get(reason, 0) + 1
            return None
        ticket = Ticket(address, now, turn_out, network_group(address))
        self._pending.append(ticket)
        return ticket

    def proven(self, ticket: Ticket, peer: PeerId, now: float) -> bool:
        """The socket has proven the key of ``peer``; False means: close it."""
        if ticket not in self._pending:
            return False
        self._pending.remove(ticket)
        ticket.peer = peer
        same = sum(1 for other in self._open if other.peer == peer)
        if self.banned(peer, now) or same >= self.settings.per_peer:
            reason = "banned" if self.banned(peer, now) else "per peer"
            self.refused[reason] = self.refused.get(reason, 0) + 1
            return False
        self._open.add(ticket)
        return True

    def leave(self, ticket: Ticket) -> None:
        """The socket is closed."""
        self._open.discard(ticket)
        if ticket in self._pending:
            self._pending.remove(ticket)

    def ban(self, peer: PeerId, address: str, until: float) -> None:
        """Refuse ``peer`` and ``address`` until then, and turn out what is open of them."""
        _remember(self._banned_peers, peer, until)
        spared = self.settings.loopback_exempt and is_loopback(address)
        if address and not spared:
            _remember(self._banned_addresses, address, until)
        for ticket in [*self._pending, *self._open]:
            if ticket.peer == peer or (ticket.address == address and not spared):
                ticket.turn_out()

    def banned(self, peer: PeerId, now: float) -> bool:
        """Whether ``peer`` is refused now."""
        return self._banned_peers.get(peer, now) > now

    @property
    def pending(self) -> int:
        return len(self._pending)

    @property
    def open(self) -> int:
        return len(self._open)

    def _objection(self, address: str, now: float) -> str:
        bounds = self.settings
        if self._banned_addresses.get(address, now) > now:
            return "banned"
        if len(self._open) + len(self._pending) >= bounds.inbound:
            return "inbound"
        objection = self._objection_to_address(address, now)
        if objection:
            return objection
        if len(self._pending) >= bounds.pending:
            oldest = self._pending[0]
            if now - oldest.since < GRACE_S:
                return "pending"
            self.leave(oldest)
            oldest.turn_out()
        return ""

    def _objection_to_address(self, address: str, now: float) -> str:
        bounds = self.settings
        if bounds.loopback_exempt and is_loopback(address):
            return ""
        if not self._spend(address, now):
            return "rate"
        waiting = sum(1 for ticket in self._pending if ticket.address == address)
        if waiting >= bounds.pending_per_address:
            return "pending per address"
        standing = sum(1 for ticket in self._open if ticket.address == address)
        if waiting + standing >= bounds.per_address:
            return "per address"
        group = network_group(address)
        if not limited(group):
            return ""
        same = sum(1 for ticket in (*self._pending, *self._open) if ticket.group == group)
        return "per group" if same >= bounds.per_group else ""

    def _spend(self, address: str, now: float) -> bool:
        bucket = self._buckets.pop(address, None) or _Bucket(float(self.settings.burst), now)
        bucket.tokens = min(float(self.settings.burst), bucket.tokens + (now - bucket.at) * self.settings.rate)
        bucket.at = now
        self._buckets[address] = bucket
        if len(self._buckets) > REMEMBERED:
            self._buckets.pop(next(iter(self._buckets)))
        if bucket.tokens < 1.0:
            return False
        bucket.tokens -= 1.0
        return True


def _remember(bans: dict[Any, float], key: object, until: float) -> None:
    bans.pop(key, None)
    bans[key] = until
    if len(bans) > REMEMBERED:
        bans.pop(next(iter(bans)))
