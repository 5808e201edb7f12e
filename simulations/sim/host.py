"""Drives the daemon's own ``protocol.node.Node`` on one simulated machine.

Theory of operation
===================

*One processor.*  Every input of the node costs processor time (``cpu_costs``, measured from the daemon).  An input that
arrives while the node is busy waits its turn.  The output of an input leaves when its processing is done.  A frozen
process counts as busy while it is frozen.  So the simulated network is never healthier than the real one can be.

*Clocks.*  Monotonic time is that of the event loop; the wall clock has an error of its own and may jump.

Not here: starts and ends of the daemon, its jobs (``node``), the way between nodes (``network``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from protocol.effects import Dial, Effect, Found, Hangup, PeerState, Penalise, Send, SetTimer, TimerKey
from protocol.errors import RemoteProtocolError
from protocol.events import DialFailed, Event, LinkDown, LinkUp, Received, RoundTrip, TimerFired
from protocol.ids import PeerId
from protocol.membership.connections import NOT_NOW, DialKey, DialQueue, is_idle
from protocol.membership.overlay import Seeds
from protocol.membership.penalties import Penalties
from protocol.node import Node
from protocol.settings import NodeSettings
from protocol.statements.keys import Ed25519Signer
from protocol.wire.features import agreed
from protocol.wire.messages import Digest, Doubt, FreshLoad, Full, NodeMessage, Records, Watch, decode
from protocol.wire.mux import FRAME_OVERHEAD
from simulations.rng_streams import rng_stream
from simulations.sim.cpu_costs import Costs
from simulations.sim.endpoint import Endpoint, SimLink
from simulations.sim.job_log import JobLog
from simulations.sim.machines import Machine
from simulations.sim.message_sizes import message_bytes
from simulations.sim.network import ANOTHER, Network

#: The true Unix time at which every run starts.
WALL: Final = 1_800_000_000.0

#: Timers of gossip, failure detection, link rotation and the link pool: they repeat for ever.
_PERIODIC: Final[frozenset[TimerKey]] = frozenset(
    {("gossip", "tick"), ("gossip", "digest"), ("liveness", "sweep"), ("neighbours", "rotate"), ("pool", "tick")}
)


@dataclass(slots=True)
class Uploads:
    """Bytes that a node has sent on channel 0 so far: of gossip, and of fresh loads."""

    gossip_bytes: int = 0
    load_bytes: int = 0


class _Dialling:
    """A dial that a node wants; ``asked``: the machine waits for its outcome."""

    __slots__ = ("addrs", "asked", "key", "peer", "waiting")

    def __init__(self, key: DialKey, peer: PeerId | None, addrs: tuple[str, ...]) -> None:
        self.key = key
        self.peer = peer
        self.addrs = addrs
        self.asked = False
        self.waiting: list[Callable[[SimLink | None, str], object]] = []


class Host(Endpoint):
    """See the module's docstring."""

    def __init__(
        self,
        index: int,
        key: bytes,
        address: str,
        machine: Machine,
        settings: NodeSettings,
        network: Network,
        costs: Costs,
        job_log: JobLog,
        seed: int,
    ) -> None:
        self.signer = Ed25519Signer(key)
        super().__init__(index, self.signer.peer_id, address, machine, settings, network.loop)
        self.network = network
        self.costs = costs
        self.job_log = job_log
        self.seed = seed
        self.node: Node
        self.wall_error = 0.0
        self.uploads = Uploads()
        #: The random stream of the decisions at this entry.
        self.entry_rng = rng_stream(seed, "decisions", index)
        self.penalties = Penalties(settings.penalties)
        self._timers: dict[TimerKey, float] = {}
        self._dialling: dict[DialKey, _Dialling] = {}
        self._dials = DialQueue(settings.connections)
        self._queries = 0
        self._finding: dict[int, Callable[[Found], object]] = {}

    def forget_peers(self) -> None:
        super().forget_peers()
        self.penalties = Penalties(self.settings.penalties)

    def dial_from(self, seeds: Seeds) -> None:
        """A life begins: no dial is wanted yet, and the operator has named these addresses."""
        self._dials = DialQueue(self.settings.connections, [address for _, addrs in seeds for address in addrs])

    def models_changed(self) -> None:
        """The engine has loaded or dropped a model."""
        raise NotImplementedError

    def wall(self) -> float:
        """Unix seconds by this machine's clock."""
        return WALL + self.loop.now + self.wall_error

    def sizes(self) -> dict[str, int]:
        """How much it holds that must not grow without bound."""
        return {
            "penalties": len(self.penalties),
            "backlog": len(self._backlog),
            "timers": len(self._timers),
            "dials": len(self._dials),
            "connections": self.limiter.connections,
        }

    # --- driving the node ----------------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """An event of this node itself: taken at once."""
        if self.up:
            self.perform(self.node.handle(event, self.loop.now, self.wall()))

    def perform(self, effects: list[Effect]) -> None:
        """Perform the effects that the node asks for."""
        for effect in effects:
            if isinstance(effect, Send):
                self.send(effect.peer, effect.message)
            elif isinstance(effect, SetTimer):
                self._set_timer(effect.key, effect.at)
            elif isinstance(effect, Dial):
                self._dial(effect.peer, effect.addrs)
            elif isinstance(effect, Hangup):
                link = self.links.get(effect.peer)
                if link is not None and not link.jobs:
                    self.network.break_link(link, "hung up")
            elif isinstance(effect, Found):
                done = self._finding.pop(effect.query, None)
                if done is not None:
                    done(effect)
            elif isinstance(effect, Penalise):
                self._penalise(effect)
            elif isinstance(effect, PeerState):
                self.job_log.state(self, effect)

    def send(self, peer: PeerId, message: NodeMessage) -> None:
        """One message on channel 0; nothing happens if there is no link."""
        link = self.links.get(peer)
        if link is None:
            return
        size = message_bytes(message)
        if type(message) in _OF_GOSSIP:
            self.uploads.gossip_bytes += size
        elif type(message) in _OF_FRESH_LOADS:
            self.uploads.load_bytes += size + FRAME_OVERHEAD
        self.spend((self.costs.message_s + size * self.costs.byte_s) / 2)
        self.network.carry(link, self, size, link.other(self).received, self.peer_id, message, size)

    def received_bytes(self, peer: PeerId, kind: int, payload: bytes) -> None:
        """A frame of channel 0 as it came over the wire: a malformed frame is held against its sender."""
        try:
            message = decode(kind, payload)
        except RemoteProtocolError as error:
            self.spend(self.costs.message_s / 2 + len(payload) * self.costs.byte_s / 2)
            if error.blame:
                self._penalise(Penalise(peer, error.blame, str(error)))
        else:
            self.received(peer, message, len(payload))  # type: ignore[arg-type]

    def received(self, peer: PeerId, message: NodeMessage, size: int = 0) -> None:
        """A message arrived and the processor is free for it."""
        if not self.up:
            self.job_log.violations.append(f"I4: node {self.index} is down and was given a message")
            return
        counts = self.node.gossip.counts
        checked = counts.records_new + counts.forged + counts.impostors + counts.equivocations
        effects = self.node.handle(Received(peer, message), self.loop.now, self.wall())
        costs = self.costs
        half = (costs.message_s + size * costs.byte_s) / 2
        if type(message) is Records:
            new = counts.records_new + counts.forged + counts.impostors + counts.equivocations - checked
            passed = max(0, len(message.envelopes) - new)  # known, older or not looked at: no signature is checked
            self.spend(half + passed * costs.known_record_s + new * costs.new_record_s)
        elif type(message) is Digest:
            self.spend(half + costs.digest_s)
        else:
            self.spend(half + costs.other_message_s)
        self.perform(effects)

    def round_trip(self, peer: PeerId, seconds: float) -> None:
        """A PING of ours was answered."""
        if peer in self.links:
            self.feed(RoundTrip(peer, seconds))

    def postpone(self, key: TimerKey, at: float) -> None:
        """Move a timer that is set."""
        if key in self._timers:
            self._set_timer(key, at)

    def _set_timer(self, key: TimerKey, at: float) -> None:
        if self.network.resting and key in _PERIODIC:
            return
        self._timers[key] = at
        self.loop.at(at, self._fire, self.life, key, at)

    def _fire(self, life: int, key: TimerKey, at: float) -> None:
        if life == self.life and self._timers.get(key) == at:
            del self._timers[key]
            self.run(self._fired, life, key)

    def _fired(self, life: int, key: TimerKey) -> None:
        if life != self.life:
            self.job_log.violations.append(f"I4: a timer {key} of life {life} fired in life {self.life}")
        self.perform(self.node.handle(TimerFired(key), self.loop.now, self.wall()))

    def _penalise(self, effect: Penalise) -> None:
        self.job_log.penalty(self, effect)
        now = self.loop.now
        if self.penalties.penalise(effect.peer, effect.points, now):
            self.job_log.ban(self, effect.peer)
            link = self.links.get(effect.peer)
            address = link.other(self).address if link is not None else ""
            banned = self.limiter.ban(effect.peer, address, now + self.settings.penalties.ban_s)
            for each in list(self.links.values()):
                if each is link or each.dial.accepted in banned:
                    self.network.break_link(each, "banned")

    # --- links ---------------------------------------------------------------------------------------------------

    def perform_dial(self, peer: PeerId, addrs: tuple[str, ...]) -> None:
        """Dial, as if the node had asked for it."""
        if self.up:
            self._dial(peer, addrs)

    def connect(self, peer: PeerId, addrs: tuple[str, ...], done: Callable[[SimLink | None, str], object]) -> None:
        """A link to ``peer``, the one that stands or a new one, given to ``done``; None and why if there is no way."""
        link = self.links.get(peer)
        if link is not None:
            done(link, "")
        else:
            self._dial(peer, addrs, done)

    def _dial(
        self, peer: PeerId | None, addrs: tuple[str, ...], done: Callable[[SimLink | None, str], object] | None = None
    ) -> None:
        if peer is not None and peer in self.links:
            return
        key = addrs if peer is None else peer
        dialling = self._dialling.get(key) or _Dialling(key, peer, addrs)
        if done is None:
            dialling.asked = True
        else:
            dialling.waiting.append(done)
        if key in self._dialling:
            return
        admitted = self._dials.want(key, addrs, self.addrs, self.loop.now)
        if admitted:
            dialling.addrs = admitted
            self._dialling[key] = dialling
            self._start_dials()
        else:
            self.loop.at(self.loop.now, self._dialled, self.life, dialling, None, NOT_NOW)

    def _start_dials(self) -> None:
        for key in self._dials.start_due():
            dialling = self._dialling[key]
            self.spend(self.costs.dial_s)
            self.network.dial(
                self,
                dialling.peer,
                dialling.addrs,
                lambda link, why, life=self.life, dialling=dialling: self._dialled(life, dialling, link, why),
            )

    def _dialled(self, life: int, dialling: _Dialling, link: SimLink | None, reason: str) -> None:
        if life != self.life or not self.up:
            return
        peer, addrs, waiting = dialling.peer, dialling.addrs, dialling.waiting
        if self._dialling.get(dialling.key) is dialling:
            del self._dialling[dialling.key]
            self._dials.ended(dialling.key)
            self._start_dials()
        if link is not None and not link.greeted:
            link.greeted = True
            for done in waiting:  # before the node can hang up a link that it does not need
                done(link, "")
            waiting = []
            self.run(self.link_up, link, addrs)
            link.b.run(link.b.link_up, link, ())
        if reason == ANOTHER and (there := self.network.at(addrs)) is not None:
            self._dials.targets.proven(there.peer_id, there.addr)
        if link is None and (dialling.asked or reason != NOT_NOW):
            self.run(self.feed, DialFailed(peer, addrs, reason))
        for done in waiting:
            done(link, reason)

    def link_up(self, link: SimLink, addrs: tuple[str, ...]) -> None:
        """A link stands and both ends have said hello."""
        if not link.up:
            return
        other = link.other(self)
        self.spend(self.costs.dial_s)
        outbound = link.dial.source is self
        self._dials.targets.linked(other.peer_id, other.address, addrs[0] if outbound and addrs else "")
        known = (addrs[0], other.addr) if outbound and addrs and addrs[0] != other.addr else other.addrs
        self.feed(LinkUp(other.peer_id, outbound, other.address, known, agreed(self.features, other.features)))

    def link_down(self, _link: SimLink, other: Endpoint, reason: str) -> None:
        """A link broke."""
        self.feed(LinkDown(other.peer_id, reason))

    def _close_idle(self, life: int) -> None:
        if life != self.life or not self.up:
            return
        now, limits, keeps = self.loop.now, self.settings.connections, self.node.keeps
        for peer, link in list(self.links.items()):
            outbound, unused_s = link.dial.source is self, now - link.used_at
            if is_idle(limits, outbound=outbound, jobs=link.jobs, kept=keeps(peer), unused_s=unused_s):
                self.network.break_link(link, "idle")
        self.loop.at(now + limits.idle_check_s, self._close_idle, life)

    # --- questions -----------------------------------------------------------------------------------------------

    def ask(self, event: Callable[[int], Event], done: Callable[[Found], object]) -> None:
        """A question to the DHT; ``done`` gets the result."""
        self._queries += 1
        self._finding[self._queries] = done
        self.feed(event(self._queries))


_OF_GOSSIP: Final = frozenset({Records, Digest, Doubt})
_OF_FRESH_LOADS: Final = frozenset({Watch, FreshLoad, Full})
