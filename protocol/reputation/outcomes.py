"""The outcomes of attempts at peers and what each of them means for the peer: the table of blame.

========== ===== ======== ======= ==== ========= ============================================================
outcome    blame complete live    risk network   meaning
========== ===== ======== ======= ==== ========= ============================================================
completed  no    1 x 1    1 x 1   yes  no        the whole answer came, its end signed
busy       no    -        1 x 1   no   no        it had no place
refused    no    -        1 x 1   no   no        it would not do this job
unreachable yes  -        0 x 1   no   yes       no link could be made
broken     yes   0 x 2    0 x 1   yes  yes       the link broke during the job
misbehaved yes   0 x 2    -       yes  no        it broke the protocol, or its proof was wrong
failed     yes   0 x 2    -       yes  no        its engine failed
no_accept  yes   0 x 1    0 x 1   no   yes       it said nothing at all to the request
no_answer  yes   0 x 2    -       yes  no        it took the job, and its first token was overdue
silent     yes   0 x 2    0 x 1   yes  yes       it took the job, and stopped talking
slow       yes   0 x 2    -       yes  no        its answer came slower than any use
stalled    no    -        -       yes  no        the caller did not read
deadline   no    -        -       yes  no        the caller's time was over
cancelled  no    -        -       yes  no        the caller went away
defect     no    -        -       yes  no        this node has a defect
========== ===== ======== ======= ==== ========= ============================================================

*blame*: it counts for the breaker, and its evidence is taken unless this node suspects its own network.  *complete*
and *live*: the evidence, ``x`` times its weight (``evidence``); a failure weighs twice as much as a success, since a
peer that fails one job of three is of no use.  *risk*: it counts as one of a request's attempts; where nothing was
risked, only the number of peers asked is bounded.  *network*: a broken network of our own explains it as well.

Not here: how long a peer is left alone (``breaker``), and what evidence adds up to (``evidence``).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple


class Outcome(StrEnum):
    """The outcome of one attempt."""

    COMPLETED = "completed"
    BUSY = "busy"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    BROKEN = "broken"
    MISBEHAVED = "misbehaved"
    FAILED = "failed"
    NO_ACCEPT = "no_accept"
    NO_ANSWER = "no_answer"
    SILENT = "silent"
    SLOW = "slow"
    STALLED = "stalled"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    DEFECT = "defect"


class Verdict(NamedTuple):
    """What an outcome means for the peer: a row of the table.

    ``complete`` and ``live`` are pairs of a value (1 good, 0 bad) and its weight; None where the outcome says nothing.
    """

    blame: bool = False
    complete: tuple[float, float] | None = None
    live: tuple[float, float] | None = None
    risk: bool = True
    network: bool = False


_GOOD: Final = (1.0, 1.0)
_BAD: Final = (0.0, 1.0)
_FAULT: Final = (0.0, 2.0)
VERDICTS: Final[dict[Outcome, Verdict]] = {
    Outcome.COMPLETED: Verdict(complete=_GOOD, live=_GOOD),
    Outcome.BUSY: Verdict(live=_GOOD, risk=False),
    Outcome.REFUSED: Verdict(live=_GOOD, risk=False),
    Outcome.UNREACHABLE: Verdict(True, live=_BAD, risk=False, network=True),
    Outcome.BROKEN: Verdict(True, _FAULT, _BAD, network=True),
    Outcome.MISBEHAVED: Verdict(True, _FAULT),
    Outcome.FAILED: Verdict(True, _FAULT),
    Outcome.NO_ACCEPT: Verdict(True, _BAD, _BAD, risk=False, network=True),
    Outcome.NO_ANSWER: Verdict(True, _FAULT),
    Outcome.SILENT: Verdict(True, _FAULT, _BAD, network=True),
    Outcome.SLOW: Verdict(True, _FAULT),
    Outcome.STALLED: Verdict(),
    Outcome.DEADLINE: Verdict(),
    Outcome.CANCELLED: Verdict(),
    Outcome.DEFECT: Verdict(),
}

#: Outcomes that count against the peer; of these, the ones that a broken network of our own explains as well.
BLAMED: Final = frozenset(outcome for outcome, verdict in VERDICTS.items() if verdict.blame)
OF_THE_NETWORK: Final = frozenset(outcome for outcome, verdict in VERDICTS.items() if verdict.network)
#: Nothing was risked: does not count as one of the attempts.
CHEAP: Final = frozenset(outcome for outcome, verdict in VERDICTS.items() if not verdict.risk)
