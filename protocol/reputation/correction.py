"""How much slower or faster than predicted a peer is: one learned log factor per peer, model and phase.

The phases are the *prompt* (queue and prompt, to the first token) and the *token* (each one after it).  What the factor
stands for is heat, drivers, a shared bus and optimistic claims; it needs no trust, because only this node's own jobs
count.

Theory of operation
-------------------
A factor is a running mean of ``ln(observed / predicted)`` with its variance, over ``MOST_COUNT`` observations at most,
whose count decays.  It is read with the prior of the next wider scope, which counts for ``PRIOR_COUNT`` observations::

    model of a peer -> the peer -> newcomers -> ln 1.25
    factor = (count x mean + prior) / (count + 1)

So a factor without observations is that of the peer, and it goes back there with the half-life of the count.  A
newcomer is as slow as newcomers were here, and before any was seen slower than it claims; that guess counts for
``FIRST_COUNT`` observations.

*No credit for the impossible.*  The factor that ranking reads is ``FASTEST`` at least where the peer names its cards:
otherwise one that sends garbage at once would be predicted as the fastest of all.

*What is observed.*  The seconds to the first piece, less the part that no speed scales, against the predicted ones; and
the seconds between pieces.  An observation weighs less where jitter of the link or a queue that a stale load tells of
hides it, and where the answer is short.  A whole answer is one time for both phases: what it differs from the corrected
prediction goes to the token, with the count of tokens that the peer states and the request bounds.  Without a first
piece, a promise of the peer counts for a quarter and within bounds; a first piece that never came counts as late as it
was missed, if that is worse than what is known.

Not here: the prediction itself (``perf.cost_model``), and its use (``projections``, ``routing.candidate_table``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from protocol.perf.forecast import Forecast
from protocol.reputation.observation import Observation
from protocol.reputation.outcomes import Outcome

#: A newcomer is this much slower than it claims (routing study, 2.3).
NEWCOMER: Final = math.log(1.25)
#: Seconds after which an observation counts for half (routing study).
HALF_LIFE_S: Final = 1800.0
#: Observations that count at most: a new one moves the mean by a tenth at least (routing study).
MOST_COUNT: Final = 10.0
#: Bounds of what one job says of newcomers (guess: as slow as honest peers are at times).
NEWCOMER_MOST: Final = math.log(2.0)
#: Observations that the guess for newcomers counts for (guess: as for their chance of success).
FIRST_COUNT: Final = 5.0
#: Observations that the prior counts for (guess: one observation is as good as what is known of others).
PRIOR_COUNT: Final = 1.0
#: Standard deviation of the log factor before any observation (guess: hidden efficiencies of 25 %, and as much for what
#: the model of a GPU leaves out).
PRIOR_SIGMA: Final = 0.35
#: Bounds of one observation: 150 times slower or faster (a desktop CPU that was taken for a GPU, and the reverse).
MOST_LOG: Final = 5.0
#: The least factor of a peer that names its cards: one that answers faster than they can does not run the model
#: (guess: one standard deviation of hidden efficiencies).  Of a peer without cards nothing is predicted, so any speed
#: may be learned.
FASTEST: Final = 0.8
#: A promise counts for so much, and differs from the prediction by this factor at most (routing study).
PROMISE_WEIGHT: Final = 0.25
PROMISE_MOST: Final = math.log(5.0)
#: Pieces after the first from which their rhythm is certain (guess: a second of an answer).
SURE_PIECES: Final = 32.0
#: Least predicted and observed seconds that are compared.
_LEAST_S: Final = 1e-4


class Factor:
    """One log factor.  Times are monotonic seconds."""

    __slots__ = ("at", "count", "mean", "variance")

    def __init__(self, mean: float = 0.0, count: float = 0.0, variance: float = 0.0, at: float = 0.0) -> None:
        self.mean = mean
        self.count = count
        self.variance = variance
        self.at = at

    def age(self, now: float) -> None:
        """Let the count decay to ``now``."""
        if now > self.at:
            self.count *= float(2.0 ** (-(now - self.at) / HALF_LIFE_S))
            self.at = now

    def observe(self, log_ratio: float, weight: float, now: float, most_log: float = MOST_LOG) -> None:
        """Add an observation of this weight, from 0 to 1, within ``most_log``."""
        self.age(now)
        off = min(most_log, max(-most_log, log_ratio)) - self.mean
        self.count = min(MOST_COUNT, self.count + weight)
        if self.count > 0.0:
            gain = weight / self.count
            self.mean += gain * off
            self.variance = (1.0 - gain) * (self.variance + gain * off * off)


class Factors:
    """The factors of one scope, a peer or one of its models."""

    __slots__ = ("prompt", "token")

    def __init__(self) -> None:
        self.prompt = Factor()
        self.token = Factor()

    def observe(self, seen: Observation, now: float, most_log: float = MOST_LOG) -> None:
        """Learn from an attempt, within ``most_log``."""
        if seen.forecast is None:
            return
        for log_ratio, weight in _of_prompt(seen, seen.forecast, self.prompt.mean):
            self.prompt.observe(log_ratio, weight, now, most_log)
        if seen.token_s is not None and seen.streamed:
            log_ratio = math.log(max(_LEAST_S, seen.token_s) / max(_LEAST_S, seen.forecast.base_itl_s))
            self.token.observe(log_ratio, min(1.0, seen.pieces / SURE_PIECES), now, most_log)
        elif seen.tokens > 1 and not seen.streamed:
            log_ratio = _of_whole(seen, seen.forecast)
            self.token.observe(log_ratio, min(1.0, seen.tokens / SURE_PIECES), now, most_log)

    def age(self, now: float) -> None:
        """Let both decay to ``now``."""
        self.prompt.age(now)
        self.token.age(now)

    def items(self) -> tuple[tuple[str, Factor], tuple[str, Factor]]:
        """Both by the name of their phase."""
        return ("prompt", self.prompt), ("token", self.token)

    def restore(self, phase: str, factor: Factor) -> None:
        """Take over a factor of an earlier life; phases of a later version are skipped."""
        factor.count = min(MOST_COUNT, factor.count)
        if phase == "prompt":
            self.prompt = factor
        elif phase == "token":
            self.token = factor

    def slower(self, now: float) -> float | None:
        """How many times longer than predicted jobs took; None without recent ones."""
        self.age(now)
        count = self.prompt.count + self.token.count
        if count < PRIOR_COUNT:
            return None
        return math.exp((self.prompt.count * self.prompt.mean + self.token.count * self.token.mean) / count)


class Newcomer:
    """The log factors of a newcomer: the guess, and what newcomers turned out to be here."""

    def __init__(self) -> None:
        self.factors = Factors()

    def observe(self, seen: Observation, now: float) -> None:
        """A job of a newcomer ended.  One liar must not make all others look slow, so it counts within bounds."""
        self.factors.observe(seen, now, NEWCOMER_MOST)

    def logs(self, now: float) -> tuple[float, float]:
        """Those of the prompt and of the token."""
        self.factors.age(now)
        prompt, token = (
            (FIRST_COUNT * NEWCOMER + factor.count * factor.mean) / (FIRST_COUNT + factor.count)
            for _, factor in self.factors.items()
        )
        return prompt, token


def _of_whole(seen: Observation, forecast: Forecast) -> float:
    """The log ratio of a whole answer, which tells of both phases together."""
    predicted = forecast.ttft_s + forecast.itl_s * (seen.tokens - 1)
    off = math.log(max(_LEAST_S, seen.lost_s) / max(_LEAST_S, predicted))
    return off + math.log(max(_LEAST_S, forecast.itl_s) / max(_LEAST_S, forecast.base_itl_s))


def _of_prompt(seen: Observation, forecast: Forecast, mean: float) -> Iterator[tuple[float, float]]:
    """The log ratio of the prompt phase, and its weight."""
    predicted = max(_LEAST_S, forecast.base_prompt_s)

    def log_ratio(seconds: float) -> float:
        return math.log(max(_LEAST_S, seconds) / predicted)

    if seen.first_s is not None:
        if seen.streamed:
            own = max(_LEAST_S, predicted - forecast.base_queue_s)
            yield log_ratio(seen.first_s - forecast.base_wait_s), own / (predicted + forecast.base_wait_s)
    elif seen.outcome is Outcome.NO_ANSWER:
        missed = log_ratio(seen.lost_s - forecast.base_wait_s)
        if missed > mean:
            yield missed, 1.0
    elif seen.promise_s > 0.0:
        yield min(PROMISE_MOST, max(-PROMISE_MOST, log_ratio(seen.promise_s))), PROMISE_WEIGHT
