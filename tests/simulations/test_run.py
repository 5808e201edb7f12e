"""A whole world: who is in it, where jobs arrive, how it runs and ends, and what a crash leaves."""

from __future__ import annotations

import gc
import time
from collections import Counter

import msgspec
import pytest

from protocol.statements.envelope import seal
from protocol.statements.keys import ADVERT, Ed25519Signer
from protocol.wire.messages import Records
from simulations.run import Run, RunProgress, run
from simulations.scenario import Attack, Churn, Fault, Lengths, Lookups, Measure, Scenario, Topology, Workload
from simulations.sim.cluster import address_of
from simulations.sim.host import WALL
from simulations.workload.workload import Arrival
from tests.simulations.small_networks import DELAY_S, FREE, MEASURED, MODEL, Caller, busy, ordered, scenario, world

# --- who is in it ----------------------------------------------------------------------------------------------------


def test_a_machine_is_the_same_however_many_there_are() -> None:
    few, many = Run(scenario(5), 3), Run(scenario(9), 3)
    for one, other in zip(few.peers, many.peers, strict=False):
        assert (one.peer_id, one.address, one.machine) == (other.peer_id, other.address, other.machine)
    assert Run(scenario(5), 4).peers[0].peer_id != few.peers[0].peer_id
    late = few.add(8)
    assert (late.peer_id, late.machine) == (many.peers[8].peer_id, many.peers[8].machine)
    assert few.network.by_addr[late.addr] is few.network.by_peer[late.peer_id] is late


def test_addresses_fill_networks() -> None:
    addresses = [address_of(index, 4) for index in range(10_000)]
    assert len(set(addresses)) == 10_000
    groups = Counter(address.rpartition(".")[0] for address in addresses)
    assert set(groups.values()) == {4}
    assert all(0 <= int(part) <= 255 for address in addresses for part in address.split("."))


@pytest.mark.slow
def test_clocks_are_off_by_as_much_as_was_asked_for_and_nodes_go_by_their_own() -> None:
    skewed = Topology(nodes=40, latency="uniform", latency_s=DELAY_S, jitter=0.0, join_s=0.0, clock_skew_s=20.0)
    made = world(scenario(40, topology=skewed))
    errors = [peer.wall_error for peer in made.peers]
    assert 14.0 < (sum(error * error for error in errors) / 40) ** 0.5 < 27.0
    assert errors == [peer.wall_error for peer in Run(scenario(40, topology=skewed), 1).peers]
    for peer in made.peers:
        assert peer.wall() == WALL + made.loop.now + peer.wall_error
        told = peer.node.gossip.own(ADVERT)
        assert told is not None
        assert told.issued == pytest.approx(WALL + peer.wall_error, abs=2.1)
        assert peer.inc == int(WALL + peer.wall_error)


def test_nodes_join_one_after_the_other() -> None:
    topology = Topology(nodes=10, latency="uniform", jitter=0.0, join_s=10.0)
    made = Run(scenario(10, topology=topology), 1)
    made.prepare()
    alive = []
    for second in range(10):
        made.loop.run(second + 0.5)
        alive.append(len(made.alive))
    assert alive == list(range(1, 11))
    made.loop.run(40.0)
    assert all(len(peer.node.view) == 9 for peer in made.peers)


# --- where jobs arrive -----------------------------------------------------------------------------------------------


def arrival(entry: float, session: int = 0) -> Arrival:
    return Arrival(0.0, entry, MODEL, 100, 10, 20, session=session)


def test_jobs_arrive_all_over_at_whoever_lives() -> None:
    made = world(scenario(10))
    assert [made._entry(arrival(number / 10)) for number in range(10)] == made.peers
    for peer in made.peers[3:6]:
        peer.stop(silently=True)
    assert made._entry(arrival(0.35)) is made.peers[6]
    for peer in made.peers:
        peer.stop(silently=True)
    assert made._entry(arrival(0.35)) is None


def test_a_conversation_stays_where_it_was_while_that_lives() -> None:
    made = world(scenario(10))
    assert made._entry(arrival(0.05, session=7)) is made.peers[0]
    assert made._entry(arrival(0.95, session=7)) is made.peers[0]
    made.peers[0].stop(silently=True)
    assert made._entry(arrival(0.95, session=7)) is made.peers[9]
    assert made._entry(arrival(0.05, session=7)) is made.peers[9]


def test_only_a_share_of_the_nodes_are_entries() -> None:
    made = world(scenario(10, workload=Workload(kind="none", entries=0.3)))
    assert {made._entry(arrival(number / 50)) for number in range(50)} == set(made.peers[:3])


# --- what it costs -------------------------------------------------------------------------------------------------


def test_a_statement_that_is_new_costs_more_than_one_that_is_known() -> None:
    costs = msgspec.structs.replace(FREE, message_s=0.0, new_record_s=0.1, known_record_s=0.001)
    made = world(scenario(3), costs=costs)
    peer, source = made.peers[0], made.peers[1]
    made.loop.run(30.0)
    signer = Ed25519Signer(b"t" * 32)
    known = tuple(envelope for other in made.peers[1:] if (envelope := other.node.gossip.own(ADVERT)) is not None)
    new = seal(signer, ADVERT, (1, 1), peer.wall(), 60, known[0].payload)
    link = peer.links[source.peer_id]
    assert link.up
    for envelopes, seconds in ((known, 0.002), ((new,), 0.1), ((new,), 0.001)):
        before = peer.cpu_s
        peer.received(source.peer_id, Records(envelopes))
        assert peer.cpu_s - before == pytest.approx(seconds)


def test_a_message_costs_both_ends_by_its_length() -> None:
    costs = msgspec.structs.replace(FREE, message_s=0.02, byte_s=1e-4)
    made = world(scenario(2), costs=FREE, until=5.0)
    a, b = made.peers
    for peer in made.peers:
        peer.costs = costs
    told = b.node.gossip.own(ADVERT)
    assert told is not None
    before, there = a.cpu_s, b.cpu_s
    a.send(b.peer_id, Records((told,)))
    half = 0.01 + 0.5e-4 * len(told.wire)
    assert a.cpu_s - before == pytest.approx(half, rel=0.03)
    made.loop.run(made.loop.now + half + DELAY_S + 0.01)
    assert b.cpu_s - there == pytest.approx(half, rel=0.03)


def test_a_busy_network_is_slower_than_a_free_one() -> None:
    means = []
    for factor in (0.0, 200.0):
        costs = msgspec.structs.replace(FREE, job_worker_s=factor * MEASURED.job_worker_s)
        made = Run(busy(4, 3.0, 15.0), 1)
        for peer in made.peers:
            peer.costs = costs
        means.append(made.run().metrics["ttft_s"]["p50"])
    assert means[1] > 2 * means[0]


# --- links ---------------------------------------------------------------------------------------------------------


def test_a_link_that_serves_nobody_is_closed_and_others_are_not() -> None:
    wanted = msgspec.structs.replace(scenario().node.neighbours, target=2, most=2)
    made = world(scenario(12, node=msgspec.structs.replace(scenario().node, neighbours=wanted)), until=5.0)
    source = made.peers[0]
    strangers = [peer for peer in made.peers[1:] if peer.peer_id not in source.links]
    idle, busy_one, fresh = strangers[:3]
    for peer in (idle, busy_one, fresh):
        source.perform_dial(peer.peer_id, (peer.addr,))
    made.loop.run(7.0)
    standing = [peer for peer in made.peers if source.node.overlay.is_standing(peer.peer_id)]
    assert standing
    assert not {idle.index, busy_one.index, fresh.index} & {peer.index for peer in standing}
    for peer in (idle, busy_one, *standing):
        source.links[peer.peer_id].used_at = made.loop.now - source.settings.connections.idle_s
    source.links[busy_one.peer_id].jobs += 1
    source._close_idle(source.life)  # its time has come
    made.loop.run(7.1)
    assert idle.peer_id not in source.links
    assert source.peer_id not in idle.links
    for peer in (busy_one, fresh, *standing):
        assert peer.peer_id in source.links


# --- what a crash leaves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forgets", [False, True])
def test_who_comes_back_is_the_same_peer_and_knows_what_its_disk_knew(forgets: bool) -> None:
    made = world(scenario(6), until=10.0)
    peer = made.peers[4]
    before, inc, life = peer.peer_id, peer.inc, peer.life
    marks = len(dict(peer.node.snapshot().marks))
    assert marks >= 10
    peer.stop(silently=True, forgets=forgets)
    assert peer not in made.alive
    made.loop.run(60.0)
    made.start(peer)
    assert (peer.peer_id, peer.life) == (before, life + 1)
    assert peer.inc > inc
    assert (len(dict(peer.node.snapshot().marks)) >= 10) is not forgets
    assert len(peer.node.view) == 0
    made.loop.run(120.0)
    assert len(peer.node.view) == 5
    for other in made.peers:
        record = other.node.view.get(before)
        assert record is not None
        assert record.advert_env is not None or other is peer
        if record.advert_env is not None and other is not peer:
            assert record.advert_env.inc >= peer.inc  # the others have heard of the new life
    made.checks.look()


def test_who_dies_without_a_word_is_noticed_and_how_late_is_told() -> None:
    made = world(scenario(6), until=10.0)
    made.peers[4].stop(silently=True)
    made.loop.run(200.0)
    settings = made.scenario.node.liveness
    found = made.job_log.true_deaths
    assert found
    assert made.job_log.false_deaths == 0
    assert all(0 < seconds < settings.period_s * (settings.misses + 2) for seconds in found)


# --- how it runs and ends --------------------------------------------------------------------------------------------


def test_a_run_that_is_cut_short_says_so() -> None:
    given = busy(4, 2.0, 20.0)
    whole, part = run(given, 1), run(given, 1, until=8.0)
    assert (whole.partial, part.partial) == (False, True)
    assert part.virtual_s >= 8.0
    assert part.metrics["jobs_submitted"] < whole.metrics["jobs_submitted"]
    stopped = RunProgress(stop=True)
    assert run(given, 1, stopped).partial
    assert gc.isenabled()


def digests(given: Scenario, until: float | None) -> dict[float, str]:
    """Of all events so far, at every look from outside."""
    made = Run(given, 3)
    look, found = made.checks.look, {}

    def noting() -> None:
        found.setdefault(made.loop.now, made.loop.digest)
        look()

    made.checks.look = noting  # type: ignore[method-assign]
    assert made.run(until=until).breach is None
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["poisson", "sessions", "trace"])
def test_where_a_run_is_cut_short_changes_nothing_before_that(kind: str) -> None:
    """The command that repeats a breach says ``--until``: it has to lead there."""
    jobs = Workload(kind=kind, rate_per_s=3.0, trace="mooncake-conversation" if kind == "trace" else "")  # type: ignore[arg-type]
    given = busy(
        *(10, 3.0, 40.0),
        workload=jobs,
        quiet_s=8.0,
        chaos=True,
        lookups=Lookups(rate_per_s=2.0),
        churn=Churn(model="exponential", mean_session_s=30.0, mean_off_s=5.0, newcomers_per_s=0.1),
        faults=(Fault(kind="partition", at_s=8.0, for_s=10.0), Fault(kind="crash", at_s=14.0, for_s=5.0)),
        attacks=(Attack(kind="garbage", share=0.2), Attack(kind="flooder", share=0.1, amount=5.0)),
        measure=Measure(track_every_s=5.0, liveness_s=60.0),
    )
    whole = digests(given, None)
    for until in (9.0, 16.0, 30.5):
        part = digests(given, until)
        assert {at: part[at] for at in part if at < until} == {at: whole[at] for at in part if at < until}
        assert whole.get(until, part[until]) == part[until]


def test_jobs_under_way_at_the_end_are_waited_for() -> None:
    made = Run(busy(4, 3.0, 12.0), 1)
    outcome = made.run()
    assert made.loop.now > 12.0
    assert made.job_log.measured_open == 0
    assert outcome.metrics["jobs_measured"] == len(made.job_log.measured)
    assert all(note.end for note in made.job_log.measured)


@pytest.mark.slow
def test_a_long_answer_is_waited_for_and_no_longer_than_that() -> None:
    jobs = Workload(rate_per_s=1.0, output=Lengths(median=12000.0, sigma=0.0, most=12000))
    made = Run(scenario(8, duration_s=6.0, workload=jobs), 1)
    told = RunProgress()
    outcome = made.run(told)
    assert outcome.breach is None
    assert (told.virtual_s, told.waiting, told.events) == (6.0, 0, outcome.events)
    assert told.rest_s == pytest.approx(outcome.virtual_s - 6.0)
    assert (outcome.metrics["jobs_open"], outcome.metrics["success_rate"]) == (0, 1.0)
    assert outcome.virtual_s > 6.0 + 130.0
    last = max(note.ended_at for note in made.job_log.measured if note.ended_at is not None)
    assert outcome.virtual_s <= last + 1.0


@pytest.mark.slow
def test_gossip_ends_where_it_has_no_say_any_more() -> None:
    jobs = Workload(rate_per_s=1.0, output=Lengths(median=12000.0, sigma=0.0, most=12000))
    made = Run(scenario(8, duration_s=20.0, workload=jobs), 1)
    outcome = made.run()
    before = 20.0 * 8 * outcome.metrics["gossip_bytes_per_s"]["mean"]
    after = sum(peer.uploads.gossip_bytes for peer in made.peers) - before
    assert outcome.virtual_s > 150.0
    assert after < 0.2 * before, "in a time six times as long"
    assert outcome.metrics["success_rate"] == 1.0


def test_a_job_that_finds_no_node_counts_as_failed() -> None:
    down = Fault(kind="crash", at_s=6.0, for_s=10.0, share=1.0)
    made = Run(busy(3, 3.0, 20.0, faults=(down,)), 1)
    outcome = made.run()
    assert outcome.breach is None
    lost = made.job_log.ends["no_entry"]
    assert lost > 10
    found = outcome.metrics
    assert found["jobs_submitted"] == found["jobs_completed"] + found["jobs_failed"] + found["jobs_open"]
    assert found["jobs_unserved"] >= lost
    assert found["success_rate"] < 0.7


def test_what_a_run_costs_is_told_without_the_rest() -> None:
    made = Run(busy(4, 3.0, 12.0), 1)
    begun = time.process_time()
    outcome = made.run()
    assert outcome.end_s == 12.0 < outcome.virtual_s
    assert begun < outcome.end_cpu_s < time.process_time()


def test_impatient_callers_are_gone_in_time() -> None:
    jobs = Workload(rate_per_s=4.0, patience_s=0.5)
    made = Run(scenario(4, workload=jobs, duration_s=10.0), 1)
    outcome = made.run()
    assert outcome.breach is None
    assert made.job_log.ends["cancelled"] > 10
    for note in made.job_log.measured:
        assert note.ended_at is not None
        assert note.ended_at - note.asked_at <= 0.5 + 1e-9


def test_questions_are_asked_after_the_warm_up_only() -> None:
    given = scenario(6, lookups=Lookups(rate_per_s=5.0), duration_s=30.0, warmup_s=10.0)
    made = Run(given, 1)
    outcome = made.run()
    assert made.watch.lookups == pytest.approx(50, abs=25)
    assert outcome.metrics["dht_found_share"] > 0.9


def test_a_breach_ends_the_run_and_is_in_the_outcome() -> None:
    made = Run(busy(4, 2.0, 20.0), 1)
    made.loop.at(6.5, made.job_log.violations.append, "I2: job 3 was answered twice")
    outcome = made.run()
    assert outcome.breach == {"invariant": "I2", "at_s": 7.0, "what": "job 3 was answered twice"}
    assert made.loop.now == 7.0
    assert gc.isenabled()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["crash", "crash_forget", "freeze"])
def test_no_job_is_lost_while_entries_and_workers_break(kind: str) -> None:
    faults = tuple(Fault(kind=kind, at_s=at, for_s=4.0, share=0.3) for at in (6.0, 9.0, 12.0))
    made = Run(busy(10, 8.0, 25.0, faults=faults), 1)
    outcome = made.run()
    assert outcome.breach is None
    found = outcome.metrics
    assert found["jobs_submitted"] == found["jobs_completed"] + found["jobs_failed"] + found["jobs_open"]
    assert sum(made.job_log.ends.values()) == found["jobs_completed"] + found["jobs_failed"]
    assert (made.job_log.ends["entry_crashed"] > 0) is (kind != "freeze")
    assert found["success_rate"] > 0.5
    assert found["jobs_submitted"] > 100


@pytest.mark.slow
def test_churn_loses_no_job_either() -> None:
    churn = Churn(model="exponential", mean_session_s=20.0, mean_off_s=5.0, spare_seeds=True)
    outcome = run(busy(10, 6.0, 30.0, churn=churn), 2)
    assert outcome.breach is None
    found = outcome.metrics
    assert found["jobs_submitted"] == found["jobs_completed"] + found["jobs_failed"] + found["jobs_open"]


def test_a_caller_and_his_job_are_at_the_same_node() -> None:
    made = world(scenario(3))
    ordered(made.peers[2], made.peers[0])
    note = Caller(made, made.peers[2]).ask()
    made.loop.run(10.0)
    assert (note.entry, note.worker, note.end) == (2, 0, "completed")
