"""The upload budget of gossip: bytes per second for a steady flow and for bursts of synchronisation.

Not here: which bytes are sent (``gossip``), the token bucket itself (``protocol.token_bucket``).
"""

from __future__ import annotations

import math
from typing import Final

from protocol.token_bucket import TokenBucket

#: The part of a budget that is for digests and newcomers (guess: twice the cost of digests at 4,096 records; with 0.12
#: loads are 4 % younger, but of 1,000 nodes under churn the busiest one in a hundred exceeds the budget: simulated).
SYNC_SHARE: Final = 0.15
#: Seconds of pushes that may be saved up while nothing happens (guess).
SAVED_S: Final = 4.0
#: The part of the first burst that is saved up again: where all nodes are new each needs everything, later a
#: newcomer has eight neighbours (simulated: with all of it the busiest 1 % of nodes exceeded the budget for minutes).
SAVED_SHARE: Final = 0.5
#: The part of the pushes that is held back while a burst is paid for: one of 128 KiB is, within a minute (simulated).
PAYBACK_SHARE: Final = 0.3
#: Seconds of the whole budget that may be spent before that counts as a burst (guess: no tick is like the other).
EVEN_S: Final = 2.0


class Budget:
    """Bytes per second for two kinds of traffic: ``flow``, which never stops, and ``sync``, which comes in bursts.

    Each has its own bucket, so that neither takes the other's.  A burst of ``sync`` comes on top of a continuing
    ``flow``, so it is a loan: while the node has sent more than the budget allows, ``flow`` gets less.  A node that
    starts has its first burst saved up, and no flow.
    """

    def __init__(self, rate: float, burst: float, tick_s: float, now: float) -> None:
        flow = (1 - SYNC_SHARE) * rate
        self.flow = TokenBucket(flow, flow * max(SAVED_S, tick_s), now)
        self.flow.tokens = flow * tick_s
        self.sync = TokenBucket(SYNC_SHARE * rate, burst, now)
        self._all = TokenBucket(rate, EVEN_S * rate, now)
        self._saved = SAVED_SHARE * burst
        self._sent = 0
        self._settled = now

    def settle(self, sent: int, now: float) -> None:
        """Account for ``sent`` bytes, the total so far; called at every tick."""
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
