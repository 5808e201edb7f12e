"""``Swarm`` over real sockets and over memory: links, jobs, duplicates, bans, look-ups."""

from __future__ import annotations

import random

import pytest
import trio

from p2pnode.swarm.net import LinkBroken, PeerUnreachable
from p2pnode.swarm.peerlink import Channel, ChannelReset
from protocol.effects import Dial, Effect, Found, Hangup, Penalise, Send, SetTimer
from protocol.events import (
    DialFailed,
    Event,
    FindPeer,
    LinkDown,
    LinkUp,
    Received,
    ReportLoad,
    RoundTrip,
    Routed,
    TimerFired,
)
from protocol.ids import PeerId
from protocol.routing.job_query import JobQuery
from protocol.statements.adverts import Load
from protocol.wire.features import OFFERED
from protocol.wire.messages import BODY, DELTA, REQ, Doubt, FreshLoad, Full, Watch
from tests.fakes import MemorySwitch
from tests.p2pnode.swarm.idle_machine import SETTINGS, StandIn, ask, knows, real_net, running


def key(number: int) -> PeerId:
    return PeerId(bytes([number]) * 32)


async def test_a_job_crosses_two_real_nodes() -> None:
    async with running(real_net(1)) as entry, running(real_net(2)) as worker:
        knows(entry, worker)
        assert await ask(entry, worker.me, b"x" * 1000) == b"x" * 1000
        (link,) = entry.links()
        assert link["outbound"]
        assert link["channels"] == 0
        assert link["bytes_in"] > 1000


async def test_the_machine_dials_sends_and_hears(autojump_clock: trio.testing.MockClock) -> None:
    switch = MemorySwitch()
    one, two = switch.net(key(1)), switch.net(key(2))
    said = Doubt(key(9), 1, 2)

    def greet(event: Event) -> list[Effect]:
        return [Send(event.peer, said)] if isinstance(event, LinkUp) else []

    caller, called = StandIn(greet, (Dial(key(2), two.addrs()),)), StandIn()
    async with running(two, called), running(one, caller):
        await called.until(lambda: bool(called.of(Received)))
        assert called.of(Received) == [Received(key(1), said)]
        assert caller.of(LinkUp) == [LinkUp(key(2), True, two.address, two.addrs(), OFFERED)]
        assert called.of(LinkUp) == [LinkUp(key(1), False, one.address, one.addrs(), OFFERED)]
        await caller.until(lambda: bool(caller.of(RoundTrip)))
    assert called.linked == set()


async def test_loads_travel_over_a_link_and_in_answers(autojump_clock: trio.testing.MockClock) -> None:
    switch = MemorySwitch()
    one, two = switch.net(key(1)), switch.net(key(2))
    said = (Watch(), FreshLoad(1, 2, 3, 4, 5, 1, 6), Full())

    def greet(event: Event) -> list[Effect]:
        return [Send(event.peer, message) for message in said] if isinstance(event, LinkUp) else []

    caller, called = StandIn(greet, (Dial(key(2), two.addrs()),)), StandIn()
    async with running(two, called) as swarm, running(one, caller):
        await called.until(lambda: len(called.of(Received)) == len(said))
        assert called.of(Received) == [Received(key(1), message) for message in said]
        swarm.told(key(1), FreshLoad(7))
        swarm.told(key(1), None)
        assert called.of(Received)[len(said) :] == [Received(key(1), FreshLoad(7))]


async def test_what_jobs_are_routed_for_and_how_busy_this_node_is_reach_the_machine(
    autojump_clock: trio.testing.MockClock,
) -> None:
    machine = StandIn()
    async with running(MemorySwitch().net(key(1)), machine) as swarm:
        swarm.routed(JobQuery("m", 5, 6))
        swarm.routed(JobQuery("m", 5, 6, zone="local"))
        swarm.report_load(Load(running=1), {key(2): 1})
        await machine.until(lambda: len(machine.events) == 2)
    assert machine.events == [Routed("m", 5, 6), ReportLoad(Load(running=1), {key(2): 1})]


async def test_a_dial_that_fails_is_reported_with_what_was_asked(autojump_clock: trio.testing.MockClock) -> None:
    switch = MemorySwitch()
    machine = StandIn(first=(Dial(None, ("/ip4/10.9.9.9/tcp/1",)), Dial(key(3), ("nonsense",))))
    async with running(switch.net(key(1)), machine):
        await machine.until(lambda: len(machine.of(DialFailed)) == 2)
    assert {event.peer for event in machine.of(DialFailed)} == {None, key(3)}


async def test_a_peer_that_cannot_be_reached_is_said_so(autojump_clock: trio.testing.MockClock) -> None:
    async with running(MemorySwitch().net(key(1)), StandIn(_found_nothing)) as swarm:
        with pytest.raises(PeerUnreachable, match="none of its addresses is known"):
            await swarm.open_job(key(2))
        with pytest.raises(PeerUnreachable, match="this node itself"):
            await swarm.open_job(key(1))


def _found_nothing(event: Event) -> list[Effect]:
    return [Found(event.query, (), (), 0)] if isinstance(event, FindPeer) else []


async def test_addresses_from_the_dht_are_dialled(autojump_clock: trio.testing.MockClock) -> None:
    switch = MemorySwitch()
    other = switch.net(key(2))

    def find(event: Event) -> list[Effect]:
        return [Found(event.query, (), ((key(2), other.addrs()),), 1)] if isinstance(event, FindPeer) else []

    async with running(other), running(switch.net(key(1)), StandIn(find)) as swarm:
        assert await ask(swarm, key(2)) == b"hello"


async def test_other_networks_stay_apart(autojump_clock: trio.testing.MockClock) -> None:
    switch = MemorySwitch()
    async with (
        running(switch.net(key(2)), network="theirs") as other,
        running(switch.net(key(1)), StandIn(_found_nothing), network="ours") as swarm,
    ):
        knows(swarm, other)
        with pytest.raises(PeerUnreachable, match="another network"):
            await ask(swarm, key(2))


@pytest.mark.parametrize("seed", range(5))
async def test_simultaneous_dialling_ends_with_one_link(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    switch = MemorySwitch(random.Random(seed), delay=0.01, jitter=0.02)
    nets = [switch.net(key(1)), switch.net(key(2))]
    machines = [
        StandIn(first=(Dial(key(2), nets[1].addrs()),)),
        StandIn(first=(Dial(key(1), nets[0].addrs()),)),
    ]
    async with running(nets[0], machines[0]) as one, running(nets[1], machines[1]) as two:
        await trio.sleep(3)
        assert len(one.links()) == len(two.links()) == 1
        assert one.links()[0]["outbound"], "the link dialled by the smaller id stays"
        assert all(len(machine.of(LinkUp)) == 1 and not machine.of(LinkDown) for machine in machines)
        assert await ask(one, two.me) == b"hello"


async def test_a_broken_link_fails_its_jobs_and_is_dialled_again(autojump_clock: trio.testing.MockClock) -> None:
    switch = MemorySwitch()
    machine = StandIn()
    async with running(switch.net(key(2)), on_job=_never) as other, running(switch.net(key(1)), machine) as swarm:
        knows(swarm, other)
        channel = await swarm.open_job(key(2))
        await channel.send(REQ, b"")
        await machine.until(lambda: bool(machine.of(LinkUp)))  # before that the peer counts as not reached
        switch.break_links(1.0)
        with pytest.raises(LinkBroken):
            await channel.receive()
        with pytest.raises(LinkBroken):
            await channel.send(BODY, b"x")
        channel.reset()  # harmless
        await machine.until(lambda: bool(machine.of(LinkDown)))
        again = await swarm.open_job(key(2))
        await again.send(REQ, b"")


async def _never(channel: Channel, frames: list[tuple[int, bytes]]) -> None:
    await trio.sleep_forever()


async def test_leaving_a_channel_cancels_the_job_at_the_other_end(autojump_clock: trio.testing.MockClock) -> None:
    switch = MemorySwitch()
    told: list[int] = []

    async def worker(channel: Channel, frames: list[tuple[int, bytes]]) -> None:
        try:
            await channel.receive()
        except ChannelReset as reset:
            told.append(reset.code)
            raise

    async with running(switch.net(key(2)), on_job=worker) as other, running(switch.net(key(1))) as swarm:
        knows(swarm, other)
        with trio.move_on_after(1):
            async with await swarm.open_job(key(2)) as channel:
                await channel.send(REQ, b"")
                await channel.receive()
        await trio.sleep(1)
        assert told == [0]
        assert swarm.links()[0]["channels"] == other.links()[0]["channels"] == 0


async def test_a_job_that_fails_here_ends_alone(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    switch = MemorySwitch()

    async def broken(channel: Channel, frames: list[tuple[int, bytes]]) -> None:
        if frames[0][1] == b"bad":
            raise ZeroDivisionError
        await channel.send(DELTA, b"fine")
        await trio.sleep_forever()

    async with running(switch.net(key(2)), on_job=broken) as other, running(switch.net(key(1))) as swarm:
        knows(swarm, other)
        bad, good = await swarm.open_job(key(2)), await swarm.open_job(key(2))
        await bad.send(REQ, b"bad")
        await good.send(REQ, b"good")
        with pytest.raises(ChannelReset):
            await bad.receive()
        assert await good.receive() == [(DELTA, b"fine")]
    assert "job_defect" in caplog.text


async def test_a_slow_reader_blocks_only_itself(autojump_clock: trio.testing.MockClock) -> None:
    switch = MemorySwitch()
    async with running(switch.net(key(2)), on_job=_flood) as other, running(switch.net(key(1))) as swarm:
        knows(swarm, other)
        slow, quick = await swarm.open_job(key(2)), await swarm.open_job(key(2))
        await slow.send(REQ, b"")
        await trio.sleep(1)  # what it may send without being read, it has sent
        assert slow._size <= swarm._settings.link.credit_bytes
        await quick.send(REQ, b"")
        got = 0
        while got < 1 << 22:
            got += sum(len(payload) for _, payload in await quick.receive())
        assert slow._size <= swarm._settings.link.credit_bytes
        slow.reset()
        quick.reset()


async def _flood(channel: Channel, frames: list[tuple[int, bytes]]) -> None:
    while True:
        await channel.send(DELTA, b"x" * 10_000)


async def test_a_frozen_peer_is_noticed(autojump_clock: trio.testing.MockClock) -> None:
    switch = MemorySwitch()
    machine = StandIn()
    async with running(switch.net(key(2))) as other, running(switch.net(key(1)), machine) as swarm:
        knows(swarm, other)
        await ask(swarm, key(2))
        switch.freeze(key(2))
        begun = trio.current_time()
        await machine.until(lambda: bool(machine.of(LinkDown)), seconds=60)
        assert trio.current_time() - begun <= swarm._settings.link.dead_s + swarm._settings.link.ping_s
        assert machine.of(LinkDown)[0].reason == "no sign of life"


async def test_penalties_add_up_to_a_ban_that_ends(autojump_clock: trio.testing.MockClock) -> None:
    switch = MemorySwitch()

    def strict(event: Event) -> list[Effect]:
        return [Penalise(event.peer, 2, "bad record")] if isinstance(event, Received) else []

    judge = StandIn(strict)
    async with running(switch.net(key(2)), judge) as two, running(switch.net(key(1))) as one:
        knows(one, two)
        await ask(one, two.me)
        for _ in range(2):
            one._perform(Send(two.me, Doubt(key(9), 1, 2)))
        await trio.sleep(1)
        assert one.links(), "four points are not five"
        one._perform(Send(two.me, Doubt(key(9), 1, 2)))
        await judge.until(lambda: bool(judge.of(LinkDown)))
        with pytest.raises(PeerUnreachable):
            await ask(one, two.me)
        await trio.sleep(SETTINGS.penalties.ban_s)
        assert await ask(one, two.me) == b"hello"


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n" + b"x" * 64, bytes(8) + b"\xff" * 64])
async def test_whoever_says_nonsense_instead_of_hello_is_banned_in_the_end(
    said: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    switch = MemorySwitch()
    net, intruder = switch.net(key(2)), switch.net(key(3))
    async with running(net) as two:
        for _ in range(SETTINGS.penalties.ban_points):
            assert intruder.local_id not in net.bans
            link = await intruder.dial(two.me, two.addrs)
            await link.send_all(said)
            while await link.receive_some():
                pass
        assert intruder.local_id in net.bans
        assert two.links() == []


async def test_penalties_are_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    async with running(MemorySwitch().net(key(1))) as swarm:
        for _ in range(10):
            swarm._perform(Penalise(key(2), 4, "bad"))
            await trio.sleep(SETTINGS.penalties.ban_s + 1)
        assert not swarm._net.bans  # type: ignore[attr-defined]


async def test_hanging_up_spares_jobs(autojump_clock: trio.testing.MockClock) -> None:
    switch = MemorySwitch()
    async with running(switch.net(key(2)), on_job=_never) as two, running(switch.net(key(1))) as one:
        knows(one, two)
        channel = await one.open_job(two.me)
        await channel.send(REQ, b"")
        one._perform(Hangup(two.me, "rotated"))
        await trio.sleep(5)
        assert one.links()
        channel.reset()
        await trio.sleep(2 * SETTINGS.connections.idle_s)
        assert not one.links(), "then it is closed for idleness"


async def test_links_made_for_jobs_close_when_idle(autojump_clock: trio.testing.MockClock) -> None:
    switch = MemorySwitch()
    async with running(switch.net(key(2))) as two, running(switch.net(key(1))) as one:
        knows(one, two)
        for _ in range(3):
            await ask(one, two.me)
            await trio.sleep(SETTINGS.connections.idle_s * 0.8)
            assert one.links(), "a pause between two requests is not the end"
        await trio.sleep(SETTINGS.connections.idle_s)
        assert not one.links()


async def test_a_fault_of_the_machine_is_survived(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def faulty(event: Event) -> list[Effect]:
        if isinstance(event, TimerFired):
            raise ZeroDivisionError
        return []

    machine = StandIn(faulty, (SetTimer(("a",), 1.0), SetTimer(("a",), 2.0), SetTimer(("b",), 3.0)))
    async with running(MemorySwitch().net(key(1)), machine) as swarm:
        await machine.until(lambda: len(machine.of(TimerFired)) == 2)
        assert [event.key for event in machine.of(TimerFired)] == [("a",), ("b",)]
        assert swarm.faults == 2
    assert "machine_defect" in caplog.text


async def test_leaving_sends_the_last_words(autojump_clock: trio.testing.MockClock) -> None:
    switch = MemorySwitch(delay=0.05)
    heard = StandIn()
    last = Doubt(key(9), 3, 3)

    def goodbye(event: Event) -> list[Effect]:
        return [Send(key(2), last)] if type(event).__name__ == "Leave" else []

    async with running(switch.net(key(2)), heard) as two:
        async with running(switch.net(key(1)), StandIn(goodbye)) as one:
            knows(one, two)
            await ask(one, two.me)
            await one.leave()
        await heard.until(lambda: bool(heard.of(Received)))
        assert heard.of(Received)[-1].message == last
