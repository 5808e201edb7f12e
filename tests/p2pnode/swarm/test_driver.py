"""The driver of a machine: one order whoever brings an event, timers on time, and others have their turn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2pnode.swarm.driver import BATCH, INBOX_PER_PEER, Driver
from protocol.effects import Effect, SetTimer
from protocol.events import DialFailed, Event, LinkDown, Received, RoundTrip, TimerFired
from protocol.ids import PeerId
from protocol.wire.messages import Doubt

PEER = PeerId(bytes(32))


def message(number: int) -> Received:
    return Received(PEER, Doubt(PEER, number, 0))


class Noting:
    """A machine that notes what happens, and when; a round trip sets a timer for so many seconds from then."""

    def __init__(self) -> None:
        self.happened: list[tuple[float, Event]] = []

    def start(self, now: float, wall: float) -> list[Effect]:
        del now, wall
        return []

    def handle(self, event: Event, now: float, wall: float) -> list[Effect]:
        del wall
        self.happened.append((now, event))
        if isinstance(event, LinkDown):
            raise RuntimeError("a fault of the machine")
        return [SetTimer(("a", 1), now + event.seconds)] if isinstance(event, RoundTrip) else []


@asynccontextmanager
async def driven() -> AsyncIterator[tuple[Driver, Noting]]:
    machine = Noting()
    driver = Driver(machine, lambda _: None, lambda: 0.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.run)
        await wait_all_tasks_blocked()
        yield driver, machine
        nursery.cancel_scope.cancel()


def test_what_comes_before_the_machine_has_begun_waits_for_it() -> None:
    machine = Noting()
    Driver(machine, lambda _: None, lambda: 0.0).hand(message(1))
    assert machine.happened == []


async def test_what_comes_over_a_link_is_handled_where_it_was_read() -> None:
    async with driven() as (driver, machine):
        driver.hand(message(1))
        assert [event for _, event in machine.happened] == [message(1)]


async def test_nothing_overtakes_what_waits() -> None:
    async with driven() as (driver, machine):
        driver.put(DialFailed(PEER, (), "no"))
        driver.hand(message(1))
        driver.hand(message(2))
        assert machine.happened == []
        await driver.settled()
        driver.hand(message(3))
        expected = [DialFailed(PEER, (), "no"), message(1), message(2), message(3)]
        assert [event for _, event in machine.happened] == expected


async def test_a_flood_lets_others_have_their_turn_and_is_held_back_in_the_end() -> None:
    async with driven() as (driver, machine):
        sent = 0
        while not driver.full(PEER):
            driver.hand(message(sent))
            sent += 1
        assert (len(machine.happened), sent) == (BATCH, BATCH + INBOX_PER_PEER)
        await driver.room()
        await driver.settled()
        assert not driver.full(PEER)
        assert [event for _, event in machine.happened] == [message(number) for number in range(sent)]


async def test_a_timer_set_where_a_message_was_read_goes_off_on_time(autojump_clock: MockClock) -> None:
    del autojump_clock
    async with driven() as (driver, machine):
        began = trio.current_time()
        driver.hand(RoundTrip(PEER, 100.0))
        driver.hand(RoundTrip(PEER, 5.0))
        await trio.sleep(200)
        fired = [at - began for at, event in machine.happened if isinstance(event, TimerFired)]
        assert fired == [5.0]


async def test_a_fault_of_the_machine_ends_nobody() -> None:
    async with driven() as (driver, machine):
        driver.hand(LinkDown(PEER, ""))
        driver.hand(message(1))
        assert driver.faults == 1
        assert machine.happened[-1][1] == message(1)
