"""How often and how soon a node tries again after attempts that failed, over all of its jobs.

In an outage every job fails and is tried again, which multiplies the load where there is too much of it already.  So
retries have a budget (Finagle's): ``JOBS`` jobs add one retry, and a node with few jobs may always use a small reserve.
An attempt that risked nothing, such as one at a busy peer, costs nothing.

The first retry goes to another peer at once.  Each later one waits a random part of a time that doubles (full jitter),
so that nodes which failed together do not come back together.

Not here: which failures count, and the number of attempts of one job (``cascade``).
"""

from __future__ import annotations

from typing import Final

from protocol.rng import Rng
from protocol.token_bucket import TokenBucket

#: Jobs that add one retry (routing study, 2.6: 20 % of the requests), and the most retries that are saved (guess).
JOBS: Final = 5
MOST_SAVED: Final = 100
#: Retries that are there without any job, and how fast they come back, per second (guess: a caller alone at a node).
RESERVE: Final = 10.0
RESERVE_S: Final = 1.0
#: The first pause, seconds (routing study, 2.6).
PAUSE_S: Final = 0.05


class RetryBudget:
    """See the module's docstring."""

    def __init__(self, rng: Rng, now: float) -> None:
        self._rng = rng
        self._jobs = 0
        self._reserve = TokenBucket(RESERVE_S, RESERVE, now)

    def began(self) -> None:
        """A job begins."""
        self._jobs = min(MOST_SAVED * JOBS, self._jobs + 1)

    def take(self, now: float) -> bool:
        """Whether there is a retry left; it is used then."""
        if self._jobs >= JOBS:
            self._jobs -= JOBS
            return True
        return self._reserve.spend(1.0, now)

    def pause_s(self, retry: int) -> float:
        """Seconds to wait before the ``retry``-th retry of a job, which counts from 1."""
        return self._rng.uniform(0.0, PAUSE_S * 2.0 ** (retry - 1)) if retry > 1 else 0.0
