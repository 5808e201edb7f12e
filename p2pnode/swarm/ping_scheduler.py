"""Sends the PINGs of all links of a node, with one task and one timer.

A link's deadline moves with every received frame.  With a task per link, most wakeups of an idle node would be for
deadlines that have moved.  Here only the earliest valid deadline wakes the task.  Not here: when to ping, and when a
link is dead (``protocol.wire.mux``).
"""

from __future__ import annotations

import heapq
import itertools
from typing import Protocol

import trio

from p2pnode.swarm.wakeup import AutoResetEvent


class PingedLink(Protocol):
    """The part of a link that the scheduler uses."""

    @property
    def ended(self) -> bool: ...

    def next_deadline(self, now: float) -> float:
        """The time of the next ``tick``.  Received frames move it to later, and nothing moves it to earlier."""
        ...

    def tick(self, now: float) -> None: ...


class PingScheduler:
    """A heap of the links' last known deadlines, which are lower bounds of the current ones."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, PingedLink]] = []
        self._order = itertools.count()
        self._more = AutoResetEvent()

    def add(self, link: PingedLink) -> None:
        """Schedule a link until it has ended."""
        now = trio.current_time()
        heapq.heappush(self._heap, (link.next_deadline(now), next(self._order), link))
        self._more.set()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            now = trio.current_time()
            while (due := self._earliest(now)) <= now:
                self._heap[0][2].tick(now)
            await self._more.wait_until(due)

    def _earliest(self, now: float) -> float:
        """The earliest valid deadline; drops ended links, and reinserts links whose deadline moved."""
        heap = self._heap
        while heap:
            at, number, link = heap[0]
            if link.ended:
                heapq.heappop(heap)
                continue
            due = link.next_deadline(now)
            if due <= at:
                return due
            heapq.heapreplace(heap, (due, number, link))
        return float("inf")
