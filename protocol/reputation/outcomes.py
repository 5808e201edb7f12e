"""The outcomes of attempts at peers, and which of them count against the peer.

Not here: what follows from the blame (``experience``).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


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


#: Outcomes that count against the peer; of these, the ones that a broken network of our own explains as well.
BLAMED: Final = frozenset(
    {
        Outcome.UNREACHABLE,
        Outcome.BROKEN,
        Outcome.MISBEHAVED,
        Outcome.FAILED,
        Outcome.NO_ACCEPT,
        Outcome.NO_ANSWER,
        Outcome.SILENT,
        Outcome.SLOW,
    }
)
OF_THE_NETWORK: Final = frozenset({Outcome.UNREACHABLE, Outcome.BROKEN, Outcome.NO_ACCEPT, Outcome.SILENT})
#: Nothing was risked: does not count as one of the attempts.
CHEAP: Final = frozenset({Outcome.BUSY, Outcome.REFUSED, Outcome.UNREACHABLE, Outcome.NO_ACCEPT})
