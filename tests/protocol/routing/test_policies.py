"""The policies: what each prefers, and that the corrected formula is the corrected one."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.ids import PeerId
from protocol.membership.peer_view import PeerView
from protocol.routing.candidate_columns import noise
from protocol.routing.job_query import JobQuery
from protocol.routing.policies import DEFAULT, POLICIES, SORTS, vram_fit
from protocol.routing.ranking import rank
from protocol.statements.adverts import Advert, Load, ModelOffer, ModelState
from tests.protocol.sample_peers import ME, MODEL, advert, card, idle, new_view, offer, peer, put


def order(view: PeerView, policy: str, seed: int = 1, **wishes: object) -> list[PeerId]:
    """Who is asked, in order."""
    query = JobQuery(MODEL, **wishes)  # type: ignore[arg-type]
    return [candidate.peer for candidate in rank(view, query, policy, random.Random(seed), 1.0).candidates]


def test_the_expected_seconds_are_the_default() -> None:
    assert DEFAULT == "expected-seconds" == next(iter(POLICIES))
    baselines = {"neuralgrid", "neuralgrid-published", "gputorrent", "least-loaded", "power-of-two", "random"}
    assert set(POLICIES) == {"expected-seconds", "weighted-round-robin", *baselines}
    assert set(SORTS) == {"price", "throughput", "latency"}
    assert all(policy.about for policy in (*POLICIES.values(), *SORTS.values()))


def test_the_default_draws_a_peer_that_is_twice_as_fast_ten_times_as_often() -> None:
    scores, draws = np.array([-1.0, -2.0]), 4000
    first = Counter(int(np.argmax(POLICIES["expected-seconds"].keys(scores, noise(seed, 2)))) for seed in range(draws))
    odds = 2 ** (1 / 0.3)
    assert abs(first[0] / draws - odds / (1 + odds)) < 0.02


def test_the_default_counts_the_queue_the_way_and_the_cold_start_in_seconds() -> None:
    view = new_view()
    busy = put(view, 1, load=Load(slots=1, running=1, waiting=3))
    cold = put(view, 2, advert(offer(state=ModelState.ON_DISK)))
    free = put(view, 3)
    first = Counter(order(view, "expected-seconds", seed)[0] for seed in range(200))
    assert first[free] > 190
    ranking = rank(view, JobQuery(MODEL), "expected-seconds", random.Random(1), 1.0, explain=True)
    seconds = {each.peer: -each.score for each in ranking.candidates}
    assert seconds[free] < seconds[cold]
    assert seconds[free] < seconds[busy]
    (terms,) = (each.terms for each in ranking.candidates if each.peer == free)
    assert [term.name for term in terms] == [
        "dial",
        "round trip",
        "upload",
        "cold start",
        "queue",
        "memory",
        "prompt",
        "answer",
    ]
    assert sum(term.contribution for term in terms) == pytest.approx(-seconds[free])


@pytest.mark.parametrize(("max_tokens", "counted"), [(200, 199), (1000, 255), (1, 0)])
def test_the_default_score_to_the_digit(max_tokens: int, counted: int) -> None:
    """Llama 3.1 8B: 8.03e9 parameters in 16 bits, 32 layers, 131,072 KV bytes per token; by hand from the formula.

    The load is a tenth of a second old and the card at half its clock.  One round trip was measured, so its deviation
    counts as half of it, twice.  A tenth of the KV cache is free, which is less than the 17,000 tokens that this job
    and the 16 waiting ones need.
    """
    view = new_view()
    room = (0.9 * 24 * 2**30 - 16.06e9) / 131072
    load = idle(running=16, waiting=16, slots=32, kv_permille=900, queued_prefill_tokens=500, clock_percent=50)
    one = put(view, 1, advert(gpu=card(24, 100.0, 1000.0)), load, now=0.9)
    view.observe_rtt(one, 0.05)
    query = JobQuery(MODEL, prompt_tokens=1000, max_tokens=max_tokens, body_bytes=65536)
    (candidate,) = rank(view, query, "expected-seconds", random.Random(1), 1.0, explain=True).candidates
    batch, flops, weights_s = 32, 0.64 * 50e12, 16.06e9 / 700e9
    context = 0.9 * room + 16 * (1000 + max_tokens / 2)  # of the 16 that run, and of those that will
    memory = weights_s + 131072 * context / 510e9
    token = math.hypot(batch * 16.06e9 / flops, memory) + 32 * 32e-6 + 126e-6 + batch * 4.4e-6
    prompt = math.hypot((1000 * 16.06e9 + 2 * 32 * 4096 * 1000**2) / flops, weights_s) + 32 * 32e-6 + 126e-6 + 16e-3
    chunk = math.hypot(2048 * 16.06e9 / (0.64 * 100e12), weights_s) + 32 * 32e-6 + 126e-6
    slot = 1 / 32 * max_tokens * token
    surplus = 17 * 1000 - 0.1 * room
    expected = {
        "dial": 3 * 0.05,
        "round trip": 0.05 + 2 * 0.025,
        "upload": 0.5,  # 64 KiB at 128 KiB/s
        "cold start": 0.0,
        "queue": slot + 500 * chunk / 2048 / 0.5 - 0.1,
        "memory": surplus / (0.9 * room) * max_tokens * token - slot,
        "prompt": prompt,
        "answer": token
        * counted,  # an answer is taken to have at most 256 tokens, of which the first comes with the prompt
    }
    terms = {term.name: (term.value, term.contribution) for term in candidate.terms}
    assert terms == {name: (pytest.approx(seconds), pytest.approx(-seconds)) for name, seconds in expected.items()}
    assert expected["memory"] > 0
    assert candidate.score == pytest.approx(-sum(expected.values()))
    ttft = sum(expected.values()) - expected["answer"]
    assert candidate.forecast is not None
    assert candidate.forecast.ttft_s == pytest.approx(ttft)
    assert candidate.forecast.base_wait_s == pytest.approx(0.15 + 0.05)
    assert candidate.forecast.itl_s == pytest.approx(token)


def test_a_long_answer_goes_to_the_faster_memory_and_a_long_prompt_to_the_faster_compute() -> None:
    view = new_view()
    memory = put(view, 1, advert(gpu=card(24, 50.0, 2000.0)))
    compute = put(view, 2, advert(gpu=card(24, 500.0, 500.0)))

    def first(**wishes: int) -> PeerId:
        query = JobQuery(MODEL, **wishes)  # type: ignore[arg-type]
        ranking = rank(view, query, "expected-seconds", random.Random(1), 1.0, explain=True)
        return max(ranking.candidates, key=lambda candidate: candidate.score).peer

    assert first(prompt_tokens=10, max_tokens=256) == memory
    assert first(prompt_tokens=8000, max_tokens=10) == compute


def test_of_two_that_are_drawn_the_less_loaded_is_asked_first() -> None:
    view = new_view()
    idle_one = put(view, 1)
    loaded = {put(view, number, load=Load(slots=4, running=number)) for number in (2, 3)}
    first = Counter(order(view, "power-of-two", seed)[0] for seed in range(300))
    assert set(first) == {idle_one, *loaded} - {max(loaded, key=lambda peer: view.get(peer).load.running)}  # type: ignore[union-attr]
    assert first[idle_one] > 150


def test_the_published_formula_prefers_the_largest_card() -> None:
    view = new_view()
    small, large = put(view, 1, advert(gpu=card(24))), put(view, 2, advert(gpu=card(80)))
    assert order(view, "neuralgrid-published") == [large, small]
    assert order(view, "neuralgrid") == [small, large]


def test_the_smallest_gpu_that_is_large_enough_wins() -> None:
    view, need = new_view(), 16 * 1024
    cards = {put(view, number, advert(gpu=card(gib))): gib for number, gib in enumerate((80, 17, 24, 48), 1)}
    ours = sorted(cards, key=lambda peer: -float(vram_fit(np.array([need]), np.array([cards[peer] * 1024.0]))[0]))
    assert [cards[peer] for peer in ours] == [17, 24, 48, 80]
    assert order(view, "neuralgrid") == ours


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(st.floats(0, 1e6), st.lists(st.floats(0, 1e6), min_size=2, max_size=20))
def test_the_fit_falls_as_the_gpu_grows_and_is_nothing_below_the_need(need: float, sizes: list[float]) -> None:
    sizes.sort()
    fit = vram_fit(np.full(len(sizes), need), np.array(sizes)).tolist()
    assert all(0 <= value <= 1 for value in fit)
    assert all(value == 0 for value, size in zip(fit, sizes, strict=True) if size < need or need == 0)
    fitting = [value for value, size in zip(fit, sizes, strict=True) if size >= need > 0]
    assert all(larger <= smaller for smaller, larger in pairwise(fitting))


def test_the_seed_formula_to_the_digit() -> None:
    view = new_view()
    put(view, 1, advert(offer(price_out=0.49), gpu=card(32, 165.0)))
    (candidate,) = rank(view, JobQuery(MODEL), "neuralgrid", random.Random(1), 1.0, explain=True).candidates
    assert candidate.score == pytest.approx(0.3 * 16 / 32 + 0.5 * 165 / 100 + 0.2 / 0.5)
    assert [term.contribution for term in candidate.terms] == pytest.approx([0.15, 0.825, 0.4])


def test_a_warm_peer_comes_before_a_better_cold_one() -> None:
    view = new_view()
    cold = put(view, 1, advert(offer(state=int(ModelState.ON_DISK)), gpu=card(24, 900.0)))
    warm = put(view, 2, advert(gpu=card(24, 10.0)))
    for policy in ("neuralgrid", "least-loaded", "weighted-round-robin", "gputorrent"):
        assert order(view, policy) == [warm, cold]


def test_a_free_place_comes_before_a_better_score() -> None:
    view = new_view()
    full = put(view, 1, advert(gpu=card(24, 900.0)), idle(running=8))
    free = put(view, 2, advert(gpu=card(24, 10.0)), idle())
    assert order(view, "neuralgrid") == [free, full]
    for _ in range(8):
        view.add_inflight(free, 1)  # what we sent ourselves counts before anybody says so
    assert order(view, "neuralgrid") == [full, free]


def test_gputorrent_multiplies() -> None:
    view = new_view()
    one = put(view, 1, advert(offer(state=int(ModelState.SLEEPING)), gpu=card(24)), idle(free_vram_mib=18 * 1024))
    view.observe_rtt(one, 0.3)
    (candidate,) = rank(view, JobQuery(MODEL), "gputorrent", random.Random(1), 1.0, explain=True).candidates
    assert candidate.score == pytest.approx(0.75 * 0.5 * 0.25)
    assert [term.contribution for term in candidate.terms] == pytest.approx([0.75, 0.5, 0.25])
    near = put(view, 2, advert(gpu=card(24)), idle(free_vram_mib=12 * 1024))
    view.observe_rtt(near, 0.001)
    empty = put(view, 3, advert(gpu=card(0)))
    assert order(view, "gputorrent") == [near, empty, one]


def test_least_loaded_counts_per_place() -> None:
    view = new_view()
    small = put(view, 1, load=idle(running=2, slots=4))
    large = put(view, 2, load=idle(running=8, slots=64))
    unknown = put(view, 3, load=idle(running=4, slots=0))
    assert order(view, "least-loaded") == [large, unknown, small]


@pytest.mark.slow
def test_weighted_round_robin_gives_each_its_share() -> None:
    view = new_view()
    tflops = {put(view, 1, advert(gpu=card(24, 300.0))): 300, put(view, 2, advert(gpu=card(24, 100.0))): 100}
    tflops[put(view, 3, advert(gpu=card(24, 0.0)))] = 10
    first = Counter(order(view, "weighted-round-robin", seed)[0] for seed in range(4000))
    for each, weight in tflops.items():
        assert first[each] / 4000 == pytest.approx(weight / 410, abs=0.02)


@pytest.mark.slow
def test_random_gives_everybody_the_same_share_warm_or_not() -> None:
    view = new_view()
    states = (ModelState.RESIDENT, ModelState.SLEEPING, ModelState.ON_DISK, ModelState.RESIDENT)
    peers = [put(view, n, advert(offer(state=int(state)), gpu=card(24))) for n, state in enumerate(states, 1)]
    first = Counter(order(view, "random", seed)[0] for seed in range(4000))
    for each in peers:
        assert first[each] / 4000 == pytest.approx(0.25, abs=0.03)


def test_every_policy_repeats_from_its_seed_and_shares_between_equals() -> None:
    view = new_view()
    for number in range(1, 20):
        put(view, number)
    for policy in POLICIES:
        assert order(view, policy, 7) == order(view, policy, 7)
        assert len({order(view, policy, seed)[0] for seed in range(100)}) > 10


def test_the_cheapest_is_cheapest_for_this_job() -> None:
    view = new_view()
    prompts = put(view, 1, advert(offer(price_in=0.1, price_out=2.0)))
    answers = put(view, 2, advert(offer(price_in=1.0, price_out=0.2)))
    assert order(view, "neuralgrid", sort="price", prompt_tokens=5000, max_tokens=10) == [prompts, answers]
    assert order(view, "neuralgrid", sort="price", prompt_tokens=10, max_tokens=5000) == [answers, prompts]


def test_the_price_of_a_job_to_the_digit() -> None:
    """2,000 tokens at 0.5 USD and 300 at 3 USD per million: 0.001 and 0.0009 USD."""
    view = new_view()
    put(view, 1, advert(offer(price_in=0.5, price_out=3.0)))
    query = JobQuery(MODEL, prompt_tokens=2000, max_tokens=300, sort="price")
    (candidate,) = rank(view, query, DEFAULT, random.Random(1), 1.0, explain=True).candidates
    assert [term.contribution for term in candidate.terms] == pytest.approx([-0.001, -0.0009], rel=1e-9)
    assert candidate.score == pytest.approx(-0.0019, rel=1e-9)


def test_the_fastest_has_the_bandwidth_and_the_soonest_the_short_queue() -> None:
    view = new_view()
    wide = put(view, 1, advert(gpu=card(24, 100.0, 2000.0)), idle(queued_prefill_tokens=100_000))
    near = put(view, 2, advert(gpu=card(24, 100.0, 500.0)), idle())
    cold = put(view, 3, advert(offer(state=int(ModelState.ON_DISK)), gpu=card(24, 900.0, 3000.0)), idle())
    assert by_score(view, "throughput") == [cold, wide, near]
    assert order(view, "neuralgrid", sort="throughput")[-1] == cold, "the resident ones first"
    assert by_score(view, "latency") == [near, cold, wide]
    view.observe_rtt(near, 60.0)
    assert by_score(view, "latency") == [cold, wide, near]


def by_score(view: PeerView, sort: str) -> list[PeerId]:
    """The peers by what they score, whatever was drawn."""
    ranking = rank(view, JobQuery(MODEL, sort=sort), DEFAULT, random.Random(1), 1.0)
    return [each.peer for each in sorted(ranking.candidates, key=lambda each: -each.score)]


@pytest.mark.parametrize("sort", sorted(SORTS))
def test_a_sort_does_not_send_everyone_to_the_one_that_is_a_little_better(sort: str) -> None:
    view = new_view()
    for number in range(1, 11):
        cost = 1 + number / 100
        put(view, number, advert(offer(price_out=cost), gpu=card(24, 100 / cost, 1000 / cost)))
    put(view, 11, advert(offer(price_out=8.0), gpu=card(24, 100 / 8, 1000 / 8)))
    first = Counter(order(view, DEFAULT, seed, sort=sort, prompt_tokens=1000)[0] for seed in range(200))
    assert len(first) >= 9, "ten that are practically equal share the jobs"
    assert max(first.values()) < 60
    assert first[peer(11)] <= 4, "and the one that is much worse hardly gets any"


def test_the_free_ones_share_what_is_sorted_by_price() -> None:
    view = new_view()
    for number in range(1, 6):
        put(view, number, advert(offer(price_out=0.0 if number < 5 else 0.01)))
    first = Counter(order(view, DEFAULT, seed, sort="price")[0] for seed in range(100))
    assert set(first) == {peer(number) for number in range(1, 5)}


SAYS_ALL = advert(offer(price_in=0.5, price_out=1.0), gpu=card(24, 100.0, 1000.0))
SAYS_LITTLE = advert(gpu=card(24, 0.5, 0.5))


@pytest.mark.parametrize(
    ("policy", "said", "load", "assumed"),
    [
        ("neuralgrid", advert(gpu=card(0, 100.0)), None, {"vram fit"}),
        ("neuralgrid", advert(ModelOffer("odd", bytes(16)), gpu=card(24, 100.0)), None, {"vram fit"}),
        ("neuralgrid", advert(gpu=card(24, 0.0)), None, {"compute"}),
        ("neuralgrid-published", advert(gpu=card(0, 100.0)), None, {"vram spare"}),
        ("neuralgrid-published", advert(ModelOffer("odd", bytes(16)), gpu=card(24, 100.0)), None, {"vram spare"}),
        ("gputorrent", advert(gpu=card(0)), None, {"free vram"}),
        ("least-loaded", SAYS_ALL, None, {"jobs per place"}),
        ("least-loaded", SAYS_ALL, idle(slots=0), {"jobs per place"}),
        ("power-of-two", SAYS_ALL, None, {"jobs per place"}),
        ("weighted-round-robin", advert(gpu=card(24, 0.0)), None, {"weight"}),
        ("throughput", advert(gpu=card(24, 100.0, 0.0)), None, {"tokens per second"}),
        ("latency", advert(gpu=card(24, 0.0)), None, {"upload", "queue", "prompt"}),
        ("expected-seconds", advert(gpu=card(24, 0.0)), None, {"upload", "queue", "prompt"}),
        ("expected-seconds", advert(gpu=card(24, 100.0, 0.0)), None, {"upload", "answer"}),
    ],
)
def test_a_term_is_assumed_exactly_where_the_peer_does_not_say_it(
    policy: str, said: Advert, load: Load | None, assumed: set[str]
) -> None:
    never = assumed & {"upload"}  # nothing measures it yet
    for says, runs, expected in ((said, load, assumed), (SAYS_ALL, idle(), never), (SAYS_LITTLE, idle(slots=1), never)):
        view = new_view()
        view.observe_rtt(put(view, 1, says, runs), 0.02)
        sort = policy if policy in SORTS else None
        query = JobQuery(says.models[0].name, sort=sort)
        ranking = rank(view, query, DEFAULT if sort else policy, random.Random(1), 1.0, explain=True)
        terms = ranking.candidates[0].terms
        assert {term.name for term in terms if term.source == "assumed"} == expected


@pytest.mark.parametrize("policy", ["gputorrent", "expected-seconds"])
def test_a_round_trip_is_assumed_until_it_was_measured_but_never_to_this_node(policy: str) -> None:
    view = new_view()
    view.put_self(SAYS_ALL, idle(), 0.0)
    one = put(view, 1, SAYS_ALL, idle())

    def sources() -> dict[PeerId, str]:
        ranking = rank(view, JobQuery(MODEL), policy, random.Random(1), 1.0, explain=True)
        way = {"round trip", "latency"}
        return {each.peer: term.source for each in ranking.candidates for term in each.terms if term.name in way}

    assert sources() == {ME: "observed", one: "assumed"}
    view.observe_rtt(one, 0.02)
    assert sources() == {ME: "observed", one: "observed"}
