"""Asks on every link of a node, when it is due, whether anybody is there: one task and one timer for all of them.

A link's deadline moves with every frame that comes.  A task for each link would sleep to a deadline that has moved long
since, and most of what an idle node with many links does would be that; here, only the earliest deadline that still
holds wakes anybody.  What is asked, and when a link is dead, ``protocol.wire.mux`` decides.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Protocol

import trio

from p2pnode.swarm.wakeup import AutoResetEvent


class PingedLink(Protocol):
    """A link, as far as time matters to it."""

    @property
    def ended(self) -> bool: ...

    def next_deadline(self, now: float) -> float:
        """When to ``tick``; later after every sign of life, and never earlier than it was said to be."""
        ...

    def tick(self, now: float) -> None: ...


class PingScheduler:
    """The deadlines of all links, as they were last known: none has become earlier since."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, PingedLink]] = []
        self._order = itertools.count()
        self._more = AutoResetEvent()

    def add(self, link: PingedLink) -> None:
        """Keep an eye on it until it has ended."""
        now = trio.current_time()
        heapq.heappush(self._heap, (link.next_deadline(now), next(self._order), link))
        self._more.set()

    async def run(self) -> None:
        """Keep time until cancelled."""
        while True:
            now = trio.current_time()
            while (due := self._earliest(now)) <= now:
                self._heap[0][2].tick(now)
            await self._more.wait_until(due)

    def _earliest(self, now: float) -> float:
        """The earliest deadline that holds; what has ended is forgotten, what has moved is put in its place."""
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
