"""Which connections a node accepts and dials, which of two links to one peer it uses, when it closes an idle link.

Theory of operation
===================

An accepted connection is *pending* from its acceptance until the handshake has proven a key, then *open* until it is
closed.  A connection that this node dials counts from the dial on.  The driver asks before it goes on with a socket,
keeps the ticket that it gets, and returns it with :meth:`ConnectionLimiter.leave`.  When the pending places are all
taken, the oldest pending connection is evicted, unless it is so young that an honest peer may still be at its
handshake: otherwise an attacker could evict the honest peers by opening sockets.

Two nodes that dial each other at once get two links.  Each end ranks both by :func:`link_rank`, uses the first and
closes the other when no job runs on it, so both keep the same one.

Not here: which peers a node dials (``overlay``), when penalties ban a peer (``penalties``), sockets and timers (the
drivers).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from protocol.ids import PeerId
from protocol.membership.dial_targets import DialTargets
from protocol.membership.penalties import Bans
from protocol.settings import ConnectionSettings
from protocol.subnet import LOOPBACK, limited, network_group
from protocol.token_bucket import TokenBucket

#: What a dial is of: a peer, or the addresses of a seed whose peer id is not known.
DialKey = PeerId | tuple[str, ...]

#: Why a dial that was wanted does not begin.
NOT_NOW: Final = "too many dials at once, or its addresses were dialled a short while ago"
#: Addresses whose accept rate is remembered at once; the one that was seen longest ago is forgotten first.
REMEMBERED: Final = 4096
#: A pending connection younger than this is not evicted, seconds (guess: a handshake on a slow line).
GRACE_S: Final = 1.0


@dataclass(slots=True, eq=False)
class Ticket:
    """The place of one connection.  Address and group are empty for a connection that this node dialled."""

    address: str
    group: str
    since: float
    peer: PeerId | None = None


@dataclass(slots=True)
class Verdict:
    """The answer to a connection that wants a place: a ticket, or the reason why it must not go on.

    The driver closes the connection of ``evicted``.
    """

    ticket: Ticket | None = None
    reason: str = ""
    evicted: Ticket | None = None


class ConnectionLimiter:
    """The connections of one node, counted; ``refused`` says how often each limit was the reason."""

    __slots__ = ("_buckets", "_dialled", "_exempt", "_open", "_pending", "bans", "refused", "settings")

    def __init__(self, settings: ConnectionSettings, *, loopback_exempt: bool = False) -> None:
        """``loopback_exempt``: no limit per address holds for loopback (several nodes on one machine: tests, demo)."""
        self.settings = settings
        self.bans = Bans()
        self.refused: dict[str, int] = {}
        self._exempt = LOOPBACK if loopback_exempt else ()
        # Dicts, because a set of tickets has another order in every process.
        self._pending: dict[Ticket, None] = {}
        self._open: dict[Ticket, None] = {}
        self._dialled: dict[Ticket, None] = {}
        self._buckets: dict[str, TokenBucket] = {}

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self._pending or ticket in self._open or ticket in self._dialled

    @property
    def pending(self) -> int:
        """Accepted connections that have not proven a key."""
        return len(self._pending)

    @property
    def open(self) -> int:
        """Accepted connections that have."""
        return len(self._open)

    @property
    def connections(self) -> int:
        """All connections, dialled ones included."""
        return len(self._pending) + len(self._open) + len(self._dialled)

    def try_accept(self, address: str, now: float) -> Verdict:
        """A socket was accepted from ``address``."""
        group = network_group(address)
        reason = self._charge(address, group, now)
        if reason:
            return self._refuse(reason)
        evicted = None
        if len(self._pending) >= self.settings.pending:
            evicted = next(iter(self._pending))
            if now - evicted.since < GRACE_S:
                return self._refuse("pending")
            self.leave(evicted)
        ticket = Ticket(address, group, now)
        self._pending[ticket] = None
        return Verdict(ticket, evicted=evicted)

    def try_dial(self, peer: PeerId | None, now: float) -> Verdict:
        """This node wants to dial ``peer``, or, if that is None, an address whose key it does not know yet."""
        if peer is not None and self.bans.holds(peer, now):
            return self._refuse("banned")
        if self.connections >= self.settings.connections:
            return self._refuse("connections")
        ticket = Ticket("", "", now, peer)
        self._dialled[ticket] = None
        return Verdict(ticket)

    def prove(self, ticket: Ticket, peer: PeerId, now: float) -> bool:
        """The handshake has proven the key of ``peer``; False: the driver must close the connection."""
        ticket.peer = peer
        accepted = ticket in self._pending
        if self.bans.holds(peer, now):
            reason = "banned"
        elif accepted and sum(other.peer == peer for other in self._open) >= self.settings.per_peer:
            reason = "per peer"
        elif accepted:
            del self._pending[ticket]
            self._open[ticket] = None
            return True
        else:
            return ticket in self._dialled  # not if it was evicted or banned
        self._refuse(reason)
        self.leave(ticket)
        return False

    def leave(self, ticket: Ticket) -> None:
        """The connection is closed."""
        for tickets in (self._pending, self._open, self._dialled):
            tickets.pop(ticket, None)

    def ban(self, peer: PeerId, address: str, until: float) -> list[Ticket]:
        """Refuse ``peer`` and ``address`` until then; returns the accepted connections that the driver must close.

        They no longer count.
        """
        if network_group(address) in self._exempt:
            address = ""
        self.bans.add(peer, until)
        if address:
            self.bans.add(address, until)
        accepted = (*self._pending, *self._open)
        banned = [ticket for ticket in accepted if ticket.peer == peer or (address and ticket.address == address)]
        for ticket in banned:
            self.leave(ticket)
        return banned

    def _refuse(self, reason: str) -> Verdict:
        self.refused[reason] = self.refused.get(reason, 0) + 1
        return Verdict(reason=reason)

    def _charge(self, address: str, group: str, now: float) -> str:
        """The limit that an accepted socket breaks, or nothing."""
        if self.bans.holds(address, now):
            return "banned"
        if len(self._pending) + len(self._open) >= self.settings.inbound:
            return "inbound"
        if self.connections >= self.settings.connections:
            return "connections"
        return "" if group in self._exempt else self._charge_address(address, group, now)

    def _charge_address(self, address: str, group: str, now: float) -> str:
        settings = self.settings
        if not self._bucket(address, now).spend(1.0, now):
            return "rate"
        pending = sum(ticket.address == address for ticket in self._pending)
        accepted = pending + sum(ticket.address == address for ticket in self._open)
        of_group = sum(ticket.group == group for ticket in (*self._pending, *self._open)) if limited(group) else 0
        limits = (
            ("pending per address", pending, settings.pending_per_address),
            ("per address", accepted, settings.per_address),
            ("per group", of_group, settings.per_group),
        )
        return next((name for name, count, most in limits if count >= most), "")

    def _bucket(self, address: str, now: float) -> TokenBucket:
        """The accept rate of an address, which becomes the one that was seen last."""
        settings = self.settings
        bucket = self._buckets.pop(address, None) or TokenBucket(settings.rate, float(settings.burst), now)
        self._buckets[address] = bucket
        if len(self._buckets) > REMEMBERED:
            del self._buckets[next(iter(self._buckets))]
        return bucket


class DialQueue:
    """The dials that a node wants: a few are under way at once, the others wait in their order.

    A dial that is wanted twice is one.  The driver starts what :meth:`start_due` returns, after each :meth:`want` and
    :meth:`ended`.  ``seeds`` are the addresses that the operator named.
    """

    __slots__ = ("_under_way", "_waiting", "settings", "targets")

    def __init__(self, settings: ConnectionSettings, seeds: Iterable[str] = ()) -> None:
        self.settings = settings
        self.targets = DialTargets(settings.dial_again_s, seeds)
        self._waiting: dict[DialKey, None] = {}
        self._under_way: dict[DialKey, None] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._under_way)

    def want(self, key: DialKey, addrs: tuple[str, ...], own: tuple[str, ...], now: float) -> tuple[str, ...]:
        """A new dial is wanted; gives the addresses to dial: none if too many dials are wanted, or none is allowed.

        ``own`` are this node's addresses.
        """
        if len(self) >= self.settings.dials_wanted:
            return ()
        admitted = self.targets.admit(key if isinstance(key, bytes) else None, addrs, own, now)
        if admitted:
            self._waiting[key] = None
        return admitted

    def start_due(self) -> list[DialKey]:
        """The dials that start now."""
        keys = list(self._waiting)[: self.settings.dials - len(self._under_way)]
        for key in keys:
            del self._waiting[key]
            self._under_way[key] = None
        return keys

    def ended(self, key: DialKey) -> None:
        """A dial has come to a link or to nothing."""
        del self._under_way[key]


def link_rank(me: PeerId, peer: PeerId, *, outbound: bool, since: float) -> tuple[bool, float]:
    """The rank of one of several links between two peers; both ends use the link of the highest rank.

    The link that the smaller peer id dialled ranks first, because both ends know which one that is.  Among links that
    the same end dialled the newest ranks first: the other end may have lost the older ones in a restart.
    """
    return (me if outbound else peer) == min(me, peer), since


def is_idle(settings: ConnectionSettings, *, outbound: bool, jobs: int, kept: bool, unused_s: float) -> bool:
    """Whether to close a link that was made for a job or a look-up and is no longer used.

    Only the end that dialled closes it: the other end cannot know the purpose of the link.
    """
    return outbound and not jobs and not kept and unused_s >= settings.idle_s
