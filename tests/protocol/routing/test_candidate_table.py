"""The columns that policies read: queues and predicted seconds."""

from __future__ import annotations

import math

import pytest

from protocol.membership.peer_view import PeerView
from protocol.perf.batch_engine import BatchEngine
from protocol.perf.gpu_catalog import find_gpu, shape_of
from protocol.perf.model_timing import ModelTiming
from protocol.routing.candidate_table import CandidateTable
from protocol.routing.job_query import JobQuery
from protocol.statements.adverts import ModelState
from tests.protocol.perf.engine_loop import Loop
from tests.protocol.sample_peers import MODEL, advert, idle, new_view, offer, peer, put


def test_jobs_without_a_place_make_the_next_wait() -> None:
    view = new_view()
    put(view, 1, load=idle(running=8, waiting=8))
    put(view, 2, load=idle(running=7))
    offers = view.offers(MODEL)
    assert offers is not None
    waits, starts = CandidateTable(view, offers, JobQuery(MODEL), 1.0).queue.tolist()
    assert waits > starts == 0


def test_a_cold_start_takes_as_long_as_the_state_of_the_model_says() -> None:
    """16.06 GB: nothing if resident, copied at 25 GB/s and 0.3 s if asleep, read at 2 GB/s and 15 s if on disk."""
    view = new_view()
    for number, state in enumerate((ModelState.RESIDENT, ModelState.SLEEPING, ModelState.ON_DISK), 1):
        put(view, number, advert(offer(state=int(state))))
    offers = view.offers(MODEL)
    assert offers is not None
    table = CandidateTable(view, offers, JobQuery(MODEL), 1.0)
    by_peer = {table.record(place).peer: seconds for place, seconds in enumerate(table.cold.tolist())}
    assert by_peer == {
        peer(1): 0.0,
        peer(2): pytest.approx(16.06 / 25 + 0.3),
        peer(3): pytest.approx(16.06 / 2 + 15.0),
    }


def queue_of(view: PeerView, now: float, **wishes: object) -> CandidateTable:
    """The table for a job at a time."""
    offers = view.offers(MODEL)
    assert offers is not None
    return CandidateTable(view, offers, JobQuery(MODEL, **wishes), now)  # type: ignore[arg-type]


def test_queued_prompts_are_processed_while_the_load_gets_old() -> None:
    """4,000 tokens at 251.5 us each are 1.006 s."""
    view = new_view()
    put(view, 1, load=idle(queued_prefill_tokens=4000), now=10.0)
    for age, left in ((0.0, 1.006), (0.5, 0.506), (2.0, 0.0)):
        assert queue_of(view, 10.0 + age).queue[0] == pytest.approx(left, abs=1e-3)


def test_prompts_of_our_own_jobs_in_flight_wait_before_the_next() -> None:
    view = new_view()
    one = put(view, 1, load=idle(), now=10.0)
    view.add_prompt(one, MODEL, 4000, 11.0)
    assert queue_of(view, 11.0).queue[0] == pytest.approx(1.006, abs=1e-3)
    assert queue_of(view, 11.5).queue[0] == pytest.approx(0.506, abs=1e-3)
    view.add_prompt(one, MODEL, 4000, 11.5)
    assert queue_of(view, 11.5).queue[0] == pytest.approx(1.512, abs=2e-3)


def test_a_peer_that_says_no_load_has_no_queue() -> None:
    view = new_view()
    put(view, 1)
    assert queue_of(view, 5.0).queue.tolist() == [0.0]


@pytest.mark.parametrize(
    ("kv_permille", "prompt", "generations"),
    [
        *((0, 8000, 0.0), (800, 8000, 0.0), (900, 5000, 0.0)),
        (900, 8000, (8000 - 5441.9) / 48977.2),  # 54,419 tokens in all, by hand
        (1000, 8000, 8000 / 54419.1),
        (1, 60_000, 1.0),  # the jobs that there are end, and it waits for no others
    ],
)
def test_a_job_waits_for_room_in_the_kv_cache(kv_permille: int, prompt: int, generations: float) -> None:
    view = new_view()
    put(view, 1, load=idle(running=4, kv_permille=kv_permille))
    table = queue_of(view, 1.0, prompt_tokens=prompt, max_tokens=300)
    assert table.slot_wait.tolist() == [0.0]
    assert table.memory[0] == pytest.approx(generations * 300 * table.itl[0], rel=1e-3)


def test_a_wait_for_room_and_one_for_a_slot_pass_together() -> None:
    view = new_view()
    put(view, 1, load=idle(running=8, kv_permille=990))
    table = queue_of(view, 1.0, prompt_tokens=4000, max_tokens=300)
    slot, room = 300 * table.itl[0] / 8, (4000 - 544.2) / 53874.9 * 300 * table.itl[0]
    assert slot > room
    assert (table.slot_wait[0], table.memory[0]) == (pytest.approx(slot), 0.0)
    longer = queue_of(view, 1.0, prompt_tokens=8000, max_tokens=300)
    whole = (8000 - 544.2) / 53874.9 * 300 * longer.itl[0]
    assert longer.slot_wait[0] + longer.memory[0] == pytest.approx(whole, rel=1e-3)


def test_a_lower_clock_slows_the_computation_but_not_the_memory() -> None:
    view = new_view()
    put(view, 1, load=idle(running=1, clock_percent=50))
    put(view, 2, load=idle(running=1))
    slow, full = (queue_of(view, 1.0).rates.token_s / (16.06e9 / 64e12)).tolist()
    assert (slow, full) == (pytest.approx(2.0), pytest.approx(1.0))
    weights = queue_of(view, 1.0).rates.weights_s.tolist()
    assert weights == [pytest.approx(16.06e9 / 700e9)] * 2


def test_a_link_that_varies_counts_as_longer() -> None:
    view = new_view()
    one = put(view, 1)
    for seconds in (0.1, 0.3):
        view.observe_rtt(one, seconds)
    # RFC 6298: 0.1 + 0.2 / 8 and 0.05 + (0.2 - 0.05) / 4, twice.
    assert queue_of(view, 1.0).link.tolist() == [pytest.approx(0.125 + 2 * 0.0875)]
    assert queue_of(view, 1.0).rtt.tolist() == [pytest.approx(0.125)]


def test_a_body_has_to_be_sent_to_others_only() -> None:
    view = new_view()
    view.put_self(advert(), idle(), 0.0)
    put(view, 1)
    assert queue_of(view, 1.0, body_bytes=32768).upload.tolist() == [0.0, 0.25]
    assert queue_of(view, 1.0).upload.tolist() == [0.0, 0.0]


def test_the_time_to_the_first_token_is_the_sum_of_its_parts() -> None:
    view = new_view()
    put(view, 1, advert(offer(state=int(ModelState.SLEEPING))), idle(running=8, queued_prefill_tokens=99_000))
    table = queue_of(view, 1.0, prompt_tokens=500, body_bytes=500)
    parts = (table.dial, table.link, table.upload, table.cold, table.queue, table.memory, table.prefill)
    assert table.ttft[0] == pytest.approx(sum(float(part[0]) for part in parts))
    assert table.forecast(0).ttft_s == pytest.approx(float(table.ttft[0]))


@pytest.mark.parametrize("card", ["RTX 3060 12GB", "RTX 4090", "A100 SXM4 80GB", "H100 SXM5 80GB"])
@pytest.mark.parametrize(
    ("others", "prompt", "tolerance"), [(0, 100, 1e-6), (0, 6000, 1e-6), (4, 500, 0.1), (12, 2000, 0.1)]
)
def test_the_simulated_engine_does_what_its_load_lets_expect(
    card: str, others: int, prompt: int, tolerance: float
) -> None:
    """Others came one after the other and a second ago; some of their prompts are read, some wait."""
    gpu, label = find_gpu(card), "awq"
    loop = Loop(BatchEngine({"m": ModelTiming(gpu, shape_of(MODEL), label)}, slots=16))
    for job in range(others):
        loop.submit(job, 700, 400)
        loop.until(job / others)
    view = new_view()
    put(view, 1, advert(offer(quantization=label), gpu=gpu), loop.engine.load(loop.now), now=loop.now)
    begun = loop.now
    table = queue_of(view, begun, prompt_tokens=prompt, max_tokens=400)
    forecast = table.forecast(0)
    loop.submit(99, prompt, 400)
    loop.until(math.inf)
    first_s = loop.first[99] - begun
    assert forecast.ttft_s - float(table.dial[0] + table.link[0]) == pytest.approx(first_s, rel=tolerance)
    token_s = (loop.done[99] - loop.first[99]) / 399
    assert forecast.itl_s == pytest.approx(token_s, rel=0.01 if not others else 0.15)
