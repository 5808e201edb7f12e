"""An engine without a model: it has the timing of a GPU, deterministic text, and failures on demand.

It declares itself: ``simulated``, runtime ``simulated``, ``system_fingerprint`` ``p2pnode-mock``.
Not here: the text (``mock_text``), its JSON (``answers``), its timing (``mock_batch`` and
``protocol.perf.batch_engine``).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import msgspec
import trio

from p2pnode.engine import mock_text
from p2pnode.engine.answers import ResponseWriter, Writer, embeddings
from p2pnode.engine.base import (
    CHAT,
    EMBEDDINGS,
    PATHS,
    RESPONSES,
    Changes,
    EngineFailed,
    EngineJob,
    EngineReply,
    EngineState,
    ModelSpec,
)
from p2pnode.engine.mock_batch import Batch
from protocol.perf.gpu_catalog import need_mib, shape_of
from protocol.perf.model_timing import ModelTiming
from protocol.statements.adverts import Gpu, Load, ModelOffer

#: Tokens of context of a mock model without a configured one.
DEFAULT_CONTEXT: Final = 8192
#: Jobs decoded at once (guess: about as many as vLLM runs on one consumer GPU).
DEFAULT_SLOTS: Final = 16
#: Numbers of an embedding whose request names no dimensions.
DEFAULT_DIMENSIONS: Final = 64
#: Most pieces of one ``receive``: an instant engine must not return a megabyte at once.
MOST_PIECES: Final = 64

#: Pieces of an answer, each with the number of tokens that must be generated before it is due.
Pieces = Iterator[tuple[int, bytes]]


@dataclass(slots=True)
class Faults:
    """Injected failures, set by a test or the configuration, never by a request."""

    #: Share of the jobs that fail before their first piece.
    error_rate: float = 0.0
    #: Every job is refused with this HTTP status.
    refuse: int | None = None
    #: Every job breaks off after this many pieces.
    crash_after: int | None = None
    #: Every job hangs for ever after this many pieces; 0 means before the first.
    hang_after: int | None = None
    #: Seconds added before each receive, which then returns one piece.
    drip_s: float = 0.0


class MockEngine:
    """See the module's docstring.  ``speed`` divides all times; ``inf`` answers at once."""

    name = "mock"
    runtime = "simulated"
    simulated = True

    def __init__(
        self,
        models: Sequence[ModelSpec],
        gpu: Gpu,
        *,
        slots: int = DEFAULT_SLOTS,
        speed: float = 1.0,
        seed: int = 0,
        faults: Faults | None = None,
        clock: Callable[[], float] = trio.current_time,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._specs = {spec.name: spec for spec in models}
        self._offers = tuple(spec.offer(context=spec.context or DEFAULT_CONTEXT) for spec in self._specs.values())
        # The operator's figure for a model's memory wins; the offers contain it.
        self._free_mib = max(0, gpu.vram_mib * gpu.count - round(sum(map(need_mib, self._offers))))
        self._gpu = gpu
        self._seed = seed
        self._wall = wall
        self._rng = random.Random(seed)
        scale = 0.0 if math.isinf(speed) else 1.0 / speed
        timings = {
            spec.name: ModelTiming(gpu, shape_of(spec.name, spec.params_b), spec.quantization, scale) for spec in models
        }
        self._batch = Batch(timings, slots, clock)
        self._changes = Changes()
        self._jobs = 0
        self.faults = faults or Faults()
        self.state: EngineState = "starting"
        self.problem = ""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self.state = "ready"
        self._changes.announce()
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            self.state = "stopped"
            self._changes.announce()

    def offers(self) -> tuple[ModelOffer, ...]:
        return self._offers

    def gpus(self) -> tuple[Gpu, ...]:
        return (self._gpu,)

    def load(self) -> Load:
        return msgspec.structs.replace(self._batch.load(), free_vram_mib=self._free_mib)

    async def wait_changed(self, seen: int | None = None) -> int:
        return await self._changes.wait(seen)

    def open(self, job: EngineJob) -> AbstractAsyncContextManager[EngineReply]:
        return self._open(job)

    @asynccontextmanager
    async def _open(self, job: EngineJob) -> AsyncIterator[EngineReply]:
        await trio.lowlevel.checkpoint()
        ask = self._admit(job)
        self._jobs += 1
        if job.path == EMBEDDINGS:
            vectors = mock_text.embed(ask, self._seed, ask.dimensions or DEFAULT_DIMENSIONS)
            pieces: Pieces = iter([(0, embeddings(ask.model, vectors, ask.encoding_format))])
            yield MockReply(pieces, job.stream, None, 0, self.faults)
            return
        prompt = mock_text.prompt_tokens(ask, job.path)
        choices = self._choices(job, ask, prompt)
        longest = max(len(choice.tokens) for choice in choices)
        with self._batch.joined(ask.model, len(choices), prompt, longest) as number:
            pieces = self._pieces(job, ask, choices, prompt)
            yield MockReply(pieces, job.stream, self._batch, number, self.faults)

    def _admit(self, job: EngineJob) -> mock_text.Ask:
        """The parsed request; raises ``EngineFailed`` for a bad one and for injected failures."""
        if self.faults.refuse is not None:
            raise EngineFailed(self.faults.refuse, "engine_refused", "the mock engine was told to refuse every job")
        if self.faults.error_rate and self._rng.random() < self.faults.error_rate:
            raise EngineFailed(500, "engine_failed", "the mock engine was told to fail some jobs")
        if job.path not in PATHS:
            raise EngineFailed(404, "unknown_url", f"the mock engine does not serve {job.path}")
        ask = mock_text.read(job)
        if ask.model not in self._specs:
            raise EngineFailed(404, "model_not_found", f"this engine does not have the model {ask.model!r}", "model")
        return ask

    def _choices(self, job: EngineJob, ask: mock_text.Ask, prompt: int) -> list[mock_text.Choice]:
        context = self._specs[ask.model].context or DEFAULT_CONTEXT
        wanted = ask.limit or 1
        if prompt + wanted > context:
            message = (
                f"{prompt} prompt tokens and {wanted} more do not fit in {context}; shorten the prompt or ask for less"
            )
            raise EngineFailed(400, "context_length_exceeded", message, "messages" if job.path == CHAT else "prompt")
        return [mock_text.generate(ask, job.path, self._seed, index, context - prompt) for index in range(ask.choices)]

    def _pieces(self, job: EngineJob, ask: mock_text.Ask, choices: list[mock_text.Choice], prompt: int) -> Pieces:
        answer_id = f"{mock_text.digest(ask, job.path, self._seed, self._jobs):016x}"
        created = int(self._wall())
        if job.path == RESPONSES:
            return _response_pieces(ResponseWriter(answer_id, created, ask.model), choices[0], prompt, job.stream)
        usage = job.stream and ask.usage_wanted
        logprobs = ask.logprobs is not None and ask.logprobs is not False
        writer = Writer(job.path, answer_id, created, ask.model, null_usage=usage, logprobs=logprobs)
        if not job.stream:
            return iter([(max(len(choice.tokens) for choice in choices), writer.whole(choices, prompt))])
        return _stream_pieces(writer, choices, prompt, usage)


def _stream_pieces(writer: Writer, choices: list[mock_text.Choice], prompt: int, usage: bool) -> Pieces:
    for index, choice in enumerate(choices):
        if (first := writer.first(index, choice)) is not None:
            yield 1, first
    longest = max(len(choice.tokens) for choice in choices)
    for step in range(longest + 1):
        for index, choice in enumerate(choices):
            if step < len(choice.tokens):
                yield step + 1, writer.token(index, choice, choice.tokens[step])
            elif step == len(choice.tokens):
                yield step, writer.last(index, choice)
    if usage:
        yield longest, writer.totals(prompt, sum(len(choice.tokens) for choice in choices))


def _response_pieces(writer: ResponseWriter, choice: mock_text.Choice, prompt: int, stream: bool) -> Pieces:
    if not stream:
        yield len(choice.tokens), writer.whole(choice, prompt)
        return
    for event in writer.first():
        yield 1, event
    for step, token in enumerate(choice.tokens):
        yield step + 1, writer.token(token)
    for event in writer.last(choice, prompt):
        yield len(choice.tokens), event


class MockReply:
    """An answer whose pieces become due with the tokens of its job, or at once if it has no batch."""

    status = 200

    def __init__(self, pieces: Pieces, stream: bool, batch: Batch | None, number: int, faults: Faults) -> None:
        self.content_type = "text/event-stream" if stream else "application/json"
        self._pieces = pieces
        self._next = next(pieces, None)
        self._batch = batch
        self._number = number
        self._faults = faults
        self._given = 0

    async def receive(self) -> list[bytes]:
        faults = self._faults
        if faults.drip_s:
            await trio.sleep(faults.drip_s)
        if faults.hang_after is not None and self._given >= faults.hang_after:
            await trio.sleep_forever()
        if faults.crash_after is not None and self._given >= faults.crash_after:
            raise EngineFailed(500, "engine_failed", "the mock engine was told to break off")
        if self._next is None:
            await trio.lowlevel.checkpoint()
            return []
        if self._batch is None:
            await trio.lowlevel.checkpoint()
            done = math.inf
        else:
            done = await self._batch.reached(self._number, self._next[0])
        due = self._due(done, self._most())
        self._given += len(due)
        return due

    def _due(self, done: float, most: int) -> list[bytes]:
        due: list[bytes] = []
        while self._next is not None and self._next[0] <= done and len(due) < most:
            due.append(self._next[1])
            self._next = next(self._pieces, None)
        return due

    def _most(self) -> int:
        """Most pieces that this call may return, so that an injected failure hits the right piece."""
        faults = self._faults
        if faults.drip_s:
            return 1
        bounds = [bound - self._given for bound in (faults.crash_after, faults.hang_after) if bound is not None]
        return min([MOST_PIECES, *bounds])
