"""Every kind of attacker does its damage, compared with the same network without it, and meets what stands today."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import median
from typing import Any

import pytest

from protocol.errors import RemoteProtocolError
from protocol.ids import JobId
from protocol.settings import GossipSettings, NodeSettings
from protocol.statements.keys import ADVERT
from protocol.wire.messages import RECORDS, Records, decode, encode
from simulations.attackers import KINDS, peer_class, window
from simulations.attackers.answers import FORMS, forged_end
from simulations.attackers.armed import Attacker
from simulations.attackers.crowding import address_in
from simulations.attackers.damage import time_to_isolate_s
from simulations.attackers.statements import changed, in_name_of, too_long
from simulations.run import Run
from simulations.scenario import Attack, Lengths, Measure, Routing, Scenario, Topology, Workload
from simulations.sim.host import BAN_POINTS, WALL
from simulations.sim.jobs import Job, SimAttempt, Truth, job_id
from simulations.sim.node import SimNode

NODES = 20
SECONDS = 40.0


def scenario(*attacks: Attack, nodes: int = NODES, node: NodeSettings | None = None, **changes: Any) -> Scenario:
    lengths = {"prompt": Lengths(median=200, sigma=0.5, most=2000), "output": Lengths(median=60, sigma=0.5, most=300)}
    given: dict[str, Any] = {
        "name": "attack",
        "duration_s": SECONDS,
        "warmup_s": 10.0,
        "topology": Topology(nodes=nodes, settled=True, clock_skew_s=0.1, per_group=1),
        "workload": Workload(kind="poisson", rate_per_s=5.0, **lengths),  # type: ignore[arg-type]
        "routing": Routing(policy="least-loaded"),
        "measure": Measure(track_every_s=8.0),
        "attacks": attacks,
        "node": node or NodeSettings(),
    }
    return Scenario(**given | changes)


@lru_cache(maxsize=32)
def ran(kind: str = "", share: float = 0.2, seed: int = 3, **named: Any) -> tuple[Run, dict[str, Any]]:
    """A run with one kind of attacker, or without any, and what was measured."""
    attacks = (Attack(kind=kind, share=share, **named),) if kind else ()
    world = Run(scenario(*attacks), seed=seed)
    outcome = world.run()
    assert outcome.breach is None
    return world, outcome.metrics


# --- who is bad -----------------------------------------------------------------------------------------------------


def test_who_is_bad_depends_on_seed_and_number_only_and_never_the_seeds() -> None:
    few, many = (scenario(Attack(kind="black_hole", share=0.5), nodes=nodes) for nodes in (10, 500))
    bad = [index for index in range(500) if issubclass(peer_class(many, 1, index), Attacker)]
    assert bad[:3] == [i for i in range(10) if issubclass(peer_class(few, 1, i), Attacker)][:3]
    assert min(bad) >= many.topology.seeds
    assert 200 < len(bad) < 300
    assert bad != [index for index in range(500) if issubclass(peer_class(many, 2, index), Attacker)]


def test_two_attacks_have_their_own_nodes() -> None:
    both = scenario(Attack(kind="black_hole", share=0.3), Attack(kind="forger", share=0.3), nodes=400)
    kinds = [peer_class(both, 1, index) for index in range(400)]
    counts = [sum(issubclass(kind, KINDS[name]) for kind in kinds) for name in ("black_hole", "forger")]
    assert all(80 < count < 160 for count in counts)
    assert sum(kind is SimNode for kind in kinds) == 400 - sum(counts)


def test_nobody_attacks_in_the_quiet_phase() -> None:
    quiet = scenario(Attack(kind="forger", from_s=5.0), quiet_s=10.0)
    assert window(quiet, quiet.attacks[0]) == (5.0, SECONDS - 10.0)
    assert window(scenario(), Attack(kind="forger")) == (0.0, math.inf)
    assert window(quiet, Attack(kind="forger", from_s=5.0, until_s=20.0)) == (5.0, 20.0)


@pytest.mark.slow
def test_before_its_window_an_attacker_is_an_honest_node() -> None:
    world = Run(scenario(Attack(kind="black_hole", share=0.5, from_s=15.0, until_s=16.0), duration_s=20.0), seed=3)
    outcome = world.run(until=14.9)
    assert outcome.metrics["success_rate"] == 1.0
    assert set(world.job_log.outcomes) == {"completed"}


# --- what is forged is forged ---------------------------------------------------------------------------------------


def forger_world() -> tuple[Run, Attacker, SimNode]:
    world = Run(scenario(Attack(kind="forger", share=0.5)), seed=3)
    world.prepare()
    world.loop.run(1.0)
    bad = next(peer for peer in world.peers if isinstance(peer, Attacker))
    return world, bad, world.peers[0]


@pytest.mark.slow
def test_forged_statements_do_not_verify_and_earn_a_ban() -> None:
    world, bad, victim = forger_world()
    held = world.peers[1].node.gossip.own(ADVERT)
    assert held is not None
    assert held.check()
    forged = [
        changed(held),
        in_name_of(world.peers[1].peer_id, bad.signer, world.peers[1].make_load(), WALL, 7),
        in_name_of(victim.peer_id, bad.signer, victim.make_load(), WALL, 1 << 60),
    ]
    assert not any(envelope.check() for envelope in forged)
    assert forged[0].version > held.version
    assert forged[1].author == world.peers[1].peer_id
    with pytest.raises(RemoteProtocolError):
        decode(RECORDS, encode(Records((too_long(bad.signer, WALL),))))
    assert not victim.refuses(bad)
    link = victim.links.get(bad.peer_id)
    if link is None:
        victim.connect(bad.peer_id, (bad.addr,), lambda _link: None)
        world.loop.run(5.0)
    before = victim.node.gossip.counts.forged
    for _ in range(BAN_POINTS):
        victim.received_bytes(bad.peer_id, RECORDS, encode(Records((forged[0],))))
    assert victim.node.gossip.counts.forged >= before
    assert victim.refuses(bad)
    assert bad.peer_id not in victim.links


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


# --- what is measured -----------------------------------------------------------------------------------------------


def test_isolation_is_when_hardly_any_attempt_goes_to_bad_peers_any_more() -> None:
    log = [(float(second), second < 30 and second % 2 == 0) for second in range(200)]
    assert time_to_isolate_s(log, 0.0) == 30.0
    assert time_to_isolate_s(log, 10.0) == 20.0
    assert time_to_isolate_s([(at, True) for at, _ in log], 0.0) is None
    assert time_to_isolate_s([], 0.0) is None
    assert time_to_isolate_s(log[:40], 0.0) is None  # too few follow to say so


@pytest.mark.slow
def test_without_attacks_there_is_no_damage_to_speak_of() -> None:
    world, metrics = ran()
    assert world.damage is None
    assert "bad_job_share" not in metrics
    assert metrics["success_rate"] == 1.0


# --- what they do ----------------------------------------------------------------------------------------------------


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


@pytest.mark.slow
def test_black_holes_cost_attempts_and_time_and_never_run_a_job() -> None:
    _, calm = ran()
    world, metrics = ran("black_hole")
    assert metrics["attempts_per_job"] > calm["attempts_per_job"] + 0.15
    assert metrics["ttft_s"]["p99"] > 5.0  # the deadline for the first token
    assert world.job_log.outcomes["no_answer"] > 20
    assert sum(peer.worker.executions for peer in world.peers if not peer.honest and peer.worker is not None) == 0


@pytest.mark.slow
def test_a_slow_drip_is_within_every_deadline_and_ruins_the_tail() -> None:
    _, calm = ran()
    world, metrics = ran("slow_drip")
    assert metrics["e2e_s"]["p99"] > 5 * calm["e2e_s"]["p99"]
    assert set(world.job_log.outcomes) <= {"completed", "slow", "unreachable"}


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


@pytest.mark.slow
def test_replays_cost_time_and_change_nothing() -> None:
    world, calm = ran()
    _, metrics = ran("replayer")
    again, _ = ran("replayer")
    stale = sum(peer.node.gossip.counts.stale for peer in again.peers if peer.honest)
    assert stale > 10 * sum(peer.node.gossip.counts.stale for peer in world.peers)
    assert metrics["forged_in_views"] == metrics["false_bans"] == metrics["false_deaths"] == 0
    assert metrics["honest_gossip_bytes_per_s"]["max"] < within_budget(again)
    assert metrics["honest_cpu_share"]["p50"] < 0.1
    assert metrics["success_rate"] == calm["success_rate"]


def within_budget(world: Run) -> float:
    """Bytes per second that gossip may send in the measured time: the budget, and what was saved up before."""
    settings = world.scenario.node.gossip
    return settings.budget_bytes_s + settings.burst_bytes / (SECONDS - world.scenario.warmup_s) + 1024


@pytest.mark.slow
def test_forgers_are_banned_and_nothing_forged_is_in_any_view() -> None:
    world, metrics = ran("forger")
    assert sum(peer.node.gossip.counts.forged for peer in world.peers if peer.honest) > 50
    assert metrics["forged_in_views"] == 0
    assert metrics["bad_banned_share"] == 1.0
    assert metrics["false_bans"] == 0
    assert metrics["bad_neighbours"] < 0.05
    assert metrics["false_deaths"] == 0


@pytest.mark.slow
def test_a_flood_costs_time_but_honest_uploads_stay_within_the_gossip_budget() -> None:
    _, calm = ran()
    world, metrics = ran("flooder", 0.1, amount=40.0)
    assert metrics["honest_cpu_share"]["p50"] > 1.5 * calm["cpu_share"]["p50"]
    assert metrics["honest_gossip_bytes_per_s"]["max"] < within_budget(world)
    assert metrics["success_rate"] > 0.95
    assert metrics["false_bans"] == 0


@pytest.mark.slow
def test_sybils_crowd_views_up_to_the_part_of_their_group() -> None:
    part = 4
    node = NodeSettings(gossip=GossipSettings(view_per_group=part))
    attack = Attack(kind="sybil", share=0.1, identities=10)
    world = Run(scenario(attack, node=node), seed=3)
    outcome = world.run()
    assert outcome.breach is None
    machines = [peer for peer in world.machines if not peer.honest]
    assert machines
    assert len(world.peers) == NODES + 9 * len(machines)
    assert outcome.metrics["bad_job_share"] > 0.3
    assert outcome.metrics["success_rate"] < 1.0
    groups = {address_in(peer.index, 0).rpartition(".")[0] for peer in machines}
    for peer in world.peers:
        if peer.honest:
            for group in groups:
                held = [record for record in peer.node.view.records()[1:] if record.group.startswith(f"{group}.")]
                free = [record for record in held if not (record.linked or record.successes or record.inflight)]
                assert len(free) <= part


@pytest.mark.slow
def test_an_eclipse_takes_the_neighbours_that_others_may_choose_and_no_more() -> None:
    _, calm = ran()
    _, honest = ran("refuser")  # as many, of another kind, who do not push themselves forward
    _, metrics = ran("eclipse")
    assert metrics["bad_neighbours"] > 1.3 * honest["bad_neighbours"]
    assert metrics["eclipsed_share"] == 0.0
    assert metrics["view_completeness"]["p50"] == calm["view_completeness"]["p50"] == 1.0


@pytest.mark.slow
def test_traitors_are_good_first_and_bad_after() -> None:
    world, metrics = ran("traitor", amount=4.0)
    workers = [peer.worker for peer in world.peers if not peer.honest and peer.worker is not None]
    assert all(worker.executions > 0 for worker in workers)
    assert world.job_log.outcomes["no_answer"] > 0
    assert metrics["attempts_per_job"] > 1.05


@pytest.mark.slow
def test_whitewashers_come_back_under_new_names() -> None:
    world, metrics = ran("whitewasher", amount=5.0)
    first = [peer for peer in world.machines if not peer.honest]
    assert len(world.peers) > NODES + len(first)
    assert len({peer.peer_id for peer in world.peers}) == len(world.peers)
    assert all(sum(peer.up for peer in world.peers if peer.address == bad.address) <= 1 for bad in first)
    assert metrics["attempts_per_job"] > 1.1


@pytest.mark.slow
def test_slander_kills_nobody_and_does_not_silence_adverts() -> None:
    _, calm = ran()
    _, metrics = ran("slanderer")
    assert metrics["honest_cpu_share"]["p50"] > 1.5 * calm["cpu_share"]["p50"]
    assert metrics["false_deaths"] == 0
    assert metrics["false_bans"] == 0
    assert metrics["coverage_t99_s"] < 3 * calm["coverage_t99_s"]
    assert metrics["success_rate"] == calm["success_rate"]


@pytest.mark.slow
def test_the_same_attack_goes_the_same_way_twice() -> None:
    attack = scenario(Attack(kind="whitewasher", share=0.2, amount=3.0), duration_s=20.0)
    first, second = Run(attack, 5).run(), Run(attack, 5).run()
    assert first.digest == second.digest
    assert first.metrics == second.metrics
