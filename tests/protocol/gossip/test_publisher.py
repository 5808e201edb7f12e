"""When a node says something of itself: on change, at its period, and never more than the byte budget bears."""

from __future__ import annotations

import itertools
import random

import pytest

from protocol.gossip.publisher import (
    ADVERT_SHARE,
    COPIES,
    COPIES_OF_FEW,
    LEAST_LINKS,
    LOAD_SHARE,
    Publisher,
    changed,
    few_of,
)
from protocol.settings import GossipSettings
from protocol.statements.adverts import Load, Status
from protocol.statements.envelope import MAX_INC, MAX_TTL_S, Envelope, read
from protocol.statements.keys import ADVERT, LOAD
from tests.protocol.harness import WALL, advert_of, signer_of

IDLE = Load(slots=8, free_vram_mib=8000, tokens_s=40)


def announcer(inc: int = 1, **changes: float) -> Publisher:
    return Publisher(signer_of(0), GossipSettings(**changes), random.Random(1), inc)  # type: ignore[arg-type]


def kinds(envelopes: list[Envelope]) -> list[int]:
    return [envelope.kind for envelope in envelopes]


def test_the_first_advert_brings_a_load_and_the_same_one_says_nothing() -> None:
    node = announcer()
    assert node.state_due(1, 0.0, WALL) == []
    assert kinds(node.advertise(advert_of(0), 1, 0.0, WALL)) == [ADVERT, LOAD]
    assert node.advertise(advert_of(0), 1, 1.0, WALL) == []
    changed_advert = node.advertise(advert_of(1), 1, 2.0, WALL)
    assert kinds(changed_advert) == [ADVERT]
    assert read(changed_advert[0]) == advert_of(1)


def test_a_load_before_the_first_advert_waits_for_it() -> None:
    node = announcer()
    assert node.report(IDLE, 1, 0.0, WALL) == []
    stated = node.advertise(advert_of(0), 1, 1.0, WALL)
    assert read(stated[1]) == IDLE


def test_statements_are_repeated_in_time_with_rising_versions() -> None:
    node = announcer()
    stated = node.advertise(advert_of(0), 30, 0.0, WALL)
    for tick in range(1, 301):
        stated += node.state_due(30, float(tick), WALL + tick)
    loads = [envelope for envelope in stated if envelope.kind == LOAD]
    adverts = [envelope for envelope in stated if envelope.kind == ADVERT]
    assert 50 <= len(loads) <= 76
    assert 5 <= len(adverts) <= 7
    assert [envelope.version for envelope in stated] == sorted(envelope.version for envelope in stated)
    assert {envelope.ttl for envelope in loads} == {20}
    assert {envelope.ttl for envelope in adverts} == {120}
    gaps = [b.issued - a.issued for a, b in itertools.pairwise(adverts)]
    assert max(gaps) <= 61


def test_a_changed_load_comes_early_but_not_too_often() -> None:
    node = announcer()
    node.advertise(advert_of(0), 1, 0.0, WALL)
    busy = Load(running=4, slots=8)
    assert node.report(busy, 1, 0.5, WALL) == []
    assert kinds(node.state_due(1, 1.0, WALL)) == []
    assert kinds(node.state_due(1, 1.3, WALL)) == [LOAD]
    assert node.report(Load(running=4, slots=8, temperature_c=60), 1, 4.0, WALL) == []  # not worth it


def test_a_status_waits_for_one_tick_only() -> None:
    node = announcer()
    node.advertise(advert_of(0), 1, 0.0, WALL)
    assert node.report(Load(status=int(Status.DRAINING)), 1, 0.9, WALL) == []
    assert kinds(node.report(Load(status=int(Status.DRAINING)), 1, 1.0, WALL)) == [LOAD]


def test_goodbye_is_the_last_word() -> None:
    node = announcer()
    node.advertise(advert_of(0), 1, 0.0, WALL)
    (goodbye,) = node.leave(1, 0.0, WALL)
    assert read(goodbye) == Load(status=int(Status.LEFT))
    assert node.leave(1, 1.0, WALL) == []
    assert node.report(IDLE, 1, 9.0, WALL) == node.state_due(1, 99.0, WALL) == node.refute(1, 99.0, WALL) == []


def test_a_doubt_is_refuted_once_per_load_period_however_many_there_are() -> None:
    node = announcer()
    assert node.refute(1, 0.0, WALL) == []
    (_, load) = node.advertise(advert_of(0), 1, 0.0, WALL)
    assert [node.refute(1, at / 10, WALL) for at in range(1, 50)] == [[]] * 49
    (again,) = node.refute(1, 5.0, WALL)
    assert again.version > load.version
    assert node.refute(1, 9.9, WALL) == []


def test_a_newer_statement_in_our_name_is_overtaken_but_two_holders_of_a_key_do_not_race() -> None:
    node = announcer()
    assert node.overtake(7, 1, 0.0, WALL) == []  # nothing was said yet
    assert node.inc == 8
    node.advertise(advert_of(0), 1, 1.0, WALL)
    assert node.overtake(8, 1, 2.0, WALL) == []
    assert [envelope.inc for envelope in node.overtake(8, 1, 5.0, WALL)] == [9, 9]
    assert node.overtake(8, 1, 50.0, WALL) == []


def test_above_the_last_incarnation_there_is_none() -> None:
    node = announcer()
    node.advertise(advert_of(0), 1, 1.0, WALL)
    assert node.overtake(MAX_INC, 1, 5.0, WALL) == []
    assert [envelope.inc for envelope in node.overtake(MAX_INC - 1, 1, 50.0, WALL)] == [MAX_INC, MAX_INC]


def test_a_node_without_an_advert_repeats_what_it_said() -> None:
    node = announcer()
    assert node.repeat(1, 0.0, WALL) == []
    assert kinds(node.leave(1, 0.0, WALL)) == [LOAD]
    assert kinds(node.repeat(1, 0.0, WALL)) == [LOAD]


@pytest.mark.parametrize("links", [0, 8, 16])
@pytest.mark.parametrize("nodes", [1, 30, 300, 1000, 4096])
def test_periods_stretch_so_that_the_budget_holds(nodes: int, links: int) -> None:
    node = announcer()
    node.links, links = links, max(LEAST_LINKS, links)
    advert, load = node.advertise(advert_of(0), nodes, 0.0, WALL)
    node.repeat(nodes, 0.0, WALL)  # from now on the sizes are known
    budget = GossipSettings().budget_bytes_s
    copies = COPIES_OF_FEW * few_of(links) if node.crowded(nodes) else COPIES * links
    assert nodes * len(load.wire) * copies / node.period(LOAD, nodes) <= LOAD_SHARE * budget * 1.001
    assert nodes * len(advert.wire) * COPIES * links / node.period(ADVERT, nodes) <= ADVERT_SHARE * budget * 1.001
    assert node.period(LOAD, 1) == 5.0
    assert node.period(ADVERT, 1) == 60.0


def test_loads_go_to_few_once_the_budget_makes_them_wait() -> None:
    node = announcer()
    node.advertise(advert_of(0), 10, 0.0, WALL)
    assert not node.crowded(10)
    assert node.crowded(1000)
    assert node.period(LOAD, 10) == 5.0
    smallest = next(nodes for nodes in range(1000) if node.crowded(nodes))
    assert node.period(LOAD, smallest) < 1.2 * 5.0  # no jump: what few copies save is given to the age of the figures


def test_a_very_large_network_still_repeats_before_the_longest_ttl() -> None:
    node = announcer(budget_bytes_s=100)
    node.advertise(advert_of(0), 100_000, 0.0, WALL)
    stated = node.repeat(100_000, 0.0, WALL)
    assert {envelope.ttl for envelope in stated} == {MAX_TTL_S}
    assert kinds(node.state_due(100_000, 3600 / 4, WALL)) == [LOAD]
    assert kinds(node.state_due(100_000, 3600 / 2, WALL)) == [ADVERT, LOAD]


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [
        (Load(), Load(), False),
        (Load(), Load(running=1), True),
        (Load(running=10), Load(running=12), False),
        (Load(running=10), Load(running=13), True),
        (Load(free_vram_mib=1000), Load(free_vram_mib=810), False),
        (Load(kv_permille=100), Load(kv_permille=250), False),
        (Load(kv_permille=100), Load(kv_permille=350), True),
        (Load(gpu_percent=10), Load(gpu_percent=31), True),
        (Load(temperature_c=30), Load(temperature_c=90), False),
    ],
)
def test_what_counts_as_a_change(old: Load, new: Load, differs: bool) -> None:
    assert changed(old, new, 0.2) is differs


def test_a_node_that_goes_on_states_what_is_as_old_as_it_says_and_due_in_time() -> None:
    node = announcer()
    node.advertise(advert_of(0), 1, 0.0, WALL)
    period = {kind: node.period(kind, 400) for kind in (ADVERT, LOAD)}
    advert, load = node.resume(IDLE, {ADVERT: 0.5, LOAD: 0.25}, 400, 10.0, WALL + 10)
    assert (advert.kind, load.kind) == (ADVERT, LOAD)
    assert read(load) == IDLE
    assert advert.issued == pytest.approx(WALL + 10 - 0.5 * period[ADVERT], abs=0.01)
    assert load.issued == pytest.approx(WALL + 10 - 0.25 * period[LOAD], abs=0.01)
    assert node.state_due(400, 10.0, WALL) == []
    assert LOAD in kinds(node.state_due(400, 10.0 + 0.75 * period[LOAD], WALL))
    assert ADVERT in kinds(node.state_due(400, 10.0 + 0.5 * period[ADVERT], WALL))
