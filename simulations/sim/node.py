"""One simulated machine with its daemon: drives the very ``protocol.node.Node`` that the daemon drives.

Theory of operation
===================

*One processor.*  Whatever reaches the node costs processor time (``costs``, measured from the daemon); what arrives
while it is busy waits its turn, and what the node sends leaves when it is done.  A frozen process is one that is busy
for as long as it is frozen.  So the simulated network is never healthier than the real one can be.

*Lives.*  A machine that crashes and comes back is the same peer with a higher incarnation; timers and messages of an
earlier life do not reach it (``life``).  What survives is what the daemon would have on its disk.

*Clocks.*  Monotonic time is the kernel's; the wall clock has an error of its own and may jump.

Not here: jobs (``entry``, ``worker``), the way between nodes (``network``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from protocol import PROTOCOL_VERSION, __version__
from protocol.effects import Dial, Effect, Found, Hangup, PeerState, Penalise, Send, SetTimer, TimerKey
from protocol.errors import RemoteProtocolError
from protocol.events import (
    Advertise,
    DialFailed,
    Event,
    Leave,
    LinkDown,
    LinkUp,
    Received,
    ReportLoad,
    RoundTrip,
    TimerFired,
)
from protocol.ids import PeerId, peer_text
from protocol.node import Node
from protocol.settings import NodeSettings
from protocol.statements.adverts import Advert, Load
from protocol.statements.keys import Ed25519Signer
from protocol.wire.messages import Digest, Doubt, NodeMessage, Records, decode
from simulations.rng_streams import rng_stream
from simulations.sim.cpu_costs import Costs
from simulations.sim.machines import Machine
from simulations.sim.message_sizes import message_bytes
from simulations.sim.network import Network, SimLink
from simulations.sim.saved_state import SavedState, emptied

if TYPE_CHECKING:
    from protocol.statements.versions import MarkTable
    from simulations.sim.entry import Entry
    from simulations.sim.job_log import JobLog
    from simulations.sim.worker import Worker

#: The true Unix time at which every run starts.
WALL: Final = 1_800_000_000.0
#: How often a daemon looks at its own load, seconds (as the daemon does).
LOAD_EVERY_S: Final = 0.5
#: A link that serves nobody is closed after this long, seconds (as the daemon does).
IDLE_S: Final = 60.0
#: Points of penalty within so many seconds that ban a peer and its address for as long (as the daemon does).
BAN_POINTS: Final = 5
BAN_S: Final = 600.0
#: Links that others may have made, in all and from one /24 (as the daemon's door has it).
MOST_INBOUND: Final = 192
MOST_OF_GROUP: Final = 32


class SimNode:
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
        self.index = index
        self.address = address
        self.machine = machine
        self.settings = settings
        self.network = network
        self.loop = network.loop
        self.costs = costs
        self.job_log = job_log
        self.seed = seed
        self.signer = Ed25519Signer(key)
        self.peer_id: PeerId = self.signer.peer_id
        self.addr = f"/ip4/{address}/tcp/4411/p2p/{peer_text(self.peer_id)}"
        self.addrs: tuple[str, ...] = (self.addr,)
        self.node: Node
        self.entry: Entry | None = None
        self.worker: Worker | None = None
        self.up = False
        #: Gone without a word, machine and all: dials are not even refused.
        self.vanished = False
        self.life = 0
        #: Incarnation that this life speaks under (as the daemon: the clock's seconds, never one that was used).
        self.inc = 0
        #: How many faults keep it down; how much slower than it should its processor is.
        self.held = 0
        self.slowness = 1.0
        #: Until then it was frozen or slow, and may be behind.
        self.hindered_until = 0.0
        #: How many faults keep anything from being written to its disk.
        self.disk_full = 0
        self.honest = True
        self.wall_error = 0.0
        #: The processor is busy until then; the uplink and the downlink are.
        self.cpu_until = self.up_until = self.down_until = 0.0
        self.cpu_s = 0.0
        self.up_bytes_s, self.down_bytes_s = machine.up_bytes_s, machine.down_bytes_s
        self.links: dict[PeerId, SimLink] = {}
        self.bytes_up = self.messages_up = self.gossip_bytes = 0
        self.advert: Advert | None = None
        #: The die of the decisions at this entry.
        self.entry_dice = rng_stream(seed, "decisions", index)
        self.penalties: dict[PeerId, list[tuple[float, int]]] = {}
        #: Peers and addresses, and until when they are refused.
        self.banned: dict[PeerId | str, float] = {}
        self._timers: dict[TimerKey, float] = {}
        self._backlog: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self._dialling: dict[PeerId | tuple[str, ...], list[Callable[[SimLink | None], object]]] = {}
        self._load: Load | None = None
        self._queries = 0
        self._finding: dict[int, Callable[[Found], object]] = {}
        #: What a crash leaves behind: high-water marks, addresses, the incarnation.
        self._kept: tuple[MarkTable, tuple[tuple[PeerId, tuple[str, ...]], ...], int] = ({}, (), 0)

    # --- lives ---------------------------------------------------------------------------------------------------

    def start(self, seeds: tuple[tuple[PeerId | None, tuple[str, ...]], ...]) -> None:
        """A daemon starts on this machine, for the first time or again."""
        self.life += 1
        self.up, self.vanished = True, False
        self.cpu_until = self.loop.now
        marks, known, inc = self._kept
        self.inc = max(inc + 1, int(self.wall()))
        rng = rng_stream(self.seed, f"node-{self.life}", self.index)
        self.node = Node(self.signer, self.settings, rng, self.inc, seeds, known=known, marks=marks)
        self.perform(self.node.start(self.loop.now, self.wall()))
        self.advertise(self.make_advert())
        if self.worker is not None:
            self.worker.resume()
        self.loop.at(self.loop.now + rng.uniform(0.0, LOAD_EVERY_S), self._report, self.life)
        self.loop.at(self.loop.now + rng.uniform(0.0, IDLE_S), self._close_idle, self.life)

    def stop(self, *, silently: bool, forgets: bool = False) -> None:
        """The process ends; ``silently``: the machine with it, so that nobody is told."""
        if not self.up:
            return
        self.save()
        if forgets:
            self._kept = ({}, (), 0)
        self.node = emptied(self.node, self.signer, self.entry_dice)
        self.up, self.vanished = False, silently
        self.job_log.died_at[self.peer_id] = self.loop.now
        self._timers.clear()
        self._backlog.clear()
        self._dialling.clear()
        self._finding.clear()
        self._load = None
        self.penalties.clear()
        for link in list(self.links.values()):
            if silently:
                self.network.block(link)
            else:
                reset_at = self.loop.now + self.network.delay_s(self, link.other(self))
                self.loop.at(reset_at, self.network.break_link, link, "reset")
        self.links.clear()
        if self.entry is not None:
            self.entry.crashed()
        if self.worker is not None:
            self.worker.crashed()

    def save(self) -> None:
        """What outlives the process goes to the disk, if that has room."""
        if not self.disk_full:
            known = tuple(
                (record.peer, record.advert.addrs) for record in self.node.view.records()[1:65] if record.advert
            )
            self._kept = (SavedState(self.node.export_marks()), known, self.inc)

    def sizes(self) -> dict[str, int]:
        """How much it holds that must not grow without bound."""
        return {
            "penalties": len(self.penalties),
            "backlog": len(self._backlog),
            "timers": len(self._timers),
            "dials": len(self._dialling),
        }

    def leave(self) -> None:
        """Say goodbye, then go."""
        if self.up:
            self.feed(Leave())
            self.loop.at(self.loop.now + 0.5, self._left, self.life)

    def _left(self, life: int) -> None:
        if life == self.life:
            self.stop(silently=False)

    def wall(self) -> float:
        """Unix seconds by this machine's clock."""
        return WALL + self.loop.now + self.wall_error

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
        """Processor time for what is being done."""
        seconds *= self.slowness
        self.cpu_s += seconds
        self.cpu_until = max(self.cpu_until, self.loop.now) + seconds

    @property
    def backlog(self) -> int:
        """What waits for the processor."""
        return len(self._backlog)

    # --- driving the node ----------------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """An event of this node itself: taken at once."""
        if self.up:
            self.perform(self.node.handle(event, self.loop.now, self.wall()))

    def perform(self, effects: list[Effect]) -> None:
        """Do what the node asks for."""
        for effect in effects:
            if isinstance(effect, Send):
                self.send(effect.peer, effect.message)
            elif isinstance(effect, SetTimer):
                self._set_timer(effect.key, effect.at)
            elif isinstance(effect, Dial):
                self._dial(effect.peer, effect.addrs)
            elif isinstance(effect, Hangup):
                self._hang_up(effect.peer)
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
            self.gossip_bytes += size
        self.spend((self.costs.message_s + size * self.costs.byte_s) / 2)
        self.network.carry(link, self, size, link.other(self).received, self.peer_id, message, size)

    def received_bytes(self, peer: PeerId, kind: int, payload: bytes) -> None:
        """A frame of channel 0 as it came over the wire: what cannot be read is held against whoever sent it."""
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
        history = self.penalties.setdefault(effect.peer, [])
        history.append((now, effect.points))
        if sum(points for at, points in history if now - at < BAN_S) >= BAN_POINTS:
            del self.penalties[effect.peer]
            self.banned[effect.peer] = now + BAN_S
            self.job_log.ban(self, effect.peer)
            link = self.links.get(effect.peer)
            if link is not None:
                self.banned[link.other(self).address] = now + BAN_S
                self.network.break_link(link, "banned")

    def refuses(self, other: SimNode) -> bool:
        """Whether the door stays shut for a peer that has dialled: it is banned, or too many came before it."""
        now = self.loop.now
        if max(self.banned.get(other.peer_id, 0.0), self.banned.get(other.address, 0.0)) > now:
            return True
        inbound = [link.a.address for link in self.links.values() if link.b is self and link.a is not other]
        group = other.address.rpartition(".")[0]
        same = sum(address.rpartition(".")[0] == group for address in inbound)
        return len(inbound) >= MOST_INBOUND or same >= MOST_OF_GROUP

    # --- links ---------------------------------------------------------------------------------------------------

    def perform_dial(self, peer: PeerId, addrs: tuple[str, ...]) -> None:
        """Dial, as if the node had asked for it."""
        if self.up:
            self._dial(peer, addrs)

    def connect(self, peer: PeerId, addrs: tuple[str, ...], done: Callable[[SimLink | None], object]) -> None:
        """A link to ``peer``, the one that stands or a new one, given to ``done``; None if there is no way."""
        link = self.links.get(peer)
        if link is not None:
            done(link)
        else:
            self._dial(peer, addrs, done)

    def _dial(
        self, peer: PeerId | None, addrs: tuple[str, ...], done: Callable[[SimLink | None], object] | None = None
    ) -> None:
        if peer is not None and peer in self.links:
            return
        key = addrs if peer is None else peer
        waiting = self._dialling.get(key)
        if waiting is not None:
            if done is not None:
                waiting.append(done)
            return
        self._dialling[key] = [done] if done is not None else []
        self.spend(self.costs.dial_s)
        self.network.dial(
            self, peer, addrs, lambda link, why, life=self.life: self._dialled(life, peer, addrs, link, why)
        )

    def _dialled(
        self, life: int, peer: PeerId | None, addrs: tuple[str, ...], link: SimLink | None, reason: str
    ) -> None:
        if life != self.life or not self.up:
            return
        waiting = self._dialling.pop(addrs if peer is None else peer, [])
        if link is not None and link.a is self and link.used_at == self.loop.now == link.arrived[0]:
            other = link.b
            if other.refuses(self) or self.banned.get(other.peer_id, 0.0) > self.loop.now:
                self.network.break_link(link, "refused", tell_a=False, tell_b=False)
                link, reason = None, "refused"
            else:
                for done in waiting:  # before the node can hang up a link that it does not need
                    done(link)
                waiting = []
                self.run(self.link_up, link, addrs)
                other.run(other.link_up, link, ())
        if link is None:
            self.run(self.feed, DialFailed(peer, addrs, reason))
        for done in waiting:
            done(link)

    def link_up(self, link: SimLink, addrs: tuple[str, ...]) -> None:
        """A link stands and both ends have said hello."""
        if not link.up:
            return
        other = link.other(self)
        self.spend(self.costs.dial_s)
        outbound = link.a is self
        known = (addrs[0], other.addr) if outbound and addrs and addrs[0] != other.addr else other.addrs
        self.feed(LinkUp(other.peer_id, outbound, other.address, known))

    def link_down(self, _link: SimLink, other: SimNode, reason: str) -> None:
        """A link broke."""
        self.feed(LinkDown(other.peer_id, reason))
        if self.entry is not None:
            self.entry.link_down(other)
        if self.worker is not None:
            self.worker.link_down(other)

    def _hang_up(self, peer: PeerId) -> None:
        link = self.links.get(peer)
        if link is not None and not link.jobs:
            self.network.break_link(link, "hung up")

    def _close_idle(self, life: int) -> None:
        if life != self.life or not self.up:
            return
        now = self.loop.now
        for link in list(self.links.values()):
            idle = link.a is self and not link.jobs and now - link.used_at > IDLE_S
            if idle and not self.node.overlay.is_standing(link.b.peer_id):
                self.network.break_link(link, "idle")
        self.loop.at(now + IDLE_S / 6, self._close_idle, life)

    # --- what this node says of itself -----------------------------------------------------------------------------

    def make_advert(self) -> Advert:
        """Hardware and models as they are now."""
        machine, worker = self.machine, self.worker
        offers = worker.offers() if worker is not None else ()
        gpus = (machine.gpu,) if machine.gpu is not None else ()
        return Advert(
            PROTOCOL_VERSION,
            f"node-{self.index}",
            machine.region,
            runtime="simulated" if gpus else "none",
            gpus=gpus,
            models=offers,
            addrs=self.addrs,
            engine="mock" if gpus else "none",
            version=__version__,
        )

    def advertise(self, advert: Advert) -> None:
        """State the advert, if it is news."""
        self.advert = advert
        self.feed(Advertise(advert))

    def _report(self, life: int) -> None:
        if life != self.life or not self.up:
            return
        load = self.make_load()
        if load is not self._load:
            self._load = load
            self.run(self.feed, ReportLoad(load))
        self.loop.at(self.loop.now + LOAD_EVERY_S, self._report, life)

    def make_load(self) -> Load:
        """How busy this node is."""
        return self.worker.load() if self.worker is not None else _NO_LOAD

    # --- questions -----------------------------------------------------------------------------------------------

    def ask(self, event: Callable[[int], Event], done: Callable[[Found], object]) -> None:
        """A question to the DHT; ``done`` gets what it found."""
        self._queries += 1
        self._finding[self._queries] = done
        self.feed(event(self._queries))


_NO_LOAD: Final = Load()
_OF_GOSSIP: Final = frozenset({Records, Digest, Doubt})
