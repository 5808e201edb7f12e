"""The invariants of every run.  A breach ends the run and says where and when.

=== ==================================== ===============================================================================
I1  jobs are conserved                   submitted = completed + failed + open, in total and at every entry
I2  a job is answered once               at most one answer, no more executions than attempts, no orphans
I3  life cycle                           asked <= accepted <= first token <= answered <= ended; no attempt after the end
I4  time                                 never goes back; no timer or message of a dead life arrives
I5  engines                              0 <= used <= total, for slots and memory; no job waits while a slot is free
I6  statements                           a view holds only what its author signed, and never an older one than before
I7  the oracle boundary                  ranking and admission cannot see how long an answer will be
I8  memory is bounded                    view, marks, lists per link, DHT store, timers, queues
I9  liveness                             after the last fault the network converges in time (``convergence``)
I10 reputation                           no honest node blames or bans an honest one
I11 no loops                             a job is brought to each worker once, and to no more than ``asked``
I12 determinism                          same scenario and seed, same digest; only tests can check this
=== ==================================== ===============================================================================

Other modules record some breaches (``job_log.violations``); this module raises them.  Cheap checks run every second,
checks of whole states every ``measure.invariants_every_s``.
"""

from __future__ import annotations

from typing import Any, Final

from protocol.dht.record_store import STATEMENTS_PER_KEY
from protocol.jobs.admission import Arrived
from protocol.jobs.cascade_events import Begin
from protocol.jobs.entry import Submit
from protocol.membership.penalties import REMEMBERED
from protocol.routing.link_pool import MOST_MODELS, MOST_PAUSES
from protocol.routing.ranking import JobQuery
from protocol.statements.envelope import Envelope
from protocol.statements.versions import MAX_MARKS
from simulations.measure.breach import Breach
from simulations.measure.convergence import Convergence
from simulations.measure.engine_checks import engine_fault
from simulations.rng_streams import rng_stream
from simulations.sim.cluster import Cluster
from simulations.sim.jobs import Job
from simulations.sim.node import SimNode

__all__ = ["Breach", "Invariants"]

#: Views looked at for statements at a time: whole views, so that none is looked at too rarely (guess).
VIEWS: Final = 4
#: Seconds that an orphaned execution may go on: until a silent link is detected and a queue is empty (guess).
GRACE_S: Final = 60.0
#: Bounds that no setting has: the queue for a processor, and the timers of one node (guesses, above any need).
MOST_WAITING: Final = 50_000
MOST_TIMERS: Final = 10_000
#: A job may be this much older than its limit before it counts as forgotten, seconds (guess).
LATE_S: Final = 30.0
#: Fields that stay secret until the job is done.
SECRETS: Final = frozenset({"output_tokens", "truth"})


class Invariants:
    """The checks of one run."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.made = 0
        self.healing = Convergence(cluster)
        self._now = 0.0
        self._judged = 0
        self._rng = rng_stream(cluster.seed, "invariants")
        #: The newest version that a life of a node has shown, by author and kind.
        self._versions: dict[tuple[int, int], dict[tuple[bytes, int], tuple[int, int]]] = {}
        #: Since when an attempt has had no entry that waits for it.
        self._orphans: dict[int, float] = {}

    def prepare(self) -> None:
        """Schedule the checks that do not run every second."""
        self._boundary()
        every = self.cluster.scenario.measure.invariants_every_s
        if every:
            self.cluster.loop.at(every, self._states, every)
        self.healing.prepare()

    def look(self) -> None:
        """The cheap checks."""
        job_log, now = self.cluster.job_log, self.cluster.loop.now
        self.made += 1
        if job_log.violations:
            what = job_log.violations[0]
            raise Breach(what.partition(":")[0], now, what.partition(": ")[2])
        if job_log.submitted != job_log.completed + job_log.failed + len(job_log.open):
            self._breach("I1", "jobs were lost or made up")
        if now < self._now:
            self._breach("I4", f"the time went back from {self._now:.6f} s")
        self._now = now
        self._life_cycles()

    def at_end(self) -> None:
        """The checks after the end of all jobs."""
        self.look()
        self.whole()
        self.forgotten()

    def metrics(self) -> dict[str, Any]:
        """The part of the results about the checks."""
        return {"checks": self.made} | self.healing.metrics()

    def whole(self) -> None:
        """Everything that looks at states, now."""
        self.conserved()
        asked = self.cluster.scenario.node.cascade.ranked
        for note in self.cluster.job_log.open.values():
            if note.attempts > asked:
                self._breach("I11", f"job {note.number} was brought to {note.attempts} workers")
        for peer in self.cluster.peers:
            if peer.up:
                self.engine(peer)
                self.bounded(peer)
                self.bans(peer)
        alive = self.cluster.alive
        for peer in self._rng.sample(alive, min(VIEWS, len(alive))):
            self.statements(peer)

    def _states(self, every: float) -> None:
        self.whole()
        self.cluster.loop.at(self.cluster.loop.now + every, self._states, every)

    def _breach(self, invariant: str, what: str) -> None:
        raise Breach(invariant, self.cluster.loop.now, what)

    # --- jobs ------------------------------------------------------------------------------------------------------

    def conserved(self) -> None:
        """I1 at every entry: every open job is there, and at no other entry."""
        open_at: dict[int, int] = {}
        for note in self.cluster.job_log.open.values():
            open_at[note.entry] = open_at.get(note.entry, 0) + 1
        for peer in self.cluster.peers:
            here = peer.entry.under_way if peer.entry is not None else 0
            if here != open_at.get(peer.index, 0):
                self._breach(
                    "I1", f"node {peer.index} has {here} jobs, but {open_at.get(peer.index, 0)} are open there"
                )

    def _life_cycles(self) -> None:
        """I3 of the measured jobs that have come since."""
        measured = self.cluster.job_log.measured
        while self._judged < len(measured) and measured[self._judged].end:
            note = measured[self._judged]
            times = [note.asked_at, note.committed_at, note.ended_at]
            known = [time for time in times if time is not None]
            if known != sorted(known) or (note.end == "completed" and len(known) < 3):
                self._breach("I3", f"job {note.number} has the times {times}")
            self._judged += 1

    def forgotten(self) -> None:
        """I9: no job is open for longer than a cascade may take."""
        now, most = self.cluster.loop.now, self.cluster.scenario.node.cascade.total_s + LATE_S
        for note in self.cluster.job_log.open.values():
            if now - note.asked_at > most:
                self._breach("I9", f"job {note.number} has been open for {now - note.asked_at:.0f} s")

    # --- engines ---------------------------------------------------------------------------------------------------

    def engine(self, peer: SimNode) -> None:
        """I2, I3 and I5 of one worker."""
        if peer.worker is None or not peer.honest:  # attackers may misuse their own engines
            return
        now = self.cluster.loop.now
        fault = engine_fault(peer.worker, now)
        if fault:
            self._breach("I5", f"node {peer.index}: {fault}")
        for attempt in peer.worker.tasks():
            if attempt.accepted_at is not None and attempt.accepted_at < attempt.job.asked_at:
                self._breach("I3", f"job {attempt.job.number} was accepted before it was asked for")
            if attempt.first_at is not None and (attempt.accepted_at is None or attempt.first_at < attempt.accepted_at):
                self._breach("I3", f"job {attempt.job.number} had a token before it was accepted")
            entry: Any = attempt.entry
            wanted = entry.up and entry.life == attempt.entry_life and not attempt.aborted
            if wanted and (attempt.job.number in self.cluster.job_log.open or not entry.honest):  # a flooder wants all
                self._orphans.pop(attempt.number, None)
            elif now - max(self._orphans.setdefault(attempt.number, now), peer.hindered_until) > GRACE_S:
                self._breach("I2", f"node {peer.index} works on job {attempt.job.number} for nobody")

    # --- one node ----------------------------------------------------------------------------------------------------

    def bounded(self, peer: SimNode) -> None:
        """I8, and I4 of its machines."""
        node, settings = peer.node, peer.settings
        sizes = node.sizes()
        view = settings.gossip.view_size + sizes["links"]
        bounds = {
            "view": view,
            "marks": MAX_MARKS,
            "lacks": sizes["marks"],
            "shelf_keys": settings.dht.store_keys,
            "shelf_statements": STATEMENTS_PER_KEY * settings.dht.store_keys,
            "penalties": REMEMBERED,
            "backlog": MOST_WAITING,
            "timers": MOST_TIMERS,
            "dials": settings.connections.dials_wanted,
            "connections": settings.connections.connections,
            "pool": settings.pool.most,
            "pool_models": MOST_MODELS,
            "pool_pauses": MOST_PAUSES,
            "watchers": settings.pool.watchers,
        }
        sizes |= peer.sizes()
        for name, most in bounds.items():
            if not 0 <= sizes[name] <= most:
                self._breach("I8", f"node {peer.index} has {name} of {sizes[name]}, at most {most} are allowed")
        if node.gossip.publisher.inc < peer.inc:
            self._breach("I4", f"node {peer.index} speaks under an incarnation before its own")

    def bans(self, peer: SimNode) -> None:
        """I10: an honest node has not banned an honest one."""
        if peer.honest:
            for banned in peer.limiter.bans.active(self.cluster.loop.now):
                other = self.cluster.by_peer.get(banned) if isinstance(banned, bytes) else None
                if other is not None and other.honest:
                    self._breach("I10", f"node {peer.index} has banned node {other.index}, which is honest")

    def statements(self, peer: SimNode) -> None:
        """I6: signed by its subject, and never older than what this life of the viewer had before."""
        versions = self._versions.setdefault((peer.index, peer.life), {})
        for record in peer.node.view.records()[1:]:
            for envelope in (record.advert_env, record.load_env):
                if envelope is not None:
                    self._statement(peer, record.peer, envelope, versions)

    def _statement(
        self, peer: SimNode, about: bytes, envelope: Envelope, versions: dict[tuple[bytes, int], tuple[int, int]]
    ) -> None:
        if envelope.author != about:
            self._breach("I6", f"node {peer.index} believes what somebody else said of a peer")
        if not envelope.check():
            self._breach("I6", f"node {peer.index} believes a statement that was not signed")
        if envelope.version < versions.get(envelope.key, (0, 0)):
            self._breach("I6", f"node {peer.index} went back to version {envelope.version} of a statement")
        versions[envelope.key] = envelope.version

    # --- the oracle boundary ------------------------------------------------------------------------------------------

    def _boundary(self) -> None:
        """I7: the inputs of an entry, a ranking and an admission have no field with secret data."""
        for given in (Job, JobQuery, Submit, Begin, Arrived):
            told = set(given.__annotations__) & SECRETS
            if told:
                self._breach("I7", f"{given.__name__} tells {', '.join(sorted(told))}")
