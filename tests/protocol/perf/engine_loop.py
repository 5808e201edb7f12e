"""A loop that drives the engine machine in virtual time, and the same engine written as a plain loop."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from protocol.perf.batch_engine import BatchEngine
from protocol.perf.cost_model import CHUNK_TOKENS, REQUEST_S, added_s, prefill_s, rates, step_s
from protocol.perf.gpu_catalog import ModelShape, bytes_per_weight, find_gpu, shape_of
from protocol.perf.model_timing import ModelTiming
from protocol.perf.sequences import BatchingEffect, Finished, FirstToken, ModelChanged, WakeAt, Work
from protocol.statements.adverts import Gpu

CARD = find_gpu("rtx 4090")
SHAPE = shape_of("llama-3.1-8b-instruct")
PACE = ModelTiming(CARD, SHAPE)
WEIGHTS = SHAPE.params * bytes_per_weight("")


def engine(timing: ModelTiming = PACE, **options: Any) -> BatchEngine:
    return BatchEngine({"m": timing}, **({"slots": 16} | options))


def memory_for(tokens: int) -> float:
    """So much memory that this many tokens of context fit beside the weights."""
    return WEIGHTS + tokens * SHAPE.kv_bytes


@dataclass
class Loop:
    """Virtual time for one machine: ``at`` and ``run``; what it said is kept by job."""

    engine: BatchEngine
    now: float = 0.0
    wake: float = inf
    first: dict[int, float] = field(default_factory=dict)
    done: dict[int, float] = field(default_factory=dict)
    changes: list[tuple[float, str, int]] = field(default_factory=list)
    calls: int = 0
    watch: Callable[[Loop], None] | None = None

    def take(self, effects: Sequence[BatchingEffect]) -> None:
        self.calls += 1
        for effect in effects:
            match effect:
                case WakeAt(at):
                    assert at >= self.now
                    self.wake = at
                case FirstToken(job):
                    assert job not in self.first
                    self.first[job] = self.now
                case Finished(job):
                    assert job in self.first
                    assert job not in self.done
                    self.done[job] = self.now
                case ModelChanged(model, state):
                    self.changes.append((self.now, model, int(state)))
        if self.watch is not None:
            self.watch(self)

    def submit(self, job: int, prompt: int = 100, output: int = 10, model: str = "m", **more: Any) -> None:
        self.take(self.engine.submit(Work(job, model, prompt, output, **more), self.now))

    def until(self, when: float) -> None:
        """Let time pass; with ``inf`` until nothing is left to do."""
        while self.wake <= when and self.wake < inf:
            self.now, self.wake = self.wake, inf
            self.take(self.engine.timer(self.now))
        if when < inf:
            self.now = when

    def run(self, works: Sequence[tuple[float, Work]]) -> Loop:
        for at, work in works:
            self.until(at)
            self.take(self.engine.submit(work, at))
        self.until(inf)
        return self


def chat(jobs: int, rate: float, seed: int = 1, sequences: int = 1) -> list[tuple[float, Work]]:
    """Poisson arrivals with log-normal lengths, as of conversations."""
    dice = random.Random(seed)
    now, works = 0.0, []
    for job in range(jobs):
        now += dice.expovariate(rate)
        prompt = max(1, min(6000, int(dice.lognormvariate(6.0, 1.0))))
        output = max(1, min(1500, int(dice.lognormvariate(5.0, 0.9))))
        works.append((now, Work(job, "m", prompt, output, sequences)))
    return works


def step_by_step(
    works: Sequence[tuple[float, Work]], slots: int, gpu: Gpu = CARD, shape: ModelShape = SHAPE
) -> tuple[dict[int, float], dict[int, float]]:
    """First tokens and ends, by the formulas of ``cost_model``, one step after the other, with memory for everybody."""
    speed = rates(gpu, shape)
    coming, now = list(works), 0.0
    waiting: list[tuple[float, Work]] = []
    unread: list[tuple[float, Work]] = []
    decoding: dict[int, int] = {}
    by_number = {work.job: work for _, work in works}
    chunks = 0
    first: dict[int, float] = {}
    done: dict[int, float] = {}
    while coming or waiting or unread or decoding:
        while coming and coming[0][0] <= now:
            waiting.append(coming.pop(0))
        while waiting and len(decoding) + len(unread) < slots:
            unread.append(waiting.pop(0))
        seconds = 0.0
        if decoding:
            context = sum(by_number[job].prompt_tokens + made for job, made in decoding.items())
            seconds += step_s(shape, speed, float(len(decoding)), float(context))
        read = bool(unread) and unread[0][0] + REQUEST_S <= now + 1e-9
        if read:
            tokens = unread[0][1].prompt_tokens
            pieces = -(-tokens // CHUNK_TOKENS)
            seconds += (added_s if decoding else prefill_s)(shape, speed, float(tokens)) / pieces
            chunks += 1
        if not seconds:
            now = min([at + REQUEST_S for at, _ in unread[:1]] + [at for at, _ in coming[:1]])
            continue
        now += seconds
        for job in list(decoding):
            decoding[job] += 1
            if decoding[job] == by_number[job].output_tokens:
                done[job] = now
                del decoding[job]
        if read and chunks == pieces:
            job, chunks = unread.pop(0)[1].job, 0
            first[job], decoding[job] = now, 1
            if by_number[job].output_tokens == 1:
                done[job] = now
                del decoding[job]
    return first, done
