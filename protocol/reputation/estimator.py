"""The chance that a peer completes a job, from its evidence: one estimator for all of routing.

Three were compared in simulated worlds (``python -m tests.bench.estimators``; the table is in ``p2pnode/DESIGN.md``):
the mean of the posterior, its lower quartile, and a draw from it (Thompson sampling).

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


def estimate(
    good: FloatArray, bad: FloatArray, prior: FloatArray, noise: FloatArray, estimator: Estimator = CHOSEN
) -> FloatArray:
    """The chance of each peer.  ``prior`` is that of a peer without evidence, ``noise`` uniform between 0 and 1.

    The posterior is taken as normal with the moments of the Beta distribution, which costs a tenth of its quantiles.
    """
    amount = good + bad + PRIOR_STRENGTH
    mean = (prior * PRIOR_STRENGTH + good) / amount
    if estimator != "mean":
        deviation = np.sqrt(mean * (1.0 - mean) / (amount + 1.0))
        # The logistic distribution has nearly the shape of the normal one, and an inverse in closed form.
        steps = _QUARTILE if estimator == "quartile" else np.log(noise / (1.0 - noise)) / 1.702
        mean = mean + steps * deviation
    clipped: FloatArray = np.minimum(np.maximum(mean, LEAST), MOST)
    return clipped
