"""Bad answers: garbage and forged ends are always noticed, wrong text by nobody."""

from __future__ import annotations

import pytest

from protocol.ids import JobId
from simulations.attackers.answers import FORMS, forged_end
from simulations.attackers.attacker import Attacker
from simulations.run import Run
from simulations.scenario import Attack, Workload
from simulations.sim.jobs import Job, SimAttempt, Truth, job_id
from tests.simulations.attackers.attacked_networks import ran, scenario


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_a_forged_end_completes_an_answer(form: str) -> None:
    world = Run(scenario(Attack(kind="garbage", share=0.5), workload=Workload(kind="none")), seed=3)
    bad = next(peer for peer in world.peers if isinstance(peer, Attacker))
    entry = world.peers[0].entry
    assert entry is not None
    job = Job(77, "m", 10, 10, True, (), 0, 0.0)
    attempt = SimAttempt(1, job, Truth(5), world.peers[0], bad, entry.heard, entry.heard_end)
    heard: list[object] = []
    entry.heard = lambda _attempt, event: heard.append(event)  # type: ignore[method-assign, assignment]
    said = b"" if form == "nothing said" else b"{}"
    entry.heard_end(attempt, forged_end(bad, attempt, form, said), said)
    # An END without a word before it is in order by itself: that there was no word, the cascade knows.
    expected = "Completed" if form == "nothing said" else "AttemptFailed"
    assert [type(event).__name__ for event in heard] == [expected]
    assert job_id(job) == JobId((77).to_bytes(16, "big"))


@pytest.mark.slow
def test_garbage_is_always_noticed_and_still_costs_jobs() -> None:
    world, metrics = ran("garbage")
    assert metrics["success_rate"] < 0.95
    assert metrics["bad_answers"] == 0
    assert world.job_log.outcomes["misbehaved"] > 20
    assert not any(note.bad and note.wrong for note in world.job_log.measured)


@pytest.mark.slow
def test_wrong_answers_are_noticed_by_nobody() -> None:
    _, metrics = ran("wrong_answers")
    assert metrics["success_rate"] == 1.0
    assert metrics["bad_answer_share"] > 0.1


@pytest.mark.slow
def test_truncation_fails_what_was_begun() -> None:
    world, metrics = ran("truncation")
    assert metrics["success_rate"] < 0.9
    assert world.job_log.outcomes["broken"] > 5
    assert world.job_log.outcomes["silent"] > 5


@pytest.mark.slow
def test_refusers_cost_attempts_but_no_job() -> None:
    _, calm = ran()
    world, metrics = ran("refuser")
    assert metrics["attempts_per_job"] > calm["attempts_per_job"] + 0.2
    assert metrics["success_rate"] == 1.0
    assert world.job_log.outcomes["busy"] > 20
