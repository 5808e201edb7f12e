"""What an entry hears of a job from each kind of peer that fails it in one plain way."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.jobs.cascade_events import Accepted, AttemptFailed, CascadeEvent, Keepalive, Progress, Refused
from simulations.attackers.failing import PROMISE_S
from simulations.scenario import Attack, Topology
from simulations.sim.endpoint import SimLink
from simulations.sim.jobs import SimAttempt
from simulations.sim.node import SimNode
from tests.simulations.small_networks import DELAY_S, Caller, ordered, scenario, world

TOPOLOGY = Topology(
    nodes=3, seeds=1, latency="uniform", latency_s=DELAY_S, jitter=0.0, join_s=0.0, settled=True, clock_skew_s=0.0
)
TWO = ["Accepted", "Progress"]


def heard(kind: str, seconds: float = 3.0, **attack: Any) -> tuple[SimLink, SimNode, list[Any]]:
    """The link to a bad peer, the peer, and what node 0 heard from it of one job."""
    made = world(scenario(3, topology=TOPOLOGY, attacks=(Attack(kind=kind, nodes=(1,), **attack),)))
    bad = made.peers[1]
    entry, link = ordered(made.peers[0], bad), bad.links[made.peers[0].peer_id]
    events: list[Any] = []
    hears = entry.heard

    def noted(attempt: SimAttempt, event: CascadeEvent) -> None:
        events.append(event)
        hears(attempt, event)

    entry.heard = noted  # type: ignore[method-assign]
    caller = Caller(made, made.peers[0])
    caller.ask()
    caller.run(seconds)
    return link, bad, events


@pytest.mark.parametrize(
    ("kind", "expected", "linked"),
    [
        ("final_refuser", ["Refused"], True),
        ("breakdown", ["Refused"], True),
        ("overloaded", ["Refused"], True),
        ("mute", [], True),
        ("falls_silent", ["Accepted"], True),
        ("promiser", ["Accepted", "Keepalive"], True),
        ("resetter", [], False),
        ("hanger_up", TWO, False),
        ("no_json", ["Accepted", "AttemptFailed"], True),
    ],
)
def test_each_kind_says_so_much_and_no_more(kind: str, expected: list[str], linked: bool) -> None:
    link, bad, events = heard(kind)
    assert [type(event).__name__ for event in events] == expected
    assert link.up is linked
    assert not bad.honest


def test_the_words_are_those_of_the_kind() -> None:
    (final,) = heard("final_refuser")[2]
    (broken,) = heard("breakdown")[2]
    (accepted, _beat) = heard("promiser")[2]
    assert isinstance(final, Refused)
    assert (final.refuse.status, final.refuse.final) == (400, True)
    assert isinstance(broken, Refused)
    assert (broken.refuse.status, broken.refuse.final) == (500, False)
    assert isinstance(accepted, Accepted)
    assert accepted.promise_s == PROMISE_S


def test_a_flood_of_pieces_ends_when_the_answer_would() -> None:
    link, bad, events = heard("piece_flood", seconds=12.0)
    *pieces, last = (event for event in events[1:] if not isinstance(event, Keepalive))
    assert all(isinstance(event, Progress) for event in pieces)
    assert len(pieces) == 400  # max_tokens of the job
    assert isinstance(last, AttemptFailed)
    assert bad.bytes_up > 400 * 20_000
    assert link.up


def test_before_its_attack_such_a_peer_answers() -> None:
    _, _, events = heard("mute", from_s=200.0)
    assert [type(event).__name__ for event in events][:2] == TWO
