"""The network between the nodes: delays, links, dials, cuts.  It moves messages and never reads them.

Theory of operation
===================

A message of ``size`` bytes leaves when the sender's uplink is free, and holds it for ``size / up_bytes_s``; it travels
for the median delay of the pair times a log-normal factor; it holds the receiver's downlink for ``size /
down_bytes_s``; and it never overtakes one sent before it on the same link, because a link is a stream.  A lost segment
is therefore a delay, one retransmission timeout or more, and the messages behind it wait.

*Cuts.*  Messages in a cut direction wait.  If the cut ends within ``dead_s``, all of them arrive (TCP retransmits).
Otherwise the end that heard nothing for so long hangs up.  Until then the other direction delivers even if its
acknowledgements are cut: the traffic of a link in that time fits into its window.  A node that vanishes silently is a
cut in both directions that never ends.  A process that dies while its machine lives resets its links at once.

*Dials* take :data:`HANDSHAKE_TRIPS` round trips.  A process that is down refuses after one, a machine that does not
answer is a timeout.  Both ends ask their connection limiter: the dialling one before anything is sent, the other one
when TCP has connected (:data:`ACCEPT_TRIPS`) and when Noise has proven the key (:data:`PROOF_TRIPS`).  A refusal
reaches the dialling end half a round trip later.  Two nodes that dial each other at once have one :class:`SimLink`; the
machine says which of the two connections it stands for.

Not here: handling a message (``host``), the schedule of faults (``faults``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from protocol.ids import PeerId
from protocol.perf.cost_model import DIAL_TRIPS
from protocol.wire.mux import FRAME_OVERHEAD, RTT_PERIODS
from simulations.event_loop import EventLoop
from simulations.rng_streams import numpy_rng_stream, rng_stream
from simulations.sim.endpoint import Endpoint, SimDial, SimLink
from simulations.sim.topology import Latencies

#: Round trips of a dial: TCP 1, Noise 1, and 1 from the dialler's HELLO to the other one (``p2pnode.swarm.proposal``;
#: counted on a virtual network with the daemon's own stack; held by ``tests.fullstack``).
HANDSHAKE_TRIPS: Final = DIAL_TRIPS
#: Why a dial failed: the machine is there, and no process listens.
REFUSED: Final = "refused"
#: Of these, when the other end has accepted the TCP connection, and when the dialling end has proven its key to it
#: (derived from the same count: each message travels half a round trip).
ACCEPT_TRIPS: Final = 1.5
PROOF_TRIPS: Final = 2.5
#: Why a dial failed whose handshake has proven another key.
ANOTHER: Final = "somebody else answered"
#: First retransmission after this long at least, seconds (RFC 6298 has 1 s; Linux uses 0.2 s).
RTO_S: Final = 0.2
#: Bytes of a PING or a PONG with its head; no layer counts what Noise, yamux, TCP and IP add.
PING_BYTES: Final = FRAME_OVERHEAD + 8
#: Normal deviates drawn in advance; a prime, so that the sequence does not fall into step with anything.
_DRAWS: Final = 65_521


class Network:
    """See the module's docstring."""

    def __init__(self, loop: EventLoop, latencies: Latencies, seed: int, *, loss: float, drop: float) -> None:
        self.loop = loop
        self.latencies = latencies
        self.loss = loss
        self.drop = drop
        #: Whether periodic gossip has ended, because no job will be placed by it any more.
        self.resting = False
        #: Whether nothing gets from one node to another; None while nothing is cut.
        self.cut: Callable[[Endpoint, Endpoint], bool] | None = None
        #: More delay on the way, seconds; None while there is none.
        self.detour: Callable[[Endpoint, Endpoint], float] | None = None
        self.by_addr: dict[str, Endpoint] = {}
        self.by_peer: dict[PeerId, Endpoint] = {}
        self.messages = 0
        self.bytes = 0
        self._normal: list[float] = numpy_rng_stream(seed, "jitter").standard_normal(_DRAWS).tolist()
        self._next = 0
        self._rng = rng_stream(seed, "loss")
        self._one_way = latencies.one_way_s
        self._jitter = latencies.jitter_of
        self._blocked: dict[SimLink, None] = {}

    # --- messages ------------------------------------------------------------------------------------------------

    def delay_s(self, source: Endpoint, target: Endpoint) -> float:
        """One way for one small message, drawn."""
        self._next = (self._next + 1) % _DRAWS
        a, b = source.index, target.index
        delay = self._one_way(a, b) * math.exp(self._jitter(a, b) * self._normal[self._next])
        if self.loss:
            again = max(RTO_S, 2 * delay)
            while self._rng.random() < self.loss:
                delay += again
                again *= 2  # RFC 6298 5.5
        if self.detour is not None:
            delay += self.detour(source, target)
        return delay

    def carry(self, link: SimLink, source: Endpoint, size: int, deliver: Callable[..., object], *args: Any) -> None:
        """Send ``size`` bytes from ``source`` to the other end and call ``deliver(*args)`` there when they arrive."""
        if not link.up:
            return
        now = self.loop.now
        size += FRAME_OVERHEAD
        source.bytes_up += size
        source.messages_up += 1
        self.messages += 1
        self.bytes += size
        link.used_at = now
        target, side = (link.b, 0) if source is link.a else (link.a, 1)
        link.sent[side] += size
        left = max(now, source.cpu_until, source.up_until) + size / source.up_bytes_s
        source.up_until = left
        if self.drop and deliver.__name__ == "received" and self._rng.random() < self.drop:
            return  # of gossip and look-ups only: a job's frames come in a stream or not at all
        if self.cut is not None and (link.blocked[side] is not None or self.cut(source, target)):
            link.waiting.append((source, size, deliver, args))
            self.block(link, (side,))
            return
        self._travel(link, source, target, left, size, deliver, args)

    def _travel(
        self,
        link: SimLink,
        source: Endpoint,
        target: Endpoint,
        left: float,
        size: int,
        deliver: Callable[..., object],
        args: tuple[Any, ...],
    ) -> None:
        side = 0 if source is link.a else 1
        takes = size / target.down_bytes_s
        at = left + self.delay_s(source, target) + takes
        if at < link.arrived[side]:  # noqa: PLR1730 - a call costs more
            at = link.arrived[side]
        link.arrived[side] = at
        self.loop.at(at, self._reach, link, target, takes, deliver, args)

    def _reach(
        self, link: SimLink, target: Endpoint, takes: float, deliver: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        """The message is at the other end of the target's downlink: through it as soon as that is free."""
        now = self.loop.now
        if target.down_until <= now - takes:
            target.down_until = now
            self._arrive(link, target, deliver, args)
        else:
            target.down_until += takes
            self.loop.at(target.down_until, self._arrive, link, target, deliver, args)

    def _arrive(self, link: SimLink, target: Endpoint, deliver: Callable[..., object], args: tuple[Any, ...]) -> None:
        # A new life of the target never hears what was sent to the one before.
        if link.up and target.up and target.life == link.lives[target is link.b]:
            target.run(deliver, *args)

    # --- cuts ----------------------------------------------------------------------------------------------------

    def block(self, link: SimLink, sides: tuple[int, ...] = (0, 1)) -> None:
        """Nothing gets through any more that way; the link dies of it unless that changes in time."""
        fresh = [side for side in sides if link.blocked[side] is None]
        if not link.up or not fresh:
            return
        now = self.loop.now
        for side in fresh:
            link.blocked[side] = now
        self._blocked[link] = None
        self.loop.at(now + link.a.settings.link.dead_s, self._expire, link, now)

    def _expire(self, link: SimLink, since: float) -> None:
        if link.up and since in link.blocked:
            self.break_link(link, "silent")

    def _cut_sides(self, link: SimLink) -> tuple[int, ...]:
        """The directions that are cut now."""
        cut, a, b = self.cut, link.a, link.b
        if cut is None:
            return ()
        return tuple(side for side, (source, target) in enumerate(((a, b), (b, a))) if cut(source, target))

    def reconsider(self) -> None:
        """The cuts have changed: waiting messages may go on, and dead links are detected."""
        for link in list(self._blocked):
            a, b = link.a, link.b
            if a.up and b.up and (a.life, b.life) == link.lives:
                self._release(link)
        if self.cut is not None:
            for peer in self.by_peer.values():
                for link in peer.links.values():
                    if link.a is peer:
                        self.block(link, self._cut_sides(link))

    def _release(self, link: SimLink) -> None:
        """What is cut no longer carries again."""
        still = self._cut_sides(link)
        for side in (0, 1):
            if side not in still:
                link.blocked[side] = None
        if not still:
            del self._blocked[link]
        waiting, link.waiting = link.waiting, []
        for each in waiting:
            source, size, deliver, args = each
            if (source is link.b) in still:
                link.waiting.append(each)
            else:
                left = max(self.loop.now, source.up_until)
                self._travel(link, source, link.other(source), left, int(size), deliver, args)

    def at(self, addrs: tuple[str, ...]) -> Endpoint | None:
        """The machine behind the first of these addresses behind which there is one."""
        return next((self.by_addr[addr] for addr in addrs if addr in self.by_addr), None)

    # --- links ---------------------------------------------------------------------------------------------------

    def dial(self, source: Endpoint, peer: PeerId | None, addrs: tuple[str, ...], done: Callable[..., object]) -> None:
        """Connect; ``done(link | None, reason)`` is called when that has come to something."""
        now = self.loop.now
        target = self.at(addrs)
        if target is None or target is source:
            self.loop.at(now + RTO_S, done, None, "no such address")
            return
        verdict = source.limiter.try_dial(peer, now)
        if verdict.ticket is None:
            self.loop.at(now, done, None, verdict.reason)
            return
        trip_s = self.delay_s(source, target) + self.delay_s(target, source)
        dial_s = source.settings.connections.dial_s
        dial = SimDial(source, target, peer, verdict.ticket, trip_s, now + dial_s, done)
        reachable = self.cut is None or not (self.cut(source, target) or self.cut(target, source))
        if not reachable or (not target.up and target.vanished):
            self.loop.at(dial.until, self._fail, dial, "no answer")
        elif not target.up:
            self.loop.at(now + trip_s, self._fail, dial, REFUSED)
        else:
            # A machine that is busy, or frozen, answers late, and so does one behind a way on which much is lost.
            busy_s = max(0.0, target.cpu_until - now)
            self._go_on(dial, ACCEPT_TRIPS * trip_s + busy_s, dial_s, self._accept)

    def _go_on(self, dial: SimDial, takes_s: float, patience_s: float, step: Callable[[SimDial], None]) -> None:
        """The next step of a dial, unless it takes too long for the other end, or the whole for the dialling one."""
        now = self.loop.now
        most_s = min(patience_s, dial.until - now)
        if takes_s <= most_s:
            self.loop.at(now + takes_s, step, dial)
        else:
            self.loop.at(now + most_s, self._fail, dial, "no answer")

    def _accept(self, dial: SimDial) -> None:
        """The TCP connection has come to the other end."""
        source, target = dial.source, dial.target
        if not target.up:
            self._refuse(dial, REFUSED)
        elif source.life == dial.lives[0]:
            verdict = target.limiter.try_accept(source.address, self.loop.now)
            if verdict.ticket is None:
                self._refuse(dial, verdict.reason)
            else:
                dial.accepted, dial.lives = verdict.ticket, (source.life, target.life)
                pending_s = target.settings.connections.pending_s
                self._go_on(dial, (PROOF_TRIPS - ACCEPT_TRIPS) * dial.trip_s, pending_s, self._prove)

    def _prove(self, dial: SimDial) -> None:
        """Both ends have proven their keys."""
        source, target, now = dial.source, dial.target, self.loop.now
        if not dial.alive:
            self._refuse(dial, "reset")
        elif dial.peer is not None and target.peer_id != dial.peer:
            self._refuse(dial, ANOTHER)
        elif not source.limiter.prove(dial.dialled, target.peer_id, now):
            self._refuse(dial, "banned")
        elif not target.limiter.prove(dial.accepted, source.peer_id, now):
            self._refuse(dial, "not admitted")
        else:
            # The link's stream and HELLO came with the proof, so the other end waits for nothing.
            self._go_on(dial, (HANDSHAKE_TRIPS - PROOF_TRIPS) * dial.trip_s, dial.until - now, self._connected)

    def _refuse(self, dial: SimDial, reason: str) -> None:
        """The other end closes the connection; the dialling one hears of it."""
        dial.target.limiter.leave(dial.accepted)
        self.loop.at(self.loop.now + dial.trip_s / 2, self._fail, dial, reason)

    def _fail(self, dial: SimDial, reason: str) -> None:
        dial.leave()
        if dial.source.up and dial.source.life == dial.lives[0]:
            dial.done(None, reason)

    def _connected(self, dial: SimDial) -> None:
        source, target = dial.source, dial.target
        if not dial.alive or dial.accepted not in target.limiter:
            self._fail(dial, "reset")
            return
        stale = target.links.get(source.peer_id)
        if stale is not None and stale.lives[stale.b is source] != source.life:
            self.break_link(stale, "reset")  # of an earlier life of ours
        link = source.links.get(target.peer_id)
        if link is None:
            link = SimLink(dial, self.loop.now)
            source.links[target.peer_id] = target.links[source.peer_id] = link
            self._ping(link)
        else:  # both dialled at once: one link is enough
            link.choose(dial, self.loop.now)
        dial.done(link, "")

    def break_link(self, link: SimLink, reason: str, *, tell_a: bool = True, tell_b: bool = True) -> None:
        """The link is gone; each end that is still up hears of it."""
        if not link.up:
            return
        link.up = False
        link.waiting.clear()
        link.dial.leave()
        self._blocked.pop(link, None)
        for here, there, tell in ((link.a, link.b, tell_a), (link.b, link.a, tell_b)):
            if here.links.get(there.peer_id) is link:
                del here.links[there.peer_id]
            if tell and here.up and here.life == link.lives[here is link.b]:
                here.run(here.link_down, link, there, reason)

    def _ping(self, link: SimLink) -> None:
        """The link measures its round trip: at once, then every so often, whether it is silent or not."""
        if not link.up:
            return
        a, b = link.a, link.b
        if link.whole and not self._cut_sides(link):
            trip = self.delay_s(a, b) + self.delay_s(b, a)
            self.loop.at(self.loop.now + trip, self._ponged, link, trip)
        self.loop.at(self.loop.now + RTT_PERIODS * a.settings.link.ping_s, self._ping, link)

    def _ponged(self, link: SimLink, trip: float) -> None:
        if link.up:
            now = self.loop.now
            link.a.run(link.a.round_trip, link.b.peer_id, trip + max(0.0, link.b.cpu_until - now))
            link.b.run(link.b.round_trip, link.a.peer_id, trip + max(0.0, link.a.cpu_until - now))
            for side, peer in enumerate((link.a, link.b)):
                link.sent[side] += 2 * PING_BYTES
                peer.bytes_up += 2 * PING_BYTES
