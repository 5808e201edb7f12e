"""A gateway learns what a liar does to its callers: after few jobs others get the rest.

One network of real processes for all kinds: four honest workers, all liars in one process, and for each of them a
gateway in another one, because what a node has learnt about one liar must not help against the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from p2pnode.cli.processes import Fleet
from tests.attackers.nodes import GATEWAY, model_of
from tests.attackers.victims import Heard, Member, Network, ask, knows

pytestmark = pytest.mark.slow

#: The kinds of which the callers of a gateway notice nothing, or only the first ones.
UNNOTICED = (
    "bad-signature",
    "busy",
    "final-refusal",
    "reset-first",
    "status-500",
    "status-503",
    "wrong-hash",
)
REQUESTS = 24
#: Callers of the first ones that may notice something.
NOTICED = 3
#: Tokens of an answer; the seconds after which a caller gives up.
TOKENS = 8
LIMIT_S = 10.0


class Watched:
    """What the callers of the gateway of each kind heard."""

    def __init__(self, network: Network, liars: dict[str, Member], gateways: dict[str, Member]) -> None:
        self.liars = liars

        def watch(kind: str) -> list[Heard]:
            knows(gateways[kind].api, [*network.peers, liars[kind].peer_id])
            heard: list[Heard] = []
            while len(heard) < REQUESTS and sum(not one.honest for one in heard) <= NOTICED:
                heard.append(ask(network, gateways[kind].api, model_of(kind), TOKENS, limit_s=LIMIT_S))
            return heard

        with ThreadPoolExecutor(len(liars)) as threads:
            self.heard = dict(zip(liars, threads.map(watch, liars), strict=True))


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with Fleet() as fleet:
        network = Network(fleet, [model_of(kind) for kind in UNNOTICED])
        network.start()
        liars = network.run("liars", {kind: f"bold:{kind}" for kind in UNNOTICED})
        gateways = network.run("gateways", dict.fromkeys(UNNOTICED, GATEWAY))
        yield Watched(network, liars, gateways)


@pytest.mark.parametrize("kind", UNNOTICED)
def test_few_callers_notice_a_liar_with_bold_claims(watched: Watched, kind: str) -> None:
    heard = watched.heard[kind]
    assert sum(not one.honest for one in heard) <= NOTICED, heard
    assert all(one.honest for one in heard[REQUESTS // 2 :])
    assert len(heard) == REQUESTS
