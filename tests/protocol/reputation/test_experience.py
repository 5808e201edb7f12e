"""What the jobs of one observer change in its view."""

from __future__ import annotations

from protocol.membership.peer_view import PeerView
from protocol.reputation.experience import Experience
from protocol.reputation.observation import Observation
from protocol.reputation.outcomes import Outcome
from tests.protocol.sample_peers import new_view, peer, put

A = peer(1)


def view() -> PeerView:
    peers = new_view()
    put(peers, 1)
    peers.set_link(A, True, True, "192.0.2.1", 0.0)
    return peers


def test_a_job_is_in_flight_until_its_end_and_a_good_end_proves_the_peer() -> None:
    peers = view()
    experience = Experience(peers)
    experience.attempted(A)
    record = peers.get(A)
    assert record is not None
    assert record.inflight == 1
    experience.observed(Observation(A, "m", Outcome.COMPLETED, False))
    assert (record.inflight, record.successes) == (0, 1)


def test_a_peer_that_could_not_be_reached_is_marked_until_a_link_stands() -> None:
    peers = view()
    experience = Experience(peers)
    experience.observed(Observation(A, "m", Outcome.COMPLETED, False))
    row = peers.get(A).row  # type: ignore[union-attr]
    assert peers.columns["reached"][row] == 1
    experience.observed(Observation(A, "m", Outcome.UNREACHABLE, True))
    assert peers.columns["reached"][row] == 1  # a link stands: it was reached
    peers.set_link(A, False)
    assert not peers.columns["linked"][row]
    experience.observed(Observation(A, "m", Outcome.UNREACHABLE, True))
    assert peers.columns["reached"][row] == -1
    peers.set_link(A, True, True, "192.0.2.1", 1.0)
    assert peers.columns["reached"][row] == 1
    experience.observed(Observation(peer(2), "m", Outcome.UNREACHABLE, True))
