"""The standing of candidates by what this node has seen of them: the chance of success, who is proven, and who leads.

Theory of operation
===================

::

    chance     the estimator of ``reputation``, from decayed evidence and the prior of the peer's network group
    failures   (1 - chance) / chance x t_fail seconds: how often a job has to be tried again, and what that costs;
               t_fail is the mean time that a failure cost here, and the fastest candidate's time to do it after all
    barred     an open breaker puts a peer behind all others
    unproven   newcomers come behind proven peers, unless the job is open (``reputation.newcomers``)
    laden      a newcomer with more jobs of ours than it has finished ones comes behind those without, and leads no job:
               what many requests at once may lose to it grows with what it did, as a slow start (RFC 5681)
    lead       the newcomer that a job goes to first, when newcomers have earned one

The lead is drawn.  A network group counts as much as its best member, so that identities do not multiply.  Claims count
as far as newcomers have kept them here; evidence counts always: a peer that failed comes rarely, and one that is about
to be proven comes often.

Not here: other terms of the score (``policies``), the evidence and its columns (``reputation``).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from protocol.arrays import BoolArray, FloatArray, IntArray
from protocol.reputation.estimator import estimate
from protocol.reputation.experience import Experience
from protocol.reputation.newcomers import PER_GROUP, led_share, open_share

#: A newcomer counts as its chance, relative to that of others, to this power: one with a failure counts for a tenth
#: (guess).
_CAUTION: Final = 3.0
#: Newcomers are the likelier to lead, the more jobs they completed, to this power (guess: graduation is worth a queue).
_EAGERNESS: Final = 2.0
#: The digits of a random number after so many others are another random number.
_OTHER: Final = 1048576.0


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

    def __init__(self, table: Table, experience: Experience) -> None:
        self._table = table
        self._experience = experience

    @cached_property
    def chance(self) -> FloatArray:
        """The estimated chance that the peer completes a job."""
        column, estimator = self._table.column, self._experience.estimator
        # The draw by the score uses the noise itself.
        other = np.modf(self._table.noise * _OTHER)[0] if estimator == "draw" else self._table.noise
        return estimate(column("chance"), column("deviation"), other, estimator)

    @property
    def known(self) -> BoolArray:
        """Whether there is evidence of the peer itself."""
        return self._table.column("judged")

    @cached_property
    def barred(self) -> BoolArray:
        """Whether the breaker is open."""
        barred: BoolArray = self._table.column("barred_until") > self._table.now
        return barred

    @property
    def proven(self) -> BoolArray:
        """Whether the peer completed enough jobs, and most of them."""
        return self._table.column("proven")

    @cached_property
    def laden(self) -> BoolArray:
        """Newcomers that run more jobs of ours than they have finished ones."""
        column = self._table.column
        laden: BoolArray = ~self.proven & (column("inflight") > column("completed"))
        return laden

    def failures_s(self, fastest_s: float) -> FloatArray:
        """Seconds that failures are expected to cost at each peer."""
        seconds: FloatArray = (1.0 / self.chance - 1.0) * (self._experience.lost_s + fastest_s)
        return seconds

    # --- newcomers -----------------------------------------------------------------------------------------------

    @cached_property
    def _able(self) -> BoolArray:
        """Those that are not barred, not out of reach, and have a free slot."""
        table = self._table
        able: BoolArray = ~self.barred & (table.column("missed_until") <= table.now) & (table.jobs < table.slots)
        return able

    def proven_first(self, out: BoolArray, spend: bool = True) -> bool:
        """Whether newcomers come behind the proven peers this time; without ``spend``, whether they mostly do.

        ``out`` are the peers that are no candidates.
        """
        count = int(np.count_nonzero(self._able & self.proven & ~out))
        return not self._experience.newcomers.open(count) if spend else open_share(count) < 0.5

    def open_share(self, out: BoolArray) -> float:
        """The share of the jobs for which newcomers compete with proven peers."""
        return open_share(int(np.count_nonzero(self._able & self.proven & ~out)))

    def lead(self, out: BoolArray, log_weights: FloatArray) -> int | None:
        """The newcomer that this job goes to first, which spends what newcomers have earned; None if it has no turn."""
        newcomers = self._experience.newcomers
        if not newcomers.may_lead():
            return None
        new, group, share = self._newcomers(out)
        if not new.size or not newcomers.leads(share):
            return None
        keys = self._lead_weights(new, group, log_weights) - np.log(-np.log(self._table.noise[new]))
        return int(new[np.argmax(keys)])

    def lead_odds(self, out: BoolArray, log_weights: FloatArray) -> FloatArray:
        """The share of the jobs that each place leads, for an explanation; it spends nothing."""
        new, group, share = self._newcomers(out)
        odds = np.zeros(len(out))
        if new.size:
            weights = self._lead_weights(new, group, log_weights)
            drawn = np.exp(weights - weights.max())
            odds[new] = share * drawn / drawn.sum()
        return odds

    def _newcomers(self, out: BoolArray) -> tuple[IntArray, IntArray, float]:
        """The newcomers that can take a job, the numbers of their groups, and the share of the jobs that they lead."""
        able = self._able & ~out
        new = np.flatnonzero(able & ~self.proven & ~self.laden)
        _, group = np.unique(self._table.column("group")[new], return_inverse=True)
        usual = self._experience.newcomers.prior(self._table.now)
        each = np.minimum(1.0, self._table.column("chance")[new] / usual) ** _CAUTION
        weight = np.minimum(PER_GROUP, np.bincount(group, each)).sum()
        return new, group, led_share(int(np.count_nonzero(able & self.proven)), float(weight))

    def _lead_weights(self, new: IntArray, group: IntArray, log_weights: FloatArray) -> FloatArray:
        """The logarithms of the weights with which newcomers are drawn to lead; a group weighs as its best member."""
        claims = self._experience.newcomers.prior(self._table.now) ** _CAUTION
        eager = _CAUTION * np.log(self._table.column("chance")[new]) + _EAGERNESS * np.log1p(
            self._table.column("completed")[new]
        )
        weights = log_weights[new] * claims + eager
        best = np.full(int(group.max()) + 1, -np.inf)
        np.maximum.at(best, group, weights)
        together = np.bincount(group, np.exp(weights - best[group]))
        shared: FloatArray = weights - np.log(together[group])
        return shared
