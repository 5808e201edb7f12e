"""The input and the effects of the batch engine, and its state per job and per model.

Not here: the engine itself (``batch_engine``).
"""

from __future__ import annotations

from math import ceil
from typing import Final, NamedTuple

import msgspec

from protocol.errors import LocalProtocolError
from protocol.perf.kv_cache import Keys, KvCache, chain
from protocol.perf.model_timing import ModelTiming
from protocol.statements.adverts import ModelState

#: Tolerated rounding error, tokens.
_ROUNDING: Final = 1e-6


class Work(msgspec.Struct, frozen=True, gc=False):
    """A job for the engine: ``sequences`` sequences of ``output_tokens`` tokens each.

    ``blocks`` are the ids of the first blocks of the prompt; equal ids after equal ids mean equal text.
    """

    job: int
    model: str
    prompt_tokens: int
    output_tokens: int
    sequences: int = 1
    blocks: tuple[int, ...] = ()


class FirstToken(msgspec.Struct, frozen=True, gc=False):
    """The job has its first token.  The engine began to read its prompt at ``read_at``."""

    job: int
    read_at: float


class Finished(msgspec.Struct, frozen=True, gc=False):
    """The job has all its tokens and is forgotten."""

    job: int


class WakeAt(msgspec.Struct, frozen=True, gc=False):
    """Call ``timer`` at this time.  The newest effect replaces earlier ones; infinity means that nothing is planned."""

    at: float


class ModelChanged(msgspec.Struct, frozen=True, gc=False):
    """The state of a model changed, so the advert is out of date."""

    model: str
    state: ModelState


BatchingEffect = FirstToken | Finished | WakeAt | ModelChanged


class EngineState(NamedTuple):
    """An engine from inside.  A step takes ``growth`` bytes; the first that waits needs ``needed`` (infinite: none)."""

    jobs: int
    kv_used: float
    kv_pinned: float
    kv_total: float
    growth: float
    needed: float
    wake: float


class UnknownModel(LocalProtocolError):
    """The engine does not have the model of this job."""


class Lane:
    """The part of the batch that belongs to one model.  Its context is ``context + sequences * v`` tokens."""

    __slots__ = ("cold", "context", "index", "jobs", "moves", "sequences", "timing")

    def __init__(self, timing: ModelTiming, index: int) -> None:
        self.timing = timing
        self.index = index
        self.jobs = 0
        self.sequences = 0
        self.context = 0.0
        #: Jobs that wait for the model to be loaded.
        self.cold: list[BatchJob] = []
        #: How often the model was evicted; each eviction invalidates its cached blocks.
        self.moves = 0

    def keys(self, blocks: tuple[int, ...], most: int) -> Keys:
        """The cache keys of the first ``most`` blocks of a prompt."""
        if not blocks:
            return ()
        # A hash of integers only, so it does not depend on the hash seed.
        return chain(hash((self.index, self.moves)), blocks[:most])

    def add(self, job: BatchJob) -> None:
        """Add a job of this model to the batch at ``job.origin + job.made``."""
        self.sequences += job.sequences
        self.context += job.sequences * (job.prompt - job.origin)

    def remove(self, job: BatchJob) -> None:
        """Remove a job from the batch."""
        self.sequences -= job.sequences
        self.context -= job.sequences * (job.prompt - job.origin)


class BatchJob:
    """A job: ``made`` tokens existed before its last admission; it decodes from ``origin + made`` to ``end``."""

    __slots__ = (
        *(
            "decoding",
            "end",
            "gone",
            "hits",
            "keys",
            "lane",
            "made",
            "number",
            "origin",
            "output",
            "own_bytes",
        ),
        *("prompt", "read_at", "ready_at", "sequences", "unread", "unsaid"),
    )

    def __init__(self, work: Work, lane: Lane, keys: Keys, ready_at: float) -> None:
        self.number = work.job
        self.lane = lane
        self.prompt = work.prompt_tokens
        self.output = max(1, work.output_tokens)
        self.sequences = work.sequences
        self.keys = keys
        self.read_at = self.ready_at = ready_at
        self.made = 0
        self.hits = self.unread = 0
        self.own_bytes = 0.0
        self.origin = self.end = 0.0
        self.decoding = self.gone = False
        self.unsaid = True

    def admission_bytes(self, kv: KvCache, block: int, whole: bool) -> float:
        """Bytes of the KV cache that have to be free for it to get a slot: those of its prompt and its next token."""
        token = self.lane.timing.kv_bytes
        return self.held_bytes(self.made, block, whole) + (kv.unpinned(self.keys) * block + self.sequences) * token

    def held_bytes(self, made: float, block: int, whole: bool) -> float:
        """Bytes of the KV cache that it does not share, with ``made`` tokens.

        With ``whole`` it counts complete blocks of ``block`` tokens; otherwise each last block counts as half full.
        """
        full, rest = divmod(self.prompt - len(self.keys) * block, block)
        last = ceil((rest + made - _ROUNDING) / block) * block if whole else rest + made + 0.5 * (block - 1)
        return self.lane.timing.kv_bytes * (full * block + self.sequences * last)
