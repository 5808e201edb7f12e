"""Figures of experienced entries, first pieces and links, reckoned by hand."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.reputation.breaker import MOST_FAILURES
from protocol.reputation.observation import Observation
from protocol.reputation.outcomes import Outcome
from simulations.measure import observers
from simulations.run import Run
from simulations.scenario import Attack, Measure, Topology, Workload
from simulations.sim.job_log import JobNote
from simulations.sim.jobs import Job, Truth
from simulations.sim.node import SimNode
from tests.simulations.small_networks import DELAY_S, MODEL, busy, scenario


def note(earlier: int, asked: list[int], end: str = "completed") -> JobNote:
    committed = 1.0 if end == "completed" else None
    return JobNote(1, 0.0, 0, "m", True, committed_at=committed, asked=asked, end=end, earlier=earlier)


def made(experience_jobs: int = 2) -> Run:
    """Node 0 asks; nodes 1 to 3 are honest, node 4 is bad."""
    topology = Topology(nodes=5, seeds=1, latency="uniform", latency_s=DELAY_S)
    given = scenario(
        5,
        topology=topology,
        attacks=(Attack(kind="mute", nodes=(4,)),),
        measure=Measure(experience_jobs=experience_jobs),
        workload=Workload(kind="none"),
    )
    run = Run(given, 1)
    for peer in run.peers:
        peer.up = True
    return run


def test_first_pieces_count_but_for_entries_that_were_lost() -> None:
    notes = [note(0, [1]), note(0, [1]), note(0, [1], "all_failed"), note(0, [1], "entry_crashed")]
    assert observers.answered(notes) == {"first_piece_share": pytest.approx(2 / 3, rel=1e-5)}
    assert observers.answered([note(0, [], "no_entry")]) == {}


def test_only_jobs_of_experienced_entries_count() -> None:
    run = made(experience_jobs=2)
    early = [note(0, [4], "failed"), note(1, [4], "failed")]
    later = [note(2, [4, 1]), note(3, [1]), note(4, [2]), note(5, [3], "failed")]
    found = observers.experienced(early + later, run.scenario, run.peers)
    assert found == {
        "experienced_jobs": 4,
        "experienced_success_rate": 0.75,
        "experienced_bad_first_share": 0.25,
        "experienced_bad_share": 0.2,
        "experienced_bad_over_equal": 1.25,  # a quarter of the jobs, a fifth of the workers
    }
    assert observers.experienced(early, run.scenario, run.peers) == {}


def test_newcomers_are_held_against_an_equal_part() -> None:
    run = made(experience_jobs=0)
    new = run.add(5)
    new.up = True
    notes = [note(0, [5]), note(1, [1]), note(2, [2]), note(3, [3])]
    found = observers.experienced(notes, run.scenario, run.peers)
    assert found["experienced_newcomer_over_equal"] == 1.25  # a quarter, where a fifth of the honest would be equal
    assert found["experienced_bad_over_equal"] == 0.0


def seen(peer: SimNode, outcome: Outcome) -> Observation:
    return Observation(peer.peer_id, "m", outcome, blame=outcome is Outcome.BROKEN)


def test_an_honest_worker_is_shut_out_by_an_open_breaker_or_a_bad_chance() -> None:
    run = made(experience_jobs=2)
    for peer in run.peers:
        peer.start(())
    asker = run.peers[0]
    assert asker.entry is not None
    asker.entry.arrives(Job(1, MODEL, 10, 10, True, (), 0, 0.0), Truth(5))
    run.loop.run(0.5)
    experience = asker.entry.experience
    assert experience is not None
    assert observers.shut_out(run) == {}  # no entry has experience yet
    run.job_log.at_entry[0] = 2
    assert observers.shut_out(run) == {"experienced_shut_out_share": 0.0}
    for peer in run.peers[1:]:
        experience.attempted(peer.peer_id, run.loop.now)
    for _ in range(MOST_FAILURES + 1):
        experience.observed(seen(run.peers[1], Outcome.BUSY), run.loop.now)
        experience.observed(seen(run.peers[2], Outcome.BROKEN), run.loop.now)
        experience.observed(seen(run.peers[4], Outcome.BROKEN), run.loop.now)  # bad, so it may be
    assert observers.shut_out(run) == {"experienced_shut_out_share": pytest.approx(1 / 3, rel=1e-5)}


@pytest.mark.slow
def test_a_run_has_them() -> None:
    run = Run(busy(8, duration_s=20.0, measure=Measure(experience_jobs=3)), 1)
    found: dict[str, Any] = run.run().metrics
    assert found["first_piece_share"] == found["experienced_success_rate"] == 1.0
    assert 0 < found["experienced_jobs"] < found["jobs_measured"]
    assert found["experienced_shut_out_share"] == 0.0
    assert found["links"]["n"] == 8
