"""Liars about their load and their specifications: what they claim is believed today."""

from __future__ import annotations

from statistics import median

import pytest

from protocol.perf.gpu_catalog import find_gpu
from simulations.run import Run
from simulations.scenario import Attack, Topology
from tests.simulations.attackers.attacked_networks import NODES, ran
from tests.simulations.small_networks import busy


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


def test_a_boaster_claims_a_gpu_that_no_table_has_and_works_as_its_own_can() -> None:
    attack = Attack(kind="boaster", nodes=(2,), claims=10.0, from_s=1.0)
    made = Run(busy(3, topology=Topology(nodes=3, seeds=1, settled=True), attacks=(attack,)), 1)
    made.prepare()
    made.loop.run(5.0)
    bad, honest = made.peers[2], made.peers[1]
    record = made.peers[0].node.view.get(bad.peer_id)
    assert record is not None
    assert record.advert is not None
    (claimed,), own = record.advert.gpus, bad.machine.gpu
    assert own is not None
    assert find_gpu(claimed.model) is None
    assert claimed.bandwidth_gb_s == 10 * own.bandwidth_gb_s
    assert claimed.vram_mib == own.vram_mib
    assert bad.worker is not None
    assert honest.worker is not None
    assert type(bad.worker) is type(honest.worker)
