"""The standing of candidates by what this node has seen of them: the chance of success, who is proven, and who leads.

Theory of operation
===================

::

    chance     the estimator of ``reputation``, from decayed evidence and the prior of the peer's network group
    failures   (1 - chance) / chance x t_fail seconds: how often a job has to be tried again, and what that costs;
               t_fail is the mean time that a failure cost here, and the fastest candidate's time to do it after all
    barred     an open breaker puts a peer behind all others
    unproven   newcomers come behind proven peers, unless the job is open (``reputation.newcomers``)
    lead       the newcomer that a job goes to first, when newcomers have earned one

The lead is drawn.  A network group counts as much as its best member, so that identities do not multiply.  Claims count
as far as newcomers have kept them here; evidence counts always: a peer that failed comes rarely, and one that is about
to be proven comes often.

Not here: other terms of the score (``policies``), the evidence (``reputation``).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from protocol.arrays import BoolArray, FloatArray, IntArray
from protocol.reputation.estimator import CHOSEN, Estimator, estimate
from protocol.reputation.evidence import LAWS, PRIOR_STRENGTH, Dimension
from protocol.reputation.experience import Experience
from protocol.reputation.newcomers import (
    GROUP_STRENGTH,
    HALF_LIFE_S,
    PER_GROUP,
    PROVEN,
    led_share,
    open_share,
)

#: A newcomer counts as its chance to this power: one with a failure counts for a tenth (guess).
_CAUTION: Final = 3.0
#: Newcomers are the likelier to lead, the more jobs they completed, to this power (guess: graduation is worth a queue).
_EAGERNESS: Final = 2.0
_OWN_HALF_LIFE_S: Final = LAWS[Dimension.COMPLETE].half_life_s
#: The digits of a random number after so many others are another random number.
_OTHER: Final = 1048576.0
#: Below this chance a peer is not proven whatever its past (guess: one job of three fails).
LEAST_CHANCE: Final = 0.7


class Table(Protocol):
    """What is needed of a candidate table."""

    @property
    def now(self) -> float: ...
    @property
    def noise(self) -> FloatArray: ...
    @property
    def jobs(self) -> FloatArray: ...
    @property
    def slots(self) -> FloatArray: ...
    def column(self, name: str, /) -> npt.NDArray[Any]: ...


class Standing:
    """The candidates of one table as ``experience`` sees them; computed on first use."""

    def __init__(self, table: Table, experience: Experience, estimator: Estimator = CHOSEN) -> None:
        self._table = table
        self._experience = experience
        self._estimator = estimator

    @cached_property
    def _left(self) -> FloatArray:
        """The share of the evidence that did not decay."""
        left: FloatArray = np.exp2((self._table.column("judged_at") - self._table.now) / _OWN_HALF_LIFE_S)
        return left

    @cached_property
    def good(self) -> FloatArray:
        """Decayed completions."""
        good: FloatArray = self._table.column("good") * self._left
        return good

    @cached_property
    def bad(self) -> FloatArray:
        """Decayed failures."""
        bad: FloatArray = self._table.column("bad") * self._left
        return bad

    @cached_property
    def prior(self) -> FloatArray:
        """The chance of a newcomer of the peer's network group."""
        table = self._table
        everyone = self._experience.newcomers.prior(table.now)
        left = np.exp2((table.column("group_at") - table.now) / HALF_LIFE_S)
        good, bad = table.column("group_good") * left, table.column("group_bad") * left
        prior: FloatArray = (GROUP_STRENGTH * everyone + good) / (GROUP_STRENGTH + good + bad)
        return prior

    @cached_property
    def chance(self) -> FloatArray:
        """The estimated chance that the peer completes a job; this node trusts itself."""
        table = self._table
        other = np.modf(table.noise * _OTHER)[0]  # the draw by the score uses the noise itself
        chance = estimate(self.good, self.bad, self.prior, other, self._estimator)
        chance[table.column("me")] = 1.0
        return chance

    @cached_property
    def known(self) -> BoolArray:
        """Whether there is evidence of the peer itself."""
        known: BoolArray = (self.good + self.bad) > 0
        return known

    @cached_property
    def barred(self) -> BoolArray:
        """Whether the breaker is open."""
        barred: BoolArray = self._table.column("barred_until") > self._table.now
        return barred

    @cached_property
    def proven(self) -> BoolArray:
        """Whether the peer completed enough jobs, and most of them."""
        mean = (PRIOR_STRENGTH * self.prior + self.good) / (PRIOR_STRENGTH + self.good + self.bad)
        proven: BoolArray = ((self.good >= PROVEN) & (mean >= LEAST_CHANCE)) | self._table.column("me")
        return proven

    def failures_s(self, fastest_s: float) -> FloatArray:
        """Seconds that failures are expected to cost at each peer."""
        odds = (1.0 - self.chance) / self.chance
        seconds: FloatArray = odds * (self._experience.lost_s + fastest_s)
        return seconds

    # --- newcomers -----------------------------------------------------------------------------------------------

    def _able(self, places: IntArray) -> IntArray:
        """Those that are not barred, not out of reach, and have a free slot."""
        table = self._table
        able = ~self.barred & (table.column("missed_until") <= table.now) & (table.jobs < table.slots)
        return places[able[places]]

    def proven_first(self, places: IntArray, spend: bool = True) -> bool:
        """Whether newcomers come behind the proven peers this time; without ``spend``, whether they mostly do."""
        count = int(self.proven[self._able(places)].sum())
        return not self._experience.newcomers.open(count) if spend else open_share(count) < 0.5

    def open_share(self, places: IntArray) -> float:
        """The share of the jobs for which newcomers compete with proven peers."""
        return open_share(int(self.proven[self._able(places)].sum()))

    def lead(self, places: IntArray, log_weights: FloatArray) -> int | None:
        """The newcomer that this job goes to first, which spends what newcomers have earned; None if it has no turn."""
        new, proven, weight = self._newcomers(places)
        if not new.size or not self._experience.newcomers.leads(proven, weight):
            return None
        keys = self._lead_weights(new, log_weights) - np.log(-np.log(self._table.noise[new]))
        return int(new[np.argmax(keys)])

    def lead_odds(self, places: IntArray, log_weights: FloatArray) -> FloatArray:
        """The share of the jobs that each of these places leads, for an explanation; it spends nothing."""
        new, proven, weight = self._newcomers(places)
        odds = np.zeros(len(self._table.noise))
        if new.size:
            weights = self._lead_weights(new, log_weights)
            drawn = np.exp(weights - weights.max())
            odds[new] = led_share(proven, weight) * drawn / drawn.sum()
        led: FloatArray = odds[places]
        return led

    def _newcomers(self, places: IntArray) -> tuple[IntArray, int, float]:
        """The newcomers that can take a job, the number of proven peers that can, and what the newcomers count for."""
        able = self._able(places)
        proven = self.proven[able]
        new = able[~proven]
        _, group = np.unique(self._table.column("group")[new], return_inverse=True)
        weight = np.minimum(PER_GROUP, np.bincount(group, self.chance[new] ** _CAUTION)).sum()
        return new, int(proven.sum()), float(weight)

    def _lead_weights(self, new: IntArray, log_weights: FloatArray) -> FloatArray:
        """The logarithms of the weights with which newcomers are drawn to lead; a group weighs as its best member."""
        table = self._table
        _, group = np.unique(table.column("group")[new], return_inverse=True)
        claims = self._experience.newcomers.prior(table.now) ** _CAUTION
        weights = (
            log_weights[new] * claims + _CAUTION * np.log(self.chance[new]) + _EAGERNESS * np.log1p(self.good[new])
        )
        best = np.full(int(group.max()) + 1, -np.inf)
        np.maximum.at(best, group, weights)
        together = np.bincount(group, np.exp(weights - best[group]))
        shared: FloatArray = weights - np.log(together[group])
        return shared
