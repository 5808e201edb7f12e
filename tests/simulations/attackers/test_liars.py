"""Liars about their load and their specifications: what they claim is believed today."""

from __future__ import annotations

from statistics import median

import pytest

from tests.simulations.attackers.attacked_networks import NODES, ran


@pytest.mark.slow
def test_liars_about_their_load_go_on_getting_jobs_and_keep_them_waiting() -> None:
    # Three networks, because in one alone it is a matter of luck whom a few liars are near to.
    waits, drawn, bad = [], 0.0, 0.0
    for seed in (1, 2, 3):
        _, calm = ran(seed=seed)
        _, metrics = ran("liar_load", amount=20.0, seed=seed)
        waits.append(metrics["ttft_s"]["p99"] / calm["ttft_s"]["p99"])
        drawn, bad = drawn + metrics["bad_job_share"], bad + metrics["bad_peers"] / NODES
    assert median(waits) > 2.0
    assert drawn > 0.75 * bad


@pytest.mark.slow
def test_liars_about_their_specs_are_believed_and_answer_with_another_model() -> None:
    _, metrics = ran("liar_specs")
    world, _ = ran("liar_specs")
    assert metrics["bad_answers"] > 0
    liar = next(peer for peer in world.peers if not peer.honest)
    record = world.peers[0].node.view.get(liar.peer_id)
    assert record is not None
    assert record.advert is not None
    assert {offer.name for offer in record.advert.models} == {m.name for m in world.scenario.models.catalogue}
