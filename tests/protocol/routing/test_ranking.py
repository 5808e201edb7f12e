"""Ranking: each filter with its number, the order, the explanation, and what holds whatever the peers claim."""

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
from protocol.routing.ranking import JobQuery, Ranking, catalog, rank, similar
from protocol.statements.adverts import Advert, Gpu, Load, ModelOffer, ModelState, Status
from protocol.statements.keys import ADVERT, LOAD
from tests.protocol.people import ME, MODEL, advert, card, envelope, idle, new_view, offer, peer, put

NOW = 10.0


def ranked(view: PeerView, *, policy: str = "neuralgrid", explain: bool = True, **wishes: object) -> Ranking:
    query = JobQuery(MODEL, **wishes)  # type: ignore[arg-type]
    return rank(view, query, policy, random.Random(1), NOW, explain=explain)


def chosen(ranking: Ranking) -> list[PeerId]:
    return [candidate.peer for candidate in ranking.candidates]


def why_not(ranking: Ranking, who: PeerId) -> tuple[str, str]:
    return next((each.reason, each.detail) for each in ranking.excluded if each.peer == who)


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


def test_who_fails_two_filters_is_told_the_first() -> None:
    view = new_view()
    dead = put(view, 1)
    view.set_state(dead, "dead", 4.0)
    ranking = ranked(view, prompt_tokens=10**7)
    assert [each.reason for each in ranking.excluded if each.peer == dead] == ["not_alive"]


def test_an_unknown_policy_is_named_with_those_that_exist() -> None:
    with pytest.raises(LocalProtocolError, match="no policy 'best'; choose one of expected-seconds, neuralgrid"):
        ranked(new_view(), policy="best")


# --- filters ----------------------------------------------------------------------------------------------------------


def test_dead_peers_are_left_out_and_doubted_ones_come_last() -> None:
    view = new_view()
    dead, doubted, alive = (put(view, number) for number in (1, 2, 3))
    view.set_state(dead, "dead", 4.0)
    view.set_state(doubted, "suspect", 4.0)
    for policy in POLICIES:
        ranking = ranked(view, policy=policy)
        assert chosen(ranking) == [alive, doubted]
        assert why_not(ranking, dead) == ("not_alive", "dead for 6 s")


def test_old_statements_are_not_believed() -> None:
    view = new_view()
    advert_old, load_old, new = put(view, 1, until=9.0), put(view, 2), put(view, 3)
    assert view.put(envelope(load_old, LOAD), idle(), 0.0, 8.5)
    ranking = ranked(view)
    assert chosen(ranking) == [new]
    assert why_not(ranking, advert_old) == ("stale_advert", "expired 1.0 s ago")
    assert why_not(ranking, load_old) == ("stale_load", "expired 1.5 s ago")


@pytest.mark.parametrize(
    ("status", "word"),
    [(Status.DRAINING, "draining"), (Status.LEFT, "left")],
)
def test_a_peer_that_takes_no_jobs_is_left_out(status: Status, word: str) -> None:
    view = new_view()
    one = put(view, 1, load=idle(status=int(status), running=8, waiting=2))
    assert why_not(ranked(view), one) == ("leaving", f"{word}: 8 running, 2 waiting in 8 places")


def test_a_busy_peer_comes_last_and_is_asked_when_there_is_no_other() -> None:
    view = new_view()
    busy = put(view, 1, advert(gpu=card(24, 900.0)), idle(status=int(Status.BUSY)))
    assert chosen(ranked(view)) == [busy], "its queue may have room: it says so itself if not"
    free = put(view, 2, advert(gpu=card(24, 10.0)))
    assert chosen(ranked(view)) == [free, busy]


@pytest.mark.parametrize(
    ("offered", "wishes", "reason", "detail"),
    [
        (
            {"context": 4096},
            {"prompt_tokens": 4000, "max_tokens": 200},
            "context",
            "holds 4096 tokens, the job needs 4200",
        ),
        ({"capabilities": ("vision",)}, {"capabilities": frozenset({"tools", "vision"})}, "capability", "lacks tools"),
        ({"quantization": "awq"}, {"quantizations": ("fp8", "bf16")}, "quantization", "serves awq"),
        ({}, {"quantizations": ("fp8",)}, "quantization", "serves unknown"),
        ({"price_out": 2.5}, {"max_price": 1.0}, "price", "asks 2.5 USD per million tokens, at most 1"),
    ],
)
def test_an_offer_that_does_not_do_is_left_out(
    offered: dict[str, object], wishes: dict[str, object], reason: str, detail: str
) -> None:
    view = new_view()
    one = put(view, 1, advert(offer(**offered)))
    assert why_not(ranked(view, **wishes), one) == (reason, detail)


def test_an_offer_that_just_does_is_a_candidate() -> None:
    view = new_view()
    fits = offer(context=4200, capabilities=("tools", "vision"), quantization="FP8", price_out=1.0)
    unlimited = offer(context=0, capabilities=("tools",), quantization="fp8")
    both = [put(view, 1, advert(fits)), put(view, 2, advert(unlimited))]
    wishes = {"prompt_tokens": 4000, "max_tokens": 200, "capabilities": frozenset({"tools"})}
    ranking = ranked(view, **wishes, quantizations=("fp8",), max_price=1.0)
    assert sorted(chosen(ranking)) == both
    assert ranking.offered == 2
    unsaid = put(view, 3, advert(offer(capabilities=("tools",))))
    assert unsaid in chosen(ranked(view, **wishes, quantizations=("unknown",)))


def test_memory_counts_for_who_has_to_load_the_model() -> None:
    view = new_view()
    cold = offer(state=int(ModelState.ON_DISK))
    full = put(view, 1, advert(cold), idle(free_vram_mib=4096))
    room = put(view, 2, advert(cold), idle())
    warm = put(view, 3, load=idle(free_vram_mib=10))
    unknown = put(view, 4, advert(cold, gpu=card(0)))
    ranking = ranked(view)
    assert set(chosen(ranking)) == {room, warm, unknown}
    assert why_not(ranking, full) == ("memory", "needs 16384 MiB to load, 4096 are free")


def test_another_version_of_the_protocol_is_left_out() -> None:
    view = new_view()
    one = put(view, 1, Advert(2, models=(offer(),)))
    assert why_not(ranked(view), one) == ("protocol", "speaks version 2, we 1")


def test_who_was_tried_is_not_tried_again() -> None:
    view = new_view()
    one, two = put(view, 1), put(view, 2)
    ranking = ranked(view, exclude=frozenset((one, peer(77))))
    assert chosen(ranking) == [two]
    assert why_not(ranking, one) == ("already_tried", "this job was tried there")
    assert set(chosen(ranked(view, exclude=frozenset((peer(77),))))) == {one, two}


def test_zones() -> None:
    view = new_view()
    view.put_self(advert(), idle(), 0.0)
    friend, stranger = put(view, 1), put(view, 2)
    assert chosen(ranked(view, zone="local")) == [ME]
    assert set(chosen(ranked(view, zone="trusted", trusted=frozenset((friend,))))) == {ME, friend}
    assert chosen(ranked(view, zone="mine")) == [ME]
    assert chosen(ranked(view, zone="local", trusted=frozenset((friend,)))) == [ME]
    assert set(chosen(ranked(view))) == {ME, friend, stranger}
    assert why_not(ranked(view, zone="local"), stranger) == ("zone", "outside the zone 'local'")


def test_peers_are_named_by_id_by_short_id_and_by_name() -> None:
    view = new_view()
    one, two, three = (put(view, n, advert(name=f"box-{n}")) for n in (1, 2, 3))
    names = (peer_text(one), short(two), "box-3")
    for who, name in zip((one, two, three), names, strict=True):
        assert chosen(ranked(view, only=(name,))) == [who]
        assert who not in chosen(ranked(view, ignore=(name,)))
        assert chosen(ranked(view, order=(name,)))[0] == who
    assert chosen(ranked(view, order=names[::-1])) == [three, two, one]
    assert chosen(ranked(view, order=("box-2", peer_text(one), short(two)))) == [two, one, three]
    assert chosen(ranked(view, order=("nobody", "O0O0O0O0"))) != []
    assert why_not(ranked(view, only=names[:2]), three) == ("not_named", "not among the 2 that `only` names")
    assert why_not(ranked(view, ignore=names[2:]), three) == ("ignored", "named by `ignore`")


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
    assert [term.source for term in mine.terms] == ["observed", "measured", "measured", "measured"]


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


# --- the catalogue ----------------------------------------------------------------------------------------------------


def test_the_catalogue_is_the_union_over_those_who_are_there() -> None:
    view = new_view()
    view.put_self(advert(offer("a", quantization="awq", price_out=2.0, price_in=0.1)), idle(), 0.0)
    put(view, 1, advert(offer("a", state=1, context=32768, price_out=1.0, price_in=0.2, capabilities=("tools",))))
    put(view, 2, advert(offer("a", state=0), offer("b"), runtime="simulated"), idle(status=int(Status.BUSY)))
    for number, state in enumerate(("dead", "left"), 3):
        view.set_state(put(view, number, advert(offer("a"), offer("gone"))), state, 0.0)
    put(view, 5, advert(offer("gone")), until=5.0)
    put(view, 6, advert(offer("gone")), idle(status=int(Status.DRAINING)))
    put(view, 7, Advert(9, models=(offer("gone"),)))
    a, b = catalog(view, NOW)
    assert anything(view, NOW)
    assert not anything(new_view(), NOW)
    assert (a.name, a.peers, a.warm, a.sleeping, a.on_disk) == ("a", 3, 1, 1, 1)
    assert (a.context_length, a.quantizations, a.capabilities) == (32768, ("awq",), ("tools",))
    assert (a.price_in, a.price_out, a.fingerprints) == (0.0, 0.0, (bytes(16),))
    assert not a.simulated
    assert (b.name, b.peers, b.simulated) == ("b", 1, True)
    assert 0 < a.expected_wait_s < b.expected_wait_s + 1


def test_a_model_that_nobody_has_warm_is_waited_for() -> None:
    view = new_view()
    put(view, 1, advert(offer("on-disk-8b", state=0), offer("warm-8b")))
    cold, warm = catalog(view, NOW)
    assert cold.expected_wait_s > warm.expected_wait_s + 15


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
