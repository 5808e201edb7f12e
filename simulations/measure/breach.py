"""An invariant that does not hold.  Who raises it: ``invariants`` and ``convergence``; who catches it: ``run``."""

from __future__ import annotations


class Breach(Exception):
    """Which invariant, when, and what was seen."""

    def __init__(self, invariant: str, at_s: float, what: str) -> None:
        super().__init__(f"{invariant} at {at_s:.3f} s: {what}")
        self.invariant = invariant
        self.at_s = at_s
        self.what = what
