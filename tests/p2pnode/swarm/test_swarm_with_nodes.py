"""``Swarm`` around the real machine: it finds the others, and outlives the loss of what introduced it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import trio

from p2pnode.swarm.net import Net
from p2pnode.swarm.swarm import Swarm
from protocol.ids import PeerId
from protocol.node import Node
from protocol.routing.job_query import JobQuery
from protocol.statements.adverts import Advert, Load, ModelOffer
from protocol.statements.keys import Ed25519Signer
from tests.fakes import MemorySwitch
from tests.p2pnode.swarm.idle_machine import SETTINGS, ask, echo, eventually, real_net, seed_of


def node_of(number: int, net: Net, seeds: tuple[tuple[PeerId | None, tuple[str, ...]], ...]) -> Swarm:
    node = Node(Ed25519Signer(seed_of(number)), SETTINGS, random.Random(number), 1, seeds)
    return Swarm(net, node, SETTINGS, "test", echo)


async def join(nursery: trio.Nursery, swarm: Swarm) -> Swarm:
    await nursery.start(swarm.run)
    swarm.advertise(Advert(protocol=1, name="node", addrs=swarm.addrs))
    swarm.report_load(Load())
    return swarm


def sees(swarm: Swarm, count: int) -> Callable[[], bool]:
    return lambda: sum(1 for record in swarm.view.records() if record.state == "alive" and not record.is_self) >= count


async def test_twelve_nodes_in_memory_see_each_other_without_their_seed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    switch = MemorySwitch(random.Random(1), delay=0.002, jitter=0.002)
    nets = [switch.net(Ed25519Signer(seed_of(number)).peer_id) for number in range(12)]
    seeds = ((None, (nets[0].addrs()[0].split("/p2p/")[0],)),)
    async with trio.open_nursery() as nursery:
        swarms = [await join(nursery, node_of(number, net, seeds if number else ())) for number, net in enumerate(nets)]
        for swarm in swarms:
            await eventually(sees(swarm, 11), 60)
        switch.crash(swarms[0].me)
        await trio.sleep(5)
        for swarm in swarms[1:]:
            await eventually(sees(swarm, 10), 60)
            assert swarm.faults == 0
        assert await ask(swarms[3], swarms[9].me) == b"hello"
        nursery.cancel_scope.cancel()


async def test_three_real_nodes_join_and_work() -> None:
    first = real_net(1)
    async with trio.open_nursery() as nursery:
        swarms = [await join(nursery, node_of(1, first, ()))]
        for number in (2, 3):
            seeds = ((first.local_id, first.addrs()),)
            swarms.append(await join(nursery, node_of(number, real_net(number), seeds)))
        for swarm in swarms:
            await eventually(sees(swarm, 2), 10)
        assert await ask(swarms[1], swarms[2].me) == b"hello"
        found = await swarms[1].find_peer(swarms[2].me)
        assert found.envelopes or found.contacts
        await swarms[2].leave()
        await eventually(lambda: swarms[0].view.get(swarms[2].me).state == "left", 10)
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_routed_model_gets_warm_links_and_each_change_of_the_loads(
    autojump_clock: trio.testing.MockClock,
) -> None:
    switch = MemorySwitch(random.Random(1), delay=0.002, jitter=0.002)
    nets = [switch.net(Ed25519Signer(seed_of(number)).peer_id) for number in range(5)]
    seeds = ((None, (nets[0].addrs()[0].split("/p2p/")[0],)),)
    async with trio.open_nursery() as nursery:
        swarms = [await join(nursery, node_of(number, net, seeds if number else ())) for number, net in enumerate(nets)]
        for swarm in swarms:
            swarm.advertise(Advert(protocol=1, name="node", models=(ModelOffer("m", bytes(16)),), addrs=swarm.addrs))
        entry, worker = swarms[3], swarms[4]
        await eventually(lambda: len(entry.view.offering("m")) == 5, 20)
        assert fresh(entry) == []
        entry.routed(JobQuery("m"))
        await eventually(lambda: len(fresh(entry)) == 4, 20)
        for running in (1, 2):
            worker.report_load(Load(running=running, slots=4), {entry.me: 1})
            await trio.sleep(SETTINGS.pool.fresh_every_s + 0.3)
            record = entry.view.get(worker.me)
            assert (record.load.running, record.fresh.yours) == (running, 1)
        assert all(swarm.faults == 0 for swarm in swarms)
        nursery.cancel_scope.cancel()


def fresh(swarm: Swarm) -> list[PeerId]:
    """The peers that tell this one each change of their load."""
    return [each.peer for each in swarm.view.records() if each.fresh is not None and each.fresh_until == math.inf]
