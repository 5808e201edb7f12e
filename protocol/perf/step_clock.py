"""The clock of a simulated batch: it converts between time and a count of steps, which get slower as the context grows.

Theory of operation.  Between two changes of the batch, each step adds one token of context per sequence, and the time
of a step grows almost linearly with the context.  So ``n`` steps after the last change take ``a n + q n^2`` seconds,
and time and count follow from each other without a loop.  The engine calls ``draw`` after each change of the batch.
Not here: the events at a count.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, sqrt

from protocol.perf.sequences import Lane


class StepClock:
    """At the time ``at`` the count was ``v``; ``slow`` multiplies all times, infinity stops the clock."""

    __slots__ = ("_a", "_q", "at", "busy_s", "slow", "v")

    def __init__(self) -> None:
        self.v = 0.0
        self.at = 0.0
        self.slow = 1.0
        #: Seconds in which steps ran, up to the last change.
        self.busy_s = 0.0
        self._a = 0.0
        self._q = 0.0

    def draw(self, v: float, now: float, chunk_s: float, lanes: Iterable[Lane]) -> None:
        """The batch changed at this count and time; each step also takes ``chunk_s`` seconds for a prompt chunk."""
        if self._a:
            self.busy_s += now - self.at
        self.v, self.at = v, now
        a, q = chunk_s, 0.0
        for lane in lanes:
            sequences = lane.sequences
            if sequences:
                step, slope = lane.timing.step(sequences, lane.context + sequences * v)
                half = 0.5 * slope * sequences
                a += step - half
                q += half
        if self.slow != 1.0 and a:
            a *= self.slow
            q = q * self.slow if self.slow < inf else 0.0
        self._a, self._q = a, q

    def count(self, now: float) -> float:
        """The count at a time after the last change, if no change comes before."""
        passed = now - self.at
        if passed <= 0.0 or self._a <= 0.0:
            return self.v
        if self._q:
            return self.v + 2.0 * passed / (self._a + sqrt(self._a * self._a + 4.0 * self._q * passed))
        return self.v + passed / self._a

    def when(self, v: float) -> float:
        """The time of this count."""
        steps = v - self.v
        return self.at + steps * (self._a + self._q * steps) if steps > 0.0 else self.at

    def step_s(self, now: float) -> float:
        """Seconds of a step at this time; 0 if nothing runs."""
        return self._a + 2.0 * self._q * (self.count(now) - self.v)
