"""Identities on paper, which one process advertises over one link, cost the callers of a gateway nothing.

Nothing listens at their addresses, or a victim does, which counts the connections of each process.
"""

from __future__ import annotations

import contextlib
from typing import Final

import pytest

from p2pnode.cli.processes import until
from tests.attackers import paper
from tests.attackers.nodes import model_of
from tests.attackers.ports import Victim, closed_port
from tests.attackers.victims import PATIENCE_S, Network, ask_many, knows

pytestmark = pytest.mark.slow

KINDS: Final = ("paper", "crowded-port")
IDENTITIES: Final = 200
REQUESTS: Final = 32
#: More than there are honest workers.
AT_ONCE: Final = 16
TOKENS: Final = 8


def known(network: Network, gateway: str) -> int:
    """Peers of which a gateway has an advert with models, those that it could not reach included."""
    peers = network.fleet.children[gateway].api.get("/v1/p2p/peers")["data"]
    return sum(bool(peer["models"]) for peer in peers)


def attacked(network: Network, kind: str, port: int) -> list[str]:
    """The errors of callers while the identities are advertised."""
    gateway, model = f"gateway-{kind}", model_of(kind)
    api, target = network.fleet.children[gateway].api, network.fleet.children[gateway].address
    flags = ("--identities", str(IDENTITIES), "--port", str(port), "--offers", model, "--claims", "bold")
    network.fleet.node(
        kind, "--engine", "none", "--profile", "wan", "--bootstrap", target, *flags, program=paper.PROGRAM
    )
    until(lambda: known(network, gateway) > IDENTITIES, "the identities have arrived", PATIENCE_S)
    heard = ask_many(network, api, model, REQUESTS, AT_ONCE, TOKENS)
    return [one.error for one in heard if not one.honest]


@pytest.mark.parametrize("kind", KINDS)
def test_callers_notice_nothing_of_identities_on_paper(network: Network, kind: str) -> None:
    api = network.gateway(f"gateway-{kind}")
    knows(api, network.peers)
    names = [f"gateway-{kind}", kind]
    processes = {name: child.process.pid for name, child in network.fleet.children.items()}
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [stop(network, name) for name in names])
        if kind == "paper":
            assert attacked(network, kind, stack.enter_context(closed_port())) == []
        else:
            victim = stack.enter_context(Victim(processes))
            assert attacked(network, kind, victim.port) == []
            assert max(victim.dials.values(), default=0) <= 1, victim.dials


def stop(network: Network, name: str) -> None:
    network.fleet.children[name].kill()
    network.fleet.forget(name)
