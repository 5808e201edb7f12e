"""Faults and their repair: one small class per kind of fault, which begins and ends it.

Theory of operation
===================

A fault begins at ``at_s`` and ends after ``for_s`` seconds, at the latest when the quiet phase begins.  Its end undoes
all of its effects.  Faults overlap: the effects of each are kept apart or counted, so the end of one does not end the
other.  A fault hits ``nodes``, or a ``share`` of the nodes that are up when it begins, at least one.  Each fault draws
its nodes from its own random stream.

Not here: the choice of faults in a chaotic run (``chaos``), voluntary departures (``churn``), attacks (``attackers``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Final

from protocol.events import GOODBYE_S
from simulations.faults.churn import quiet_at
from simulations.rng_streams import rng_stream
from simulations.scenario import Fault
from simulations.sim.cluster import Cluster
from simulations.sim.endpoint import Endpoint
from simulations.sim.node import SimNode

#: Messages held back are let go after this long if nothing else is said, seconds: below the life of a silent link.
HOLD_S: Final = 5.0
#: Share of the messages lost, more seconds on the way, Mbit/s that are left, seconds a clock jumps, share of its speed
#: that a GPU keeps, times that a processor is slower: where ``amount`` is 0 (guesses, each bad enough to be felt).
LOSS: Final = 0.1
SPIKE_S: Final = 0.5
CAP_MBIT: Final = 1.0
JUMP_S: Final = 3600.0
THROTTLE: Final = 0.2
SLOW: Final = 50.0

#: Whether nothing gets from the one to the other.
Cut = Callable[["Endpoint", "Endpoint"], bool]
Detour = Callable[["Endpoint", "Endpoint"], float]


class NetworkConditions:
    """The joint effect of all faults on the network."""

    def __init__(self, cluster: Cluster) -> None:
        self._network = cluster.network
        self._cuts: dict[object, Cut] = {}
        self._detours: dict[object, Detour] = {}
        self._caps: dict[SimNode, dict[object, float]] = {}

    def cut(self, fault: object, cut: Cut) -> None:
        """Nothing gets from some to some others."""
        self._cuts[fault] = cut
        self._changed()

    def detour(self, fault: object, detour: Detour) -> None:
        """Some messages take longer."""
        self._detours[fault] = detour
        self._changed()

    def cap(self, fault: object, peer: SimNode, bytes_s: float) -> None:
        """The access link of a machine has no more than so much each way; of several the least counts."""
        self._caps.setdefault(peer, {})[fault] = bytes_s
        self._capped(peer)

    def uncap(self, fault: object, peer: SimNode) -> None:
        """Undo the effect of this fault on a machine's access link."""
        self._caps.get(peer, {}).pop(fault, None)
        self._capped(peer)

    def _capped(self, peer: SimNode) -> None:
        most, machine = min(self._caps.get(peer, {}).values(), default=math.inf), peer.machine
        peer.up_bytes_s, peer.down_bytes_s = min(machine.up_bytes_s, most), min(machine.down_bytes_s, most)

    def clear(self, fault: object) -> None:
        """Undo the effects of this fault."""
        self._cuts.pop(fault, None)
        self._detours.pop(fault, None)
        self._changed()

    def _changed(self) -> None:
        cuts, detours = tuple(self._cuts.values()), tuple(self._detours.values())
        network = self._network
        network.cut = (lambda a, b: any(cut(a, b) for cut in cuts)) if cuts else None
        network.detour = (lambda a, b: sum(detour(a, b) for detour in detours)) if detours else None
        network.reconsider()


class ActiveFault:
    """Base of all kinds: the hit nodes, and the effects to undo.  ``number`` tells faults of one scenario apart."""

    #: The default of ``amount``.
    AMOUNT: ClassVar[float] = 0.0

    def __init__(self, cluster: Cluster, conditions: NetworkConditions, fault: Fault, number: int) -> None:
        self.cluster = cluster
        self.conditions = conditions
        self.fault = fault
        self.loop = cluster.loop
        self.amount = fault.amount or self.AMOUNT
        self.rng = rng_stream(cluster.seed, "fault", number)
        self.number = number
        self.hit: list[SimNode] = []

    def choose(self) -> list[SimNode]:
        """The nodes that it hits."""
        peers, fault = self.cluster.peers, self.fault
        if fault.nodes:
            return [peers[index] for index in fault.nodes if index < len(peers)]
        alive = self.cluster.alive
        return self.rng.sample(alive, min(len(alive), max(1, round(fault.share * len(alive)))))

    def prepare(self) -> None:
        """Prepare the fault before it begins."""

    def begin(self) -> None:
        """It happens."""
        self.hit = self.choose()
        for peer in self.hit:
            self.strike(peer)

    def end(self) -> None:
        """It is over, and as it was before."""
        for peer in self.hit:
            self.mend(peer)

    def strike(self, peer: SimNode) -> None:
        """Apply the fault to one node."""

    def mend(self, peer: SimNode) -> None:
        """Undo it."""


# --- processes -----------------------------------------------------------------------------------------------------


class Crash(ActiveFault):
    """``share`` or ``nodes``: machines lose their power without a goodbye; they come back with their disks."""

    SILENTLY: ClassVar[bool] = True
    FORGETS: ClassVar[bool] = False

    def strike(self, peer: SimNode) -> None:
        peer.held += 1
        peer.stop(silently=self.SILENTLY, forgets=self.FORGETS)

    def mend(self, peer: SimNode) -> None:
        peer.held -= 1
        if not peer.held:
            self.cluster.start(peer)


class CrashForget(Crash):
    """As ``crash``, but the disks are empty when they come back: no marks, no addresses, no incarnation."""

    FORGETS = True


class Restart(Crash):
    """``share`` or ``nodes``: the process ends, its links are reset; it comes back after ``for_s`` with its state."""

    SILENTLY = False


class Leave(Crash):
    """``share`` or ``nodes``: they say goodbye and go; they come back after ``for_s``."""

    def strike(self, peer: SimNode) -> None:
        peer.held += 1
        peer.leave()

    def mend(self, peer: SimNode) -> None:
        peer.held -= 1
        if not peer.held:
            # A node that is saying goodbye has to end first.
            self.loop.at(self.loop.now + (GOODBYE_S if peer.up else 0.0), self.cluster.start, peer)


class SeedsDown(Crash):
    """No field but the times counts: all bootstrap nodes are gone."""

    def choose(self) -> list[SimNode]:
        return self.cluster.peers[: self.cluster.scenario.topology.seeds]


class Freeze(ActiveFault):
    """``share`` or ``nodes``: the process is stopped (a laptop's lid, SIGSTOP): it answers nothing, and goes on later.

    Messages to its machine wait in the sockets meanwhile; a peer that hears no PONG gives the link up.
    """

    def begin(self) -> None:
        super().begin()
        frozen = {peer.index for peer in self.hit}
        self.conditions.cut(self, lambda a, b: a.index in frozen or b.index in frozen)

    def strike(self, peer: SimNode) -> None:
        peer.hindered_until = peer.cpu_until = max(peer.cpu_until, until(self.cluster, self.fault))

    def end(self) -> None:
        self.conditions.clear(self)


class SlowCpu(ActiveFault):
    """``share`` or ``nodes``: every action of the daemon takes ``amount`` times as long (Lifeguard's experiment)."""

    AMOUNT = SLOW

    def strike(self, peer: SimNode) -> None:
        peer.slowness *= self.amount
        peer.hindered_until = max(peer.hindered_until, until(self.cluster, self.fault))

    def mend(self, peer: SimNode) -> None:
        peer.slowness /= self.amount


class ClockJump(ActiveFault):
    """``share`` or ``nodes``: the wall clock jumps by ``amount`` seconds, and back at the end."""

    AMOUNT = JUMP_S

    def strike(self, peer: SimNode) -> None:
        peer.wall_error += self.amount

    def mend(self, peer: SimNode) -> None:
        peer.wall_error -= self.amount


class DiskFull(ActiveFault):
    """``share`` or ``nodes``: writes stop; a restart finds the data from the time when the disk became full.

    So marks, addresses and the incarnation of a restart are old.  Models that are on the disk can still be read.
    """

    def strike(self, peer: SimNode) -> None:
        if peer.up:
            peer.save()
        peer.disk_full += 1

    def mend(self, peer: SimNode) -> None:
        peer.disk_full -= 1


# --- the network -----------------------------------------------------------------------------------------------------


class Partition(ActiveFault):
    """``groups`` are shares of the nodes on each side (two, three, more), or ``regions`` against all others.

    ``one_way``: the first side hears the others, but is not heard: until its links across are given up for their
    silence, and no new one can be made.  ``amount``: so many nodes belong to all sides, a bridge.
    """

    def prepare(self) -> None:
        """Who will be where: known before, so that the sides can be watched from the start."""
        self._sides: dict[int, int] = {}
        order = list(self.cluster.peers)
        self.rng.shuffle(order)
        bridges = int(self.amount)
        for place, peer in enumerate(order):
            bridge = place < bridges
            self._sides[peer.index] = -1 if bridge else self._side(peer, (place + 0.5) / len(order))
        self.cluster.side_of = self.cluster.side_of or self.side

    def begin(self) -> None:
        self.conditions.cut(self, self._cut)

    def end(self) -> None:
        self.conditions.clear(self)

    def side(self, peer: Endpoint) -> int:
        """0, 1, ..., or -1 of a bridge; a node that joins meanwhile gets a side, too."""
        known = self._sides.get(peer.index)
        if known is None:
            draw = rng_stream(self.cluster.seed, f"side-{self.number}", peer.index).random()
            known = self._sides[peer.index] = self._side(peer, draw)
        return known

    def _side(self, peer: Endpoint, draw: float) -> int:
        if self.fault.regions:
            return int(peer.machine.region not in self.fault.regions)
        shares, below = self.fault.groups, 0.0
        for side, share in enumerate(shares):
            below += share / (sum(shares) or 1.0)
            if draw < below:
                return side
        return len(shares) - 1

    def _cut(self, source: Endpoint, target: Endpoint) -> bool:
        a, b = self.side(source), self.side(target)
        if a == b or a < 0 or b < 0:
            return False
        return not self.fault.one_way or a == 0


class Hold(ActiveFault):
    """``share`` or ``nodes``: their traffic is held back for ``amount`` seconds, released, and held back again.

    Longer than a link may be silent it is a partition.
    """

    AMOUNT = HOLD_S

    def begin(self) -> None:
        self.hit = self.choose()
        self._over = False
        self._clog(True)

    def _clog(self, on: bool) -> None:
        if self._over:
            return
        if on:
            held = {peer.index for peer in self.hit}
            self.conditions.cut(self, lambda a, b: a.index in held or b.index in held)
        else:
            self.conditions.clear(self)
        self.loop.at(self.loop.now + self.amount, self._clog, not on)

    def end(self) -> None:
        self._over = True
        self.conditions.clear(self)


class Loss(ActiveFault):
    """``amount``: share of all segments that are lost on top; on a stream that is delay."""

    AMOUNT = LOSS

    def begin(self) -> None:
        self.cluster.network.loss += self.amount

    def end(self) -> None:
        self.cluster.network.loss = max(0.0, self.cluster.network.loss - self.amount)


class Drop(ActiveFault):
    """``amount``: share of all messages that vanish although their link stands."""

    AMOUNT = LOSS

    def begin(self) -> None:
        self.cluster.network.drop += self.amount

    def end(self) -> None:
        self.cluster.network.drop = max(0.0, self.cluster.network.drop - self.amount)


class LatencySpike(ActiveFault):
    """``share`` or ``nodes``: everything to and from them takes ``amount`` seconds more."""

    AMOUNT = SPIKE_S

    def begin(self) -> None:
        self.hit = self.choose()
        far = {peer.index for peer in self.hit}
        self.conditions.detour(self, lambda a, b: self.amount if a.index in far or b.index in far else 0.0)

    def end(self) -> None:
        self.conditions.clear(self)


class BandwidthCap(ActiveFault):
    """``share`` or ``nodes``: their access links have ``amount`` Mbit/s each way."""

    AMOUNT = CAP_MBIT

    def strike(self, peer: SimNode) -> None:
        self.conditions.cap(self, peer, self.amount * 1e6 / 8)

    def mend(self, peer: SimNode) -> None:
        self.conditions.uncap(self, peer)


# --- engines ---------------------------------------------------------------------------------------------------------


class Throttle(ActiveFault):
    """``share`` or ``nodes``: their GPUs run at ``amount`` of their speed (too hot)."""

    AMOUNT = THROTTLE

    def strike(self, peer: SimNode) -> None:
        if peer.worker is not None:
            peer.worker.throttle(self.amount, self)

    def mend(self, peer: SimNode) -> None:
        if peer.worker is not None:
            peer.worker.throttle(1.0, self)


class HangingEngine(ActiveFault):
    """``share`` or ``nodes``: their engines take jobs and never answer."""

    def strike(self, peer: SimNode) -> None:
        if peer.worker is not None:
            peer.worker.broken += 1

    def mend(self, peer: SimNode) -> None:
        if peer.worker is not None:
            peer.worker.broken -= 1


class EngineCrash(ActiveFault):
    """``share`` or ``nodes``: all running jobs fail and the models are loaded again, which is its end."""

    def strike(self, peer: SimNode) -> None:
        if peer.worker is not None and peer.up:
            peer.worker.engine_crashed()


#: The allowed values of ``Fault.kind``.
KINDS: Final[dict[str, type[ActiveFault]]] = {
    "bandwidth_cap": BandwidthCap,
    "clock_jump": ClockJump,
    "crash": Crash,
    "crash_forget": CrashForget,
    "disk_full": DiskFull,
    "drop": Drop,
    "engine_crash": EngineCrash,
    "freeze": Freeze,
    "hanging_engine": HangingEngine,
    "hold": Hold,
    "latency_spike": LatencySpike,
    "leave": Leave,
    "loss": Loss,
    "partition": Partition,
    "restart": Restart,
    "seeds_down": SeedsDown,
    "slow_cpu": SlowCpu,
    "throttle": Throttle,
}


def prepare(cluster: Cluster, faults: tuple[Fault, ...]) -> None:
    """Schedule the faults of the scenario, and those of chaos.  Raises ``ValueError`` where one makes no sense."""
    scenario, conditions = cluster.scenario, NetworkConditions(cluster)
    for number, fault in enumerate(faults):
        kind = KINDS.get(fault.kind)
        if kind is None:
            raise ValueError(f"no fault {fault.kind!r}; there are {', '.join(KINDS)}")
        if scenario.quiet_s and fault.at_s >= quiet_at(cluster):
            raise ValueError(f"the fault {fault.kind} at {fault.at_s:g} s is in the quiet phase")
        active = kind(cluster, conditions, fault, number)
        active.prepare()
        cluster.loop.at(fault.at_s, active.begin)
        cluster.loop.at(until(cluster, fault), active.end)


def until(cluster: Cluster, fault: Fault) -> float:
    """When a fault ends."""
    return min(fault.at_s + fault.for_s, quiet_at(cluster)) if cluster.scenario.quiet_s else fault.at_s + fault.for_s
