"""A model whose peers were killed is unknown after one round of failed dials, as are names that no peer offers."""

from __future__ import annotations

import signal
from typing import Final

import pytest

from tests.attackers.nodes import model_of
from tests.attackers.victims import PATIENCE_S, Heard, Network, ask, knows

pytestmark = pytest.mark.slow

NAMES: Final = ("gone-1", "gone-2")
GATEWAY: Final = "gateway-gone"
MODEL: Final = model_of("gone-away")
TOKENS: Final = 8
#: Callers of the first round, whose dials fail, who may get another answer than 404.
ROUND: Final = 2


def test_a_model_whose_peers_were_killed_is_not_found_after_one_round(network: Network) -> None:
    fleet = network.fleet
    for name in NAMES:
        fleet.node(
            name, "--engine", "mock", "--model", MODEL, "--profile", network.profile, "--bootstrap", network.seed
        )
    peers = [fleet.children[name].wait_ready(PATIENCE_S).peer_id for name in NAMES]
    api = network.gateway(GATEWAY)
    knows(api, [*peers, *network.peers])

    def asked(model: str = MODEL) -> Heard:
        return ask(network, api, model, TOKENS)

    assert asked().status == 200
    for name in NAMES:
        fleet.children[name].send(signal.SIGKILL)
        fleet.children[name].reap()
        fleet.forget(name)
    answers = [asked() for _ in range(ROUND + 3)]
    assert {one.status for one in answers[ROUND:]} == {404}, answers
    assert all(one.status >= 400 for one in answers)
    assert {one.status for one in (asked(f"never-heard-of-{n}") for n in range(3))} == {404}
    assert MODEL not in {entry["id"] for entry in api.get("/v1/models")["data"]}, "the list and the answer agree"
    fleet.children[GATEWAY].kill()
    fleet.forget(GATEWAY)
