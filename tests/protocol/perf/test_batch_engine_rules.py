"""What holds for the engine machine whatever happens to it: nothing is lost, memory suffices, nobody waits in vain."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from protocol.perf.batch_engine import BatchEngine
from protocol.perf.gpu_catalog import shape_of
from protocol.perf.model_timing import ModelTiming
from protocol.perf.sequences import Work
from protocol.statements.adverts import ModelState
from tests.protocol.perf.engine_loop import CARD, WEIGHTS, Loop

SHAPE = shape_of("llama-3.1-8b-instruct")
BLOCK = 16
TOKENS = 1_200
MODELS = ("a", "b", "c")


class EngineRules(RuleBasedStateMachine):
    """Jobs come and are cancelled, time passes, the GPU slows down, models come and go."""

    @initialize(exact=st.booleans(), slots=st.integers(1, 4))
    def begin(self, exact: bool, slots: int) -> None:
        self.exact = exact
        memory = 2 * WEIGHTS + TOKENS * SHAPE.kv_bytes
        timings = {name: ModelTiming(CARD, SHAPE) for name in MODELS}
        machine = BatchEngine(timings, slots=slots, resident="ab", memory_bytes=memory, exact=exact)
        self.loop = Loop(machine)
        self.works: dict[int, Work] = {}
        self.cancelled: set[int] = set()

    @rule(
        model=st.sampled_from("aaabc"),
        prompt=st.integers(0, 900) | st.integers(0, 2_500),
        output=st.integers(1, 800),
        sequences=st.integers(1, 3),
        family=st.integers(0, 2),
    )
    def submit(self, model: str, prompt: int, output: int, sequences: int, family: int) -> None:
        number = len(self.works)
        blocks = tuple(range(1000 * family, 1000 * family + 40)) if family else ()
        work = self.works[number] = Work(number, model, prompt, output, sequences, blocks)
        self.loop.take(self.loop.engine.submit(work, self.loop.now))

    @rule(seconds=st.floats(0.0, 1.0) | st.floats(0.0, 20.0))
    def pass_time(self, seconds: float) -> None:
        self.loop.until(self.loop.now + seconds)

    @rule(pick=st.integers(0, 100))
    def cancel(self, pick: int) -> None:
        number = pick % (len(self.works) + 1)
        if number in self.works and number not in self.loop.done:
            self.cancelled.add(number)
        self.loop.take(self.loop.engine.cancel(number, self.loop.now))

    @rule(factor=st.sampled_from([1.0, 1.0, 0.3, 0.0]))
    def throttle(self, factor: float) -> None:
        self.loop.take(self.loop.engine.throttle(factor, self.loop.now))

    @rule(model=st.sampled_from(MODELS), what=st.sampled_from(["sleep", "wake", "evict"]))
    def move(self, model: str, what: str) -> None:
        self.loop.take(getattr(self.loop.engine, what)(model, self.loop.now))

    def here(self, machine: BatchEngine) -> list[Work]:
        return [
            self.works[number] for number in self.works if number not in self.loop.done | dict.fromkeys(self.cancelled)
        ]

    @invariant()
    def nothing_is_lost(self) -> None:
        machine = self.loop.engine
        assert machine.running + machine.waiting == len(self.here(machine))
        assert machine.running <= machine.slots
        assert not self.cancelled & set(self.loop.done)

    @invariant()
    def memory_suffices(self) -> None:
        machine = self.loop.engine
        assert sum(machine.state_of(name) == ModelState.RESIDENT for name in MODELS) <= 2
        # As it counts them itself: what is reported never shows more than there is.
        pinned = machine._kv.pinned_bytes
        held = machine._own_bytes(machine._clock.count(self.loop.now)) + pinned
        assert held >= -1.0
        if machine.running > 1:
            assert held <= machine._models.kv_bytes + 1.0
        if not machine.running:
            assert (held, pinned) == (0.0, 0.0)
        assert 0 <= machine.load(self.loop.now).kv_permille <= 1000

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        """With a free slot and nothing running, whoever waits waits for a model."""
        machine = self.loop.engine
        if not machine.running:
            assert all(machine.state_of(work.model) != ModelState.RESIDENT for work in self.here(machine))
        # Generous, so that it does not repeat the engine's own sum: a few blocks more for everybody.
        used = SHAPE.kv_bytes * BLOCK * 3 * (machine.slots + 1) + machine.kv_used_bytes(self.loop.now)
        free = TOKENS * SHAPE.kv_bytes - used
        if all(self.fits(work, free) for work in self.here(machine)):
            warm = [work for work in self.here(machine) if machine.state_of(work.model) == ModelState.RESIDENT]
            assert machine.running >= min(machine.slots, len(warm))

    def fits(self, work: Work, free: float) -> bool:
        return (work.prompt_tokens + work.sequences * (work.output_tokens + BLOCK)) * SHAPE.kv_bytes <= free

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        self.loop.take(self.loop.engine.throttle(1.0, self.loop.now))
        self.loop.until(inf)
        assert set(self.loop.done) == set(self.works) - self.cancelled
        assert self.loop.engine.kv_used_bytes(self.loop.now) == 0.0


TestEngineRules = pytest.mark.slow(EngineRules.TestCase)
TestEngineRules.settings = hypothesis_settings(deadline=None, max_examples=60, stateful_step_count=40)
