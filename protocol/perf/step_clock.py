"""The clock of a simulated batch: it counts steps, which take longer the more context the batch has gathered.

Theory of operation.  Between two changes of the batch its context grows by as many tokens per step as it has sequences,
and the time of a step grows with it, nearly on a line.  So ``n`` steps after the last change take ``a n + q n^2``
seconds: time and count follow from each other without a loop.  Whoever owns the clock draws the line anew when the
batch changes.  Not here: what happens at which count.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, sqrt

from protocol.perf.sequences import Lane


class StepClock:
    """At the time ``at`` it showed ``v``; ``slow`` multiplies all times, infinity stops it."""

    __slots__ = ("_a", "_q", "at", "busy_s", "slow", "v")

    def __init__(self) -> None:
        self.v = 0.0
        self.at = 0.0
        self.slow = 1.0
        #: Seconds during which steps were made, up to the last change.
        self.busy_s = 0.0
        self._a = 0.0
        self._q = 0.0

    def draw(self, v: float, now: float, chunk_s: float, lanes: Iterable[Lane]) -> None:
        """The batch has changed at this count and time; each step reads ``chunk_s`` seconds of a prompt, too."""
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
        """What it shows at a moment that is not before the last change, if nothing changes until then."""
        passed = now - self.at
        if passed <= 0.0 or self._a <= 0.0:
            return self.v
        if self._q:
            return self.v + 2.0 * passed / (self._a + sqrt(self._a * self._a + 4.0 * self._q * passed))
        return self.v + passed / self._a

    def when(self, v: float) -> float:
        """The time at which it shows this count."""
        steps = v - self.v
        return self.at + steps * (self._a + self._q * steps) if steps > 0.0 else self.at

    def step_s(self, now: float) -> float:
        """Seconds that a step takes at this moment; 0 if nothing runs."""
        return self._a + 2.0 * self._q * (self.count(now) - self.v)
