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
UNTRIED_TIER: Final = 2
BUSY_TIER: Final = 4
COLD_TIER: Final = 8
UNREACHED_TIER: Final = 16
UNPROVEN_TIER: Final = 32
SUSPECT_TIER: Final = 64
BARRED_TIER: Final = 128
NAMED_TIER: Final = 256
_NEEDS: Final = (
    (BARRED_TIER, "a pause after many failures to be over"),
    (SUSPECT_TIER, "an answer to our probes"),
    (UNPROVEN_TIER, "finished jobs of ours"),
    (UNREACHED_TIER, "a dial that succeeds"),
    (COLD_TIER, "the model loaded"),
    (BUSY_TIER, "a free slot"),
    (UNTRIED_TIER, "a first link"),
    (STALE_TIER, "a warm link, over which it tells its load"),
)


#: A share that is not divided by: only the last prefix, whose probability is 1, has smaller ones.
_LEAST_SHARE: Final = 1e-12


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
    fresh load the best of so many that were drawn, 3 or 0; with fewer, the first one drawn of the others competes.
    """
    assert best_of in (0, 3), "the closed form is for three"
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
        odds[front] = _best_of_three(scores[front], _shares(log_weights[front]))
        return odds
    others = np.flatnonzero(tiers == tiers.min() + STALE_TIER)
    best = front[np.argmax(scores[front])]
    if len(others):
        odds[others] = np.where(scores[others] > scores[best], _shares(log_weights[others]), 0.0)
    odds[best] = max(0.0, 1.0 - odds.sum())  # a sum of floats may exceed 1
    return odds


def _shares(log_weights: FloatArray) -> FloatArray:
    weights = np.exp(log_weights - log_weights.max())
    shares: FloatArray = weights / weights.sum()
    return shares


def _best_of_three(scores: FloatArray, shares: FloatArray) -> FloatArray:
    """The probability of each to be the best of three that are drawn one by one.

    By ascending score, the best of the draw is among the first k if all three are.  With shares a, b, c that is the sum
    over a, b and c of ``a · b / (1 - a) · c / (1 - a - b)``.  The sum over c is known, and those over a and b grow with
    k, so all of it takes a few passes for each candidate (256 of them: 3 ms, measured).
    """
    order = np.argsort(scores, kind="stable")
    drawn = shares[order]
    pairs, missing = np.zeros(len(drawn) + 1), np.zeros(len(drawn) + 1)
    for k in range(1, len(drawn)):
        a, b = drawn[:k], drawn[k]
        left = np.maximum(1.0 - a - b, _LEAST_SHARE)
        pair = a * b * (1.0 / np.maximum(1.0 - a, _LEAST_SHARE) + 1.0 / max(1.0 - b, _LEAST_SHARE)) / left
        pairs[k + 1] = pairs[k] + pair.sum()
        missing[k + 1] = missing[k] + (pair * (a + b)).sum()
    within = np.concatenate(([0.0], np.cumsum(drawn))) * pairs - missing
    within[:3], within[-1] = 0.0, 1.0
    grown = np.diff(np.maximum.accumulate(np.clip(within, 0.0, 1.0)))
    # Equal scores are drawn equally often, and the first one drawn counts as the best of them.
    _, group, count = np.unique(scores[order], return_inverse=True, return_counts=True)
    odds = np.zeros(len(scores))
    odds[order] = (np.bincount(group, grown) / count)[group]
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
