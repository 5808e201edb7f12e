"""A job at the worker: ``protocol.jobs.admission``, the engine (``batch_engine``), and the loads that it states.

Tokens do not travel one by one.  The worker sends the first token, then a report of the new tokens every ``tell_s``,
then the end.  That is often enough for every deadline of the entry.

Not here: the entry's side (``entry``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import msgspec

from protocol.events import Received
from protocol.ids import PeerId
from protocol.jobs.admission import (
    JOB_S,
    NEWEST,
    Admission,
    AdmissionEvent,
    Admit,
    Arrived,
    FirstOutput,
    Left,
    Queue,
    TurnAway,
    lacks_model,
)
from protocol.jobs.cascade_events import (
    Accepted,
    AttemptFailed,
    CascadeEvent,
    Completed,
    Keepalive,
    Progress,
    Refused,
    WasBusy,
)
from protocol.jobs.load import with_queue
from protocol.perf.batch_engine import BatchEngine
from protocol.perf.gpu_catalog import shape_of
from protocol.perf.model_timing import ModelTiming
from protocol.perf.sequences import BatchingEffect, Finished, FirstToken, ModelChanged, WakeAt, Work
from protocol.reputation.outcomes import Outcome
from protocol.routing.ranking import JobQuery
from protocol.statements.adverts import Load, ModelOffer
from protocol.wire.messages import Busy, FreshLoad, Refuse
from simulations.scenario import EngineModel
from simulations.sim.endpoint import Endpoint
from simulations.sim.host import Host
from simulations.sim.jobs import (
    ACCEPT_BYTES,
    BEAT_BYTES,
    BODY_BYTES,
    BODY_TOKEN_BYTES,
    END_BYTES,
    FIRST_BYTES,
    FRESH_BYTES,
    LAST_BYTES,
    PIECE_BYTES,
    REFUSAL_BYTES,
    GpuShare,
    Job,
    SimAttempt,
)
from simulations.sim.machines import Machine


class Worker:
    """See the module's docstring.  ``broken`` engines take jobs and never answer; the number is that of the reasons."""

    def __init__(self, peer: Host, settings: EngineModel) -> None:
        self.peer = peer
        self.loop = peer.loop
        self.timings = timings_of(peer.machine)
        self.engine = BatchEngine(
            self.timings,
            slots=peer.machine.slots,
            resident=[offer.name for offer in peer.machine.resident],
            block_tokens=settings.block_tokens,
            prefix_reuse=settings.prefix_reuse,
            exact=settings.exact,
        )
        self._admission = Admission(peer.settings.admission, max(1, peer.machine.slots))
        self._tasks: dict[int, SimAttempt] = {}
        #: Attempts on their way here, or waiting for a dial; only the omniscient policy sees them.
        self.coming: dict[int, SimAttempt] = {}
        self._wake_at = math.inf
        #: Between the first token and the last what was made is told together, as often as a daemon would say BEAT:
        #: told more rarely, a slow link makes a silence of it that the entry does not allow.
        self._tell_s = peer.settings.admission.beat_s
        self._load: Load | None = None
        self._stale = True
        #: Called when a job has come, begun or gone.
        self.changed: Callable[[], object] = lambda: None
        self.broken = 0
        #: The share of its speed that each of them leaves the GPU.
        self._throttles: dict[object, float] = {}
        #: Mean seconds that a job has a slot (a running mean that starts with the guess of ``admission``).
        self._job_s = JOB_S
        self._gpu = GpuShare()
        #: Executions begun here, for the checks.
        self.executions = 0
        self.arrivals = 0

    # --- statements about it ---------------------------------------------------------------------------------------

    def offers(self) -> tuple[ModelOffer, ...]:
        """The models as the advert describes them."""
        state_of = self.engine.state_of
        return tuple(
            msgspec.structs.replace(offer, state=int(state_of(offer.name))) for offer in self.peer.machine.offers
        )

    def load(self) -> Load:
        """The engine's load with the jobs held back here; the same object while nothing has changed."""
        if self._load is None or self._stale or self._tasks:
            load = with_queue(self.engine.load(self.loop.now), self._admission.waiting)
            if load != self._load:
                self._load = load
            self._stale = False
        assert self._load is not None
        return self._load

    @property
    def running(self) -> int:
        return self._admission.running

    @property
    def waiting(self) -> int:
        return self._admission.waiting

    @property
    def wake_at(self) -> float:
        """When the engine is looked at next."""
        return self._wake_at

    def jobs_of_peers(self) -> dict[PeerId, int]:
        """How many jobs of each peer run or wait."""
        return self._admission.jobs_of_peers()

    def tasks(self) -> Iterable[SimAttempt]:
        """The attempts that are here."""
        return self._tasks.values()

    def runs_as(self, job: Job) -> str | None:
        """The model that answers; None if this node has not got it."""
        return job.model if any(offer.name == job.model for offer in self.peer.machine.offers) else None

    # --- from the entry ------------------------------------------------------------------------------------------

    def requested(self, attempt: SimAttempt) -> None:
        """A job came, its request with it."""
        peer = self.peer
        peer.spend(peer.costs.job_worker_s)
        self.arrivals += 1
        attempt.worker_life = peer.life
        peer.run(self._arrived, attempt)  # when the processor has done that

    def _arrived(self, attempt: SimAttempt) -> None:
        peer, job = self.peer, attempt.job
        attempt.arrived_at = self.loop.now
        self.coming.pop(attempt.number, None)
        if attempt.over or (attempt.entry is not peer and attempt.entry.peer_id not in peer.links):
            return  # the entry no longer waits for it
        attempt.model = self.runs_as(job)
        if attempt.model is None:
            self._say(attempt, REFUSAL_BYTES, Refused(peer.peer_id, lacks_model(job.model)))
            return
        source = None if attempt.entry is peer else attempt.entry.peer_id
        self._tasks[attempt.number] = attempt
        self._feed(Arrived(attempt.number, source, job.prompt_tokens, job.streamed))

    def cancelled(self, attempt: SimAttempt) -> None:
        """The entry does not want it any more."""
        if not attempt.over:
            self._leave(attempt)

    def link_down(self, other: Endpoint) -> None:
        """Drop the peer's jobs: the answers can no longer reach it."""
        for attempt in [attempt for attempt in self._tasks.values() if attempt.entry is other]:
            self._leave(attempt)

    def crashed(self) -> None:
        """The process is gone, and the engine with it."""
        for attempt in list(self._tasks.values()):
            attempt.over = True
            self.engine.cancel(attempt.number, self.loop.now)
            self._left_engine(attempt)
        self._tasks.clear()
        self._admission = Admission(self.peer.settings.admission, max(1, self.peer.machine.slots))
        self._wake_at = math.inf
        self._load = None

    # --- admission -----------------------------------------------------------------------------------------------

    def _feed(self, event: AdmissionEvent) -> None:
        self._stale = True
        effects = self._admission.handle(event, self.loop.now)
        for effect in effects:
            if isinstance(effect, Admit):
                attempt = self._tasks[effect.job]
                if attempt.entry is self.peer:
                    self._accept(attempt, effect.promise_s)
                if not attempt.over:  # an entry on this very node may leave because of the promise
                    self._begin(attempt)
        self.changed()  # before the answers, which carry the load
        for effect in effects:
            if isinstance(effect, Admit | Queue) and effect.job in self._tasks:
                self._accept(self._tasks[effect.job], effect.promise_s)
            elif isinstance(effect, TurnAway):
                self._turn_away(self._tasks.pop(effect.job), effect.message)

    def _accept(self, attempt: SimAttempt, promise_s: float) -> None:
        if attempt.accepted_at is None:
            attempt.accepted_at = self.loop.now
            self._reply(attempt, ACCEPT_BYTES, Accepted(self.peer.peer_id, round(1000 * promise_s) / 1000))
            self.loop.at(self.loop.now + self._tell_s, self._tell, attempt)

    def _turn_away(self, attempt: SimAttempt, message: Busy | Refuse) -> None:
        attempt.over = True
        if isinstance(message, Busy):
            self._reply(attempt, REFUSAL_BYTES, WasBusy(self.peer.peer_id, message.retry_ms / 1000))
        else:
            self._reply(attempt, REFUSAL_BYTES, Refused(self.peer.peer_id, message))

    def _leave(self, attempt: SimAttempt) -> None:
        attempt.over = True
        if self._tasks.pop(attempt.number, None) is not None:
            self._left_engine(attempt)
            self._perform(self.engine.cancel(attempt.number, self.loop.now))
            self._feed(Left(attempt.number))

    # --- the engine ----------------------------------------------------------------------------------------------

    def _begin(self, attempt: SimAttempt) -> None:
        job = attempt.job
        self.executions += 1
        attempt.begun_at = self.loop.now
        self._gpu.begin(attempt, self.loop.now)
        self.peer.job_log.execution(attempt)
        assert attempt.model is not None, "what has begun was not refused"
        work = Work(attempt.number, attempt.model, job.prompt_tokens, attempt.truth.output_tokens, blocks=job.blocks)
        self._perform(self.engine.submit(work, self.loop.now))

    def _left_engine(self, attempt: SimAttempt) -> None:
        if attempt.begun_at is not None:
            self._gpu.end(attempt, self.loop.now)
            self.peer.job_log.left_engine(attempt)

    def _perform(self, effects: list[BatchingEffect]) -> None:
        self._stale = True
        changed = False
        for effect in effects:  # first of all: what ends a job may begin another one, whose timer is newer than this
            if isinstance(effect, WakeAt):
                self._wake_at = effect.at
                if effect.at < math.inf:
                    self.loop.at(effect.at, self._wake, self.peer.life, effect.at)
        for effect in effects:
            match effect:
                case FirstToken(number, read_at):
                    self._first(number, read_at)
                case Finished(number):
                    self._finished(number)
                case ModelChanged():
                    changed = True
        if changed and self.peer.up:
            self.peer.models_changed()

    def _wake(self, life: int, at: float) -> None:
        if life == self.peer.life and at == self._wake_at and self.peer.up:
            self._wake_at = math.inf
            self._perform(self.engine.timer(self.loop.now))

    def throttle(self, share: float, why: object = None) -> None:
        """The GPU runs at so much of its speed from now on; slowdowns for other reasons come on top."""
        self._throttles.pop(why, None)
        if share != 1.0:
            self._throttles[why] = share
        self._perform(self.engine.throttle(math.prod(self._throttles.values()), self.loop.now))

    def engine_crashed(self) -> None:
        """The engine breaks down: running jobs fail, and the models in its memory are loaded again."""
        for attempt in list(self._tasks.values()):
            self.fail(attempt, "the engine broke down")
        for offer in self.peer.machine.resident:
            self._perform(self.engine.evict(offer.name, self.loop.now))
            self._perform(self.engine.wake(offer.name, self.loop.now))

    def resume(self) -> None:
        """Look at the engine again: something about it was changed from outside."""
        self._perform(self.engine.timer(self.loop.now))

    def _first(self, number: int, read_at: float) -> None:
        attempt = self._tasks.get(number)
        if attempt is None or self.broken:
            return
        attempt.read_at, attempt.first_at = read_at, self.loop.now
        if attempt.job.streamed:
            attempt.said_at = self.loop.now
            attempt.sent = 1
            self.peer.spend(self.peer.costs.token_worker_s)
            self._say(attempt, FIRST_BYTES + PIECE_BYTES, Progress(self.peer.peer_id, 1))
            self._feed(FirstOutput(number))

    def _finished(self, number: int) -> None:
        attempt = self._tasks.get(number)
        if attempt is None or self.broken:
            return
        del self._tasks[number]
        self._left_engine(attempt)
        attempt.over = True
        assert attempt.begun_at is not None, "what has ended was begun"
        self._job_s += NEWEST * (self.loop.now - attempt.begun_at - self._job_s)
        rest = attempt.truth.output_tokens - attempt.sent
        self._feed(Left(number))
        self.finish(attempt, rest)

    def true_wait_s(self, job: Job | JobQuery) -> float:
        """Seconds until a job's prompt would be read if it came now, from the true state: for the omniscient only.

        Those on their way count as if they were here: most will be when the job is.
        """
        load, machine = self.engine.load(self.loop.now), self.peer.machine
        if not load.clock_percent:
            return math.inf
        timing = self.timings[job.model]
        before = load.queued_prefill_tokens + sum(attempt.job.prompt_tokens for attempt in self.coming.values())
        wait = (timing.read_s(job.prompt_tokens) + timing.backlog_s(before)) * 100 / load.clock_percent
        wait += timing.load_s(int(self.engine.state_of(job.model)))
        over = self._admission.waiting + load.waiting + max(0, load.running + len(self.coming) + 1 - machine.slots)
        if over > 0:
            wait += over * self._job_s / machine.slots
        return wait

    def finish(self, attempt: SimAttempt, rest: int) -> None:
        """Say the rest of the answer and its signed end."""
        me = self.peer.peer_id
        if not attempt.job.streamed:
            attempt.said_at = self.loop.now
            self._say(attempt, BODY_BYTES + BODY_TOKEN_BYTES * rest, Progress(me, 1))
        elif rest > 0 or not attempt.sent:
            self.peer.spend(rest * self.peer.costs.token_worker_s)
            self._say(attempt, rest * PIECE_BYTES + LAST_BYTES, Progress(me, max(1, rest)))
        self._say(attempt, END_BYTES, Completed(me, attempt.truth.output_tokens))

    def _tell(self, attempt: SimAttempt) -> None:
        """Report the tokens since the last report, or a keepalive."""
        if attempt.over or attempt.worker_life != self.peer.life or not self.peer.up:
            return
        made = int(self.engine.tokens(attempt.number, self.loop.now)) if attempt.first_at is not None else 0
        fresh = made - attempt.sent
        if attempt.job.streamed and attempt.sent and fresh > 0 and not self.broken:
            attempt.sent = made
            self.peer.spend(fresh * self.peer.costs.token_worker_s)
            self._say(attempt, fresh * PIECE_BYTES, Progress(self.peer.peer_id, fresh))
        else:
            self._say(attempt, BEAT_BYTES, Keepalive(self.peer.peer_id))
        self.loop.at(self.loop.now + self._tell_s, self._tell, attempt)

    # --- to the entry --------------------------------------------------------------------------------------------

    def _say(self, attempt: SimAttempt, size: int, event: CascadeEvent, load: FreshLoad | None = None) -> None:
        peer, asker = self.peer, attempt.entry
        if asker is peer:
            peer.run(attempt.heard, attempt, event)
            return
        link = peer.links.get(asker.peer_id)
        if link is not None and load is None:
            peer.network.carry(link, peer, size, attempt.heard, attempt, event)
        elif link is not None:
            peer.network.carry(link, peer, size + FRESH_BYTES, _heard_with_load, attempt, event, load)

    def _reply(self, attempt: SimAttempt, size: int, event: CascadeEvent) -> None:
        """Whether the job is taken, and the load."""
        self._say(attempt, size, event, self.peer.node.warm.teller.load_for(attempt.entry.peer_id))

    def fail(self, attempt: SimAttempt, detail: str) -> None:
        """The engine broke off."""
        self._leave(attempt)
        self._say(attempt, REFUSAL_BYTES, AttemptFailed(self.peer.peer_id, Outcome.FAILED, detail))


def _heard_with_load(attempt: SimAttempt, event: CascadeEvent, load: FreshLoad) -> None:
    """At the entry: the answer to a request has come."""
    if isinstance(attempt.entry, Host):
        attempt.entry.feed(Received(attempt.worker.peer_id, load))
    attempt.heard(attempt, event)


def timings_of(machine: Machine) -> dict[str, ModelTiming]:
    """How fast each model runs on a machine: as its GPU, times the efficiency that no node is told."""
    assert machine.gpu is not None, "an engine needs something to run on"
    return {
        offer.name: ModelTiming(
            machine.gpu, shape_of(offer.name, offer.params_b), offer.quantization, efficiency=machine.efficiency
        )
        for offer in machine.offers
    }
