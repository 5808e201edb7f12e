"""Ranking: the order, the explanation, and what holds whatever the peers claim."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError
from protocol.ids import PeerId, peer_text, short
from protocol.membership.peer_view import PeerView
from protocol.routing.catalog import anything
from protocol.routing.policies import POLICIES, SORTS
from protocol.routing.ranking import JobQuery, Ranking, catalog, prospects, rank, similar
from protocol.statements.adverts import Advert, Gpu, Load, ModelOffer, ModelState, Status
from protocol.statements.keys import ADVERT, LOAD
from protocol.wire.messages import FreshLoad
from tests.protocol.routing.rankings import NOW, chosen, ranked, why_not
from tests.protocol.sample_peers import ME, MODEL, advert, card, envelope, idle, new_view, offer, peer, put


def test_who_offers_nothing_is_told_apart_only_in_an_explanation() -> None:
    view = new_view()
    view.put_self(Advert(1), None, 0.0)
    one = put(view, 1, advert(offer("a"), offer("b"), offer("c"), offer("d")))
    view.set_link(peer(2), True)
    assert ranked(view, explain=False) == Ranking(JobQuery(MODEL), "neuralgrid", ())
    ranking = ranked(view)
    assert why_not(ranking, ME) == ("model", "offers no model")
    assert why_not(ranking, one) == ("model", "offers a, b, c and 1 more")
    assert why_not(ranking, peer(2)) == ("model", "has said nothing of itself")


def test_who_offers_what_was_asked_for_gets_a_place_in_a_full_view() -> None:
    view = PeerView(ME, 1, 64)
    put(view, 1, advert(offer("another model")))
    assert not view.put(envelope(peer(2), ADVERT), advert(offer(MODEL)), NOW, NOW + 60)
    assert ranked(view, explain=False).candidates == ()
    assert view.put(envelope(peer(2), ADVERT), advert(offer(MODEL)), NOW, NOW + 60)
    assert chosen(ranked(view, explain=False)) == [peer(2)]


def test_an_unknown_policy_is_named_with_those_that_exist() -> None:
    with pytest.raises(LocalProtocolError, match="no policy 'best'; choose one of expected-seconds, neuralgrid"):
        ranked(new_view(), policy="best")


def test_a_busy_peer_comes_last_and_is_asked_when_there_is_no_other() -> None:
    view = new_view()
    busy = put(view, 1, advert(gpu=card(24, 900.0)), idle(status=int(Status.BUSY)))
    assert chosen(ranked(view)) == [busy], "its queue may have room: it says so itself if not"
    free = put(view, 2, advert(gpu=card(24, 10.0)))
    assert chosen(ranked(view)) == [free, busy]


def test_the_forecast_tells_how_long_a_step_takes_that_reads_anothers_prompt() -> None:
    view = new_view()
    for number, tflops in ((1, 100.0), (2, 10.0)):
        put(view, number, advert(gpu=card(24, tflops)))
    forecasts = {each.peer: each.forecast for each in ranked(view).candidates}
    fast, slow = forecasts[peer(1)], forecasts[peer(2)]
    assert fast is not None
    assert slow is not None
    assert fast.itl_s < fast.chunk_s < slow.chunk_s


# --- order and explanation --------------------------------------------------------------------------------------------


def test_the_preferred_come_first_whatever_their_score() -> None:
    view = new_view()
    weak = put(view, 1, advert(offer(state=int(ModelState.ON_DISK)), gpu=card(24, 1.0), name="weak"))
    strong = put(view, 2, advert(gpu=card(24, 900.0)))
    assert chosen(ranked(view)) == [strong, weak]
    assert chosen(ranked(view, order=("weak",))) == [weak, strong]


def test_a_sort_overrides_the_policy() -> None:
    assert ranked(new_view(), sort="price").policy == "price"
    assert ranked(new_view(), sort=None).policy == "neuralgrid"


def test_a_limit_gives_the_first_of_the_full_order() -> None:
    view = new_view()
    rng = random.Random(5)
    for number in range(1, 200):
        state = int(rng.choice(list(ModelState)))
        put(view, number, advert(offer(state=state), gpu=card(24, rng.choice((10.0, 20.0)))))
    query = JobQuery(MODEL)
    for policy in POLICIES:
        everybody = chosen(rank(view, query, policy, random.Random(3), NOW, explain=True))
        assert len(everybody) == 199
        for limit in (0, 1, 8, 60, 150, 198, 199, 500):
            some = rank(view, query, policy, random.Random(3), NOW, limit)
            assert chosen(some) == everybody[:limit]
            assert all(candidate.terms == () for candidate in some.candidates)
            assert some.excluded == ()
    assert rank(view, query, "random", random.Random(3), NOW, -1).candidates == ()


def test_this_node_has_no_way_to_go() -> None:
    view = new_view()
    view.put_self(advert(), idle(), 0.0)
    one = put(view, 1, load=idle())
    assert chosen(ranked(view, sort="latency")) == [ME, one]
    mine, other = ranked(view, sort="latency").candidates
    assert (mine.rtt_s, other.rtt_s) == (0.0, None)
    assert mine.terms[0].value == 0.0
    assert [term.source for term in mine.terms] == ["observed"] * 3 + ["measured"] * 4


def test_a_term_says_where_it_comes_from_and_how_old_it_is() -> None:
    view = new_view()
    one = put(view, 1, now=4.0)
    assert view.put(envelope(one, LOAD), idle(running=1), 7.0, 99.0)
    view.observe_rtt(one, 0.02)
    near = {term.name: term for term in ranked(view, policy="gputorrent").candidates[0].terms}
    assert (near["free vram"].source, near["free vram"].age_s) == ("declared", 3.0)
    assert (near["model match"].source, near["model match"].age_s) == ("declared", 6.0)
    assert (near["latency"].source, near["latency"].age_s) == ("observed", None)
    put(view, 2, advert(gpu=card(0, 0.0, 0.0)), now=4.0)
    unknown = ranked(view, only=(peer_text(peer(2)),), policy="gputorrent").candidates[0]
    assert [(term.source, term.age_s) for term in unknown.terms] == [
        ("assumed", None),
        ("declared", 6.0),
        ("assumed", None),
    ]


# --- whatever they claim ----------------------------------------------------------------------------------------------

amounts = st.sampled_from((0.0, 1e-300, 0.5, 100.0, 1e12)) | st.floats(0, 1e12)
counts = st.sampled_from((0, 1, 8, 1 << 31)) | st.integers(0, 1 << 31)
offers = st.builds(
    ModelOffer,
    st.sampled_from((MODEL, "other")),
    st.just(bytes(16)),
    st.integers(0, 2),
    st.sampled_from((0, 300, 8192, 1 << 31)),
    st.sampled_from(("", "awq", "fp8", "🦙")),
    st.sampled_from(((), ("tools",), ("tools", "vision"))),
    *(amounts, amounts, counts, amounts),
)
gpus = st.builds(Gpu, st.text(max_size=8), st.integers(1, 1024), counts, *(amounts,) * 8)
adverts = st.builds(
    Advert,
    st.sampled_from((1, 1, 1, 2)),
    name=st.sampled_from(("", "box")),
    runtime=st.sampled_from(("cuda", "simulated")),
    gpus=st.lists(gpus, max_size=2).map(tuple),
    models=st.lists(offers, max_size=3).map(tuple),
)
loads = st.none() | st.builds(
    Load,
    status=st.sampled_from((0, 0, 0, 1, 2, 3)),
    free_vram_mib=counts,
    running=counts,
    waiting=counts,
    slots=counts,
    queued_prefill_tokens=counts,
)
peers = st.tuples(
    adverts,
    loads,
    st.sampled_from(("alive", "alive", "suspect", "dead", "left")),
    st.sampled_from((5.0, 99.0)),
    st.none() | st.floats(0, 100),
    st.integers(0, 3),
)
queries = st.builds(
    JobQuery,
    st.sampled_from((MODEL, "other", "none")),
    prompt_tokens=st.integers(0, 100_000),
    max_tokens=st.integers(1, 10_000),
    capabilities=st.sampled_from((frozenset(), frozenset({"tools"}))),
    quantizations=st.sampled_from(((), ("awq",), ("unknown", "fp8"))),
    max_price=st.sampled_from((None, None, 1.0)),
    order=st.sampled_from(((), ("box",), (peer_text(peer(2)), short(peer(1))))),
    ignore=st.sampled_from(((), ("box",))),
    only=st.sampled_from(((), (), (peer_text(peer(2)), "box"))),
    sort=st.sampled_from((None, None, *SORTS)),
    zone=st.sampled_from(("anyone", "anyone", "trusted", "local")),
    exclude=st.sampled_from((frozenset(), frozenset({peer(1)}))),
)


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(
    st.lists(peers, max_size=12), queries, st.sampled_from(sorted(POLICIES)), st.none() | adverts, st.integers(1, 12)
)
def test_everybody_is_a_candidate_or_excluded_and_no_claim_makes_a_score_that_is_no_number(
    population: list[tuple[Advert, Load | None, str, float, float | None, int]],
    query: JobQuery,
    policy: str,
    mine: Advert | None,
    limit: int,
) -> None:
    view = new_view()
    view.put_self(mine, None, 0.0)
    for number, (said, load, state, until, rtt_s, inflight) in enumerate(population, 1):
        who = put(view, number, said, load, until=until)
        view.set_state(who, state, 1.0)
        if rtt_s is not None:
            view.observe_rtt(who, rtt_s)
        for _ in range(inflight):
            view.add_inflight(who, 1)
    ranking = rank(view, query, policy, random.Random(0), NOW, explain=True)
    candidates, excluded = chosen(ranking), [each.peer for each in ranking.excluded]
    assert sorted(candidates + excluded) == sorted(record.peer for record in view.records())
    assert all(each.reason and each.detail for each in ranking.excluded)
    for candidate in ranking.candidates:
        assert math.isfinite(candidate.score)
        assert all(math.isfinite(term.value) and math.isfinite(term.contribution) for term in candidate.terms)
        parts = [term.contribution for term in candidate.terms]
        total = math.prod(parts) if ranking.policy == "gputorrent" else sum(parts)
        assert candidate.score == pytest.approx(total)
    fast = rank(view, query, policy, random.Random(0), NOW, limit)
    assert chosen(fast) == candidates[:limit]
    untried = dataclasses.replace(query, exclude=query.exclude | set(candidates))
    assert rank(view, untried, policy, random.Random(0), NOW).candidates == ()
    summaries = catalog(view, NOW)
    assert anything(view, NOW) == bool(summaries)
    for summary in summaries:
        assert math.isfinite(summary.expected_wait_s)
        assert summary.peers == summary.warm + summary.sleeping + summary.on_disk > 0


def test_similar_names_are_offered_for_a_wrong_one() -> None:
    view = new_view()
    names = ("llama-3.1-8b-instruct", "Llama-3.1-70B-Instruct", "qwen3-30b-a3b", "mock-small")
    put(view, 1, advert(*map(offer, names)))
    assert similar(view, "llama-3.1-8b")[0] == "llama-3.1-8b-instruct"
    assert similar(view, "LLAMA-3.1-70b-instruct")[0] == "Llama-3.1-70B-Instruct"
    assert similar(view, "mock-smal") == ("mock-small",)
    assert similar(view, "gpt-5") == ()
    assert similar(view, "") == ()
    assert len(similar(view, "llama-3.1", most=1)) == 1


def test_a_peer_that_could_not_be_reached_is_asked_after_all_that_were_not_tried() -> None:
    view = new_view()
    for number in (1, 2, 3):
        put(view, number, advert(gpu=card(bandwidth=1000.0 / number)))
    view.observe_unreachable(peer(1), NOW - 10)
    assert chosen(ranked(view, policy="random", explain=False))[-1] == peer(1)
    later = rank(view, JobQuery(MODEL), "neuralgrid", random.Random(1), NOW + 21)
    assert chosen(later)[-1] != peer(1), "it is forgotten"


# --- links ------------------------------------------------------------------------------------------------------------


def drawn(view: PeerView, seed: int, **wishes: object) -> list[PeerId]:
    """The order of the default policy."""
    query = JobQuery(MODEL, **wishes)  # type: ignore[arg-type]
    return chosen(rank(view, query, "expected-seconds", random.Random(seed), NOW))


def tell(view: PeerView, who: PeerId, load: FreshLoad) -> None:
    """A link stands, and the peer tells its load over it."""
    view.set_link(who, True)
    view.put_fresh(who, load, NOW, math.inf)


def test_peers_with_a_fresh_load_come_before_all_others_and_the_best_of_three_of_them_first() -> None:
    view = new_view()
    for number in range(1, 9):
        who = put(view, number, advert(gpu=card(24, 100.0 * number)), idle())
        if number <= 4:
            tell(view, who, FreshLoad(slots=8))
        else:
            view.set_link(who, True)
    for seed in range(20):
        order = drawn(view, seed, prompt_tokens=4000)
        assert set(order[:4]) == {peer(number) for number in range(1, 5)}
        assert order[0] == max(order[:3])  # of these the one with the larger number is faster
    assert len({tuple(drawn(view, seed, prompt_tokens=4000)) for seed in range(20)}) > 10


def test_of_those_that_were_drawn_the_soonest_first_token_counts_and_not_the_end() -> None:
    view = new_view()
    fast = put(view, 1, advert(gpu=card(24, 200.0, 3000.0)), idle())
    slow = put(view, 2, advert(gpu=card(24, 100.0, 1000.0)), idle())
    tell(view, fast, FreshLoad(running=8, slots=8))
    tell(view, slow, FreshLoad(slots=8))
    ranking = rank(view, JobQuery(MODEL, max_tokens=200), "expected-seconds", random.Random(1), NOW)
    assert chosen(ranking) == [slow, fast]
    assert ranking.candidates[1].score > ranking.candidates[0].score


def test_of_loads_that_are_not_fresh_only_the_draw_counts() -> None:
    view = new_view()
    for number in range(1, 9):
        put(view, number, advert(gpu=card(24, 100.0 * number)), idle())
    orders = [drawn(view, seed, prompt_tokens=4000) for seed in range(40)]
    assert any(order[0] < order[1] for order in orders), "the slower one goes first as often as it is drawn first"


def test_with_fewer_than_three_fresh_loads_the_first_one_drawn_of_the_others_competes() -> None:
    view = new_view()
    view.put_self(advert(gpu=card(24, 1.0, 1.0)), idle(), 0.0)
    fast = put(view, 1, advert(gpu=card(24, 900.0, 3000.0)), idle())
    view.observe_rtt(fast, 0.01)
    assert drawn(view, 1) == [fast, ME]
    view.observe_unreachable(fast, NOW - 10)
    assert drawn(view, 1) == [ME, fast]


def test_the_dial_is_a_term_until_a_link_stands() -> None:
    view = new_view()
    one = put(view, 1, load=idle())
    view.observe_rtt(one, 0.1)

    def score() -> tuple[float, float]:
        (candidate,) = rank(view, JobQuery(MODEL), "expected-seconds", random.Random(1), NOW, explain=True).candidates
        assert candidate.forecast is not None
        assert candidate.terms[0].name == "dial"
        return candidate.terms[0].value, candidate.forecast.base_wait_s

    assert score() == (pytest.approx(0.3), pytest.approx(0.3 + 0.1))
    view.set_link(one, True)
    assert score() == (0.0, pytest.approx(0.1))


def test_a_link_is_worth_a_dial_to_peers_without_one_that_could_do_the_job() -> None:
    view = new_view()
    view.put_self(advert(), idle(), 0.0)
    linked, failed, other, one, two = (put(view, number, load=idle()) for number in range(1, 6))
    view.set_link(linked, True)
    view.observe_unreachable(failed, NOW)
    query = JobQuery(MODEL, zone="trusted", trusted=frozenset({linked, failed, one, two}))
    assert set(prospects(view, query, random.Random(1), NOW, 8)) == {one, two}
    assert len(prospects(view, JobQuery(MODEL), random.Random(1), NOW, 2)) == 2
    assert other in prospects(view, JobQuery(MODEL), random.Random(1), NOW, 8)
    assert prospects(view, JobQuery("unknown"), random.Random(1), NOW, 8) == []


def test_a_peer_that_could_not_be_reached_a_moment_ago_counts_as_absent() -> None:
    view = new_view()
    put(view, 1, advert())
    assert anything(view, NOW)
    view.observe_unreachable(peer(1), NOW)
    assert why_not(ranked(view), peer(1)) == (
        "unreachable",
        "the last dial failed; it is dialled again in 10 s at the earliest",
    )
    assert not anything(view, NOW + 1000), "other nodes' word that it lives is no proof"
    assert chosen(rank(view, JobQuery(MODEL), "neuralgrid", random.Random(1), NOW + 10)) == [peer(1)]
    view.observe_unreachable(peer(1), NOW + 31)
    assert chosen(rank(view, JobQuery(MODEL), "neuralgrid", random.Random(1), NOW + 50)) == []
    view.set_link(peer(1), True)
    assert chosen(rank(view, JobQuery(MODEL), "neuralgrid", random.Random(1), NOW + 51)) == [peer(1)]
    assert anything(view, NOW + 51)
