"""Drives the batch engine (``protocol.perf.batch_engine``) in real time: it takes jobs, and readers wait for tokens.

It has no task of its own.  A call first performs every step that is due, each at the time at which it was due.  So a
reader that comes late gets all its tokens at once, and an engine without readers does not wake up.  How long a step
takes is not decided here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import trio

from protocol.perf.batch_engine import BatchEngine
from protocol.perf.model_timing import ModelTiming
from protocol.perf.sequences import BatchingEffect, Finished, WakeAt, Work
from protocol.statements.adverts import Load

#: Shortest sleep, seconds: with faster steps the tokens come in small batches, as they do over a network anyway.
SHORTEST_SLEEP_S: Final = 0.004
#: A millionth of a step is rounding, not time.
ROUNDING: Final = 1e-6


class Batch:
    """All jobs of one engine.  If its timings have scale 0, every token is due at once."""

    def __init__(self, timings: Mapping[str, ModelTiming], slots: int, clock: Callable[[], float]) -> None:
        self._engine = BatchEngine(timings, slots=slots)
        self._clock = clock
        self._wake = math.inf
        self._changed = trio.Event()
        self._unfinished: set[int] = set()
        self._submitted = 0

    @contextmanager
    def joined(self, model: str, sequences: int, prompt_tokens: int, output_tokens: int) -> Iterator[int]:
        """Keep a job in the engine within the block; yields its number."""
        self._submitted += 1
        number = self._submitted
        self._unfinished.add(number)
        work = Work(number, model, prompt_tokens, output_tokens, sequences)
        self._perform(self._engine.submit(work, self._clock()))
        try:
            yield number
        finally:
            self._unfinished.discard(number)
            self._perform(self._engine.cancel(number, self._clock()))

    async def reached(self, number: int, tokens: float) -> float:
        """Wait until each sequence of the job has ``tokens``; returns its tokens now.  Always a checkpoint."""
        if (made := self.tokens(number)) >= tokens:
            await trio.lowlevel.checkpoint()
        while (made := self.tokens(number)) < tokens:
            due = min(self._wake, self._engine.due(number, tokens))
            with trio.move_on_at(max(due, self._clock() + SHORTEST_SLEEP_S)):
                await self._changed.wait()
        return made

    def tokens(self, number: int) -> float:
        """Tokens of each sequence of the job now; infinity once it is complete."""
        now = self._catch_up()
        return self._engine.tokens(number, now) + ROUNDING if number in self._unfinished else math.inf

    def load(self) -> Load:
        """The load now."""
        return self._engine.load(self._catch_up())

    def _catch_up(self) -> float:
        now = self._clock()
        if self._wake <= now:
            self._perform(self._engine.timer(now))
        return now

    def _perform(self, effects: Iterable[BatchingEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Finished):
                self._unfinished.discard(effect.job)
            elif isinstance(effect, WakeAt):
                self._wake = effect.at
                self._changed.set()
                self._changed = trio.Event()
