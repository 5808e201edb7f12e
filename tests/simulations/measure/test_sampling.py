"""What is seen from outside is what is so: coverage by counting, ages by true time, samples by what they are of."""

from __future__ import annotations

import math

import msgspec
import pytest

from protocol.effects import Found
from protocol.events import FindProviders
from protocol.ids import name_key
from protocol.statements.keys import ADVERT
from simulations.measure.metrics import outcome_of
from simulations.measure.sampling import TRACK_S, has
from simulations.run import Run
from simulations.scenario import Measure, Scenario, Topology
from simulations.sim.host import WALL
from tests.simulations.small_networks import DELAY_S, MEASURED, MODEL, Caller, ordered, scenario, world


def tracked(nodes: int = 25) -> Scenario:
    return scenario(nodes, duration_s=60.0, warmup_s=5.0, measure=Measure(track_every_s=20.0))


@pytest.mark.slow
def test_the_coverage_of_an_advert_is_who_has_it() -> None:
    """Against a count of all views ten times a second by other means."""
    made = world(tracked(), costs=MEASURED, until=5.0)
    (followed,) = made.watch.tracked
    told = followed.envelope
    assert told is followed.peer.node.gossip.own(ADVERT)
    arrivals: dict[int, float] = {}
    for step in range(1, 301):
        made.loop.run(5.0 + step * TRACK_S + 1e-6)
        for peer in made.peers:
            record = peer.node.view.get(followed.peer.peer_id)
            held = record.advert if record is not None and peer is not followed.peer else None
            if held is not None and held.owner == "changed at 5" and peer.index not in arrivals:
                arrivals[peer.index] = step * TRACK_S
    assert len(arrivals) == 24
    assert sorted(followed.arrivals[: len(arrivals)]) == pytest.approx(sorted(arrivals.values()))
    assert not followed.missing
    first = sorted(arrivals.values())
    made.watch.tracked = [followed]
    metrics = outcome_of(made, None, partial=True).metrics
    assert metrics["coverage_t50_s"] == pytest.approx(first[11], rel=1e-5)
    assert metrics["coverage_t100_s"] == pytest.approx(first[23], rel=1e-5)
    assert metrics["coverage_share"] == 1.0


def test_who_is_gone_is_not_waited_for_and_a_tracked_node_that_dies_counts_for_nothing() -> None:
    made = world(tracked(), until=5.05)
    (followed,) = made.watch.tracked
    victim = next(peer for peer in followed.missing if not has(peer, followed.envelope))
    victim.stop(silently=True)
    made.loop.run(24.0)
    assert followed.nodes == 23
    assert len(followed.arrivals) == 23
    made.loop.run(25.0)
    second = made.watch.tracked[1]
    second.peer.stop(silently=True)
    made.loop.run(26.0)
    assert second.nodes == 0  # not a statement that nobody would have


def test_a_newer_advert_counts_as_well() -> None:
    made = world(scenario(3), until=5.0)
    peer, other = made.peers[:2]
    told = peer.node.gossip.own(ADVERT)
    assert told is not None
    assert has(other, told)
    assert peer.advert is not None
    peer.advertise(msgspec.structs.replace(peer.advert, owner="new"))
    newer = peer.node.gossip.own(ADVERT)
    assert newer is not None
    assert not has(other, newer)
    made.loop.run(10.0)
    assert has(other, newer)
    assert has(other, told)


@pytest.mark.slow
def test_the_age_of_a_load_is_true_though_all_clocks_are_wrong() -> None:
    ages = []
    for skew_s in (0.0, 30.0):
        topology = Topology(
            nodes=20, latency="uniform", latency_s=DELAY_S, jitter=0.0, join_s=0.0, settled=True, clock_skew_s=skew_s
        )
        made = world(scenario(20, topology=topology), until=40.0)
        errors = [peer.wall_error for peer in made.peers]
        assert (max(errors) - min(errors) > 20.0) == (skew_s > 0)
        made.watch.last_look()
        # By hand: a statement says when it was made by its author's clock, whose error we know.
        by_hand = []
        for peer in made.peers:
            for record in peer.node.view.records()[1:]:
                author = made.network.by_peer[record.peer]
                if record.load_env is not None:
                    by_hand.append(made.loop.now - (record.load_env.issued - WALL - author.wall_error))
        assert len(by_hand) > 0.95 * 20 * 19
        assert sorted(made.watch.load_ages) == pytest.approx(sorted(by_hand), abs=1e-6)
        assert min(by_hand) > -1.1
        assert max(by_hand) < 60.0
        ages.append(sum(by_hand) / len(by_hand))
    assert ages[0] == pytest.approx(ages[1], abs=3.0)


def test_completeness_is_the_share_of_the_living_that_are_known() -> None:
    made = world(scenario(20), until=5.0)
    made.watch.last_look()
    assert made.watch.completeness == [1.0] * 20
    made.watch.completeness.clear()
    forgotten = [peer.peer_id for peer in made.peers[1:6]]
    for peer in forgotten:
        made.peers[0].node.view.remove(peer)
    made.watch.last_look()
    assert sorted(made.watch.completeness)[:2] == [pytest.approx(14 / 19), 1.0]
    for peer in made.peers[10:]:
        peer.stop(silently=False)
    made.watch.completeness.clear()
    made.watch.last_look()
    assert len(made.watch.completeness) == 10
    assert max(made.watch.completeness) == 1.0  # the dead that it still knows are not counted


def test_samples_are_rates_since_the_last_one() -> None:
    made = world(scenario(3), until=2.5)
    ordered(made.peers[0], made.peers[1])
    caller = Caller(made, made.peers[0])
    for _ in range(5):
        caller.ask(output=100)
    caller.ask(model="mistral-7b")
    before = [peer.bytes_up for peer in made.peers]
    made.loop.run(3.01)
    after = [peer.bytes_up for peer in made.peers]
    made.loop.run(30.01)
    series = made.watch.series
    assert series["t"] == pytest.approx(range(1, 31))
    at_three = series["t"].index(3.0)
    assert series["jobs_running"][at_three] == 5
    assert sum(series["completed_per_s"]) == 5
    assert sum(series["failed_per_s"]) == 1
    assert series["failed_per_s"][at_three] == 1
    assert series["bytes_up_per_s"][at_three] >= (sum(after) - sum(before)) / 3 * 0.99
    assert series["alive"] == [3] * 30
    assert made.watch.heat[at_three][made.watch.heat_rows.index(made.peers[1])] == pytest.approx(5 / 4)
    assert made.watch.heat[-1] == [0.0, 0.0, 0.0]


def test_traffic_is_counted_from_the_end_of_the_warm_up() -> None:
    made = world(scenario(3, warmup_s=10.0), until=10.0)
    at_warmup = [peer.bytes_up for peer in made.peers]
    made.loop.run(30.0)
    rates = made.watch.traffic()
    assert [rate[0] for rate in rates] == pytest.approx(
        [(peer.bytes_up - before) / 20.0 for peer, before in zip(made.peers, at_warmup, strict=True)]
    )


def test_rates_are_of_the_time_that_a_node_was_up() -> None:
    made = world(scenario(3, warmup_s=10.0), until=10.0)
    before = made.peers[2].bytes_up
    made.loop.run(20.5)
    made.peers[2].stop(silently=True)
    made.loop.run(22.5)
    late = made.add(3)
    made.start(late)
    made.loop.run(30.0)
    rates = made.watch.traffic()
    assert len(rates) == 3  # the newcomer was not there for long enough
    assert rates[2][0] == pytest.approx((made.peers[2].bytes_up - before) / 10.0, rel=0.06)
    made.watch.at_end()
    told = made.watch.traffic()
    made.loop.run(32.0)
    assert made.watch.traffic() == told  # what comes after the window counts for nothing
    made.watch._rates = None
    assert len(made.watch.traffic()) == 4
    assert made.watch.traffic()[3][0] == pytest.approx(late.bytes_up / 10.0)


def test_a_look_up_is_a_find_if_one_of_those_found_lives_and_has_it() -> None:
    made = world(scenario(8), until=30.0)
    found: list[Found] = []

    def look(model: str) -> Found:
        made.peers[0].ask(lambda number: FindProviders(number, name_key(model)), found.append)
        made.loop.run(made.loop.now + 10.0)
        return found[-1]

    def noted(model: str, seen: Found) -> None:
        made.watch.looked_up(made.watch.asks(made.peers[0]), model, seen, 0.5)

    known = look(MODEL)
    noted(MODEL, known)
    assert (made.watch.found, made.watch.found_s) == (1, [0.5])
    noted("mistral-7b", look("mistral-7b"))
    assert made.watch.found == 1
    for peer in made.peers[1:]:
        peer.stop(silently=True)
    made.peers[0].stop(silently=True)
    noted(MODEL, known)
    assert made.watch.found == 1
    assert all(math.isfinite(hops) for hops in made.watch.hops)


def test_a_look_up_whose_asker_is_gone_is_none_but_one_that_is_never_answered_counts() -> None:
    made = world(scenario(3), until=10.0)
    numbers = [made.watch.asks(peer) for peer in made.peers]
    assert made.watch.lookups == 3
    made.watch.looked_up(numbers[0], MODEL, Found(1, (), (), 0), 0.5)
    made.peers[0].stop(silently=True)  # it has its answer
    assert made.watch.lookups == 3
    made.peers[1].stop(silently=True)
    assert made.watch.lookups == 2
    made.start(made.peers[1])
    assert made.watch.lookups == 2
    assert made.watch.found == 0


def test_watching_changes_nothing() -> None:
    digests = []
    for look in (False, True):
        made = Run(scenario(10), 1)
        made.prepare()
        made.loop.run(20.0)
        if look:
            made.watch.last_look()
            made.watch.traffic()
            outcome_of(made, None, partial=True)
        made.loop.run(40.0)
        digests.append(made.loop.digest)
    assert digests[0] == digests[1]
