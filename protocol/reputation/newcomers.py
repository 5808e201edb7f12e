"""What newcomers are worth: the prior of a peer without evidence, and the share of the jobs that newcomers may have.

A *newcomer* is a peer with fewer than ``PROVEN`` decayed completions.  It is priced by its prior and not barred: the
prior is what newcomers achieved here lately, in its network group and altogether, so that identities, which cost
nothing, do not buy trust that earlier ones lost.  And all newcomers together get a bounded share of the jobs.

Theory of operation
-------------------
Each job is *open*, *led* or for proven peers first.  ::

    open   everyone competes by score: the share 1 - proven / 16, so that few proven peers are not overloaded
    led    goes first to one newcomer, and to proven peers if that fails: the share min(5 %, weight / (weight + proven))

``proven`` is the number of proven peers that can take the job now, and ``weight`` the number of newcomers, at most two
of one network group; one that failed, or whose group did, counts for less than one of which nothing is known.  So many
newcomers gain nothing by their number, and one newcomer leads no more often than one proven peer.  Both shares are
earned by jobs and not by time, so they need no clock.

Not here: which newcomer leads (``routing.standing``), and single peers (``evidence``).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from protocol.reputation.evidence import Evidence, Law, restored
from protocol.reputation.snapshot import Pair
from protocol.subnet import limited

#: Decayed completions from which a peer is no newcomer: three, the last of them a while ago.
PROVEN: Final = 2.5
#: Share of the jobs that are led by newcomers (guess: one job of twenty is a tolerable risk).
LED_SHARE: Final = 0.05
#: Proven peers from which on no job is open: as many as the links that are kept for a model.
ENOUGH: Final = 16
#: Newcomers of one network group that count (guess: a household or a small laboratory).
PER_GROUP: Final = 2.0
#: Chance of a newcomer before any was observed, and the observations it counts for (guess: most peers are honest).
FIRST_PRIOR: Final = 0.9
FIRST_STRENGTH: Final = 5.0
#: What the prior of all newcomers counts for within one group, in observations (guess).
GROUP_STRENGTH: Final = 4.0
#: The half-life of evidence about newcomers, seconds (guess: a raid is over after an hour), and its cap.
HALF_LIFE_S: Final = 3600.0
_LAW: Final = Law(HALF_LIFE_S, 50.0, FIRST_PRIOR)
#: Network groups that are remembered (guess: those of a full view).
MOST_GROUPS: Final = 4096


class Newcomers:
    """See the module's docstring.  Times are monotonic seconds."""

    def __init__(self, most_groups: int = MOST_GROUPS) -> None:
        self._most_groups = most_groups
        self._all = Evidence()
        self._groups: OrderedDict[str, Evidence] = OrderedDict()
        self._earned_open = self._may_lead = self._earned_lead = 0.0

    # --- the prior -----------------------------------------------------------------------------------------------

    def observe(self, group: str, value: float, weight: float, now: float) -> Evidence | None:
        """A newcomer of this group did well (1) or failed (0); returns the evidence about its group, if it has one."""
        self._all.observe(value, weight, _LAW, now)
        if not limited(group):
            return None
        evidence = self._groups.pop(group, None) or Evidence(at=now)
        self._groups[group] = evidence
        evidence.observe(value, weight, _LAW, now)
        return evidence

    def shrink(self) -> list[str]:
        """Forget the groups observed least recently if there are too many; returns them."""
        return [self._groups.popitem(last=False)[0] for _ in range(len(self._groups) - self._most_groups)]

    def items(self) -> list[tuple[str, Evidence]]:
        """The evidence about all newcomers, under "", and about those of each network group."""
        return [("", self._all), *self._groups.items()]

    def restore(self, group: str, row: Pair) -> Evidence:
        """Take over evidence of an earlier life about newcomers, "" for all."""
        evidence = restored(row, _LAW)
        if group:
            self._groups[group] = evidence
        else:
            self._all = evidence
        return evidence

    def prior(self, now: float) -> float:
        """The chance that a newcomer of an unknown group completes a job."""
        evidence = Evidence(self._all.good, self._all.bad, self._all.at)
        evidence.decay(_LAW, now)
        return (FIRST_STRENGTH * FIRST_PRIOR + evidence.good) / (FIRST_STRENGTH + evidence.amount)

    # --- the shares ----------------------------------------------------------------------------------------------

    def open(self, proven: int) -> bool:
        """A job is given away; whether it is open to all."""
        self._earned_open += open_share(proven)
        if self._earned_open < 1.0:
            return False
        self._earned_open -= 1.0
        return True

    def may_lead(self) -> bool:
        """A job is given away; whether it may go first to a newcomer, if there is one.  It does so rarely."""
        self._may_lead += LED_SHARE
        if self._may_lead < 1.0:
            return False
        self._may_lead -= 1.0
        return True

    def leads(self, share: float) -> bool:
        """A job may go first to a newcomer; whether it does, if ``share`` of all jobs should (``led_share``)."""
        self._earned_lead += share / LED_SHARE
        if self._earned_lead < 1.0:
            return False
        self._earned_lead -= 1.0
        return True


def open_share(proven: int) -> float:
    """The share of the jobs for which newcomers compete by their score."""
    return max(0.0, 1.0 - proven / ENOUGH)


def led_share(proven: int, weight: float) -> float:
    """The share of the jobs that goes first to one of the newcomers of this weight."""
    return min(LED_SHARE, weight / (weight + proven)) if proven else 0.0
