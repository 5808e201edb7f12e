"""Conversations: a turn begins with all that was said before it, and no two share anything."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest

from simulations.scenario import Model, Models
from simulations.workload.workload import Arrival
from tests.simulations.workload.sample_workloads import THREE, jobs, scenario


def by_session(found: list[Arrival]) -> dict[int, list[Arrival]]:
    talks: dict[int, list[Arrival]] = defaultdict(list)
    for job in found:
        talks[job.session].append(job)
    return talks


def test_a_turn_begins_with_all_that_was_said() -> None:
    talks = by_session(jobs(scenario("sessions", 200.0), 20.0))
    assert 0 not in talks
    followed = afresh = 0
    for talk in talks.values():
        assert len({(job.model, job.entry) for job in talk}) == 1
        for one, two in pairwise(talk):
            assert len(two.blocks) == two.prompt_tokens // 16
            assert two.at - one.at >= one.output_tokens * 0.03
            if two.blocks[:1] == one.blocks[:1]:
                followed += 1
                assert two.blocks[: len(one.blocks)] == one.blocks
                assert two.prompt_tokens > one.prompt_tokens + one.output_tokens
            else:
                afresh += 1
                assert not set(two.blocks) & set(one.blocks)
    assert followed > 1000
    assert 0 < afresh < 0.2 * followed


def test_conversations_share_nothing() -> None:
    talks = by_session(jobs(scenario("sessions", 50.0), 20.0))
    last = [{block for job in talk for block in job.blocks} for talk in talks.values()]
    assert sum(map(len, last)) == len(set().union(*last))


@pytest.mark.slow
def test_sessions_have_their_rate_from_the_start() -> None:
    given = scenario("sessions", 80.0, turns=4.0, think_s=20.0)
    at = [job.at for seed in range(4) for job in jobs(given, 50.0, seed)]
    counts = np.histogram(at, bins=4, range=(0, 80))[0]
    assert counts / 4 == pytest.approx([1000] * 4, rel=0.08)


def test_sessions_have_their_turns_and_pauses() -> None:
    given = scenario("sessions", 2000.0, models=Models(catalogue=(Model(name="a-8b", context=1 << 20),)), turns=3.0)
    talks = [talk for talk in by_session(jobs(given, 5.0)).values() if 0 < talk[0].at < 1200]
    whole = [talk for talk in talks if len(talk[0].blocks) < 10_000]
    # Talks that had begun before the start are met with later turns, and are left out.
    fresh = [talk for talk in whole if talk[0].at > 200]
    pauses = [two.at - one.at - 0.03 * one.output_tokens for talk in fresh for one, two in pairwise(talk)]
    assert np.mean([len(talk) for talk in fresh]) == pytest.approx(3.0, rel=0.1)
    assert np.mean(pauses) == pytest.approx(20.0, rel=0.08)
    assert np.std(pauses) == pytest.approx(20.0, rel=0.12)


def test_a_long_conversation_stays_within_the_context() -> None:
    found = jobs(scenario("sessions", 60.0, turns=20.0, think_s=2.0), 20.0)
    context = {model.name: model.context for model in THREE}
    assert all(job.prompt_tokens + job.max_tokens <= context[job.model] for job in found)
