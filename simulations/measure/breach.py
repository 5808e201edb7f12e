"""The exception for a broken invariant."""

from __future__ import annotations


class Breach(Exception):
    """The invariant, the time, and the observation."""

    def __init__(self, invariant: str, at_s: float, what: str) -> None:
        super().__init__(f"{invariant} at {at_s:.3f} s: {what}")
        self.invariant = invariant
        self.at_s = at_s
        self.what = what
