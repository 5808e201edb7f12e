"""What this node has seen of the peers, in the order of the candidates."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from protocol.ids import PeerId
from protocol.membership.peer_view import PeerView
from protocol.reputation.breaker import MOST_FAILURES
from protocol.reputation.estimator import Estimator
from protocol.reputation.experience import FIRST_LOST_S, Experience
from protocol.reputation.newcomers import ENOUGH, LED_SHARE
from protocol.reputation.observation import Observation
from protocol.reputation.outcomes import BLAMED, Outcome
from protocol.routing.candidate_table import CandidateTable
from protocol.routing.job_query import JobQuery
from protocol.routing.policies import DEFAULT
from protocol.routing.ranking import Ranking, rank
from tests.protocol.routing.rankings import NOW, chosen
from tests.protocol.sample_peers import ME, MODEL, advert, card, idle, new_view, offer, peer, put


def away(number: int, **changes: object) -> object:
    """An advert of a peer in a network group of its own."""
    return advert(addrs=(f"/ip4/8.8.{number}.1/tcp/1",), **changes)


def network(count: int) -> tuple[PeerView, Experience]:
    """A view of so many equal peers, each in its own network group, none of them known."""
    view = new_view()
    for number in range(1, count + 1):
        put(view, number, away(number), idle())  # type: ignore[arg-type]
    return view, Experience(view)


def ended(experience: Experience, who: PeerId, outcome: Outcome, times: int = 1, now: float = NOW) -> None:
    """So many jobs end there like this."""
    for _ in range(times):
        experience.observed(Observation(who, MODEL, outcome, outcome in BLAMED, lost_s=5.0), now)


def asked(view: PeerView, experience: Experience, jobs: int, **wishes: object) -> Counter[PeerId]:
    """Who is asked first, over so many jobs that all end in nothing."""
    query, rng = JobQuery(MODEL, **wishes), random.Random(1)  # type: ignore[arg-type]
    return Counter(rank(view, query, DEFAULT, rng, NOW, experience=experience).candidates[0].peer for _ in range(jobs))


def explained(view: PeerView, experience: Experience, now: float = NOW, **wishes: object) -> Ranking:
    """The dry run."""
    query = JobQuery(MODEL, **wishes)  # type: ignore[arg-type]
    return rank(view, query, DEFAULT, random.Random(1), now, explain=True, experience=experience)


def test_a_failure_costs_seconds_and_the_term_says_so() -> None:
    view, experience = network(2)
    ended(experience, peer(1), Outcome.COMPLETED, 10)
    ended(experience, peer(1), Outcome.FAILED)
    terms = {each.peer: each.terms for each in explained(view, experience).candidates}
    (known,), (assumed,) = ([term for term in terms[peer(number)] if term.name == "failures"] for number in (1, 2))
    assert (known.source, assumed.source) == ("learned", "assumed")
    total = min(sum(term.value for term in each if term.name != "failures") for each in terms.values())
    prior = experience.newcomers.prior(NOW)
    group = (4 * prior + 3) / 7  # its first three jobs were those of a newcomer
    chance = (2 * group + 10) / 14
    assert known.value == pytest.approx((1 - chance) / chance * (experience.lost_s + total), rel=1e-6)
    assert known.contribution == -known.value
    assert experience.lost_s == pytest.approx(FIRST_LOST_S + (5 - FIRST_LOST_S) / 3)


def test_a_peer_that_fails_gets_fewer_jobs_than_one_that_does_not() -> None:
    view, experience = network(4)
    for number in range(1, 5):
        ended(experience, peer(number), Outcome.COMPLETED, 5)
    ended(experience, peer(1), Outcome.FAILED, 4)
    first = asked(view, experience, 300)
    assert first[peer(1)] < 15
    assert min(first[peer(number)] for number in (2, 3, 4)) > 60


def test_a_barred_peer_is_asked_last_and_still_where_it_is_the_only_one() -> None:
    view, experience = network(2)
    ended(experience, peer(1), Outcome.COMPLETED, 200, now=0.0)
    ended(experience, peer(1), Outcome.FAILED, MOST_FAILURES + 1)
    assert chosen(explained(view, experience)) == [peer(2), peer(1)]
    needs = {each.peer: each.needs for each in explained(view, experience).candidates}
    assert needs[peer(1)] == ("a pause after many failures to be over",)
    view.remove(peer(2))
    assert chosen(explained(view, experience)) == [peer(1)]
    put(view, 2, away(2), idle())  # type: ignore[arg-type]
    assert explained(view, experience, now=NOW + 31).candidates[0].needs == ()


def test_newcomers_come_behind_enough_proven_peers_but_for_their_share() -> None:
    view, experience = network(ENOUGH + 4)
    for number in range(1, ENOUGH + 1):
        ended(experience, peer(number), Outcome.COMPLETED, 3)
    new = {peer(number) for number in range(ENOUGH + 1, ENOUGH + 5)}
    order = chosen(explained(view, experience))
    assert set(order[ENOUGH:]) == new
    assert "finished jobs of ours" in explained(view, experience).candidates[-1].needs
    jobs = 400
    first = asked(view, experience, jobs)
    led = sum(first[each] for each in new)
    assert led == pytest.approx(jobs * LED_SHARE, abs=1)
    assert all(first[each] for each in new)


def test_the_fewer_are_proven_the_more_jobs_are_open_to_all() -> None:
    view, experience = network(20)
    shares = []
    for number in range(1, 17):
        first = asked(view, experience, 40)
        shares.append(sum(first[peer(each)] for each in range(number, 21)))
        ended(experience, peer(number), Outcome.COMPLETED, 3)
    assert shares[0] == 40
    assert shares[4] > shares[15]
    assert shares[15] <= 6


def test_a_proven_peer_without_a_free_slot_does_not_hold_jobs_back() -> None:
    view, experience = network(4)
    for number in (1, 2):
        ended(experience, peer(number), Outcome.COMPLETED, 3)
        for _ in range(8):
            view.add_inflight(peer(number), 1)
    first = asked(view, experience, 200)
    assert first[peer(3)] + first[peer(4)] > 100, "all jobs are open: the score decides"


def test_without_newcomers_nobody_leads() -> None:
    view, experience = network(ENOUGH)
    for number in range(1, ENOUGH + 1):
        ended(experience, peer(number), Outcome.COMPLETED, 3)
    assert len(asked(view, experience, 60)) > 8


def test_this_node_trusts_itself() -> None:
    view, experience = network(1)
    view.put_self(advert(), idle(), 0.0)
    explained(view, experience)
    table = CandidateTable(view, view.offers(MODEL), JobQuery(MODEL), NOW, 1, experience)  # type: ignore[arg-type]
    assert table.standing is not None
    mine = table.column("me")
    assert table.standing.proven[mine].all()
    assert table.standing.failures_s(1.0)[mine] < 0.02


@pytest.mark.slow
def test_one_network_group_leads_no_more_often_however_many_it_has() -> None:
    view = new_view()
    experience = Experience(view)
    for number in range(1, ENOUGH + 1):
        put(view, number, away(number), idle())  # type: ignore[arg-type]
        ended(experience, peer(number), Outcome.COMPLETED, 3)
    for number in range(100, 140):
        put(view, number, away(200), idle())  # type: ignore[arg-type]
    put(view, 50, away(50), idle())  # type: ignore[arg-type]
    first = asked(view, experience, 2000)
    crowd = sum(first[peer(number)] for number in range(100, 140))
    assert crowd + first[peer(50)] == pytest.approx(100, abs=1)
    assert 30 < first[peer(50)] < 70, "alone it leads as often as forty together"


@pytest.mark.slow
def test_a_newcomer_that_failed_rarely_leads_and_one_that_is_nearly_proven_often() -> None:
    view, experience = network(ENOUGH + 3)
    for number in range(1, ENOUGH + 1):
        ended(experience, peer(number), Outcome.COMPLETED, 3)
    failed, fresh, near = (peer(ENOUGH + number) for number in (1, 2, 3))
    ended(experience, failed, Outcome.FAILED)
    ended(experience, near, Outcome.COMPLETED, 2)
    first = asked(view, experience, 4000)
    assert first[near] > 4 * first[fresh] > 8 * first[failed]


def test_a_named_peer_goes_first_whatever_newcomers_have_earned() -> None:
    view, experience = network(2)
    ended(experience, peer(1), Outcome.COMPLETED, 3)
    put(view, 3, advert(name="mine"), idle())
    assert asked(view, experience, 50, order=("mine",)) == {peer(3): 50}


def test_the_seed_formulas_know_nothing_of_it() -> None:
    view, experience = network(1)
    strong = put(view, 2, advert(gpu=card(24, 900.0)), idle())
    ended(experience, strong, Outcome.FAILED, 20)
    ranking = rank(view, JobQuery(MODEL), "neuralgrid", random.Random(1), NOW, experience=experience)
    assert chosen(ranking)[0] == strong
    cheap = put(view, 3, advert(offer(price_out=0.0)), idle())
    ended(experience, cheap, Outcome.FAILED, 20)
    assert chosen(explained(view, experience, sort="price"))[-1] in (strong, cheap), "a sort knows"


@pytest.mark.parametrize("estimator", ["mean", "quartile", "draw"])
def test_an_estimator_is_chosen_in_one_place(estimator: Estimator) -> None:
    view, experience = network(40)
    experience = Experience(view, estimator=estimator)
    explained(view, experience)
    table = CandidateTable(view, view.offers(MODEL), JobQuery(MODEL), NOW, 1, experience)  # type: ignore[arg-type]
    assert table.standing is not None
    assert (len(np.unique(table.standing.chance)) > 20) == (estimator == "draw")
    assert ME not in {table.record(place).peer for place in range(len(table))}


def test_a_peer_that_was_never_reached_from_here_is_asked_after_all_that_were() -> None:
    view, experience = network(40)
    view.set_link(peer(7), True, True, "8.8.7.1", NOW)
    view.set_link(peer(9), True, True, "8.8.9.1", NOW)
    view.set_link(peer(9), False)
    order = [each.peer for each in explained(view, experience).candidates]
    assert set(order[:2]) == {peer(7), peer(9)}, "a link that stood once is enough"
    needs = {each.peer: each.needs for each in explained(view, experience).candidates}
    assert needs[peer(9)] == ()
    assert needs[peer(1)] == ("a first link",)
    assert set(asked(view, experience, 30)) == {peer(7), peer(9)}


def test_among_peers_that_were_never_reached_only_the_draw_counts() -> None:
    view, experience = network(4)
    assert len(asked(view, experience, 60)) == 4


def test_a_newcomer_with_more_jobs_than_it_has_finished_waits_until_it_finishes_one() -> None:
    view, experience = network(2)
    experience.attempted(peer(1), NOW)
    assert set(asked(view, experience, 20)) == {peer(2)}
    ended(experience, peer(1), Outcome.COMPLETED)
    experience.attempted(peer(1), NOW)
    assert len(asked(view, experience, 60)) == 2, "one finished job pays for one more at once"
    experience.attempted(peer(1), NOW)
    assert set(asked(view, experience, 20)) == {peer(2)}
    experience.attempted(peer(2), NOW)
    assert len(asked(view, experience, 60)) == 2, "where all have too many the score decides"


def test_a_newcomer_with_jobs_comes_before_peers_that_were_never_reached() -> None:
    view, experience = network(40)
    view.set_link(peer(7), True, True, "8.8.7.1", NOW)
    experience.attempted(peer(7), NOW)
    assert set(asked(view, experience, 20)) == {peer(7)}
    needs = {each.peer: each.needs for each in explained(view, experience).candidates}
    assert needs[peer(7)] == ()
    assert needs[peer(1)] == ("a first link",)
