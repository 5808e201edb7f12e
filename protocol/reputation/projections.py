"""What experience means for ranking, as columns of the view: each peer's chance, whether it is proven, its factors.

Evidence and factors decay all the time, and slowly: the shortest half-life is half an hour.  So the columns that
ranking reads are computed for all peers at once, at most every ``EVERY_S`` seconds, and at once for a peer that a job
just ended at.  A decision then costs no more than reading them.

Not here: the evidence (``experience``), and the order of the candidates (``routing.standing``).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from protocol.arrays import FloatArray, IntArray
from protocol.membership.columns import Offers
from protocol.membership.peer_view import PeerView
from protocol.reputation import correction
from protocol.reputation.estimator import moments
from protocol.reputation.evidence import LAWS, Dimension
from protocol.reputation.newcomers import GROUP_STRENGTH, HALF_LIFE_S, PROVEN

#: Seconds after which the columns are computed anew (guess: a thousandth of the shortest half-life).
EVERY_S: Final = 1.0
#: Below this chance a peer is not proven whatever its past (guess: one job of three fails).
LEAST_CHANCE: Final = 0.7
_OWN_HALF_LIFE_S: Final = LAWS[Dimension.COMPLETE].half_life_s


def _left(since: FloatArray, now: float, half_life_s: float) -> FloatArray:
    """The share that did not decay."""
    left: FloatArray = np.exp2(np.minimum(0.0, since - now) / half_life_s)
    return left


def project_peers(view: PeerView, everyone: float, now: float, only: IntArray | None = None) -> None:
    """Compute the chance of these peers, or of all; ``everyone`` is that of a newcomer of an unknown group."""
    columns, past = view.columns, view.learned.past
    rows: IntArray | slice = slice(columns.capacity) if only is None else only
    left = _left(past["group_at"][rows], now, HALF_LIFE_S)
    good, bad = past["group_good"][rows] * left, past["group_bad"][rows] * left
    prior = (GROUP_STRENGTH * everyone + good) / (GROUP_STRENGTH + good + bad)
    left = _left(past["judged_at"][rows], now, _OWN_HALF_LIFE_S)
    good, bad, me = past["good"][rows] * left, past["bad"][rows] * left, columns["me"][rows]
    chance, deviation = moments(good, bad, prior)
    columns["completed"][rows], columns["judged"][rows] = good, (good + bad) > 0
    columns["chance"][rows], columns["deviation"][rows] = np.where(me, 1.0, chance), np.where(me, 0.0, deviation)
    columns["proven"][rows] = ((good >= PROVEN) & (chance >= LEAST_CHANCE)) | me


def project_factors(
    view: PeerView, offers: Offers, newcomer: tuple[float, float], now: float, places: IntArray | slice = slice(None)
) -> None:
    """Compute the factors of the peers that offer one model, at these places of its index.

    ``newcomer`` are the log factors of a peer without any, of the prompt and of the token.
    """
    rows = offers.rows[places]
    peers, me = view.learned.past.rows(rows), view.columns["me"][rows]
    least = np.where(view.columns["tflops"][rows] > 0, correction.FASTEST, 0.0)
    for phase, log in zip(("prompt", "token"), newcomer, strict=True):
        first = np.where(me, 0.0, log)
        wide = _read(peers[f"{phase}_log"], peers[f"{phase}_count"], peers["seen_at"], first, now)
        own, mean = offers.column(f"{phase}_count")[places], offers.column(f"{phase}_log")[places]
        factor = np.exp(_read(mean, own, offers.column("seen_at")[places], wide, now))
        offers.column(f"{phase}_factor")[places] = np.maximum(least, factor)
    count = peers["prompt_count"] * _left(peers["seen_at"], now, correction.HALF_LIFE_S)
    known = correction.PRIOR_COUNT * correction.PRIOR_SIGMA**2
    variance = (known + count * peers["log_variance"]) / (correction.PRIOR_COUNT + count)
    offers.column("sigma")[places] = np.sqrt(variance)
    offers.column("corrected")[places] = (peers["prompt_count"] > 0) | (peers["token_count"] > 0)


def _read(mean: FloatArray, count: FloatArray, seen_at: FloatArray, prior: FloatArray, now: float) -> FloatArray:
    """A log factor with the prior of its scope."""
    count = count * _left(seen_at, now, correction.HALF_LIFE_S)
    log: FloatArray = (count * mean + correction.PRIOR_COUNT * prior) / (count + correction.PRIOR_COUNT)
    return log
