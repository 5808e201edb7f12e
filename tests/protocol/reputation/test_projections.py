"""What the columns of the view say after some jobs, and later."""

from __future__ import annotations

import math
import random

import pytest

from protocol.membership.peer_columns import PEER_COLUMNS
from protocol.membership.peer_view import PeerView
from protocol.perf.forecast import Forecast
from protocol.reputation.correction import FIRST_COUNT, HALF_LIFE_S, NEWCOMER, NEWCOMER_MOST, PRIOR_COUNT, PRIOR_SIGMA
from protocol.reputation.evidence import Dimension
from protocol.reputation.experience import Experience
from protocol.reputation.observation import Observation
from protocol.reputation.outcomes import BLAMED, Outcome
from protocol.routing.policies import DEFAULT
from protocol.routing.ranking import JobQuery, rank
from tests.protocol.sample_peers import ME, MODEL, advert, idle, new_view, offer, peer, put

FORECAST = Forecast(1.0, 0.02, 0.35, 0.0, 1.0, 0.02)


def network() -> tuple[PeerView, Experience]:
    """Two peers with two models, and this node with one of them."""
    view = new_view()
    view.put_self(advert(), idle(), 0.0)
    for number in (1, 2):
        put(view, number, advert(offer(), offer("other")), idle())
    return view, Experience(view)


def job(experience: Experience, slower: float = 1.0, outcome: Outcome = Outcome.COMPLETED, now: float = 0.0) -> None:
    """A job of ours at the first peer."""
    seen = Observation(
        *(peer(1), MODEL, outcome, outcome in BLAMED, slower, 0.02 * slower, 100), forecast=FORECAST, lost_s=1.0
    )
    experience.observed(seen, now)


def offered(view: PeerView, experience: Experience, name: str, model: str = MODEL, now: float = 0.0) -> list[float]:
    """A column of the offers, this node first."""
    offers = view.offers(model)
    assert offers is not None
    experience.project(offers, now)
    return [float(each) for each in offers.column(name)]


def shown(view: PeerView, name: str, number: int = 1) -> float:
    """A column of a peer."""
    record = view.get(peer(number)) if number else view.get(ME)
    assert record is not None
    columns = view.columns if name in PEER_COLUMNS else view.learned.past
    return float(columns[name][record.row])


def test_a_newcomer_is_a_quarter_slower_than_it_claims_and_this_node_is_not() -> None:
    view, experience = network()
    assert offered(view, experience, "prompt_factor") == pytest.approx([1.0, 1.25, 1.25])
    assert offered(view, experience, "sigma") == pytest.approx([PRIOR_SIGMA] * 3)


def test_what_was_learned_of_one_model_is_the_prior_of_the_others() -> None:
    view, experience = network()
    for _ in range(3):
        job(experience, 3.0)
    newcomer = (FIRST_COUNT * NEWCOMER + 2 * NEWCOMER_MOST) / (FIRST_COUNT + 2)  # after the third it is none
    wide = (3 * math.log(3) + PRIOR_COUNT * newcomer) / (3 + PRIOR_COUNT)
    own = (3 * math.log(3) + PRIOR_COUNT * wide) / (3 + PRIOR_COUNT)
    assert offered(view, experience, "token_factor")[1] == pytest.approx(math.exp(own))
    other = offered(view, experience, "token_factor", "other")
    assert other == pytest.approx([math.exp(wide), math.exp(newcomer)])
    assert offered(view, experience, "sigma")[1] < PRIOR_SIGMA


def test_it_leads_back_to_the_newcomer() -> None:
    view, experience = network()
    for _ in range(20):
        job(experience, 3.0)
    factors = [offered(view, experience, "token_factor", now=lives * HALF_LIFE_S)[1] for lives in (0, 2, 4, 16)]
    assert factors == sorted(factors, reverse=True)
    assert factors[0] == pytest.approx(3.0, rel=0.02)
    assert factors[-1] == pytest.approx(1.25, rel=0.01)


def test_a_job_changes_the_columns_of_its_peer_at_once_and_of_others_within_a_second() -> None:
    view, experience = network()
    offered(view, experience, "prompt_factor")
    before = shown(view, "chance", 2)
    job(experience, 3.0, now=0.1)
    assert offered(view, experience, "prompt_factor", now=0.2)[1] > 2.0
    assert shown(view, "completed") == pytest.approx(1.0)
    assert shown(view, "chance", 2) == before
    offered(view, experience, "prompt_factor", now=1.1)
    assert shown(view, "chance", 2) > before, "newcomers are worth more now"


def test_three_jobs_prove_a_peer_unless_it_failed_as_often() -> None:
    view, experience = network()
    for done in range(3):
        assert not shown(view, "proven"), done
        job(experience)
    assert shown(view, "proven")
    for _ in range(3):
        job(experience, outcome=Outcome.FAILED)
    assert not shown(view, "proven")
    offered(view, experience, "sigma")
    assert shown(view, "proven", 0)
    assert (shown(view, "chance", 0), shown(view, "deviation", 0)) == (1.0, 0.0)


def test_a_peer_that_left_is_not_projected() -> None:
    view, experience = network()
    view.remove(peer(1))
    job(experience)
    put(view, 1, advert(offer("other")), idle())
    job(experience)
    assert shown(view, "completed") == pytest.approx(2.0)


def test_a_peer_is_predicted_as_fast_as_its_jobs_were() -> None:
    """A machine that names no GPU is taken for a slow one; after its jobs of a second it is not."""
    view = new_view()
    put(view, 1, advert(offer(), gpus=()), idle())
    experience, rng = Experience(view), random.Random(1)
    query = JobQuery(MODEL, 500, 100)

    def predicted(now: float) -> Forecast:
        forecast = rank(view, query, DEFAULT, rng, now, experience=experience).candidates[0].forecast
        assert forecast is not None
        return forecast

    first = predicted(0.0)
    assert first.ttft_s + 100 * first.itl_s > 50
    for second in range(24):
        forecast = predicted(float(second))
        assert forecast.base_prompt_s == pytest.approx(first.base_prompt_s)
        experience.observed(
            Observation(peer(1), MODEL, Outcome.COMPLETED, False, 0.5, 0.005, 100, forecast=forecast), float(second)
        )
    last = predicted(24.0)
    assert last.ttft_s + 100 * last.itl_s == pytest.approx(1.0, rel=0.5)
    assert last.sigma < first.sigma


def test_what_was_later_than_promised_or_slower_than_predicted_is_evidence() -> None:
    _, experience = network()
    job(experience, 2.0)
    history = experience.histories.get(peer(1))
    assert history is not None
    latency, rate = (history.evidence[each] for each in (Dimension.LATENCY, Dimension.RATE))
    assert (latency.good, latency.bad) == pytest.approx((0.5, 0.5))
    assert (rate.good, rate.bad) == pytest.approx((0.5, 0.5))
