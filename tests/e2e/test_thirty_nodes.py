"""Thirty real nodes (libp2p, Noise, yamux, on loopback) in one process: the DHT finds what most do not keep."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio

from p2pnode.swarm.libp2p import Libp2pNet
from p2pnode.swarm.swarm import Swarm
from protocol.dht.routing_table import model_key
from protocol.ids import model_id
from protocol.node import Node
from protocol.settings import PROFILES
from protocol.statements.adverts import Advert, Load, ModelOffer
from protocol.statements.keys import Ed25519Signer

pytestmark = pytest.mark.slow

NODES = 30
LOOKUPS = 200
#: One second is what a look-up may take; a busy machine may stretch one in twenty.
PATIENCE_S = 5.0
#: Nodes that must keep nothing about the provider, before a third dies and the look-ups begin.
STRANGERS = 6
LAN = PROFILES["lan"]
#: So small a k that most nodes do not keep the provider's statement: it has to be looked for.  The periods are those of
#: a local network, because thirty nodes share one thread here.
SETTINGS = msgspec.structs.replace(
    LAN,
    gossip=msgspec.structs.replace(LAN.gossip, view_size=8, view_per_group=8),
    neighbours=msgspec.structs.replace(LAN.neighbours, target=4, most=6, redial_first_s=0.1),
    dht=msgspec.structs.replace(LAN.dht, k=8, idle_s=1.0, refresh_s=40.0),
)
RARE = ModelOffer("rare-model", model_id("rare", "1", "", "", 4096), context=4096)


class RealNode:
    """One swarm over real sockets, which can be killed without a goodbye."""

    def __init__(self, number: int) -> None:
        self.seed = number.to_bytes(4, "big") * 8
        self.scope = trio.CancelScope()
        self.swarm: Swarm
        self.machine: Node

    async def run(self, bootstrap: tuple[Any, ...], *, task_status: trio.TaskStatus[None]) -> None:
        signer = Ed25519Signer(self.seed)
        net = Libp2pNet(self.seed, ("/ip4/127.0.0.1/tcp/0",))
        self.machine = Node(signer, SETTINGS, random.Random(self.seed), int(time.time()), bootstrap)
        self.swarm = Swarm(net, self.machine, SETTINGS, "test", self.refuse)
        with self.scope:
            await self.swarm.run(task_status=task_status)

    async def refuse(self, channel: Any) -> None:
        channel.reset()

    def advertise(self, *models: ModelOffer) -> None:
        self.swarm.advertise(Advert(1, models=models, addrs=self.swarm.addrs))
        self.swarm.report_load(Load())


@asynccontextmanager
async def network(nodes: int) -> AsyncIterator[list[RealNode]]:
    """That many nodes, all bootstrapped by the first; the last one offers the rare model."""
    async with trio.open_nursery() as nursery:
        members: list[RealNode] = []
        for number in range(1, nodes + 1):
            seeds = ((members[0].swarm.me, members[0].swarm.addrs),) if members else ()
            member = RealNode(number)
            await nursery.start(member.run, seeds)
            member.advertise(*((RARE,) if number == nodes else ()))
            members.append(member)
        yield members
        nursery.cancel_scope.cancel()


async def find(member: RealNode) -> tuple[float, int]:
    """Seconds until the DHT named a provider, or infinity after ``PATIENCE_S``; and over how many hops."""
    began = trio.current_time()
    with trio.move_on_after(PATIENCE_S):
        found = await member.swarm.find_providers(RARE.fingerprint)
        if found.envelopes:
            return trio.current_time() - began, found.hops
    return float("inf"), 0


def strangers(members: list[RealNode]) -> list[RealNode]:
    """Who keeps nothing about the provider for the DHT (which does not look into the view) and has to ask somebody."""
    key = model_key(RARE.fingerprint)
    now = trio.current_time()
    return [member for member in members if not member.machine.dht.records.get(key, now)]


async def test_a_provider_is_looked_up_although_a_third_of_the_network_died() -> None:
    rng = random.Random(7)
    async with network(NODES) as members:
        with trio.fail_after(90):
            for member in members[:-1]:  # everybody has joined: who has met nobody but its seed dies with it
                while (await find(member))[0] > PATIENCE_S:  # noqa: ASYNC110
                    await trio.sleep(0.1)
            while len(strangers(members[:-1])) < STRANGERS:  # noqa: ASYNC110
                await trio.sleep(0.5)
        # A third dies at once, without a word; never the provider, and the bootstrap node first of all.
        dead = [members[0], *rng.sample(members[1:-1], NODES // 3 - 1)]
        for member in dead:
            member.scope.cancel()
        alive = [member for member in members[:-1] if member not in dead]
        answers = []
        for _ in range(LOOKUPS):
            with trio.fail_after(30):
                while not (askers := strangers(alive)):  # noqa: ASYNC110
                    await trio.sleep(0.1)
            answers.append(await find(rng.choice(askers)))

        assert all(seconds <= PATIENCE_S for seconds, _ in answers), sorted(answers)[-10:]
        assert sum(seconds <= 1 for seconds, _ in answers) >= LOOKUPS * 0.95, sorted(answers)[-20:]
        # Not all: an asker may be made a keeper between the choice and its question.
        assert sum(hops > 0 for _, hops in answers) > LOOKUPS * 0.9, "what was found had been there already"
