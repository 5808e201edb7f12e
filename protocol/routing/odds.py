"""How likely each candidate is asked first, and what the runner-up would have needed: figures for an explanation.

Theory of operation
===================

``ranking`` orders by tier, then by key.  Only the lowest tier can be asked first, so all others have odds of 0.  In
that tier::

    a draw by weight    sampling one by one: the first is a peer with probability weight / sum of weights (Yellott 1977)
    no draw             the best score; equal ones share, because noise decides between them
    the best of drawn   over all that can be drawn: the probability of these few, for the best of them by score

Not here: the draw itself (``policies``), and the order of one request (``ranking``).
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from protocol.arrays import FloatArray, IntArray

#: What a peer lacks for an earlier tier, by the bit of ``ranking`` that puts it into its own.
STALE_TIER: Final = 1
BUSY_TIER: Final = 2
COLD_TIER: Final = 4
UNREACHED_TIER: Final = 8
UNPROVEN_TIER: Final = 16
SUSPECT_TIER: Final = 32
BARRED_TIER: Final = 64
NAMED_TIER: Final = 128
_NEEDS: Final = (
    (BARRED_TIER, "a pause after many failures to be over"),
    (SUSPECT_TIER, "an answer to our probes"),
    (UNPROVEN_TIER, "finished jobs of ours"),
    (UNREACHED_TIER, "a dial that succeeds"),
    (COLD_TIER, "the model loaded"),
    (BUSY_TIER, "a free slot"),
    (STALE_TIER, "a warm link, over which it tells its load"),
)


#: What is left of the weights when all but a hair of them were drawn.
LEAST_SHARE: Final = 1e-300


class RunnerUp(msgspec.Struct, frozen=True, gc=False):
    """The second in line: places in the list of candidates, and what it lacks to come before the first.

    ``gap`` is the difference of their scores, at least 0, in ``unit``; ``needs`` says what the tiers of ``ranking``
    demand before any score counts, and is empty if both are in the same tier.
    """

    place: int
    ahead: int
    gap: float
    unit: str
    needs: tuple[str, ...]


def first_odds(tiers: IntArray, scores: FloatArray, log_weights: FloatArray | None, best_of: int = 0) -> FloatArray:
    """The probability of each candidate to be the first; their sum is 1, unless there are none.

    ``log_weights`` are those of the draw, or None where the best score is taken.  ``best_of``: of candidates with a
    fresh load the best of so many that were drawn; with fewer, the first one drawn of the others competes.
    """
    odds = np.zeros(len(tiers))
    if not len(tiers):
        return odds
    front = np.flatnonzero(tiers == tiers.min())
    if log_weights is None:
        weights = (scores[front] == scores[front].max()).astype(np.float64)
        odds[front] = weights / weights.sum()
        return odds
    if not best_of or tiers.min() & STALE_TIER:
        odds[front] = _shares(log_weights[front])
        return odds
    if len(front) >= best_of:
        odds[front] = _best_drawn(scores[front], _shares(log_weights[front]), best_of)
        return odds
    others = np.flatnonzero(tiers == tiers.min() + STALE_TIER)
    best = front[np.argmax(scores[front])]
    if len(others):
        odds[others] = np.where(scores[others] > scores[best], _shares(log_weights[others]), 0.0)
    odds[best] = 1.0 - odds.sum()
    return odds


def _shares(log_weights: FloatArray) -> FloatArray:
    weights = np.exp(log_weights - log_weights.max())
    shares: FloatArray = weights / weights.sum()
    return shares


def _best_drawn(scores: FloatArray, shares: FloatArray, count: int) -> FloatArray:
    """The probability of each to be the best of ``count`` that are drawn one by one."""
    odds = np.zeros(len(scores))
    draws: list[tuple[tuple[int, ...], float]] = [((), 1.0)]
    for _ in range(count - 1):
        draws = [
            ((*drawn, place), likely * float(shares[place]) / left)
            for drawn, likely in draws
            for left in (1.0 - float(shares[list(drawn)].sum()),)
            for place in range(len(scores))
            if place not in drawn and left > 0
        ]
    for drawn, likely in draws:  # the last one of each draw, all at once
        chosen = list(drawn)
        last = shares / max(1.0 - float(shares[chosen].sum()), LEAST_SHARE)
        last[chosen] = 0.0
        best = chosen[int(np.argmax(scores[chosen]))]
        better = scores > scores[best]
        odds += likely * np.where(better, last, 0.0)
        odds[best] += likely * float(last[~better].sum())
    odds /= odds.sum()
    return odds


def runner_up(tiers: IntArray, scores: FloatArray, unit: str) -> RunnerUp | None:
    """The best two by tier and score, whatever was drawn; None for fewer than two."""
    if len(tiers) < 2:
        return None
    ahead, place = np.lexsort((-scores, tiers))[:2].tolist()
    gap = max(0.0, float(scores[ahead] - scores[place]))
    return RunnerUp(place, ahead, gap, unit, lacking(int(tiers[place]), int(tiers[ahead])))


def lacking(tier: int, best: int) -> tuple[str, ...]:
    """What a peer in ``tier`` would need to be in the tier ``best``."""
    named = ("an earlier place in `order`",) if tier // NAMED_TIER > best // NAMED_TIER else ()
    return named + tuple(words for bit, words in _NEEDS if tier & bit > best & bit)
