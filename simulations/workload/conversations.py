"""Conversations: turns of one caller with one model; each prompt begins with the whole conversation so far.

Theory of operation
===================

Conversations begin as a Poisson process.  Their number of turns is geometric.  Two turns are separated by the time to
make the answer (:data:`TOKEN_S` per token, because these callers do not learn the real time) and an exponential pause
to think.  The prompt of a turn is the previous prompt, the previous answer, and new text.  Blocks are numbered through
the conversation, so the blocks of a turn are the first blocks of the next one.  When the model's context is full, the
caller begins again with a first prompt and other blocks.  A run also has conversations that began before its start;
otherwise its first minutes would have first turns only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Final

import numpy as np

from simulations.rng_streams import numpy_rng_stream
from simulations.scenario import Scenario
from simulations.workload.arrivals import Arrival, Callers, drawn

#: Seconds that a caller waits per token of an answer before beginning to think (guess: a usual speed).
TOKEN_S: Final = 0.03
#: The new text of a later turn, relative to the first prompt (guess: follow-ups are short).
FOLLOW_UP: Final = 0.25
#: How long before the start conversations begin, in mean lengths of one (guess: e^-5 of them are older).
HISTORY: Final = 5.0
#: Conversations made at once.
_BLOCK: Final = 256
#: Block ids of one conversation, and of its text until it begins again.
_IDS: Final = 1 << 30
_PART_IDS: Final = 1 << 21


def sessions(scenario: Scenario, seed: int, rate_per_s: float) -> Iterator[Arrival]:
    """Turns in order of time; ``rate_per_s`` counts turns."""
    if rate_per_s <= 0:
        return
    book = _Book(scenario, seed, rate_per_s)
    waiting: list[tuple[float, int, int, Arrival]] = []
    while book.begun_s < scenario.duration_s:
        for turn in book.begin():
            heappush(waiting, turn)
        # No conversation to come begins before the last of these.
        while waiting and waiting[0][0] <= book.begun_s:
            yield heappop(waiting)[3]


class _Book:
    """Makes conversations, a block at a time."""

    def __init__(self, scenario: Scenario, seed: int, rate_per_s: float) -> None:
        workload = scenario.workload
        self._callers = Callers(scenario, seed)
        self._rng = numpy_rng_stream(seed, "arrivals sessions")
        self._words = numpy_rng_stream(seed, "arrivals lengths")
        self._workload = workload
        self._turns = max(1.0, workload.turns)
        self._gap_s = self._turns / rate_per_s
        self._block_tokens = scenario.engine.block_tokens
        pause_s = workload.think_s + TOKEN_S * workload.output.median * np.exp(workload.output.sigma**2 / 2)
        self.begun_s = -HISTORY * self._turns * float(pause_s)
        self._until_s = scenario.duration_s
        self._session = 0

    def begin(self) -> Iterator[tuple[float, int, int, Arrival]]:
        """The turns of the next conversations that fall into the run: time, session, turn, job."""
        begins = self.begun_s + np.cumsum(self._rng.exponential(self._gap_s, _BLOCK))
        self.begun_s = float(begins[-1])
        turns = self._rng.geometric(1 / self._turns, _BLOCK)
        models = self._callers.models(begins)
        entries = self._callers.entries(_BLOCK).tolist()
        count = int(turns.sum())
        news = drawn(self._workload.prompt, self._words, count)
        answers = drawn(self._workload.output, self._words, count)
        thinks = self._rng.exponential(self._workload.think_s, count)
        factors = self._callers.factors(count)
        streams = self._callers.streams(count)
        ends = np.cumsum(turns)
        lasts = np.add.reduceat(thinks + answers * TOKEN_S, ends - turns) + begins
        for row, (begin, model) in enumerate(zip(begins.tolist(), models.tolist(), strict=True)):
            self._session += 1
            if lasts[row] < 0:
                continue
            part = slice(int(ends[row] - turns[row]), int(ends[row]))
            columns = (news[part].tolist(), answers[part].tolist(), thinks[part].tolist(), factors[part].tolist())
            yield from self._turns_of(begin, model, entries[row], list(zip(*columns, streams[part], strict=True)))

    def _turns_of(
        self, at: float, model: int, entry: float, turns: list[tuple[int, int, float, float, bool]]
    ) -> Iterator[tuple[float, int, int, Arrival]]:
        context, name = int(self._callers.contexts[model]), self._callers.names[model]
        said = 0
        first = self._session * _IDS
        blocks: tuple[int, ...] = ()
        for number, (new, answer, think_s, factor, streamed) in enumerate(turns):
            prompt = said + max(1, round(new * FOLLOW_UP)) if said else new
            output = min(answer, context - 1)
            if prompt + output > context:
                if said:
                    first, blocks = first + _PART_IDS, ()
                prompt = min(new, context - output)
            if at >= self._until_s:
                return
            if at >= 0:
                blocks += tuple(range(first + len(blocks), first + prompt // self._block_tokens))
                limit = max(output, min(1 << math.ceil(math.log2(output * factor)), context - prompt))
                job = Arrival(at, entry, name, prompt, output, limit, self._session, blocks, streamed)
                yield at, self._session, number, job
            said = prompt + output
            at += output * TOKEN_S + think_s
