"""Evidence about peers: decayed counts of good and bad, per peer and dimension (Jøsang and Ismail's Beta reputation).

Each dimension holds a pair (good, bad).  An observation adds ``weight`` to it, split by its value between 0 and 1.
Both halves decay with the same half-life: with different ones an idle honest peer would drift to bad.  The sum is
capped, so that a long good past does not outweigh what happens now.  ::

    decay     (good, bad) x 2^(-age / half-life)
    observe   good + weight x, bad + weight (1 - x); then scaled down to the cap
    chance    (prior x 2 + good) / (2 + good + bad)

Not here: what is observed (``outcomes``), and what follows from it (``experience``, ``routing.standing``).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from protocol.reputation.snapshot import Pair


class Dimension(StrEnum):
    """What there is evidence for.  Audits will feed ``INTEGRITY`` and co-signed receipts ``REPORT``."""

    COMPLETE = "complete"
    LIVE = "live"
    LATENCY = "latency"
    RATE = "rate"
    INTEGRITY = "integrity"
    REPORT = "report"


class Law(NamedTuple):
    """How evidence of a dimension ages: its half-life in seconds, its cap, and the chance without any evidence."""

    half_life_s: float
    most: float
    prior: float


_HOUR: Final = 3600.0
_DAY: Final = 24 * _HOUR
#: The constants of the trust study, 4.1; the prior of ``COMPLETE`` is learned (``newcomers``).
LAWS: Final[dict[Dimension, Law]] = {
    Dimension.COMPLETE: Law(_DAY, 200.0, 0.5),
    Dimension.LIVE: Law(_HOUR, 60.0, 0.5),
    Dimension.LATENCY: Law(6 * _HOUR, 100.0, 0.5),
    Dimension.RATE: Law(6 * _HOUR, 100.0, 0.5),
    Dimension.INTEGRITY: Law(30 * _DAY, 50.0, 0.5),
    Dimension.REPORT: Law(7 * _DAY, 50.0, 0.0),
}
#: What the prior counts for, in observations (the uniform prior has this strength).
PRIOR_STRENGTH: Final = 2.0
#: Largest weight of one observation.
MOST_WEIGHT: Final = 20.0


class Evidence:
    """One decayed pair.  Times are monotonic seconds; a time before the last one counts as the last one."""

    __slots__ = ("at", "bad", "good")

    def __init__(self, good: float = 0.0, bad: float = 0.0, at: float = 0.0) -> None:
        self.good = good
        self.bad = bad
        self.at = at

    @property
    def amount(self) -> float:
        """How much evidence there was at its last change."""
        return self.good + self.bad

    def decay(self, law: Law, now: float) -> None:
        """Age to ``now``."""
        if now > self.at:
            left = float(2.0 ** (-(now - self.at) / law.half_life_s))
            self.good *= left
            self.bad *= left
            self.at = now

    def observe(self, value: float, weight: float, law: Law, now: float) -> None:
        """Add an observation: ``value`` from 0, bad, to 1, good; ``weight`` from 0 to ``MOST_WEIGHT``."""
        self.decay(law, now)
        weight = min(max(weight, 0.0), MOST_WEIGHT)
        value = min(max(value, 0.0), 1.0)
        self.good += weight * value
        self.bad += weight * (1.0 - value)
        if self.amount > law.most:
            scale = law.most / self.amount
            self.good *= scale
            self.bad *= scale

    def take_back(self, weight: float) -> None:
        """A bad observation of this weight, made a moment ago, was wrong."""
        self.bad = max(0.0, self.bad - weight)

    def chance(self, law: Law, now: float, prior: float | None = None) -> float:
        """The expected value of the next observation; ``prior`` replaces that of the dimension."""
        left = float(2.0 ** (-max(0.0, now - self.at) / law.half_life_s))
        mean = law.prior if prior is None else prior
        return (PRIOR_STRENGTH * mean + left * self.good) / (PRIOR_STRENGTH + left * self.amount)


def restored(row: Pair, law: Law) -> Evidence:
    """Evidence of an earlier life; no more than the law allows, whatever the disk says."""
    evidence = Evidence(row.good, row.bad, row.at)
    if evidence.amount > law.most:
        scale = law.most / evidence.amount
        evidence.good, evidence.bad = evidence.good * scale, evidence.bad * scale
    return evidence
