"""The engine of a simulated GPU, with continuous batching, chunked prefill, and a bounded KV cache.

Theory of operation
===================

*Steps.*  Running jobs share one batch; a step gives each of their sequences one token.  The machine counts the steps
in ``v`` and knows for each job the count at which it ends.  So nothing happens per token: the next event is at the
smallest of a few counts, and ``WakeAt`` gives its time.  As in a real engine, jobs join and leave only at the end of a
step, where ``v`` is an integer.  ``step_clock`` turns counts into times; each change of the batch resets it, and at
the latest ``HORIZON`` steps do.  With ``exact`` every step does, and blocks of the KV cache are counted one by one
instead of on average, which is slow and serves as a check.

*Prompts* are processed one after the other, in chunks of ``CHUNK_TOKENS``.  A chunk adds its time to a step, so jobs
that decode get one token per chunk meanwhile.  The first token of a job comes with its last chunk.  Before its prompt,
a request needs ``REQUEST_S``, during which it holds its slot.

*Several models* take turns at the GPU: a round is one step of each model with sequences, and takes the sum.

*Memory.*  The first job of the queue is admitted if there is a slot, and memory for its prompt and the next token of
all running jobs.  Later jobs wait even if they would fit.  When the next token would not fit, the youngest job is
preempted: it returns to the head of the queue, and its prompt and its tokens are processed again.  A single job is
never preempted, and gets memory even beyond the bound.  Jobs share the blocks of equal prompts (``kv_cache``).

*Models* are loaded and evicted (``model_cache``).  A job whose model is not resident waits for it outside the queue.

======== ======================== ============================================ ===================
job is   event                    effects                                      then is
======== ======================== ============================================ ===================
unknown  submit                   WakeAt                                       loading, waiting, reading
loading  its model is resident    ModelChanged                                 waiting, reading
waiting  slot and memory          none                                         reading
reading  its last chunk           FirstToken once, Finished if it was the last decoding, unknown
decoding a step                   Finished at last                             decoding, unknown
admitted memory is short          none                                         waiting
any      cancel                   WakeAt                                       unknown
======== ======================== ============================================ ===================

Not here: text and HTTP (the daemon's mock engine), and the admission of jobs (``jobs/admission``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from heapq import heappop, heappush
from math import ceil, floor, inf
from typing import Final

from protocol.perf.kv_cache import KvCache
from protocol.perf.model_cache import Changed, ModelCache
from protocol.perf.model_timing import ModelTiming, chunks_of
from protocol.perf.sequences import (
    BatchingEffect,
    BatchJob,
    EngineState,
    Finished,
    FirstToken,
    Lane,
    ModelChanged,
    UnknownModel,
    WakeAt,
    Work,
)
from protocol.perf.step_clock import StepClock
from protocol.statements.adverts import Load, ModelState, Status

#: Steps after which the time of a step is recomputed even without a change (guess).
HORIZON: Final = 256
#: Tolerated rounding errors: a millionth of a step, and a nanosecond.
_ROUNDING: Final = 1e-6
_ROUNDING_S: Final = 1e-9


class BatchEngine:
    """See the module's docstring.  ``memory_bytes`` bounds weights and KV cache; the default is the GPU's memory."""

    def __init__(
        self,
        timings: Mapping[str, ModelTiming],
        *,
        slots: int,
        resident: Iterable[str] | None = None,
        block_tokens: int = 16,
        prefix_reuse: bool = True,
        memory_bytes: float | None = None,
        exact: bool = False,
    ) -> None:
        self.slots = slots
        self.preemptions = self.prefix_hit_tokens = self.prompt_tokens_total = 0
        self._lanes = {name: Lane(timing, index) for index, (name, timing) in enumerate(timings.items())}
        self._all = tuple(self._lanes.values())
        memory = min((timing.memory_bytes for timing in timings.values()), default=inf)
        memory = memory if memory_bytes is None else memory_bytes
        self._models = ModelCache(timings, timings if resident is None else resident, memory)
        self._block_tokens = block_tokens
        self._reuse = prefix_reuse
        self._exact = exact
        self._steps = 1 if exact else HORIZON
        self._kv = KvCache()
        self._jobs: dict[int, BatchJob] = {}
        # Lists, because an empty deque takes 760 bytes.
        self._queue: list[BatchJob] = []  # cancelled jobs stay, marked as gone
        self._waiting = 0
        self._admitted: dict[int, BatchJob] = {}  # jobs with a slot, the oldest first
        self._unread: list[BatchJob] = []
        self._reading: BatchJob | None = None
        self._read_until = 0.0
        self._ends: list[tuple[float, int, BatchJob]] = []  # by count; an entry that differs from ``job.end`` is stale
        self._own = self._growth = 0.0  # bytes that jobs hold without sharing: own + growth * v
        self._sequences = 0
        self._clock = StepClock()
        self._next_v = self._wake = self._told = inf

    def submit(self, work: Work, now: float) -> list[BatchingEffect]:
        """A job arrives."""
        lane = self._lanes.get(work.model)
        if lane is None:
            raise UnknownModel(work.model)
        effects = self._pass(now)
        keys = lane.keys(work.blocks, work.prompt_tokens // self._block_tokens) if self._reuse else ()
        job = self._jobs[work.job] = BatchJob(work, lane, keys, now + lane.timing.request_s)
        lane.jobs += 1
        self.prompt_tokens_total += work.prompt_tokens
        self._models.use(work.model, now)
        self._waiting += 1
        if self._models.states[work.model] == ModelState.RESIDENT:
            self._queue.append(job)
            self._fill(now)
        else:
            lane.cold.append(job)
            self._models.want(work.model)
            self._load_next(now, effects)
        return self._planned(now, effects)

    def cancel(self, job: int, now: float) -> list[BatchingEffect]:
        """Cancel a job; no effect if it is not known."""
        effects = self._pass(now)
        left = self._jobs.get(job)
        if left is None:
            return self._tell(effects)
        if job in self._admitted:
            v = self._clock.count(now)
            self._release(left, v)
            self._rebase(v, now)
        else:
            self._waiting -= 1
            left.gone = True
        self._forget(left)
        self._fill(now)
        self._load_next(now, effects)
        return self._planned(now, effects)

    def timer(self, now: float) -> list[BatchingEffect]:
        """The time of the newest ``WakeAt`` is reached."""
        self._told = -inf
        return self._tell(self._pass(now))

    def throttle(self, factor: float, now: float) -> list[BatchingEffect]:
        """From now on the GPU runs at ``factor`` of its speed; 0 stops it."""
        effects = self._pass(now)
        v = self._clock.count(now)
        self._clock.slow = 1.0 / factor if factor > 0 else inf
        self._rebase(v, now)
        return self._planned(now, effects)

    # --- models ----------------------------------------------------------------------------------------------------

    def wake(self, model: str, now: float) -> list[BatchingEffect]:
        """Make a model resident as soon as it fits."""
        effects = self._pass(now)
        self._models.use(model, now)
        self._models.want(model)
        self._load_next(now, effects)
        return self._planned(now, effects)

    def sleep(self, model: str, now: float) -> list[BatchingEffect]:
        """Move a model to host memory, from where it loads faster; no effect if it has jobs or is not resident."""
        return self._put(model, ModelState.SLEEPING, now)

    def evict(self, model: str, now: float) -> list[BatchingEffect]:
        """Free the memory of a model; no effect if it has jobs or is on disk."""
        return self._put(model, ModelState.ON_DISK, now)

    def _put(self, model: str, state: ModelState, now: float) -> list[BatchingEffect]:
        effects = self._pass(now)
        models = self._models
        if not self._lanes[model].jobs and models.states[model] > state and model != models.loading:
            self._changed(models.move(model, state), effects)
            self._load_next(now, effects)
        return self._planned(now, effects)

    def _load_next(self, now: float, effects: list[BatchingEffect]) -> None:
        if self._models.waits:
            used = self._kv.pinned_bytes + self._own_bytes(self._clock.count(now))
            for change in self._models.begin(now, lambda name: self._lanes[name].jobs > 0, used):
                self._changed(change, effects)

    def _changed(self, change: Changed, effects: list[BatchingEffect]) -> None:
        model, state = change
        self._lanes[model].moves += state != ModelState.RESIDENT
        effects.append(ModelChanged(model, state))

    def _loaded(self, now: float, effects: list[BatchingEffect]) -> None:
        change = self._models.finish()
        self._changed(change, effects)
        lane = self._lanes[change[0]]
        self._queue += [job for job in lane.cold if not job.gone]
        lane.cold.clear()
        self._fill(now)
        self._load_next(now, effects)

    # --- time ------------------------------------------------------------------------------------------------------

    def _pass(self, now: float) -> list[BatchingEffect]:
        """Perform all events that are due."""
        effects: list[BatchingEffect] = []
        while self._wake <= now:
            at = self._wake
            if self._models.due <= at:
                self._loaded(at, effects)
            else:
                self._boundary(self._next_v, at, effects)
            self._plan(at)
        return effects

    def _planned(self, now: float, effects: list[BatchingEffect]) -> list[BatchingEffect]:
        """After an external change: plan the next event, and perform it if it is due."""
        self._plan(now)
        effects += self._pass(now)
        return self._tell(effects)

    def _tell(self, effects: list[BatchingEffect]) -> list[BatchingEffect]:
        if self._wake != self._told:
            self._told = self._wake
            effects.append(WakeAt(self._wake))
        return effects

    def _boundary(self, v: float, now: float, effects: list[BatchingEffect]) -> None:
        """Handle the end of a step at which an event is planned."""
        ends = self._ends
        while ends and ends[0][0] <= v:
            due, _, job = heappop(ends)
            if job.end == due and job.decoding:
                self._finish(job, v, effects)
        if self._reading is not None and self._read_until <= v:
            self._join(self._reading, v, effects)
        while len(self._admitted) > 1 and not self._fits(self._own_bytes(v + 1)):
            self._preempt(v)
        self._fill(now)
        self._load_next(now, effects)
        if self._reading is None and self._unread and self._unread[0].ready_at <= now + _ROUNDING_S:
            self._read(self._unread.pop(0), v, now)
        self._rebase(v, now)

    def _rebase(self, v: float, now: float) -> None:
        """Reset the clock after a change of the batch."""
        reading = self._reading
        shared = reading is not None and reading.lane.sequences > 0
        chunk_s = reading.lane.timing.chunk_s(reading.unread, shared) if reading is not None else 0.0
        self._clock.draw(v, now, chunk_s, self._all)
        if self._reading is None and not self._sequences:
            # Nothing runs: restart the count, so that rounding errors do not accumulate.
            self._clock.v = self._growth = 0.0
            self._ends.clear()
            for lane in self._all:
                lane.context = 0.0
            self._own = sum(job.own_bytes for job in self._admitted.values())

    def _plan(self, now: float) -> None:
        """Find the next event."""
        if self._reading is None and not self._sequences:
            self._next_v = self._clock.v
            wake = max(now, self._unread[0].ready_at) if self._unread else inf
        else:
            v = self._next_v = self._next_count(now)
            wake = self._clock.when(v)
        due = self._models.due
        self._wake = wake if wake < due else due

    def _next_count(self, now: float) -> float:
        """The count of the next event of the running jobs."""
        ends = self._ends
        v = floor(self._clock.v) + self._steps + 0.0
        while ends and not (ends[0][2].decoding and ends[0][2].end == ends[0][0]):
            heappop(ends)
        if ends and ends[0][0] < v:
            v = ends[0][0]
        if self._reading is not None:
            v = min(v, self._read_until)
        elif self._unread:
            ready = ceil(self._clock.count(max(now, self._unread[0].ready_at)) - _ROUNDING)
            v = min(v, max(ready, self._next_step(now)))
        total = self._models.kv_bytes
        if self._growth and total < inf and len(self._admitted) > 1:
            full = floor((total - self._kv.pinned_bytes - self._own) / self._growth)
            if full < v:
                v = max(full, self._next_step(now))
        return v

    def _next_step(self, now: float) -> float:
        return floor(self._clock.count(now) + _ROUNDING) + 1.0

    # --- the stages of a job ---------------------------------------------------------------------------------------

    def _fill(self, now: float) -> None:
        """Give slots to waiting jobs, in their order, as long as memory suffices."""
        queue = self._queue
        while queue and len(self._admitted) < self.slots:
            if not queue[0].gone:
                if not self._admit(queue[0], now):
                    return
                self._waiting -= 1
            queue.pop(0)

    def _admit(self, job: BatchJob, now: float) -> bool:
        """Give a job a slot and the memory of its prompt, if all running jobs still have memory for a token."""
        lane, kv, total = job.lane, self._kv, self._models.kv_bytes
        block = lane.timing.kv_bytes * self._block_tokens
        v = self._clock.count(now)
        if total < inf and self._admitted:
            need = job.held_bytes(job.made + 1, self._block_tokens, self._exact) + kv.unpinned(job.keys) * block
            if not self._fits(self._own_bytes(v + 1) + need):
                return False
        job.own_bytes = job.held_bytes(job.made, self._block_tokens, self._exact)
        text = job.prompt + job.made
        cached = 0
        if job.keys:
            kv.trim(total - kv.pinned_bytes - self._own_bytes(v))
            job.hits = kv.known(job.keys)
            cached = min(job.hits * self._block_tokens, text - 1)
            kv.pin(job.keys, block)
            self.prefix_hit_tokens += cached
        job.unread = max(1, text - cached)
        self._admitted[job.number] = job
        self._unread.append(job)
        self._own += job.own_bytes
        return True

    def _read(self, job: BatchJob, v: float, now: float) -> None:
        job.read_at, self._reading = now, job
        self._read_until = v + chunks_of(job.unread)

    def _join(self, job: BatchJob, v: float, effects: list[BatchingEffect]) -> None:
        """The prompt is processed: the job has its next token, joins the batch and gets a token per step."""
        lane = job.lane
        self._reading = None
        job.decoding = True
        job.origin = v - job.made - 1
        job.end = job.origin + job.output
        lane.add(job)
        self._sequences += job.sequences
        growth = lane.timing.kv_bytes * job.sequences
        self._growth += growth
        self._own -= growth * (v - 1)
        if job.unsaid:
            job.unsaid = False
            effects.append(FirstToken(job.number, job.read_at))
        if job.end <= v:
            self._finish(job, v, effects)
        else:
            heappush(self._ends, (job.end, job.number, job))

    def _finish(self, job: BatchJob, v: float, effects: list[BatchingEffect]) -> None:
        self._release(job, v)
        self._forget(job)
        effects.append(Finished(job.number))

    def _release(self, job: BatchJob, v: float) -> None:
        """Take back slot and memory of a job; the count of its tokens stays."""
        lane = job.lane
        del self._admitted[job.number]
        self._own -= job.own_bytes
        written = job.hits
        if job.decoding:
            job.decoding = False
            lane.remove(job)
            self._sequences -= job.sequences
            growth = lane.timing.kv_bytes * job.sequences
            self._growth -= growth
            self._own += growth * (job.origin + job.made)
            job.made = int(v - job.origin + _ROUNDING)
            written = len(job.keys)
        elif job is self._reading:
            self._reading = None
        else:
            self._unread.remove(job)
        if job.keys:
            self._kv.unpin(job.keys, lane.timing.kv_bytes * self._block_tokens, written)

    def _preempt(self, v: float) -> None:
        """Preempt the youngest job: free its memory, and put it at the head of the queue."""
        job = next(reversed(self._admitted.values()))
        self._release(job, v)
        self._queue.insert(0, job)
        self._waiting += 1
        self.preemptions += 1

    def _forget(self, job: BatchJob) -> None:
        del self._jobs[job.number]
        job.lane.jobs -= 1

    # --- memory ----------------------------------------------------------------------------------------------------

    def _own_bytes(self, v: float) -> float:
        """Bytes that the jobs hold without sharing, at this count."""
        if self._exact:
            made = ((job, v - job.origin if job.decoding else job.made) for job in self._admitted.values())
            return sum(job.held_bytes(tokens, self._block_tokens, True) for job, tokens in made)
        return self._own + self._growth * v

    def _fits(self, own_bytes: float) -> bool:
        return own_bytes + self._kv.pinned_bytes <= self._models.kv_bytes + 1.0  # a byte of rounding

    # --- figures ---------------------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """Jobs with a slot."""
        return len(self._admitted)

    @property
    def waiting(self) -> int:
        """Jobs without a slot."""
        return self._waiting

    @property
    def cold_loads(self) -> int:
        return self._models.loads

    def state_of(self, model: str) -> ModelState:
        return self._models.states[model]

    def tokens(self, job: int, now: float) -> float:
        """Output tokens of each sequence of a job; 0 if the job is not known."""
        known = self._jobs.get(job)
        if known is None:
            return 0.0
        if not known.decoding:
            return known.made
        # Before a due timer was handled, only tokens up to the next event are certain.
        return min(self._clock.count(now), max(self._clock.v, self._next_v)) - known.origin

    def due(self, job: int, tokens: float) -> float:
        """The time at which each sequence of a job has ``tokens``, without a change; infinity if it does not decode."""
        known = self._jobs.get(job)
        return self._clock.when(known.origin + tokens) if known is not None and known.decoding else inf

    def cached_tokens(self, blocks: tuple[int, ...], model: str) -> int:
        """Tokens of a prompt with these first blocks that are in the cache."""
        lane = self._lanes[model]
        return self._kv.known(lane.keys(blocks, len(blocks))) * self._block_tokens

    def kv_used_bytes(self, now: float) -> float:
        """Bytes of the KV cache that jobs use."""
        return min(self._models.kv_bytes, self._own_bytes(self._clock.count(now)) + self._kv.pinned_bytes)

    @property
    def busy_s(self) -> float:
        """Seconds in which the GPU was busy, up to the last change of the batch."""
        return self._clock.busy_s

    def introspect(self, now: float) -> EngineState:
        """What it holds, for checks that do not trust its decisions."""
        own, pinned, block = self._own_bytes(self._clock.count(now)), self._kv.pinned_bytes, self._block_tokens
        first = next((job for job in self._queue if not job.gone), None)
        need = first.admission_bytes(self._kv, block, self._exact) if first is not None else inf
        return EngineState(len(self._jobs), own + pinned, pinned, self._models.kv_bytes, self._growth, need, self._wake)

    def load(self, now: float) -> Load:
        """The load for gossip."""
        total, step_s, slow = self._models.kv_bytes, self._clock.step_s(now), self._clock.slow
        return Load(
            status=int(Status.BUSY if self._waiting else Status.ONLINE),
            free_vram_mib=self._models.free_mib(),
            running=len(self._admitted),
            waiting=self._waiting,
            slots=self.slots,
            kv_permille=int(1000 * self.kv_used_bytes(now) / total) if total < inf else 0,
            queued_prefill_tokens=self._queued_tokens(),
            tokens_s=round(self._sequences / step_s) if step_s else 0,
            gpu_percent=100 if self._admitted else 0,
            throttled=slow > 1.0,
            clock_percent=min(200, round(100 / slow)),
        )

    def _queued_tokens(self) -> int:
        """Prompt tokens that are processed before those of a new job."""
        unread = sum(job.unread for job in self._unread) + (self._reading.unread if self._reading else 0)
        waits = sum(job.prompt + job.made for job in self._queue if not job.gone)
        return unread + waits + sum(job.prompt for lane in self._all for job in lane.cold if not job.gone)
