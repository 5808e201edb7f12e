"""The ping scheduler: each link is asked when it is due, and forgotten when it has ended."""

from __future__ import annotations

import pytest
import trio

from p2pnode.swarm.ping_scheduler import PingScheduler


class Timed:
    """A link that is due ``period`` after it was last heard or asked."""

    def __init__(self, period: float) -> None:
        self.period = period
        self.heard = trio.current_time()
        self.asked: list[float] = []
        self.looks = 0
        self.ended = False

    def next_deadline(self, now: float) -> float:
        self.looks += 1
        return self.heard + self.period

    def tick(self, now: float) -> None:
        self.asked.append(now)
        self.heard = now


async def test_each_is_asked_when_it_is_due(autojump_clock: trio.testing.MockClock) -> None:
    keeper, began = PingScheduler(), trio.current_time()
    often, seldom, late = Timed(1.0), Timed(2.5), Timed(0.25)
    async with trio.open_nursery() as nursery:
        keeper.add(often)
        nursery.start_soon(keeper.run)
        await trio.sleep(0.1)
        keeper.add(seldom)
        await trio.sleep(2.0)
        late.heard = trio.current_time()
        keeper.add(late)
        await trio.sleep(0.6)
        nursery.cancel_scope.cancel()
    assert [at - began for at in often.asked] == pytest.approx([1.0, 2.0])
    assert [at - began for at in seldom.asked] == pytest.approx([2.5])
    assert [at - began for at in late.asked] == pytest.approx([2.35, 2.6])


async def test_who_is_heard_is_not_asked_and_who_ended_is_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    keeper = PingScheduler()
    busy, ended = Timed(1.0), Timed(3.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        keeper.add(busy)
        keeper.add(ended)
        for _ in range(100):
            await trio.sleep(0.1)
            busy.heard = trio.current_time()
            ended.ended = True
        looks = ended.looks
        await trio.sleep(0.9)
        nursery.cancel_scope.cancel()
    assert (busy.asked, ended.asked) == ([], [])
    assert busy.looks < 100
    assert ended.looks == looks
