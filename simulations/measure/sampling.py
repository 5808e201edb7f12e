"""Samples the network from outside during a run: series, spreading adverts, age and completeness of the views.

Sampling only reads, with one exception: ``measure.track_every_s`` makes a node change its advert, so that the spread of
the advert can be followed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec

from protocol.effects import Found
from protocol.statements.envelope import Envelope
from protocol.statements.keys import ADVERT
from simulations.rng_streams import rng_stream
from simulations.sim.cluster import Cluster
from simulations.sim.host import WALL
from simulations.sim.node import SimNode

#: Seconds between two counts of who has a tracked advert.
TRACK_S: Final = 0.1
#: A tracked advert is given up after this long.
TRACK_MOST_S: Final = 120.0
#: None is begun when less time than this is left.
TRACK_LEAST_S: Final = 30.0
#: Nodes whose views are looked at, and how often in a run.
LOOK_AT: Final = 40
LOOKS: Final = 4
#: Nodes whose views are looked at every sample, and the largest network in which that is cheap enough.
LOOKOUTS: Final = 12
LOOKOUTS_AMONG: Final = 400
#: A node that was up for less than this has no rates of its own: its joining would be all of them (guess).
LEAST_UP_S: Final = 10.0


#: Bytes up, bytes of gossip, bytes of fresh loads, messages, processor seconds of one node so far.
_Counters = tuple[int, int, int, int, float]


def _counters(peer: SimNode) -> _Counters:
    return peer.bytes_up, peer.uploads.gossip_bytes, peer.uploads.load_bytes, peer.messages_up, peer.cpu_s


class _Tracked:
    """One change of an advert on its way."""

    def __init__(self, peer: SimNode, envelope: Envelope, born: float, missing: list[SimNode]) -> None:
        self.peer = peer
        self.envelope = envelope
        self.born = born
        self.missing = missing
        self.nodes = len(missing)
        self.arrivals: list[float] = []


class Sampler:
    """See the module's docstring."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.found = 0
        self.found_s: list[float] = []
        #: Links of each living honest node at the end of the window.
        self.links: list[int] = []
        #: Those of them that its pool keeps for jobs.
        self.warm_links: list[int] = []
        self.hops: list[float] = []
        #: Who waits for the answer of a look-up, in which life, by a number of ours.
        self._asking: dict[int, tuple[SimNode, int]] = {}
        self._asked = 0
        self.tracked: list[_Tracked] = []
        self.load_ages: list[float] = []
        self.advert_ages: list[float] = []
        self.completeness: list[float] = []
        self.series: dict[str, list[float]] = {name: [] for name in _SERIES}
        self.heat: list[list[float]] = []
        self.heat_rows: list[SimNode] = []
        self.herd_peak = 0.0
        self._at_warmup: list[_Counters] = []
        #: Rates at the end of the window, before the rest; and how often each node was up since the warm-up.
        self._rates: list[_Counters] | None = None
        self._records: tuple[int, int] | None = None
        self._busy_s: float | None = None
        self._up: Counter[int] = Counter()
        self._samples = 0
        #: On which side of a partition a node is, if there will be one.
        self.sides: list[list[float]] = []
        self._lookouts: list[SimNode] = []
        self._before = (0, 0, 0)
        self._rng = rng_stream(cluster.seed, "watch")

    def prepare(self) -> None:
        """Schedule the looks."""
        scenario, loop = self.cluster.scenario, self.cluster.loop
        loop.at(scenario.warmup_s, self._warm)
        loop.at(scenario.measure.sample_s, self._sample)
        if scenario.measure.track_every_s:
            loop.at(scenario.warmup_s, self._track)
        span = scenario.duration_s - scenario.warmup_s
        for number in range(1, LOOKS):
            loop.at(scenario.warmup_s + span * number / LOOKS, self.last_look)
        workers = [peer for peer in self.cluster.peers if peer.worker is not None]
        step = max(1, len(workers) // scenario.measure.heat_rows)
        self.heat_rows = workers[::step][: scenario.measure.heat_rows]

    # --- traffic -------------------------------------------------------------------------------------------------

    def _warm(self) -> None:
        self._at_warmup = [_counters(peer) for peer in self.cluster.peers]

    def at_end(self) -> None:
        """The window is over; the rest of the run is no part of the figures."""
        self._rates = self.traffic()
        self._records = self.records()
        self._busy_s = self.busy_s()
        alive = [peer for peer in self.cluster.alive if peer.honest]
        self.links = [len(peer.links) for peer in alive]
        self.warm_links = [len(peer.node.warm.pool) for peer in alive]
        self.last_look()

    def records(self) -> tuple[int, int]:
        """Statements that were received, and those of them that were known, by the present lives of all nodes."""
        if self._records is not None:
            return self._records
        counts = [peer.node.gossip.counts for peer in self.cluster.peers if peer.life]
        return sum(count.records_in for count in counts), sum(count.known for count in counts)

    def busy_s(self) -> float:
        """Seconds in which GPUs computed anything, all together."""
        if self._busy_s is not None:
            return self._busy_s
        return sum(peer.worker.engine.busy_s for peer in self.cluster.peers if peer.worker is not None)

    def traffic(self) -> list[_Counters]:
        """Of each node that lived, per second that it was up: bytes up, of gossip, of fresh loads, messages, CPU."""
        if self._rates is not None:
            return self._rates
        span = self.cluster.loop.now - self.cluster.scenario.warmup_s
        if span <= 0 or not self._at_warmup:
            return []
        rates = []
        for index, peer in enumerate(self.cluster.peers):
            before = self._at_warmup[index] if index < len(self._at_warmup) else (0, 0, 0, 0, 0.0)
            up_s = span * self._up[index] / self._samples if self._samples else span
            if up_s >= min(LEAST_UP_S, span):
                rates.append(tuple((new - old) / up_s for new, old in zip(_counters(peer), before, strict=True)))
        return rates  # type: ignore[return-value]

    # --- series --------------------------------------------------------------------------------------------------

    def _sample(self) -> None:
        cluster, job_log = self.cluster, self.cluster.job_log
        loop, sample_s = cluster.loop, cluster.scenario.measure.sample_s
        alive = sum(peer.up for peer in cluster.peers)
        total = sum(peer.bytes_up for peer in cluster.peers)
        completed, failed, before = job_log.completed, job_log.failed, self._before
        self._before = (completed, failed, total)
        series = self.series
        series["t"].append(loop.now)
        series["jobs_running"].append(len(job_log.open))
        series["completed_per_s"].append((completed - before[0]) / sample_s)
        series["failed_per_s"].append((failed - before[1]) / sample_s)
        series["bytes_up_per_s"].append((total - before[2]) / sample_s / max(1, alive))
        series["alive"].append(alive)
        ended = completed + failed - before[0] - before[1]
        series["success"].append((completed - before[0]) / ended if ended else math.nan)
        self._look_out()
        if loop.now > cluster.scenario.warmup_s:
            self._samples += 1
            self._up.update(index for index, peer in enumerate(cluster.peers) if peer.up)
        if job_log.arrivals and loop.now > cluster.scenario.warmup_s:
            mean = sum(job_log.arrivals.values()) / max(1, sum(peer.worker is not None for peer in cluster.peers))
            self.herd_peak = max(self.herd_peak, max(job_log.arrivals.values()) / max(mean, 1.0))
        job_log.arrivals.clear()
        self.heat.append([self._heat(peer) for peer in self.heat_rows])
        if loop.now + sample_s <= cluster.scenario.duration_s:
            loop.at(loop.now + sample_s, self._sample)

    def _look_out(self) -> None:
        """How much of the network, and of both sides of a partition, a few nodes see."""
        cluster = self.cluster
        if len(cluster.peers) > LOOKOUTS_AMONG:
            return
        alive = [peer for peer in cluster.peers if peer.up and peer.honest]
        if not self._lookouts:
            self._lookouts = self._rng.sample(cluster.peers, min(LOOKOUTS, len(cluster.peers)))
        views = []
        for peer in (peer for peer in self._lookouts if peer.up and peer.honest):
            seen = [(other, _sees(peer, other)) for other in alive if other is not peer]
            views.append((_share([yes for _, yes in seen]), *self._by_side(peer, seen)))
        whole, own, others = (_mean(column) for column in zip(*views, strict=True)) if views else (math.nan,) * 3
        self.series["view_completeness"].append(whole)
        if self.cluster.side_of is not None:
            self.sides.append([own, others])

    def _by_side(self, peer: SimNode, seen: list[tuple[SimNode, bool]]) -> tuple[float, float]:
        if self.cluster.side_of is None:
            return math.nan, math.nan
        mine = self.cluster.side_of(peer)
        own = [yes for other, yes in seen if self.cluster.side_of(other) == mine]
        others = [yes for other, yes in seen if self.cluster.side_of(other) != mine]
        return _share(own), _share(others)

    def _heat(self, peer: SimNode) -> float:
        worker = peer.worker
        if worker is None or not peer.up:
            return 0.0
        return (worker.running + worker.waiting) / max(1, peer.machine.slots)

    # --- spreading -----------------------------------------------------------------------------------------------

    def _track(self) -> None:
        cluster = self.cluster
        scenario, loop = cluster.scenario, cluster.loop
        if loop.now > scenario.duration_s - TRACK_LEAST_S:
            return
        loop.at(loop.now + scenario.measure.track_every_s, self._track)
        peer = self._rng.choice([peer for peer in cluster.alive if peer.honest])
        assert peer.advert is not None, "whoever lives has advertised"
        peer.advertise(msgspec.structs.replace(peer.advert, owner=f"changed at {loop.now:.0f}"))
        envelope = peer.node.gossip.own(ADVERT)
        if envelope is not None:
            missing = [other for other in cluster.alive if other is not peer and other.honest]
            tracked = _Tracked(peer, envelope, loop.now, missing)
            self.tracked.append(tracked)
            loop.at(loop.now + TRACK_S, self._count, tracked)

    def _count(self, tracked: _Tracked) -> None:
        loop, missing = self.cluster.loop, tracked.missing
        if self.cluster.by_peer[tracked.peer.peer_id].life != tracked.peer.life or not tracked.peer.up:
            tracked.nodes = 0
            return
        still = []
        for peer in missing:
            if not peer.up:
                tracked.nodes -= 1
            elif has(peer, tracked.envelope):
                tracked.arrivals.append(loop.now - tracked.born)
            else:
                still.append(peer)
        tracked.missing = still
        if still and loop.now - tracked.born < TRACK_MOST_S:
            loop.at(loop.now + TRACK_S, self._count, tracked)

    # --- views ---------------------------------------------------------------------------------------------------

    def last_look(self) -> None:
        """How old and how whole a few views are now."""
        cluster = self.cluster
        alive = [peer for peer in cluster.alive if peer.honest]
        if len(alive) < 2:
            return
        living = {peer.peer_id: peer for peer in alive}
        room = min(len(alive) - 1, cluster.scenario.node.gossip.view_size)
        for peer in self._rng.sample(alive, min(LOOK_AT, len(alive))):
            known = 0
            for record in peer.node.view.records()[1:]:
                other = living.get(record.peer)
                if other is None:
                    continue
                true_wall = WALL + cluster.loop.now + other.wall_error
                if record.advert_env is not None:
                    known += 1
                    self.advert_ages.append(true_wall - record.advert_env.issued)
                if record.load_env is not None:
                    self.load_ages.append(true_wall - record.load_env.issued)
            self.completeness.append(known / room)

    # --- the DHT -------------------------------------------------------------------------------------------------

    def asks(self, peer: SimNode) -> int:
        """A node asks the DHT; the number is for :meth:`looked_up`."""
        self._asked += 1
        self._asking[self._asked] = (peer, peer.life)
        return self._asked

    @property
    def lookups(self) -> int:
        """Questions to the DHT, without those whose asker has died before the answer."""
        return len(self.found_s) + sum(peer.up and peer.life == life for peer, life in self._asking.values())

    def looked_up(self, number: int, model: str, found: Found, seconds: float) -> None:
        """A question of ours was answered; it is a find if a node in it is alive and has the model."""
        del self._asking[number]
        network = self.cluster.network
        for envelope in found.envelopes:
            peer = network.by_peer.get(envelope.author)
            if peer is not None and peer.up and any(offer.name == model for offer in peer.machine.offers):
                self.found += 1
                break
        self.found_s.append(seconds)
        self.hops.append(float(found.hops))


_SERIES: Final = (
    *("t", "jobs_running", "completed_per_s", "failed_per_s", "bytes_up_per_s", "alive"),
    *("success", "view_completeness"),
)


def _sees(peer: SimNode, other: SimNode) -> bool:
    """Whether a node believes that another is there, with a load that is in force."""
    record = peer.node.view.get(other.peer_id)
    return record is not None and record.state == "alive" and record.load_until > peer.loop.now


def _share(values: list[bool]) -> float:
    return sum(values) / len(values) if values else math.nan


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def has(peer: SimNode, envelope: Envelope) -> bool:
    """Whether the node holds this advert of its author, or a newer one."""
    record = peer.node.view.get(envelope.author)
    held = record.advert_env if record is not None else None
    return held is not None and held.version >= envelope.version
