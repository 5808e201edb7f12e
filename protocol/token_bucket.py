"""Token buckets on the caller's monotonic clock: how many bytes may be sent now.

A bucket holds nothing back by itself: the machine that owns it asks, and goes without if it is refused.
"""

from __future__ import annotations


class TokenBucket:
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
