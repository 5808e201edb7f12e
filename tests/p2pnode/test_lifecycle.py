"""Signals and the parent process: one signal asks for the end, two insist."""

from __future__ import annotations

import os
import signal
from typing import Any

import trio
import trio.testing

from p2pnode.lifecycle import PARENT_VARIABLE, SIGNALS, Stopping, watch_parent, watch_signals


async def test_one_signal_asks_and_two_insist() -> None:
    stopping = Stopping()
    async with trio.open_nursery() as nursery:
        await nursery.start(watch_signals, stopping)
        signal.raise_signal(signal.SIGTERM)
        with trio.fail_after(5):
            await stopping.asked.wait()
        assert not stopping.now.is_set()
        signal.raise_signal(signal.SIGINT)
        with trio.fail_after(5):
            await stopping.now.wait()
        nursery.cancel_scope.cancel()


async def watched(stopping: Stopping) -> dict[int, Any]:
    """What signals mean after a life of ``watch_signals``."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(watch_signals, stopping)
            nursery.cancel_scope.cancel()
        return {number: signal.getsignal(number) for number in SIGNALS}
    finally:
        for number, action in before.items():
            signal.signal(number, action)


async def test_afterwards_signals_mean_what_they_meant_unless_the_end_is_settled() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    stopping = Stopping()
    assert await watched(stopping) == before
    stopping.settled = True
    assert set((await watched(stopping)).values()) == {signal.SIG_IGN}
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


async def test_a_node_ends_with_its_parent_only_where_that_is_wanted() -> None:
    reading, writing = os.pipe()
    stopping = Stopping()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_parent, stopping, {PARENT_VARIABLE: "1"}, reading)
            await trio.testing.wait_all_tasks_blocked()
            assert not stopping.asked.is_set()
            os.close(writing)
            with trio.fail_after(5):
                await stopping.asked.wait()
        other = Stopping()
        await watch_parent(other, {}, reading)
        assert not other.asked.is_set()
    finally:
        os.close(reading)
