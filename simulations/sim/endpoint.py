"""One end of simulated links: a machine with one processor, an uplink and a downlink.

Not here: the node that runs on the machine (``host``, ``node``), the way between two endpoints (``network``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from protocol.ids import PeerId, peer_text
from protocol.membership.connections import ConnectionLimiter, Ticket, link_rank
from protocol.settings import NodeSettings
from protocol.wire.features import OFFERED
from protocol.wire.messages import NodeMessage
from simulations.event_loop import EventLoop
from simulations.sim.machines import Machine

#: The place of a connection that the other end has not accepted yet.
NO_TICKET: Final = Ticket("", "", 0.0)


class Endpoint:
    """The state of one end that the network reads and changes."""

    def __init__(
        self, index: int, peer_id: PeerId, address: str, machine: Machine, settings: NodeSettings, loop: EventLoop
    ) -> None:
        self.index = index
        self.peer_id = peer_id
        self.address = address
        self.addr = f"/ip4/{address}/tcp/4411/p2p/{peer_text(peer_id)}"
        self.addrs: tuple[str, ...] = (self.addr,)
        self.machine = machine
        self.settings = settings
        self.loop = loop
        self.up = False
        #: Gone without a word, machine and all: dials are not even refused.
        self.vanished = False
        self.life = 0
        #: When this life began.
        self.started_at = 0.0
        self.honest = True
        #: How much slower than it should its processor is.
        self.slowness = 1.0
        #: The processor is busy until then; the uplink and the downlink are.
        self.cpu_until = self.up_until = self.down_until = 0.0
        self.cpu_s = 0.0
        self.up_bytes_s, self.down_bytes_s = machine.up_bytes_s, machine.down_bytes_s
        #: The optional parts of the protocol that its HELLO lists.
        self.features = OFFERED
        self.links: dict[PeerId, SimLink] = {}
        self.limiter = ConnectionLimiter(settings.connections)
        self.bytes_up = self.messages_up = 0
        self._backlog: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def forget_peers(self) -> None:
        """A process begins: connections, penalties and bans were in the memory of the one before."""
        self.limiter = ConnectionLimiter(self.settings.connections)

    # --- the processor -------------------------------------------------------------------------------------------

    def run(self, act: Callable[..., object], *args: Any) -> None:
        """Do something here, now or when the processor is free; a process that has ended does nothing."""
        now = self.loop.now
        if not self.up:
            return
        if self._backlog or self.cpu_until > now:
            self._backlog.append((act, args))
            if len(self._backlog) == 1:
                self.loop.at(self.cpu_until, self._work, self.life)
        else:
            act(*args)

    def _work(self, life: int) -> None:
        if life != self.life or not self.up:
            return
        now, backlog = self.loop.now, self._backlog
        while backlog and self.cpu_until <= now:
            act, args = backlog.pop(0)
            act(*args)
        if backlog:
            self.loop.at(self.cpu_until, self._work, life)

    def spend(self, seconds: float) -> None:
        """Charge processor time to the current work."""
        seconds *= self.slowness
        self.cpu_s += seconds
        self.cpu_until = max(self.cpu_until, self.loop.now) + seconds

    @property
    def backlog(self) -> int:
        """The queue for the processor."""
        return len(self._backlog)

    # --- events from the network or the other end -------------------------------------------------------------------

    def link_up(self, link: SimLink, addrs: tuple[str, ...]) -> None:
        """A link stands; ``addrs`` were dialled."""
        raise NotImplementedError

    def received(self, peer: PeerId, message: NodeMessage, size: int = 0) -> None:
        """A message of channel 0 arrived."""
        raise NotImplementedError

    def link_down(self, link: SimLink, other: Endpoint, reason: str) -> None:
        """A link broke."""
        raise NotImplementedError

    def round_trip(self, peer: PeerId, seconds: float) -> None:
        """A PING of ours was answered."""
        raise NotImplementedError


class SimDial:
    """A dial under way, and the place of its connection at each end."""

    __slots__ = ("accepted", "dialled", "done", "lives", "peer", "source", "target", "trip_s", "until")

    def __init__(
        self,
        source: Endpoint,
        target: Endpoint,
        peer: PeerId | None,
        dialled: Ticket,
        trip_s: float,
        until: float,
        done: Callable[..., object],
    ) -> None:
        self.source = source
        self.target = target
        self.peer = peer
        self.lives = (source.life, target.life)
        self.dialled = dialled
        self.accepted = NO_TICKET
        self.trip_s = trip_s
        self.until = until
        self.done = done

    @property
    def alive(self) -> bool:
        """Whether neither end has ended or begun anew."""
        source, target = self.source, self.target
        return source.up and target.up and (source.life, target.life) == self.lives

    def leave(self) -> None:
        """Give the places back."""
        self.source.limiter.leave(self.dialled)
        self.target.limiter.leave(self.accepted)


class SimLink:
    """A link between two nodes: ``a`` has dialled ``b``, or both have dialled each other."""

    __slots__ = (
        *("a", "arrived", "b", "blocked", "dial", "greeted", "jobs"),
        *("lives", "sent", "since", "up", "used_at", "waiting"),
    )

    def __init__(self, dial: SimDial, now: float) -> None:
        self.a = dial.source
        self.b = dial.target
        #: What made the connection that both ends use.
        self.dial = dial
        #: Whether both nodes know of it.
        self.greeted = False
        #: Which lives of the two nodes it connects.
        self.lives = dial.lives
        self.up = True
        #: When the last message arrived, by direction (0: from ``a`` to ``b``).
        self.arrived = [now, now]
        #: Bytes sent, by direction.
        self.sent = [0, 0]
        #: Messages that wait for a cut to end: (from, deliver, arguments).
        self.waiting: list[tuple[Endpoint, float, Callable[..., object], tuple[Any, ...]]] = []
        #: Since when nothing gets through, by direction; None where it does.
        self.blocked: list[float | None] = [None, None]
        self.jobs = 0
        self.since = self.used_at = now

    @property
    def whole(self) -> bool:
        """Whether it stands and carries both ways."""
        return self.up and self.blocked[0] is None and self.blocked[1] is None

    def other(self, peer: Endpoint) -> Endpoint:
        return self.b if peer is self.a else self.a

    def choose(self, dial: SimDial, now: float) -> None:
        """A second connection stands between the two nodes: both use one, and close the other."""
        me, peer = dial.source.peer_id, dial.target.peer_id
        old = link_rank(me, peer, outbound=self.dial.source is dial.source, since=self.since)
        new = link_rank(me, peer, outbound=True, since=now)
        if new > old:
            self.dial, dial = dial, self.dial
            self.since = now
        dial.leave()
