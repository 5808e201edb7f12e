"""The baselines: one that knows everything, one that takes turns, one that draws two; and that knowing is better."""

from __future__ import annotations

import statistics
from collections import Counter

import msgspec
import pytest

from protocol.routing.policies import POLICIES
from protocol.routing.ranking import JobQuery
from simulations.run import Run, run
from simulations.scenario import Hardware, Model, Models, Routing, Scenario, Topology
from simulations.sim.baselines import BASELINES, chooser
from simulations.sim.entry import Choose
from simulations.sim.jobs import Job
from tests.simulations.small_networks import DELAY_S, MODEL, Caller, busy, indices, ordered, scenario, world

JOB = Job(0, MODEL, 300, 400, True, (), 0, 0.0)
QUERY = JobQuery(MODEL, 300, 400)


def way(policy: str, made: Run) -> Choose:
    """The way of that name to choose among the nodes of a run."""
    return chooser(policy, made.network, made.peers, made.seed)


def asked(made: Run, choose: Choose, at: int = 0, job: Job = JOB) -> list[int]:
    """Whom it would ask, by index."""
    ranking = choose(made.peers[at], JobQuery(job.model, job.prompt_tokens, job.max_tokens), False, None)
    return indices([made.network.by_peer[candidate.peer] for candidate in ranking.candidates])


def test_every_way_has_a_name_and_others_are_refused() -> None:
    made = world(scenario(2))
    for name in (*POLICIES, *BASELINES):
        assert set(asked(made, way(name, made))) == {0, 1}
    with pytest.raises(ValueError, match="omniscient"):
        way("best", made)


def test_taking_turns_is_fair_and_passes_over_who_is_down() -> None:
    made = world(scenario(5))
    choose = way("round-robin", made)
    first = [asked(made, choose)[0] for _ in range(20)]
    assert Counter(first) == dict.fromkeys(range(5), 4)
    assert all(len(set(first[at : at + 5])) == 5 for at in range(15))
    assert [asked(made, choose, at=3)[0] for _ in range(2)] == [3, 4]  # others have turns of their own
    made.peers[2].stop(silently=True)
    assert 2 not in [peer for _ in range(8) for peer in asked(made, choose)]


def test_only_who_has_the_model_is_asked() -> None:
    models = Models(catalogue=(Model(name=MODEL), Model(name="qwen2.5-7b-instruct")))
    made = world(scenario(6, models=models))
    have = [peer.index for peer in made.peers if any(offer.name == MODEL for offer in peer.machine.offers)]
    assert 0 < len(have) < 6
    for name in BASELINES:
        assert set(asked(made, way(name, made))) == set(have)
    unknown = Job(0, "nobody-has-it", 300, 400, True, (), 0, 0.0)
    assert [asked(made, way(name, made), job=unknown) for name in BASELINES] == [[]] * len(BASELINES)


def load(made: Run, index: int, jobs: int, output: int = 3000) -> None:
    """Give a worker so many long jobs."""
    peer = made.peers[index]
    ordered(peer, peer)
    caller = Caller(made, peer)
    for _ in range(jobs):
        caller.ask(output=output, most=output)
    caller.run(0.2)


def test_two_are_drawn_and_the_one_with_fewer_jobs_is_asked_first() -> None:
    made = world(scenario(2))
    choose = way("power-of-two-live", made)
    assert {asked(made, choose)[0] for _ in range(20)} == {0, 1}
    load(made, 1, 3)
    assert [asked(made, choose) for _ in range(20)] == [[0, 1]] * 20


def test_who_knows_everything_sees_what_has_just_begun() -> None:
    made = world(scenario(3, hardware=(Hardware(gpu="rtx 4090", slots=1),)))
    choose = way("omniscient", made)
    assert asked(made, choose)[0] == 0  # all idle: the nearest
    load(made, 0, 2)
    assert asked(made, choose)[0] == 1
    load(made, 1, 2)
    assert asked(made, choose)[0] == 2
    made.peers[2].stop(silently=True)
    assert 2 not in asked(made, choose)  # nor does it wait to be told that somebody is gone
    worker = made.peers[1].worker
    assert worker is not None
    worker.broken = 1
    assert asked(made, choose) == [0]


def test_who_knows_everything_knows_what_is_on_its_way() -> None:
    made = world(scenario(3))
    choose = way("omniscient", made)
    assert asked(made, choose, at=2) == [2, 0, 1]
    ordered(made.peers[1], made.peers[0])
    caller = Caller(made, made.peers[1])
    caller.ask(prompt=4000)
    worker = made.peers[0].worker
    assert worker is not None
    assert worker.arrivals == 0
    assert asked(made, choose, at=2) == [2, 1, 0]
    caller.run(DELAY_S + 0.1)
    assert worker.arrivals == 1
    assert not worker.coming


@pytest.mark.parametrize("crashes", ["entry", "worker"])
def test_what_will_never_come_is_not_on_its_way(crashes: str) -> None:
    made = world(scenario(3))
    ordered(made.peers[1], made.peers[0])
    caller = Caller(made, made.peers[1])
    caller.ask()
    worker = made.peers[0].worker
    assert worker is not None
    assert worker.coming
    made.peers[1 if crashes == "entry" else 0].stop(silently=True)
    caller.run(60.0)
    assert not worker.coming


def test_who_knows_everything_knows_what_a_dial_takes() -> None:
    few = msgspec.structs.replace(scenario().node.neighbours, target=2, most=2)
    made = world(scenario(12, node=msgspec.structs.replace(scenario().node, neighbours=few)))
    linked = {made.network.by_peer[peer].index for peer in made.peers[0].links}
    assert 0 < len(linked) < 6
    order = asked(made, way("omniscient", made))
    assert order[0] == 0
    assert set(order[1 : 1 + len(linked)]) == linked


def test_who_knows_everything_weighs_the_way_against_the_wait() -> None:
    far = Topology(nodes=2, latency="uniform", latency_s=1.0, jitter=0.0, join_s=0.0, settled=True)
    for topology, best in ((far, 0), (None, 1)):
        made = world(scenario(2, **({"topology": topology} if topology else {})), until=15.0)
        worker = made.peers[0].worker
        assert worker is not None
        load(made, 0, 1, output=50)
        ordered(made.peers[0], made.peers[0])
        Caller(made, made.peers[0]).ask(prompt=4000)  # what is read before it, takes half a second
        made.loop.run(made.loop.now + 0.05)
        wait = worker.true_wait_s(JOB)
        assert 2 * DELAY_S < wait < 2.0
        assert asked(made, way("omniscient", made))[0] == best


# --- in a run ------------------------------------------------------------------------------------------------------


def mean_ttft(policy: str, given: Scenario) -> float:
    means = []
    for seed in (1, 2):
        outcome = run(msgspec.structs.replace(given, routing=Routing(policy)), seed)
        assert outcome.breach is None
        assert outcome.metrics["jobs_unserved"] == 0
        means.append(outcome.metrics["ttft_s"]["mean"])
    return statistics.mean(means)


@pytest.mark.slow
def test_nobody_beats_whoever_knows_everything() -> None:
    """Machines of very different speed, busy but not over their heads: the ceiling has to be one, for every way."""
    mixed = (Hardware(gpu="rtx 4090", slots=4), Hardware(gpu="rtx 3060", slots=4), Hardware(gpu="h100", slots=4))
    given = busy(12, 8.0, 25.0, hardware=mixed)
    best = mean_ttft("omniscient", given)
    others = {name: mean_ttft(name, given) for name in (*POLICIES, *BASELINES) if name != "omniscient"}
    assert {name: took for name, took in others.items() if took < 1.1 * best} == {}
    assert others["random"] > 3 * best
