"""The confidence interval of a mean of a few runs: Student's t.  Not here: the grouping of the runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final

#: Quantiles of Student's t at 97.5 % by degrees of freedom (from the usual tables); beyond, of the normal distribution.
# fmt: off
STUDENT: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)
# fmt: on
NORMAL: Final = 1.960


def half_interval(values: Sequence[float]) -> float | None:
    """Half of the 95 % confidence interval of the mean; None of one value, or if one is infinite."""
    count = len(values)
    if count < 2 or not all(map(math.isfinite, values)):
        return None
    t = STUDENT[count - 2] if count - 2 < len(STUDENT) else NORMAL
    return t * statistics.stdev(values) / math.sqrt(count)
