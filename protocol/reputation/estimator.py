"""The chance that a peer completes a job, from its evidence: one estimator for all of routing.

Three were compared in simulated worlds (``python -m tests.protocol.reputation.worlds``; the table is in
``p2pnode/DESIGN.md``): the mean of the posterior, its lower quartile, and a draw from it (Thompson sampling).

Not here: the evidence itself (``evidence``), and the prior of a newcomer (``newcomers``).
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np

from protocol.arrays import FloatArray
from protocol.reputation.evidence import PRIOR_STRENGTH

Estimator = Literal["mean", "quartile", "draw"]
#: The one that routing uses.
CHOSEN: Final[Estimator] = "mean"
#: Bounds of an estimate, so that what a failure costs stays finite (guess).
LEAST: Final = 0.02
MOST: Final = 0.999
#: Standard deviations from the mean to the lower quartile of a normal distribution.
_QUARTILE: Final = -0.6745
#: Scale of the logistic distribution that is closest to a normal one.
_LOGISTIC: Final = 1.702


def moments(good: FloatArray, bad: FloatArray, prior: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of the posterior of each peer; ``prior`` is the chance without evidence."""
    amount = good + bad + PRIOR_STRENGTH
    mean = (prior * PRIOR_STRENGTH + good) / amount
    return mean, np.sqrt(mean * (1.0 - mean) / (amount + 1.0))


def estimate(mean: FloatArray, deviation: FloatArray, noise: FloatArray, estimator: Estimator = CHOSEN) -> FloatArray:
    """The chance of each peer; ``noise`` is uniform between 0 and 1.

    The posterior is taken as normal with these moments, which costs a tenth of the quantiles of the Beta distribution.
    """
    if estimator == "draw":
        # The logistic distribution has nearly the shape of the normal one, and an inverse in closed form.
        mean = mean + np.log(noise / (1.0 - noise)) / _LOGISTIC * deviation
    elif estimator == "quartile":
        mean = mean + _QUARTILE * deviation
    clipped: FloatArray = np.minimum(np.maximum(mean, LEAST), MOST)
    return clipped
