"""The auto-reset event: a signal wakes one waiter once, and is kept until somebody waits."""

from __future__ import annotations

import pytest
import trio

from p2pnode.swarm.wakeup import AutoResetEvent


async def test_what_was_rung_is_heard_once(autojump_clock: trio.testing.MockClock) -> None:
    bell = AutoResetEvent()
    bell.set()
    bell.set()
    await bell.wait()
    assert not bell.is_set()
    with trio.move_on_after(1) as waited:
        await bell.wait()
    assert waited.cancelled_caught


async def test_who_waits_is_woken_and_who_was_cancelled_is_not(autojump_clock: trio.testing.MockClock) -> None:
    bell = AutoResetEvent()
    with trio.move_on_after(1):
        await bell.wait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bell.wait)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RuntimeError):
            await bell.wait()
        bell.set()
    assert not bell.is_set()


async def test_waiting_ends_with_a_ring_the_time_or_a_cancellation(autojump_clock: trio.testing.MockClock) -> None:
    bell, began = AutoResetEvent(), trio.current_time()
    await bell.wait_until(began + 1)
    assert trio.current_time() - began == pytest.approx(1)
    assert not bell.is_set()
    await bell.wait_until(began)
    with trio.move_on_after(1) as cut:
        await bell.wait_until(began + 10)
    assert cut.cancelled_caught
    assert trio.current_time() - began == pytest.approx(2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bell.wait_until, began + 10)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RuntimeError):
            await bell.wait_until(began + 10)
        bell.set()
    bell.set()
    await bell.wait_until(began + 10)
    assert trio.current_time() - began == pytest.approx(2)


async def test_a_ring_outlives_a_cancelled_wait_and_not_a_look(autojump_clock: trio.testing.MockClock) -> None:
    bell = AutoResetEvent()
    bell.set()
    with trio.CancelScope() as scope:
        scope.cancel()
        await bell.wait()
    assert bell.is_set()
    bell.clear()
    assert not bell.is_set()
