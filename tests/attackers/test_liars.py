"""A gateway learns what a liar does to its callers: after few jobs others get the rest.

All liars are in one process, and a gateway for each of them in another one, because what a node has learnt about one
liar must not help against the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from p2pnode.cli.processes import NodeProcess
from tests.attackers.lies import LIES, TEXT
from tests.attackers.nodes import GATEWAY, model_of
from tests.attackers.victims import Heard, Member, Network, ask, knows

pytestmark = pytest.mark.slow

#: The kinds that an attempt itself tells from an honest peer.
SEEN: Final = sorted(LIES.keys() - TEXT)
#: Each liar by the name of its run.
RUNS: Final = {kind: f"bold:{kind}" for kind in SEEN} | {
    "whole-no-json": "bold:no-json",
    "whole-endless-promise": "bold:endless-promise",
    "boundless": "boundless:hang-up",
}
#: Runs whose answers are not streamed.
WHOLE: Final = ("whole-no-json", "whole-endless-promise")
REQUESTS: Final = 16
#: Callers that may notice something: all of them among the first half.
NOTICED: Final = 3
#: Jobs that a liar may get; one that was asked first each time got all of them.
JOBS: Final = REQUESTS // 2
#: Tokens of an answer; the seconds after which a caller gives up.
TOKENS: Final = 8
LIMIT_S: Final = 20.0


class Watched:
    """The liars, and what the callers of each gateway heard."""

    def __init__(self, network: Network, liars: dict[str, Member], gateways: dict[str, Member]) -> None:
        self.liars = liars

        def watch(name: str) -> list[Heard]:
            api, model, heard = gateways[name].api, model_of(name), []
            knows(api, [*network.peers, liars[name].peer_id])
            while len(heard) < REQUESTS and sum(not one.honest for one in heard) <= NOTICED:
                heard.append(ask(network, api, model, TOKENS, stream=name not in WHOLE, limit_s=LIMIT_S))
            return heard

        with ThreadPoolExecutor(len(liars)) as threads:
            self.heard = dict(zip(liars, threads.map(watch, liars), strict=True))


@pytest.fixture(scope="module")
def watched(network: Network) -> Iterator[Watched]:
    liars = network.run("liars", RUNS)
    gateways = network.run("gateways", dict.fromkeys(RUNS, GATEWAY))
    yield Watched(network, liars, gateways)
    for name in ("liars", "gateways"):
        child: NodeProcess = network.fleet.children[name]
        child.kill()
        network.fleet.forget(name)


@pytest.mark.parametrize("name", RUNS)
def test_few_callers_notice_a_liar(watched: Watched, name: str) -> None:
    heard = watched.heard[name]
    assert sum(not one.honest for one in heard) <= NOTICED, heard
    # A peer is drawn, and a newcomer now and then has a turn: one job in the second half may still go there.
    assert sum(not one.honest for one in heard[REQUESTS // 2 :]) <= 1, heard
    assert len(heard) == REQUESTS


@pytest.mark.parametrize("name", RUNS)
def test_a_liar_gets_few_jobs(watched: Watched, name: str) -> None:
    assert watched.liars[name].jobs <= JOBS


def test_a_peer_whose_claims_cannot_be_true_gets_no_job(watched: Watched) -> None:
    assert watched.liars["boundless"].jobs == 0
