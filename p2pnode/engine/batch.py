"""The running batch of a simulated GPU: how many steps it has done, kept as arithmetic instead of timers.

Theory of operation.  Running jobs share one batch, which advances in steps; a step gives every running choice one
token.  The batch keeps a count of the steps done so far, a real number that grows at 1/step_s and is brought up to
date whenever the batch changes.  A job knows the count at which its decoding began, so what it owes at any moment is a
subtraction: a reader that comes late gets all due tokens at once.  Prompts are read one after the other before
decoding, as a real engine's prefill queue does.

Who calls it: ``mock``.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from p2pnode.engine.pace import Pace

#: Shortest sleep, seconds: with faster steps the tokens come in small batches, as they do over a network anyway.
SHORTEST_SLEEP_S: Final = 0.004
#: A millionth of a step is rounding, not time.
ROUNDING: Final = 1e-6


class Batch:
    """Slots, prefill queue and step count.  An instant batch (``pace.scale`` 0) owes everything at once."""

    def __init__(self, pace: Pace, slots: int, clock: Callable[[], float]) -> None:
        self.pace = pace
        self.slots = slots
        self.running = 0
        self.waiting = 0
        self.sequences = 0
        self.context_tokens = 0
        self.queued_prefill = 0
        self.step_s = 0.0
        self._clock = clock
        self._free = trio.Semaphore(slots)
        self._steps = 0.0
        self._since = 0.0
        self._prefill_until = 0.0

    @property
    def steps(self) -> float:
        """Steps done until now."""
        if self.pace.scale == 0.0:
            return math.inf
        now = self._clock()
        if self.step_s > 0.0:
            self._steps += (now - self._since) / self.step_s
        self._since = now
        return self._steps

    @asynccontextmanager
    async def joined(self, sequences: int, prompt_tokens: int) -> AsyncIterator[float]:
        """Wait for a slot, read the prompt, decode within the block; gives the count at which decoding began."""
        async with self._slot():
            await self._prefill(prompt_tokens)
            self._change(1, sequences, prompt_tokens)
            try:
                yield 0.0 if self.pace.scale == 0.0 else self._steps
            finally:
                self._change(-1, -sequences, -prompt_tokens)

    async def reached(self, target: float) -> float:
        """Wait until the count is there; returns it.  Always a checkpoint."""
        if (done := self.steps) >= target - ROUNDING:
            await trio.lowlevel.checkpoint()
        while (done := self.steps) < target - ROUNDING:  # noqa: ASYNC110 - time is what is waited for
            await trio.sleep(max(SHORTEST_SLEEP_S, (target - done) * self.step_s))
        return done + ROUNDING

    def _change(self, jobs: int, sequences: int, context_tokens: int) -> None:
        _ = self.steps  # the past went at the old speed
        self.running += jobs
        self.sequences += sequences
        self.context_tokens += context_tokens
        self.step_s = self.pace.step_s(max(1, self.sequences), self.context_tokens)

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        try:
            self._free.acquire_nowait()
        except trio.WouldBlock:
            self.waiting += 1
            try:
                await self._free.acquire()
            finally:
                self.waiting -= 1
        try:
            yield
        finally:
            self._free.release()

    async def _prefill(self, tokens: int) -> None:
        now = self._clock()
        self._prefill_until = max(now, self._prefill_until) + self.pace.prefill_s(tokens)
        self.queued_prefill += tokens
        try:
            await trio.sleep(self._prefill_until - now)
        finally:
            self.queued_prefill -= tokens
