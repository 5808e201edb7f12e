"""The discrete-event loop: a heap of events, ordered by virtual time and then by the order of scheduling.

The loop knows nothing of the simulated network.  A sequence number breaks ties, never an address in memory, so the
order is total and a run repeats.  The *digest* covers the time and the number of every event, not its effects.  Equal
runs have equal digests.  Two runs that diverge soon schedule an event at another time, and their digests differ.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

#: The digest is a 64-bit number.
_WORD = (1 << 64) - 1


class EventLoop:
    """Virtual time.  ``now`` is seconds since the start of the run; it never goes back."""

    __slots__ = ("_digest", "_heap", "_scheduled", "_stopped", "events", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._scheduled = 0
        self._digest = 0
        self._stopped = False

    def at(self, when: float, act: Callable[..., object], *args: Any) -> None:
        """Call ``act(*args)`` at ``when``, or now if that is past."""
        self._scheduled += 1
        heappush(self._heap, (when if when > self.now else self.now, self._scheduled, act, args))

    def run(self, until: float) -> None:
        """Let time pass, to ``until`` at most, or until a call of :meth:`stop`."""
        heap, digest, count = self._heap, self._digest, 0
        self._stopped = False
        try:
            while heap and heap[0][0] <= until and not self._stopped:
                when, number, act, args = heappop(heap)
                self.now = when
                count += 1
                digest = hash((digest, when, number))  # of numbers only, so that it does not depend on the hash seed
                act(*args)
        finally:
            self.events += count
            self._digest = digest
        if not self._stopped:
            self.now = max(self.now, until)

    def stop(self) -> None:
        """End :meth:`run` after the event under way."""
        self._stopped = True

    @property
    def pending(self) -> int:
        """Events that wait."""
        return len(self._heap)

    @property
    def digest(self) -> str:
        """Of all events so far, 16 hexadecimal digits."""
        return f"{self._digest & _WORD:016x}"
