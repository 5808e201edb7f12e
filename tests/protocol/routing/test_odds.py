"""Odds of being asked first: against ten thousand draws, and in tiers; the runner-up and what it lacks."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.ids import PeerId, peer_text
from protocol.membership.peer_view import PeerView
from protocol.reputation.experience import Experience
from protocol.reputation.observation import Observation
from protocol.reputation.outcomes import Outcome
from protocol.routing.candidate_columns import noise
from protocol.routing.candidate_table import CandidateTable
from protocol.routing.job_query import JobQuery
from protocol.routing.odds import (
    BUSY_TIER,
    COLD_TIER,
    NAMED_TIER,
    STALE_TIER,
    RunnerUp,
    first_odds,
    lacking,
    runner_up,
)
from protocol.routing.policies import POLICIES, Part
from protocol.routing.ranking import Ranking, rank
from protocol.statements.adverts import ModelState
from protocol.wire.messages import FreshLoad
from tests.protocol.routing.rankings import NOW, ranked
from tests.protocol.sample_peers import MODEL, advert, card, idle, new_view, offer, put

DEFAULT = POLICIES["expected-seconds"]


def test_the_odds_of_a_draw_are_the_shares_of_many_draws() -> None:
    scores = -np.array([1.0, 1.1, 1.5, 4.0])
    odds = first_odds(np.zeros(4, np.int64), scores, DEFAULT.log_weights(scores))
    draws = 10_000
    first = Counter(int(np.argmax(DEFAULT.keys(scores, noise(seed, 4)))) for seed in range(draws))
    for place in range(4):
        # Four standard deviations of a share of so many draws.
        assert abs(first[place] / draws - odds[place]) < 4 * (odds[place] * (1 - odds[place]) / draws) ** 0.5


def test_the_odds_that_ranking_tells_are_the_shares_of_its_own_first_places() -> None:
    view = new_view()
    view.put_self(advert(gpu=card(24, 90.0, 900.0)), idle(), 0.0)
    for number, power in enumerate((100.0, 80.0, 50.0), 1):
        view.set_state(put(view, number, advert(gpu=card(24, power, 10 * power))), "alive", 1.0)
    view.set_state(put(view, 9, advert(gpu=card(24, 900.0, 9000.0))), "suspect", 1.0)
    told = {each.peer: each for each in ranked(view, policy="expected-seconds").candidates}
    draws, query = 1_000, JobQuery(MODEL)
    first = Counter(
        rank(view, query, "expected-seconds", random.Random(seed), NOW, 1).candidates[0].peer for seed in range(draws)
    )
    for peer, candidate in told.items():
        odds = candidate.odds
        assert odds is not None
        assert abs(first[peer] / draws - odds) <= 4 * (odds * (1 - odds) / draws) ** 0.5
    link, probe = "a warm link, over which it tells its load", "an answer to our probes"
    assert sorted(each.needs for each in told.values()) == [(), (link,), (link,), (link,), (probe, link)]


@pytest.mark.parametrize("fresh", [0, 1, 2, 3, 4, 6])
def test_the_odds_of_the_best_of_three_are_the_shares_of_many_rankings(fresh: int) -> None:
    view = new_view()
    for number, power in enumerate((100.0, 80.0, 50.0, 40.0, 120.0, 60.0), 1):
        who = put(view, number, advert(gpu=card(24, power, 10 * power)), idle())
        view.set_link(who, True)
        if number <= fresh:
            view.put_fresh(who, FreshLoad(slots=8), NOW, math.inf)
    told = {each.peer: each.odds for each in ranked(view, policy="expected-seconds").candidates}
    draws, query = 600, JobQuery(MODEL)
    first = Counter(
        rank(view, query, "expected-seconds", random.Random(seed), NOW, 1).candidates[0].peer for seed in range(draws)
    )
    assert sum(odds or 0.0 for odds in told.values()) == pytest.approx(1.0)
    for who, odds in told.items():
        assert odds is not None
        assert abs(first[who] / draws - odds) <= 4 * (odds * (1 - odds) / draws) ** 0.5


def test_the_odds_of_the_best_of_three_among_extreme_weights() -> None:
    scores = -np.array([1e-3, 1e9, 1e9, 1e9])
    odds = first_odds(np.zeros(4, np.int64), scores, DEFAULT.log_weights(scores), 3)
    assert odds.tolist() == pytest.approx([1.0, 0.0, 0.0, 0.0])


@given(st.lists(st.floats(-60.0, 60.0), min_size=3, max_size=6), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_best_of_three_in_closed_form_is_the_sum_over_all_draws(logs: list[float], rng: random.Random) -> None:
    weights = np.array(logs)
    scores = np.array(rng.sample(range(len(logs)), len(logs)), float)
    exact = [Fraction(float(weight)) for weight in np.exp(weights - weights.max())]
    total, expected = sum(exact), [Fraction(0)] * len(logs)
    for a, b, c in permutations(range(len(logs)), 3):
        left = total - exact[a]
        likely = exact[a] / total * exact[b] / left * exact[c] / (left - exact[b])
        expected[max((a, b, c), key=lambda place: scores[place])] += likely
    odds = first_odds(np.zeros(len(logs), np.int64), scores, weights, 3)
    assert odds == pytest.approx([float(each) for each in expected], abs=1e-12)


def test_equal_candidates_share_as_the_best_of_three() -> None:
    scores = np.array([-1.0, -1.0, -1.0, -2.0])
    odds = first_odds(np.zeros(4, np.int64), scores, DEFAULT.log_weights(scores), 3)
    assert odds[:3] == pytest.approx([1 / 3] * 3)
    assert odds[3] == 0


def met_before(view: PeerView, experience: Experience, jobs: dict[PeerId, int]) -> None:
    """Jobs that went well at these peers."""
    for who, number in jobs.items():
        for _ in range(number):
            experience.attempted(who, NOW)
            experience.observed(Observation(who, MODEL, Outcome.COMPLETED, False), NOW)


def of_twelve(proven: int) -> tuple[PeerView, Experience, Ranking]:
    """Twelve peers in three network groups, the first of them proven and one nearly; and the explanation."""
    view = new_view()
    experience = Experience(view)
    peers = [put(view, number, advert(gpu=card(24, 50.0 + 5 * number, 500.0))) for number in range(1, 13)]
    for number, who in enumerate(peers):
        view.set_link(who, True, True, f"192.0.{number % 3}.{number}", 1.0)
    met_before(view, experience, dict.fromkeys(peers[:proven], 5) | {peers[9]: 1})
    told = rank(view, JobQuery(MODEL), "expected-seconds", random.Random(0), NOW, explain=True, experience=experience)
    return view, experience, told


@pytest.mark.parametrize("proven", [0, 2, 8])
def test_newcomers_have_a_share_in_the_odds(proven: int) -> None:
    _, _, told = of_twelve(proven)
    odds = {each.peer: each.odds or 0.0 for each in told.candidates}
    assert sum(odds.values()) == pytest.approx(1.0)
    assert min(odds.values()) > 0


def test_who_is_named_comes_before_a_newcomer_that_leads() -> None:
    view, experience, told = of_twelve(2)
    (named,) = (each.peer for each in told.candidates if each.odds == max(one.odds or 0.0 for one in told.candidates))
    query = JobQuery(MODEL, order=(peer_text(named),))
    ranking = rank(view, query, "expected-seconds", random.Random(0), NOW, explain=True, experience=experience)
    assert [each.odds for each in ranking.candidates] == [1.0] + [0.0] * 11


@pytest.mark.slow
@pytest.mark.parametrize("proven", [0, 2, 8])
def test_the_odds_count_the_jobs_that_newcomers_lead_and_those_that_are_open_to_them(proven: int) -> None:
    view, experience, told = of_twelve(proven)
    draws, first = 6_000, Counter[PeerId]()
    for seed in range(draws):
        ranking = rank(view, JobQuery(MODEL), "expected-seconds", random.Random(seed), NOW, 1, experience=experience)
        first[ranking.candidates[0].peer] += 1
    for candidate in told.candidates:
        odds = candidate.odds
        assert odds is not None
        assert abs(first[candidate.peer] / draws - odds) <= 4.5 * (odds * (1 - odds) / draws) ** 0.5


def test_without_a_draw_the_best_is_certain_and_equals_share() -> None:
    tiers, scores = np.array([1, 0, 0, 0]), np.array([9.0, 2.0, 1.0, 2.0])
    assert first_odds(tiers, scores, None).tolist() == [0.0, 0.5, 0.0, 0.5]
    assert first_odds(tiers[:0], scores[:0], None).tolist() == []


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-1e9, -1e-3)), min_size=1, max_size=30))
def test_odds_are_probabilities(candidates: list[tuple[int, float]]) -> None:
    tiers, scores = np.array([tier for tier, _ in candidates]), np.array([score for _, score in candidates])
    for weights in (None, DEFAULT.log_weights(scores)):
        for best_of in (0, 3):
            odds = first_odds(tiers, scores, weights, best_of)
            assert odds.sum() == pytest.approx(1.0)
            assert (odds >= 0).all()
            assert not odds[tiers > tiers.min() + (STALE_TIER if best_of else 0)].any()


def test_the_runner_up_is_the_second_likeliest_and_not_the_second_drawn() -> None:
    tiers, scores, odds = np.array([0, 0, 0]), np.array([-3.0, -1.0, -1.42]), np.array([0.1, 0.6, 0.3])
    assert runner_up(tiers, scores, odds, scores, "s") == RunnerUp(2, 1, pytest.approx(0.42), "s", ())
    assert runner_up(tiers[:1], scores[:1], odds[:1], scores[:1], "s") is None
    best, worse = np.array([1.0, 5.0]), np.array([0.0, 1.0])
    cold = runner_up(np.array([COLD_TIER, 0]), best[::-1], worse, best[::-1], "")
    assert cold == RunnerUp(0, 1, 0.0, "", ("the model loaded",))


def test_the_runner_up_lacks_what_decides_among_those_that_were_drawn() -> None:
    tiers, scores, odds = np.array([0, 0]), np.array([-6.0, -5.0]), np.array([0.9, 0.1])
    contest = np.array([-0.1, -0.3])
    assert runner_up(tiers, scores, odds, contest, "s") == RunnerUp(1, 0, pytest.approx(0.2), "s", (), contested=True)
    # By luck of the draw alone: nothing is lacking.
    assert runner_up(tiers, scores, odds, contest[::-1], "s") == RunnerUp(1, 0, 0.0, "s", ())


def test_what_a_later_tier_lacks() -> None:
    assert lacking(0, 0) == ()
    assert lacking(NAMED_TIER - 1, 0) == (
        "a pause after many failures to be over",
        "an answer to our probes",
        "finished jobs of ours",
        "a dial that succeeds",
        "the model loaded",
        "a free slot",
        "a first link",
        "to finish the jobs of ours that it has",
        "a warm link, over which it tells its load",
    )
    assert lacking(COLD_TIER + BUSY_TIER, COLD_TIER) == ("a free slot",)
    assert lacking(2 * NAMED_TIER + COLD_TIER, NAMED_TIER) == ("an earlier place in `order`", "the model loaded")
    assert lacking(COLD_TIER, NAMED_TIER) == ("the model loaded",)


def test_an_explanation_names_the_runner_up_and_its_gap_in_the_unit_of_the_score() -> None:
    view = new_view()
    first = put(view, 1, advert(gpu=card(24, 100.0, 1000.0)))
    second = put(view, 2, advert(gpu=card(24, 50.0, 500.0)))
    ranking = ranked(view, policy="expected-seconds")
    assert (ranking.drawn, ranking.temperature) == (True, 0.3)
    found = ranking.runner_up
    assert found is not None
    assert (ranking.candidates[found.ahead].peer, ranking.candidates[found.place].peer) == (first, second)
    assert found.gap == pytest.approx(ranking.candidates[found.ahead].score - ranking.candidates[found.place].score)
    assert found.unit == "s"
    formula = ranked(view, policy="neuralgrid")
    assert (formula.drawn, formula.temperature) == (False, 0.0)
    assert [each.odds for each in formula.candidates] == [1.0, 0.0]
    assert formula.runner_up is not None
    assert formula.runner_up.unit == ""


def test_a_draw_inside_a_score_tells_no_odds() -> None:
    view = new_view()
    for number in (1, 2):
        put(view, number)
    for policy in ("random", "power-of-two", "weighted-round-robin"):
        ranking = ranked(view, policy=policy)
        assert ranking.drawn
        assert ranking.runner_up is None
        assert {each.odds for each in ranking.candidates} == {None}


def test_an_explanation_tells_which_candidates_have_a_link() -> None:
    view = new_view()
    linked, new = put(view, 1), put(view, 2)
    view.set_link(linked, True)
    assert {each.peer: each.linked for each in ranked(view).candidates} == {linked: True, new: False}


def test_a_loaded_model_is_what_a_cold_peer_lacks() -> None:
    view = new_view()
    put(view, 1)
    cold = put(view, 2, advert(offer(state=ModelState.ON_DISK)))
    assert {each.peer: each.needs for each in ranked(view).candidates}[cold] == ("the model loaded",)


def test_a_value_that_past_jobs_have_corrected_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    view = new_view()
    one = put(view, 1)
    put(view, 2)

    def parts(table: CandidateTable) -> list[Part]:
        zero = np.zeros(len(table))
        corrected = np.array([table.record(place).peer == one for place in range(len(table))])
        return [
            Part("prompt", zero, "s", zero, "advert", lambda: np.zeros(len(table), np.bool_), lambda: corrected),
            Part("failures", zero, "s", zero, "learned"),
        ]

    monkeypatch.setitem(POLICIES, "neuralgrid", dataclasses.replace(POLICIES["neuralgrid"], parts=parts))
    sources = {each.peer: [term.source for term in each.terms] for each in ranked(view).candidates}
    assert sources.pop(one) == ["learned", "learned"]
    assert list(sources.values()) == [["assumed", "learned"]]
