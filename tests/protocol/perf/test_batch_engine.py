"""The engine machine, one behaviour at a time: reading, decoding, sharing, running out of memory, being cancelled."""

from __future__ import annotations

from math import inf

import pytest

from protocol.perf.batch_engine import BatchEngine
from protocol.perf.cost_model import CHUNK_TOKENS, REQUEST_S, predict
from protocol.perf.model_timing import ModelTiming
from protocol.perf.sequences import UnknownModel, WakeAt, Work
from protocol.statements.adverts import Gpu, Status
from tests.protocol.perf.engine_loop import CARD, PACE, SHAPE, Loop, engine, memory_for


def ended(loop: Loop) -> Loop:
    loop.until(inf)
    return loop


def seconds(machine: BatchEngine, *works: Work) -> Loop:
    """All of them at once."""
    return Loop(machine).run([(0.0, work) for work in works])


def test_a_lone_job_takes_what_is_predicted() -> None:
    loop = seconds(engine(), Work(1, "m", 500, 200))
    expected = predict(CARD, SHAPE, 500)
    assert loop.first[1] == pytest.approx(expected.ttft_s)
    longer = predict(CARD, SHAPE, 600).itl_s  # half way
    assert loop.done[1] == pytest.approx(expected.ttft_s + 199 * longer, rel=1e-3)
    assert loop.calls <= 5


def test_a_job_of_one_token_ends_with_its_prompt() -> None:
    loop = seconds(engine(), Work(1, "m", 500, 1))
    assert loop.first[1] == loop.done[1] == pytest.approx(predict(CARD, SHAPE, 500).ttft_s)
    assert loop.engine.running == 0
    assert loop.engine.kv_used_bytes(loop.now) == pytest.approx(0.0)


def test_efficiency_is_a_factor_on_speed_that_the_request_does_not_feel() -> None:
    half = ModelTiming(CARD, SHAPE, efficiency=0.5)
    slow, fast = (seconds(engine(timing), Work(1, "m", 500, 200)) for timing in (half, PACE))
    assert slow.done[1] - REQUEST_S == pytest.approx(2 * (fast.done[1] - REQUEST_S))


def test_prompts_are_read_one_after_the_other_and_slow_those_who_decode() -> None:
    machine = engine()
    loop = Loop(machine)
    loop.submit(1, 100, 1000)
    loop.until(2.0)
    before = machine.tokens(1, 2.0)
    loop.submit(2, 4 * CHUNK_TOKENS, 10)
    loop.submit(3, 100, 10)
    read_s = 4 * PACE.chunk_s(4 * CHUNK_TOKENS, shared=True)
    loop.until(2.0 + read_s)
    assert 2 <= machine.tokens(1, loop.now) - before <= 5, "a token per chunk"
    ended(loop)
    assert loop.first[3] > loop.first[2] > 2.0 + read_s


def test_jobs_beyond_the_slots_wait_in_their_order() -> None:
    machine = engine(slots=2)
    loop = Loop(machine)
    for job in range(5):
        loop.submit(job, 100, 50)
    assert (machine.running, machine.waiting) == (2, 3)
    ended(loop)
    assert list(loop.first) == list(loop.done) == [0, 1, 2, 3, 4]
    assert (machine.running, machine.waiting) == (0, 0)
    assert machine.busy_s == pytest.approx(loop.done[4] - REQUEST_S)


def test_more_choices_share_the_batch_and_end_together() -> None:
    one, four = (seconds(engine(), Work(1, "m", 500, 100, sequences)) for sequences in (1, 4))
    assert one.done[1] < four.done[1] < 2 * one.done[1]


def test_tokens_are_counted_while_they_are_made() -> None:
    machine = engine()
    loop = Loop(machine)
    loop.submit(1, 100, 100)
    assert machine.tokens(1, 0.0) == 0
    assert machine.due(1, 1) == inf
    loop.until(1.0)
    made = machine.tokens(1, 1.0)
    assert 20 < made < 60
    assert machine.tokens(1, machine.due(1, made + 5)) == pytest.approx(made + 5)
    assert machine.tokens(1, 1e6) == 100, "who asks before the timer is told no more than is certain"
    assert machine.tokens(2, 1.0) == 0
    assert machine.due(2, 1) == inf
    ended(loop)
    assert machine.tokens(1, loop.now) == 0


def test_a_timer_that_comes_late_makes_up_for_it() -> None:
    works = [(0.1 * job, Work(job, "m", 300, 40)) for job in range(6)]
    punctual = Loop(engine(slots=2)).run(works)
    late = Loop(engine(slots=2))
    for at, work in works:
        late.now = at
        late.take(late.engine.submit(work, at))
    late.now = max(punctual.done.values()) + 1e-6
    late.take(late.engine.timer(late.now))
    assert len(late.done) == 6
    assert late.engine.busy_s == pytest.approx(punctual.engine.busy_s)


def test_without_scale_everything_is_at_once() -> None:
    loop = Loop(engine(ModelTiming(CARD, SHAPE, scale=0.0), slots=1))
    for job in range(3):
        loop.submit(job, 5000, 500)
    assert len(loop.done) == 3
    assert loop.wake == inf


@pytest.mark.parametrize("moment", [0.0, 0.01, 0.1, 1.0, 3.0])
def test_a_job_can_be_cancelled_at_every_stage(moment: float) -> None:
    machine = engine(slots=3)
    loop = Loop(machine)
    for job in range(6):
        loop.submit(job, 400, 60)
    loop.until(moment)
    for job in (4, 0, 1):
        loop.take(machine.cancel(job, moment))
        loop.take(machine.cancel(job, moment))
    gone = {4, 0, 1} - set(loop.done)
    ended(loop)
    assert set(loop.done) == set(range(6)) - gone
    assert (machine.running, machine.waiting, machine.kv_used_bytes(loop.now)) == (0, 0, 0.0)


def test_two_that_end_together_and_one_of_them_leaves() -> None:
    machine = engine()
    loop = Loop(machine)
    loop.submit(1, 100, 20)
    loop.submit(2, 100, 19)  # begins one step later
    loop.until(0.3)
    loop.take(machine.cancel(2, 0.3))
    ended(loop)
    assert list(loop.done) == [1]


def test_who_is_cancelled_makes_the_others_faster() -> None:
    def finish(cancel: bool) -> float:
        machine = engine()
        loop = Loop(machine)
        for job in range(8):
            loop.submit(job, 2000, 300)
        loop.until(4.0)
        for job in range(1, 8) if cancel else ():
            loop.take(machine.cancel(job, loop.now))
        return ended(loop).done[0]

    assert finish(True) < finish(False)


def test_a_cancelled_job_is_felt_at_once() -> None:
    machine = engine(slots=2)
    loop = Loop(machine)
    for job in range(3):
        loop.submit(job, 2000, 900)
    loop.until(2.0)
    due = machine.due(0, 500)
    loop.take(machine.cancel(1, 2.0))
    assert machine.due(0, 500) < due - 0.1
    assert (machine.running, machine.waiting) == (2, 0), "the next one has its slot"
    for job in (0, 2):
        loop.take(machine.cancel(job, 2.0))
    assert machine.load(2.0).tokens_s == 0
    assert loop.wake == inf


def test_a_job_that_leaves_before_its_first_token_says_nothing() -> None:
    machine = engine()
    loop = Loop(machine)
    loop.submit(1, 100, 10)
    loop.submit(2, 100, 10)
    ttft = REQUEST_S + PACE.read_s(100) - 0.001
    loop.until(ttft)
    loop.take(machine.cancel(1, ttft))
    loop.take(machine.cancel(2, ttft))
    ended(loop)
    assert not loop.first
    assert loop.wake == inf


def test_a_prefix_that_is_known_is_not_read_again() -> None:
    blocks = tuple(range(100))
    machine = engine()
    loop = Loop(machine)
    loop.submit(1, 2000, 10, blocks=blocks)
    ended(loop)
    begun = loop.now
    loop.submit(2, 2000, 10, blocks=blocks)
    ended(loop)
    assert machine.prefix_hit_tokens == 1600
    assert machine.prompt_tokens_total == 4000
    assert machine.cached_tokens(blocks, "m") == 1600
    assert machine.cached_tokens((7, *blocks), "m") == 0
    saved = loop.first[1] - (loop.first[2] - begun)
    assert saved == pytest.approx(PACE.read_s(2000) - PACE.read_s(400), rel=1e-6)
    without = Loop(engine(prefix_reuse=False))
    without.submit(1, 2000, 10, blocks=blocks)
    assert without.engine.cached_tokens(blocks, "m") == 0


@pytest.mark.parametrize("exact", [False, True])
def test_an_engine_says_what_it_holds_and_what_the_first_that_waits_needs(exact: bool) -> None:
    machine = engine(memory_bytes=memory_for(1200), exact=exact)
    loop = Loop(machine)
    idle = machine.introspect(0.0)
    assert (idle.jobs, idle.kv_used, idle.kv_pinned, idle.growth, idle.needed) == (0, 0.0, 0.0, 0.0, inf)
    assert idle.wake == inf
    loop.submit(1, 1000, 100)
    loop.submit(2, 320, 100, blocks=tuple(range(20)))
    loop.submit(3, 16, 100)
    loop.take(machine.cancel(3, 0.0))
    loop.until(2.0)
    state = machine.introspect(loop.now)
    assert state.jobs == machine.running + machine.waiting == 2
    assert state.kv_used == machine.kv_used_bytes(loop.now)
    assert (state.kv_total, state.growth) == (1200 * SHAPE.kv_bytes, SHAPE.kv_bytes)
    assert state.kv_used + state.growth + state.needed > state.kv_total, "or it would not wait"
    assert state.needed == (321 if exact else 321 + 7.5) * SHAPE.kv_bytes
    assert state.wake == loop.wake


def test_one_token_is_always_read_and_unread_blocks_are_not_remembered() -> None:
    machine = engine()
    loop = Loop(machine)
    loop.submit(1, 1600, 10, blocks=tuple(range(100)))
    loop.take(machine.cancel(1, 0.0))
    assert machine.cached_tokens(tuple(range(100)), "m") == 0
    loop.submit(2, 1600, 10, blocks=tuple(range(100)))
    ended(loop)
    loop.submit(3, 1600, 10, blocks=tuple(range(200)))
    assert machine.prefix_hit_tokens == 1599


@pytest.mark.parametrize("exact", [False, True])
def test_the_youngest_is_preempted_and_keeps_what_it_made(exact: bool) -> None:
    machine = engine(memory_bytes=memory_for(1200), exact=exact)
    loop = Loop(machine)
    loop.submit(1, 400, 500)
    loop.submit(2, 400, 300)
    loop.until(4.0)
    most = machine.tokens(2, 4.0)
    while not machine.preemptions:
        loop.until(loop.wake)
        assert machine.kv_used_bytes(loop.now) <= 1200 * SHAPE.kv_bytes + 1
        most = max(most, machine.tokens(2, loop.now))
    assert (machine.running, machine.waiting) == (1, 1)
    assert machine.tokens(2, loop.now) == pytest.approx(most, abs=1)
    assert machine.load(loop.now).queued_prefill_tokens == 400 + machine.tokens(2, loop.now)
    ended(loop)
    assert loop.done[1] < loop.done[2]
    assert machine.preemptions == 1


def test_a_first_token_is_said_once_though_the_job_begins_again() -> None:
    machine = engine(memory_bytes=memory_for(900))
    loop = Loop(machine)
    for job in range(4):
        loop.submit(job, 200, 200)
    ended(loop)  # the loop itself asserts that nobody says it twice
    assert machine.preemptions > 0
    assert len(loop.done) == 4


def test_a_job_that_is_preempted_while_it_is_read_is_read_again() -> None:
    machine = engine(memory_bytes=memory_for(6_000))
    loop = Loop(machine)
    loop.submit(1, 400, 1000)
    loop.until(1.0)
    loop.submit(2, 5_000, 10, blocks=tuple(range(10)))
    loop.until(1.0 + REQUEST_S + 0.06)
    assert machine.running == 2
    loop.submit(3, 100, 10)
    ended(loop)
    assert len(loop.done) == 3


def test_a_job_larger_than_the_memory_runs_alone() -> None:
    machine = engine(memory_bytes=memory_for(1000))
    loop = Loop(machine)
    loop.submit(1, 3000, 100)
    loop.submit(2, 10, 10)
    loop.until(1.5)
    assert (machine.running, machine.waiting, machine.load(1.5).kv_permille) == (1, 1, 1000)
    ended(loop)
    assert loop.done[1] < loop.first[2]


def test_a_throttled_gpu_is_slower_and_a_stopped_one_does_nothing() -> None:
    machine = engine()
    loop = Loop(machine)
    loop.take(machine.throttle(0.5, 0.0))
    loop.submit(1, 500, 100)
    loop.until(1.0)
    load = machine.load(1.0)
    assert (load.throttled, load.clock_percent) == (True, 50)
    made = machine.tokens(1, 1.0)
    loop.take(machine.throttle(0.0, 1.0))
    assert loop.wake == inf
    loop.until(50.0)
    assert machine.tokens(1, 50.0) == pytest.approx(made)
    loop.take(machine.throttle(1.0, 50.0))
    ended(loop)
    normal = seconds(engine(), Work(1, "m", 500, 100)).done[1]
    assert normal < loop.done[1] - 49.0 < 2 * normal


def test_the_load_says_how_busy_it_is() -> None:
    machine = engine(slots=2)
    loop = Loop(machine)
    idle = machine.load(0.0)
    assert (idle.status, idle.tokens_s, idle.gpu_percent, idle.slots, idle.kv_permille) == (Status.ONLINE, 0, 0, 2, 0)
    for job in range(4):
        loop.submit(job, 1000, 200)
    assert machine.load(0.0).queued_prefill_tokens == 4000
    loop.until(REQUEST_S + 0.01)
    assert machine.load(loop.now).queued_prefill_tokens == 4000, "the one that is being read counts"
    loop.take(machine.cancel(3, loop.now))
    loop.until(2.0)
    load = machine.load(2.0)
    assert (load.status, load.running, load.waiting) == (Status.BUSY, 2, 1)
    assert load.queued_prefill_tokens == 1000
    assert load.tokens_s == pytest.approx(2 / predict(CARD, SHAPE, 1100, 2, 1100).itl_s, rel=0.02)
    assert load.kv_permille == pytest.approx(1000 * 2.08e3 * SHAPE.kv_bytes / (PACE.memory_bytes - PACE.weights), abs=2)
    assert 0 < load.free_vram_mib < CARD.vram_mib - 15_000
    unknown = engine(ModelTiming(Gpu("somebody's"), SHAPE))
    assert (unknown.load(0.0).free_vram_mib, unknown.load(0.0).kv_permille) == (0, 0)


def test_a_model_that_it_does_not_have_is_the_callers_mistake() -> None:
    with pytest.raises(UnknownModel):
        engine().submit(Work(1, "other", 1, 1), 0.0)
    assert BatchEngine({}, slots=1).load(0.0).running == 0


def test_a_long_answer_is_looked_at_again_though_nothing_changes() -> None:
    loop = Loop(engine())
    loop.submit(1, 10, 1000)
    ended(loop)
    assert 6 <= loop.calls <= 8


def test_a_timer_always_says_when_it_wants_to_be_called_again() -> None:
    machine = engine()
    assert machine.timer(0.0) == [WakeAt(inf)]
    assert machine.cancel(9, 0.0) == []
