"""Token buckets on the caller's monotonic clock: how many bytes may be sent now.

They hold nothing back by themselves: the machine that owns them asks and goes without.
"""

from __future__ import annotations

import math
from typing import Final

#: The part of a budget that is for digests and newcomers (guess: twice what digests cost at 4,096 records; with 0.12
#: loads are 4 % younger, but of 1,000 nodes that come and go the dearest in a hundred is above the budget: simulated).
SYNC_SHARE: Final = 0.15
#: Seconds of pushes that may be saved up while nothing happens (guess).
SAVED_S: Final = 4.0
#: The part of the first burst that is saved up again: where all nodes are new everybody needs everything, later a
#: newcomer has eight neighbours (simulated: with all of it the dearest in 100 nodes were above the budget for minutes).
SAVED_SHARE: Final = 0.5
#: The part of the pushes that is held back while a burst is paid for: one of 128 KiB is, within a minute (simulated).
PAYBACK_SHARE: Final = 0.3
#: Seconds of the whole budget that may be spent before that counts as a burst (guess: no tick is like the other).
EVEN_S: Final = 2.0


class Bucket:
    """Fills with ``rate`` bytes per second up to ``capacity``; starts full."""

    __slots__ = ("_at", "capacity", "rate", "tokens")

    def __init__(self, rate: float, capacity: float, now: float) -> None:
        self.rate = rate
        self.capacity = capacity
        self.tokens = capacity
        self._at = now

    def level(self, now: float) -> float:
        """Bytes that may be spent now; negative while a debt is being paid back."""
        if now > self._at:
            self.tokens = min(self.capacity, self.tokens + (now - self._at) * self.rate)
            self._at = now
        return self.tokens

    def spend(self, cost: float, now: float, debt: float = 0.0) -> bool:
        """Take ``cost`` bytes if that leaves no more than ``debt`` owed; otherwise take nothing and say no."""
        tokens = self.tokens
        if now > self._at:  # as ``level``, without the call: this is asked for every statement
            tokens += (now - self._at) * self.rate
            tokens = min(tokens, self.capacity)
            self._at = now
        if tokens - cost < -debt:
            self.tokens = tokens
            return False
        self.tokens = tokens - cost
        return True


class Budget:
    """Bytes per second for two kinds of traffic: ``flow``, which never stops, and ``sync``, which comes in bursts.

    Each has a bucket of its own, so that neither takes the other's.  But a burst of ``sync`` comes on top of a ``flow``
    that goes on.  So it is a loan: as long as more was sent than the budget allows, ``flow`` gets less.  A node that
    starts has its first burst saved up, and no flow.
    """

    def __init__(self, rate: float, burst: float, tick_s: float, now: float) -> None:
        flow = (1 - SYNC_SHARE) * rate
        self.flow = Bucket(flow, flow * max(SAVED_S, tick_s), now)
        self.flow.tokens = flow * tick_s
        self.sync = Bucket(SYNC_SHARE * rate, burst, now)
        self._all = Bucket(rate, EVEN_S * rate, now)
        self._saved = SAVED_SHARE * burst
        self._sent = 0
        self._settled = now

    def settle(self, sent: int, now: float) -> None:
        """``sent`` bytes were ever sent; called at every tick."""
        self.sync.capacity = max(self._saved, min(self.sync.capacity, self.sync.level(now)))
        self._all.spend(sent - self._sent, now, debt=math.inf)
        if self._all.tokens < 0:
            held = PAYBACK_SHARE * self.flow.rate * (now - self._settled)
            self.flow.spend(held, now, debt=self.flow.rate)
        self._sent, self._settled = sent, now

    def rest(self) -> None:
        """Nothing was sent for long."""
        self.sync.capacity = self._saved
        for bucket in (self.flow, self.sync, self._all):
            bucket.tokens = bucket.capacity
