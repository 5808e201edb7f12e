"""The jobs that a worker has already taken, so that it runs none twice (DESIGN 2.2, "duplicate job id").

A job is identified by its id and the peer that brought it: two peers may use the same id.  Not here: the answer to a
duplicate (``p2pnode.jobs.worker``).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from protocol.ids import PeerId

#: Seconds a job is remembered (DESIGN 2.2), and how many at most (guess: 100 jobs a second for ten minutes).
KEPT_S: Final = 600.0
MOST: Final = 65_536


class TakenJobs:
    """The jobs of the last ten minutes."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._taken: OrderedDict[tuple[PeerId, bytes], float] = OrderedDict()

    def note(self, peer: PeerId, job: bytes, now: float) -> None:
        """This job is taken now."""
        self._taken[peer, job] = now
        while len(self._taken) > self._most or next(iter(self._taken.values())) <= now - KEPT_S:
            self._taken.popitem(last=False)

    def known(self, peer: PeerId, job: bytes, now: float) -> bool:
        """Whether this peer brought this job before."""
        taken = self._taken.get((peer, job))
        return taken is not None and taken > now - KEPT_S
