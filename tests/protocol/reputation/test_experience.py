"""What the jobs of one observer change in its view."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import PeerId
from protocol.membership.peer_columns import PEER_COLUMNS
from protocol.membership.peer_view import PeerView
from protocol.reputation.breaker import FIRST_S, MOST_FAILURES
from protocol.reputation.evidence import Dimension
from protocol.reputation.experience import FIRST_LOST_S, RETRACT_S, UNHELPFUL_MOST, Experience
from protocol.reputation.newcomers import Newcomers
from protocol.reputation.observation import Observation
from protocol.reputation.outcomes import BLAMED, OF_THE_NETWORK, VERDICTS, Outcome
from tests.protocol.sample_peers import at, new_view, peer, put

A = peer(1)


def view() -> PeerView:
    peers = new_view()
    put(peers, 1)
    peers.set_link(A, True, True, "192.0.2.1", 0.0)
    return peers


def ended(who: PeerId, outcome: Outcome, blame: bool | None = None, lost_s: float = 1.0) -> Observation:
    """An attempt that ended like this."""
    return Observation(who, "m", outcome, outcome in BLAMED if blame is None else blame, lost_s=lost_s)


def shown(peers: PeerView, who: PeerId, name: str) -> float:
    """A column of the view."""
    record = peers.get(who)
    assert record is not None
    columns = peers.columns if name in PEER_COLUMNS else peers.learned.past
    return float(columns[name][record.row])


def test_a_job_is_in_flight_until_its_end_and_a_good_end_proves_the_peer() -> None:
    peers = view()
    experience = Experience(peers)
    experience.attempted(A, 0.0)
    record = peers.get(A)
    assert record is not None
    assert record.inflight == 1
    experience.observed(ended(A, Outcome.COMPLETED), 1.0)
    assert (record.inflight, record.successes) == (0, 1)
    history = experience.histories.get(A)
    assert history is not None
    assert (history.asked, history.completed) == (1, 1)


@pytest.mark.parametrize("outcome", Outcome)
def test_an_outcome_becomes_the_evidence_of_the_table(outcome: Outcome) -> None:
    peers = view()
    experience = Experience(peers)
    experience.histories.of(A, 0.0).completed = 1
    experience.observed(ended(A, outcome), 0.0)
    history, verdict = experience.histories.get(A), VERDICTS[outcome]
    assert history is not None
    for dimension, said in ((Dimension.COMPLETE, verdict.complete), (Dimension.LIVE, verdict.live)):
        evidence = history.evidence.get(dimension)
        expected = None if said is None else (said[0] * said[1], (1 - said[0]) * said[1])
        assert (None if evidence is None else (evidence.good, evidence.bad)) == expected
    good, bad = (verdict.complete or (0, 0))[0] * (verdict.complete or (0, 0))[1], 0.0
    if verdict.complete is not None:
        bad = verdict.complete[1] - good
    assert (shown(peers, A, "good"), shown(peers, A, "bad")) == (good, bad)


@pytest.mark.parametrize("outcome", [Outcome.BUSY, Outcome.REFUSED])
def test_a_peer_that_only_turns_jobs_away_loses_its_prior_within_a_bound(outcome: Outcome) -> None:
    peers = view()
    experience = Experience(peers)
    before = shown(peers, A, "bad")
    for _ in range(20):
        experience.observed(ended(A, outcome), 0.0)
    assert before == 0.0
    assert shown(peers, A, "bad") == pytest.approx(UNHELPFUL_MOST)
    history = experience.histories.get(A)
    assert history is not None
    assert history.breaker.is_closed


def test_a_refusal_that_another_peer_disproved_is_misbehaviour() -> None:
    peers = view()
    experience = Experience(peers)
    for _ in range(6):
        experience.contradicted(A, 0.0)
    assert shown(peers, A, "bad") == 6 * VERDICTS[Outcome.MISBEHAVED].complete[1]  # type: ignore[index]
    history = experience.histories.get(A)
    assert history is not None
    assert history.breaker.barred_until > 0.0


def test_many_failures_bar_a_peer_and_good_jobs_free_it() -> None:
    peers = view()
    experience = Experience(peers)
    for _ in range(MOST_FAILURES + 1):
        experience.attempted(A, 5.0)
        experience.observed(ended(A, Outcome.FAILED), 5.0)
    assert shown(peers, A, "barred_until") == 5.0 + FIRST_S
    for _ in range(2):
        experience.attempted(A, 40.0)
        assert shown(peers, A, "barred_until") > 40.0
        experience.observed(ended(A, Outcome.COMPLETED), 41.0)
    assert shown(peers, A, "barred_until") <= 41.0


def test_a_job_that_says_nothing_ends_a_trial_without_an_effect() -> None:
    peers = view()
    experience = Experience(peers)
    for _ in range(MOST_FAILURES + 1):
        experience.observed(ended(A, Outcome.FAILED), 5.0)
    experience.attempted(A, 40.0)
    experience.observed(ended(A, Outcome.CANCELLED), 41.0)
    assert shown(peers, A, "barred_until") <= 41.0


def test_a_peer_that_could_not_be_reached_is_marked_until_a_link_stands() -> None:
    peers = view()
    experience = Experience(peers)
    experience.observed(ended(A, Outcome.UNREACHABLE), 0.0)
    assert shown(peers, A, "reached") == 1, "a link stands: it was reached"
    peers.set_link(A, False)
    for number, (now, until) in enumerate([(0.0, 30.0), (31.0, 91.0), (92.0, 212.0)]):
        experience.observed(ended(A, Outcome.UNREACHABLE), now)
        experience.observed(ended(A, Outcome.UNREACHABLE), now)
        assert shown(peers, A, "reached") == -1
        assert shown(peers, A, "missed_until") == until, f"miss {number} counts once, and twice as long"
    peers.set_link(A, True, True, "192.0.2.1", 213.0)
    assert shown(peers, A, "reached") == 1
    assert shown(peers, A, "missed_until") < 0
    experience.observed(ended(peer(2), Outcome.UNREACHABLE), 0.0)


def test_what_a_failure_costs_is_the_mean_of_what_they_cost_here() -> None:
    experience = Experience(view())
    assert experience.lost_s == FIRST_LOST_S
    for _ in range(200):
        experience.observed(ended(A, Outcome.SILENT, lost_s=3.0), 0.0)
    assert experience.lost_s == pytest.approx(3.0, abs=0.1)
    experience.observed(ended(A, Outcome.COMPLETED, lost_s=600.0), 0.0)
    assert experience.lost_s == pytest.approx(3.0, abs=0.1)


def test_newcomers_of_a_group_answer_for_each_other_and_the_proven_do_not() -> None:
    peers = new_view()
    for number in (1, 2):
        put(peers, number, at(f"8.8.8.{number}"))
    experience = Experience(peers)
    experience.observed(ended(A, Outcome.UNREACHABLE), 0.0)
    assert shown(peers, peer(2), "group_bad") == 1.0
    put(peers, 3, at("8.8.8.3"))
    assert shown(peers, peer(3), "group_bad") == 1.0
    put(peers, 4, at("9.9.9.4"))
    assert shown(peers, peer(4), "group_bad") == 0.0
    for _ in range(5):
        experience.observed(ended(A, Outcome.COMPLETED), 0.0)
    assert shown(peers, peer(2), "group_good") == 3.0, "after the third it is no newcomer"
    experience.observed(ended(A, Outcome.FAILED), 0.0)
    assert shown(peers, peer(2), "group_bad") == 1.0


def test_a_bad_peer_gains_nothing_by_leaving_the_view() -> None:
    peers = view()
    experience = Experience(peers)
    experience.observed(ended(A, Outcome.FAILED), 0.0)
    peers.remove(A)
    put(peers, 1)
    assert shown(peers, A, "bad") == 2.0


def test_a_history_that_is_forgotten_leaves_the_view_as_well() -> None:
    peers = view()
    experience = Experience(peers, most_peers=1)
    experience.observed(ended(A, Outcome.COMPLETED), 0.0)
    for _ in range(2):
        experience.observed(ended(peer(2), Outcome.COMPLETED), 0.0)
    assert experience.histories.get(A) is None
    assert shown(peers, A, "good") == 0.0


def test_a_group_that_is_forgotten_leaves_the_view_as_well() -> None:
    peers = new_view()
    for number in (1, 2):
        put(peers, number, at(f"8.8.{number}.1"))
    experience = Experience(peers)
    experience.newcomers = Newcomers(most_groups=1)
    for number in (1, 2):
        experience.observed(ended(peer(number), Outcome.FAILED), 0.0)
    put(peers, 3, at("8.8.1.3"))
    assert shown(peers, peer(3), "group_bad") == 0.0


def test_a_network_of_ours_that_fails_blames_no_peer_for_the_first_failures_either() -> None:
    peers = new_view()
    for number in range(1, 5):
        put(peers, number)
    experience = Experience(peers)
    experience.observed(ended(A, Outcome.SILENT), 0.0)
    experience.observed(ended(A, Outcome.FAILED), 1.0)
    for number in (2, 3):
        experience.observed(ended(peer(number), Outcome.SILENT), RETRACT_S + number)
    assert shown(peers, peer(2), "bad") == 2.0
    experience.observed(ended(peer(4), Outcome.SILENT, blame=False), RETRACT_S + 4)
    assert [shown(peers, peer(number), "bad") for number in (2, 3, 4)] == [0.0, 0.0, 0.0]
    assert shown(peers, A, "bad") == pytest.approx(4.0, rel=1e-3), "its failures were before, or its own"


@given(st.lists(st.tuples(st.integers(1, 12), st.sampled_from(sorted(OF_THE_NETWORK))), min_size=1, max_size=60))
def test_p10_an_outage_of_our_own_leaves_no_evidence_against_anyone(failures: list[tuple[int, Outcome]]) -> None:
    peers = new_view()
    for number in range(1, 13):
        put(peers, number)
    experience, failed = Experience(peers), set()
    for number, outcome in failures:
        failed.add(number)
        experience.observed(ended(peer(number), outcome, blame=len(failed) < 3), 1.0)
    experience.observed(ended(peer(1), Outcome.SILENT, blame=False), 2.0)
    assert all(shown(peers, peer(number), "bad") == 0.0 for number in range(1, 13))
    assert all(shown(peers, peer(number), "barred_until") < 0 for number in range(1, 13))
