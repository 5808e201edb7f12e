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
LADEN_TIER: Final = 2
UNTRIED_TIER: Final = 4
BUSY_TIER: Final = 8
COLD_TIER: Final = 16
UNREACHED_TIER: Final = 32
UNPROVEN_TIER: Final = 64
SUSPECT_TIER: Final = 128
BARRED_TIER: Final = 256
NAMED_TIER: Final = 512
_NEEDS: Final = (
    (BARRED_TIER, "a pause after many failures to be over"),
    (SUSPECT_TIER, "an answer to our probes"),
    (UNPROVEN_TIER, "finished jobs of ours"),
    (UNREACHED_TIER, "a dial that succeeds"),
    (COLD_TIER, "the model loaded"),
    (BUSY_TIER, "a free slot"),
    (UNTRIED_TIER, "a first link"),
    (LADEN_TIER, "to finish the jobs of ours that it has"),
    (STALE_TIER, "a warm link, over which it tells its load"),
)


#: So that nothing is divided by zero where no third candidate is left.
_LEAST_SHARE: Final = 1e-290


class RunnerUp(msgspec.Struct, frozen=True, gc=False):
    """The second in line: places in the list of candidates, and what it lacks to come before the first.

    ``gap`` is the difference of their scores, at least 0, in ``unit``, or if ``contested`` of what decides among those
    that were drawn; ``needs`` says what the tiers of ``ranking`` demand before any score counts, and is empty if both
    are in the same tier.
    """

    place: int
    ahead: int
    gap: float
    unit: str
    needs: tuple[str, ...]
    contested: bool = False


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

    The draw is {a, b, c} in any order with probability ``a b c (g(a, b) + g(a, c) + g(b, c))``, where g is
    ``(1/(1 - a) + 1/(1 - b)) / (1 - a - b)``.  By ascending score, the best is i if the other two come before i; the
    sums over these grow with i.  What is left of the shares is added up and not subtracted, since one peer may have
    nearly all of them (256 candidates: 10 ms, measured).
    """
    order = np.argsort(scores, kind="stable")
    drawn = shares[order]
    pair = _pair_weights(drawn)
    both = np.tril(pair * drawn[:, np.newaxis] * drawn, -1).sum(1)  # of each with those before it
    earlier = np.concatenate(([0.0], np.cumsum(both)[:-1]))
    others = np.cumsum(np.where(np.eye(len(drawn), dtype=bool), 0.0, drawn), 1)
    third = np.hstack((np.zeros((len(drawn), 1)), others[:, :-1]))  # those before i (column) without j (row)
    with_one = (np.triu(third * pair, 1) * drawn[:, np.newaxis]).sum(0)
    best = drawn * (earlier + with_one)
    # Of equal scores the first one drawn counts as the best; those are mostly equal in all, so they share.
    _, group, count = np.unique(scores[order], return_inverse=True, return_counts=True)
    odds = np.zeros(len(scores))
    odds[order] = (np.bincount(group, best) / count)[group]
    odds /= odds.sum()
    return odds


def _pair_weights(shares: FloatArray) -> FloatArray:
    """``(1/(1 - a) + 1/(1 - b)) / (1 - a - b)`` for each pair of shares."""
    order = np.argsort(shares, kind="stable")
    ascending = shares[order]
    below = np.concatenate(([0.0], np.cumsum(ascending)))
    above = np.concatenate((np.cumsum(ascending[::-1])[::-1], [0.0]))
    one = below[:-1] + above[1:]
    between = np.maximum(0.0, below[np.newaxis, :-1] - below[1:, np.newaxis])
    two = below[:-1, np.newaxis] + between + above[np.newaxis, 1:]
    weights = (1.0 / one + 1.0 / one[:, np.newaxis]) / np.maximum(two, _LEAST_SHARE)
    upper = np.triu(weights, 1)
    symmetric = np.zeros((len(shares), len(shares)))
    symmetric[np.ix_(order, order)] = upper + upper.T
    return symmetric


def runner_up(tiers: IntArray, scores: FloatArray, odds: FloatArray, contest: FloatArray, unit: str) -> RunnerUp | None:
    """The likeliest two; None for fewer than two.

    Where the likeliest has the better ``contest``, which decides among those that were drawn, that is the gap.
    """
    if len(tiers) < 2:
        return None
    ahead, place = np.lexsort((-scores, tiers, -odds))[:2].tolist()
    drawn, gap = float(contest[ahead] - contest[place]), float(scores[ahead] - scores[place])
    fresh = not int(tiers[ahead]) & STALE_TIER  # among stale loads only the draw counts
    contested = fresh and drawn > 0 and bool((contest != scores).any())
    needs = lacking(int(tiers[place]), int(tiers[ahead]))
    return RunnerUp(place, ahead, max(0.0, drawn if contested else gap), unit, needs, contested)


def lacking(tier: int, best: int) -> tuple[str, ...]:
    """What a peer in ``tier`` would need to be in the tier ``best``."""
    named = ("an earlier place in `order`",) if tier // NAMED_TIER > best // NAMED_TIER else ()
    return named + tuple(words for bit, words in _NEEDS if tier & bit > best & bit)
