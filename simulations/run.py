"""One run of a simulated network, from its first second to its last.

It lets the nodes join, brings the jobs to live entries, and starts faults, churn, attackers and checks.  Phases:
joining; warm-up; the measured window; the quiet phase, which has no faults; then the *rest*, in which no job arrives
and the open jobs end.

Not here: the nodes and the network (``cluster``), measurements (``job_log``, ``sampling``, ``metrics``).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from protocol.events import FindProviders
from protocol.ids import name_key
from simulations import attackers
from simulations.attackers.attack_metrics import Damage
from simulations.faults import chaos, churn, faults
from simulations.measure import observers
from simulations.measure.invariants import Breach, Invariants
from simulations.measure.metrics import RunMetrics, outcome_of
from simulations.measure.sampling import Sampler
from simulations.rng_streams import rng_stream
from simulations.scenario import Scenario
from simulations.sim.capacity import offered_per_s
from simulations.sim.cluster import Cluster
from simulations.sim.jobs import job_of
from simulations.sim.node import SimNode
from simulations.sim.steady_state import settle
from simulations.workload.workload import Arrival, arrivals

#: Virtual seconds between two reports to the observer of a run, of up to so many nodes; of more nodes, less.
CHUNK_S: Final = 1.0
CHUNK_NODES: Final = 200
#: No question is put to the DHT in the last so many seconds: its answer would come too late to be seen.
LOOKUP_S: Final = 10.0
#: What is waited for measured jobs under way at the end beyond what a cascade may take, seconds: a look-up before it,
#: and a processor that is busy (guess).
REST_S: Final = 10.0


@dataclass(slots=True)
class RunProgress:
    """How far a run is; ``stop`` asks it to end now and be partial.

    ``virtual_s`` ends at ``of_s``.  ``rest_s`` is how far the rest after it is, in which ``waiting`` jobs go on.
    """

    virtual_s: float = 0.0
    of_s: float = 0.0
    rest_s: float = 0.0
    waiting: int = 0
    jobs: int = 0
    events: int = 0
    stop: bool = False


class Run(Cluster):
    """See the module's docstring."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        super().__init__(scenario, seed, attackers.peer_class, attackers.worker_class)
        self._sessions: dict[int, SimNode] = {}
        self.rate_per_s = offered_per_s(scenario, seed)
        self._arrivals: Iterator[Arrival] = iter(())
        self._jobs = 0
        #: When the end comes, or came; from then on no job arrives, and rates stop counting.
        self.end_s = scenario.duration_s
        #: The clock of this process at that time.
        self.end_cpu_s = 0.0
        self._resting = False
        self.damage: Damage | None = None
        self._chunk_s = CHUNK_S * min(1.0, CHUNK_NODES / scenario.topology.nodes)
        self.watch = Sampler(self)
        self.checks = Invariants(self)

    # --- running -------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Everything that is known to happen is scheduled."""
        scenario, loop = self.scenario, self.loop
        topology = scenario.topology
        if topology.settled:
            settle(self)
        else:
            for peer in self.peers:
                loop.at(topology.join_s * peer.index / topology.nodes, self.start, peer)
        churn.prepare(self)
        drawn = chaos.drawn(scenario, self.seed) if scenario.chaos else ()
        faults.prepare(self, scenario.faults + drawn)
        self.damage = attackers.prepare(self)
        self.watch.prepare()
        self.checks.prepare()
        self._arrivals = arrivals(scenario, self.seed, self.rate_per_s)
        self._next_arrival()
        if scenario.lookups.rate_per_s:
            self._next_lookup(rng_stream(self.seed, "lookups"))

    def run(self, progress: RunProgress | None = None, until: float | None = None) -> RunMetrics:
        """To the end, or as far as ``until``; raises nothing: a breach is part of the outcome.

        Nothing that happens before ``until`` depends on it, so that the command which repeats a breach leads there.
        """
        scenario = self.scenario
        end = scenario.duration_s if until is None else min(until, scenario.duration_s)
        progress = progress or RunProgress()
        progress.of_s = end
        breach: Breach | None = None
        shut_out: dict[str, Any] = {}
        enabled = gc.isenabled()
        try:
            self.prepare()
            gc.collect()
            gc.freeze()
            gc.disable()  # nothing here makes cycles that a run would not survive
            self._run_to(end, progress)
            if not progress.stop:
                self.watch.at_end()
                shut_out = observers.shut_out(self)
                self._rest(progress)
                self.checks.at_end()
        except Breach as broken:
            breach = broken
        finally:
            gc.unfreeze()
            if enabled:
                gc.enable()
        outcome = outcome_of(self, breach, partial=progress.stop or end < scenario.duration_s)
        outcome.metrics.update(observers.metrics(self) | shut_out)
        if self.damage is not None:
            outcome.metrics.update(self.damage.metrics())
        return outcome

    def _run_to(self, end: float, progress: RunProgress) -> None:
        loop = self.loop
        try:
            while loop.now < end and not progress.stop:
                loop.run(min(end, loop.now + self._chunk_s))
                self.checks.look()
                progress.virtual_s, progress.events = loop.now, loop.events
                progress.jobs = self.job_log.completed + self.job_log.failed
        finally:
            self.end_s, self.end_cpu_s = loop.now, time.process_time()

    def _rest(self, progress: RunProgress) -> None:
        """No more jobs arrive; the open ones end.

        The candidates of a job are fixed at its first attempt.  Once each measured job has had one, gossip cannot
        change a choice any more and ends.  A job of minutes then costs little processor time.
        """
        self._resting = True
        loop, began = self.loop, self.loop.now
        end = began + self.scenario.node.cascade.total_s + REST_S
        while self.job_log.measured_open and loop.now < end and not progress.stop:
            self.network.resting |= not self.job_log.undecided
            loop.run(min(end, loop.now + self._chunk_s))
            self.checks.look()
            progress.rest_s, progress.events = loop.now - began, loop.events
            progress.waiting = self.job_log.measured_open
            progress.jobs = self.job_log.completed + self.job_log.failed

    # --- jobs ----------------------------------------------------------------------------------------------------

    def _next_arrival(self) -> None:
        arrival = next(self._arrivals, None)
        if arrival is not None:
            self.loop.at(arrival.at, self._arrive, arrival)

    def _arrive(self, arrival: Arrival) -> None:
        if self._resting:
            return
        self._next_arrival()
        peer = self._entry(arrival)
        self._jobs += 1
        job, truth = job_of(self._jobs, arrival)
        self.job_log.arrived(peer, job, arrival.output_tokens)
        if peer is None or peer.entry is None:
            self.job_log.gave_up(job, "no_entry")
            return
        peer.entry.arrives(job, truth)
        if self.scenario.workload.patience_s:
            self.loop.at(self.loop.now + self.scenario.workload.patience_s, peer.entry.caller_gone, job.number)

    def _entry(self, arrival: Arrival) -> SimNode | None:
        """A living node at which jobs arrive; the same for all turns of a session while it lives."""
        known = self._sessions.get(arrival.session) if arrival.session else None
        if known is not None and known.up:
            return known
        count = max(1, round(len(self.machines) * self.scenario.workload.entries))
        start = int(arrival.entry * count)
        for step in range(count):
            peer = self.machines[(start + step) % count]
            if peer.up and peer.honest and peer.entry is not None:
                if arrival.session:
                    self._sessions[arrival.session] = peer
                return peer
        return None

    # --- questions to the DHT ------------------------------------------------------------------------------------

    def _next_lookup(self, rng: Any) -> None:
        self.loop.at(self.loop.now + rng.expovariate(self.scenario.lookups.rate_per_s), self._look_up, rng)

    def _look_up(self, rng: Any) -> None:
        self._next_lookup(rng)
        if not self.scenario.warmup_s <= self.loop.now < self.scenario.duration_s - LOOKUP_S:
            return
        alive = self.alive
        if not alive:
            return
        peer = rng.choice(alive)
        names = [model.name for model in self.scenario.models.catalogue]
        name = rng.choice(names)
        number, asked_at = self.watch.asks(peer), self.loop.now
        peer.ask(
            lambda query: FindProviders(query, name_key(name)),
            lambda found: self.watch.looked_up(number, name, found, self.loop.now - asked_at),
        )


def run(scenario: Scenario, seed: int, progress: RunProgress | None = None, until: float | None = None) -> RunMetrics:
    """One run of one scenario."""
    return Run(scenario, seed).run(progress, until)
