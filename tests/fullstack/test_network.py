"""Networks of real daemons in virtual time: how they form, break, mend, and what they leave behind."""

from __future__ import annotations

import gc
import hashlib
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path

import h11
import pytest
import trio

from p2pnode.http.connection import Connection
from p2pnode.swarm.libp2p import Libp2pLink
from p2pnode.swarm.peerlink import Channel, PeerLink
from p2pnode.swarm.tcp_listener import AcceptedStream
from p2pnode.swarm.yamux import ContainedYamux
from protocol.settings import PROFILES
from tests.fullstack.client import Heard, chat, streamed
from tests.fullstack.daemons import Daemons, Member, daemons, in_virtual_time, repeatable
from tests.fullstack.virtualnet import VirtualNet

pytestmark = pytest.mark.slow

WAN = PROFILES["wan"]
#: What must not pile up: an object of each for every link, connection or job.
COUNTED = (PeerLink, Channel, Libp2pLink, ContainedYamux, AcceptedStream, Connection)


async def until_sees(members: list[Member], others: int, within_s: float) -> float:
    """Until each of them holds so many others for alive; gives the seconds."""
    began = trio.current_time()
    with trio.fail_after(within_s):
        while any(member.sees() != others for member in members):  # noqa: ASYNC110
            await trio.sleep(0.05)
    return trio.current_time() - began


@in_virtual_time
async def test_five_find_each_other_and_hear_of_a_change(tmp_path: Path) -> None:
    async with daemons(5, tmp_path, net=VirtualNet(0.05)) as all_of_them:
        assert await all_of_them.settle() < 5
        await trio.sleep(60)
        assert all(member.daemon.swarm.faults == 0 for member in all_of_them.members)
        spent = [all_of_them.net.bytes_out[member.host] / 60 for member in all_of_them.members]
        assert max(spent) < WAN.gossip.budget_bytes_s


@in_virtual_time
async def test_a_line_that_is_slow_one_way_only(tmp_path: Path) -> None:
    def one_way(source: str, target: str) -> float:
        return 0.4 if source < target else 0.01

    async with daemons(3, tmp_path, net=VirtualNet(one_way)) as all_of_them:
        await all_of_them.settle()
        await trio.sleep(30)
        trips = [link["rtt_s"] for member in all_of_them.members for link in member.daemon.swarm.links()]
        assert all(trip == pytest.approx(0.41, abs=0.005) for trip in trips if trip is not None)
        assert sum(trip is not None for trip in trips) == len(trips)
        heard = await streamed(all_of_them.net, all_of_them.members[0], chat(20))
        assert heard.pieces == 20


@in_virtual_time
async def test_a_killed_worker_is_told_at_once_and_comes_back(tmp_path: Path) -> None:
    async with daemons(1, tmp_path, net=VirtualNet(0.05), engine="none") as all_of_them:
        entry, worker = all_of_them.members[0], await all_of_them.add()
        await all_of_them.settle()
        answers: list[Heard] = []

        async def ask() -> None:
            answers.append(await streamed(all_of_them.net, entry, chat(4000)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(5)
            killed = trio.current_time()
            await all_of_them.kill(worker)
        assert answers[0].error is not None
        assert answers[0].ended - killed == pytest.approx(0.05, abs=0.005)
        before = worker.daemon.home.inc
        await trio.sleep(5)
        await all_of_them.start(worker)
        assert worker.daemon.home.inc > before
        assert await all_of_them.settle() < 10
        assert (await streamed(all_of_them.net, entry, chat(20))).pieces == 20


@in_virtual_time
async def test_who_loses_its_power_is_missed_and_found_again(tmp_path: Path) -> None:
    async with daemons(5, tmp_path, net=VirtualNet(0.05)) as all_of_them:
        await all_of_them.settle()
        lost, *rest = all_of_them.members[::-1]
        await all_of_them.unplug(lost)
        # The product's promise: three missed probes, 30 s apart.
        took = await until_sees(rest, 3, within_s=(WAN.liveness.misses + 1) * WAN.liveness.period_s)
        assert took > WAN.link.dead_s / 2
        all_of_them.net.appear(lost.host)
        await all_of_them.start(lost)
        await until_sees(all_of_them.members, 4, within_s=30)


@in_virtual_time
async def test_without_the_bootstrap_node_the_others_go_on_and_remember_each_other(tmp_path: Path) -> None:
    async with daemons(5, tmp_path, net=VirtualNet(0.05)) as all_of_them:
        await all_of_them.settle()
        first, restarted, *rest = all_of_them.members
        await trio.sleep(40)  # the peer cache is written every 30 s
        await all_of_them.kill(first)
        await all_of_them.kill(restarted)
        await trio.sleep(5)
        await all_of_them.start(restarted)  # its only seed is dead
        await until_sees([restarted, *rest], 3, within_s=130)
        # Who has never been there has nobody else to ask, until the seed is back.
        late = await all_of_them.add()
        await trio.sleep(30)
        assert late.sees() == 0
        await all_of_them.start(first)
        await until_sees(all_of_them.members, 5, within_s=WAN.neighbours.redial_most_s + 30)


@in_virtual_time
async def test_two_halves_find_each_other_again(tmp_path: Path) -> None:
    async with daemons(6, tmp_path, net=VirtualNet(0.05)) as all_of_them:
        await all_of_them.settle()
        members, net = all_of_them.members, all_of_them.net
        net.partition([member.host for member in members[:3]], [member.host for member in members[3:]])
        await until_sees(members, 2, within_s=(WAN.liveness.misses + 1) * WAN.liveness.period_s)
        net.heal()
        await until_sees(members, 5, within_s=WAN.neighbours.redial_most_s)
        assert (await streamed(net, members[0], chat(20))).pieces == 20


def count() -> Counter[str]:
    """Objects of what must not pile up, and tasks."""
    gc.collect()
    found = Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, COUNTED))
    found["tasks"] = trio.lowlevel.current_statistics().tasks_living
    return found


async def bounce(all_of_them: Daemons, rng: random.Random, until: float) -> None:
    """One node after another is stopped, killed or loses its power, and comes back."""
    while trio.current_time() < until:
        await trio.sleep(rng.uniform(5, 15))
        member = rng.choice(all_of_them.members)
        await rng.choice([all_of_them.stop, all_of_them.kill, all_of_them.unplug])(member)
        await trio.sleep(rng.uniform(0.1, 20))
        all_of_them.net.appear(member.host)
        await all_of_them.start(member)


async def keep_asking(all_of_them: Daemons, rng: random.Random, heard: list[Heard], until: float) -> None:
    """Requests to whoever lives; some callers hang up early, some find their own node dying."""
    while trio.current_time() < until:
        await trio.sleep(rng.expovariate(0.6))
        living = [member for member in all_of_them.members if member.alive and member.sees()]
        with suppress(OSError, trio.BrokenResourceError, h11.RemoteProtocolError):
            with trio.move_on_after(rng.choice([0.3, 60.0])):
                heard.append(await streamed(all_of_them.net, rng.choice(living), chat(rng.choice([20, 100]))))


@in_virtual_time
async def test_five_minutes_of_coming_and_going_leave_nothing_behind(tmp_path: Path) -> None:
    async with daemons(4, tmp_path, net=VirtualNet(0.03)) as all_of_them:
        rng, heard = random.Random(3), list[Heard]()
        await all_of_them.settle()
        await trio.sleep(60)
        before, sockets = count(), all_of_them.net.open_sockets()
        until = trio.current_time() + 300
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bounce, all_of_them, rng, until)
            nursery.start_soon(keep_asking, all_of_them, rng, heard, until)
        await all_of_them.settle(180)
        await trio.sleep(120)
        after = count()
        assert {name: after[name] for name in after if after[name] > before[name]} == {}
        assert all_of_them.net.open_sockets() <= sockets
        assert all(member.daemon.swarm.faults == 0 for member in all_of_them.members)
        whole = [answer for answer in heard if answer.pieces in (20, 100)]
        assert len(whole) > 20
        assert len(heard) - len(whole) < len(heard) / 10


def trace(seed: int, folder: Path) -> tuple[str, int]:
    """A digest of every segment of a busy minute: when, from whom, to whom, how long."""
    digest, segments = hashlib.sha256(), 0

    def note(*segment: float | str | int) -> None:
        nonlocal segments
        digest.update(repr(segment).encode())
        segments += 1

    async def main() -> None:
        net = VirtualNet(0.03)
        net.trace = note
        async with daemons(4, folder, net=net, seed=seed) as all_of_them:
            await all_of_them.settle()
            async with trio.open_nursery() as nursery:
                for member in all_of_them.members:
                    nursery.start_soon(streamed, net, member, chat(100))
                await trio.sleep(5)
                await all_of_them.kill(all_of_them.members[1])
                await all_of_them.start(all_of_them.members[1])
            await trio.sleep(20)

    repeatable(main, seed)
    return digest.hexdigest(), segments


def test_the_same_seed_is_the_same_run_segment_by_segment(tmp_path: Path) -> None:
    first, again, other = (trace(seed, tmp_path / name) for seed, name in ((1, "a"), (1, "b"), (2, "c")))
    assert first == again
    assert first[0] != other[0]
    assert first[1] > 300
