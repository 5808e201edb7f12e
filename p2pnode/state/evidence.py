"""What this node has learned of its peers, in ``node.db``: loaded at the start, and written in batches by one task.

Theory of operation
===================

The machines keep monotonic times, the disk Unix seconds, since no monotonic clock survives a restart.  A row is as old
as the wall clock says, at least 0 and at most 30 days, so a clock that was set wrong neither ages nor renews much.

The daemon's poll calls :meth:`EvidenceWriter.look` every half second.  A write is due when the first change is
``WRITE_S`` old or there are ``WRITE_EVENTS`` of them; together with the poll and the write, a crash loses less than
5 s.  Only peers that changed are written (200 of them: 40 ms of a thread).  While the disk takes nothing they stay due,
and the node goes on in memory.

Not here: what the figures mean (``protocol.reputation``), the tables (``schema``), a damaged file (``ledger``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Final, TypeVar

import msgspec
import trio

from p2pnode.state.ledger import Id, Ledger, Row, Seconds
from p2pnode.swarm.wakeup import AutoResetEvent
from protocol.ids import PeerId
from protocol.reputation.experience import Experience
from protocol.reputation.snapshot import ExperienceSnapshot, Factor, Key, Pair

#: Age of the first change, seconds, and number of changes, at which they are written (trust study 4.4: 5 s or 200
#: events; a second less leaves room for the poll and the write).
WRITE_S: Final = 4.0
WRITE_EVENTS: Final = 200
#: Seconds the last write may take at the end.
LAST_WRITE_S: Final = 3.0
#: Oldest evidence, seconds: 30 days, the longest half-life.
MOST_AGE_S: Final = 30 * 86_400.0
#: Rows of each table on the disk; beyond it the oldest go (guess: 10,000 peers with a dozen rows each).
MOST_ROWS: Final = 1 << 17

_Name = Annotated[str, msgspec.Meta(max_length=128)]
#: A decayed count, and a logarithm of a factor: no larger than what a few observations, or a factor of 10^9, can make.
_Amount = Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]
_Log = Annotated[float, msgspec.Meta(ge=-21.0, le=21.0)]

_SURPLUS_EVIDENCE: Final = (
    "delete from evidence where wall < (select wall from evidence order by wall desc limit 1 offset ?)"
)
_SURPLUS_CORRECTIONS: Final = (
    "delete from corrections where wall < (select wall from corrections order by wall desc limit 1 offset ?)"
)

T = TypeVar("T", bound=tuple[float, ...])


class _EvidenceRow(Row, frozen=True):
    peer: Id
    model: _Name
    dimension: _Name
    r: _Amount
    s: _Amount
    wall: Seconds


class _CorrectionRow(Row, frozen=True):
    peer: Id
    model: _Name
    phase: _Name
    mean: _Log
    variance: _Amount
    count: _Amount
    wall: Seconds


def load(ledger: Ledger, now: float, wall: float) -> ExperienceSnapshot:
    """What the last life has learned, with times of this one."""
    evidence = ledger.rows("select peer, model, dimension, r, s, wall from evidence", _EvidenceRow)
    corrections = ledger.rows("select peer, model, phase, mean, variance, count, wall from corrections", _CorrectionRow)

    def at(then: float) -> float:
        return now - min(max(0.0, wall - then), MOST_AGE_S)

    return ExperienceSnapshot(
        {(PeerId(row.peer), row.model, row.dimension): Pair(row.r, row.s, at(row.wall)) for row in evidence},
        {
            (PeerId(row.peer), row.model, row.phase): Factor(row.mean, row.variance, row.count, at(row.wall))
            for row in corrections
        },
    )


def save(ledger: Ledger, changed: ExperienceSnapshot, now: float, wall: float) -> bool:
    """Write what changed; False if the disk takes nothing.  It blocks."""

    def rows(table: Mapping[Key, T]) -> list[tuple[object, ...]]:
        return [(*key, *row[:-1], wall - (now - row[-1])) for key, row in table.items()]

    peers, oldest = [(peer,) for peer in changed.peers], [(wall - MOST_AGE_S,)]
    return ledger.write(
        [
            ("delete from evidence where peer = ?", peers),
            ("delete from corrections where peer = ?", peers),
            ("insert or replace into evidence values (?, ?, ?, ?, ?, ?)", rows(changed.evidence)),
            ("insert or replace into corrections values (?, ?, ?, ?, ?, ?, ?)", rows(changed.corrections)),
            ("delete from evidence where wall < ?", oldest),
            ("delete from corrections where wall < ?", oldest),
            (_SURPLUS_EVIDENCE, [(MOST_ROWS - 1,)]),
            (_SURPLUS_CORRECTIONS, [(MOST_ROWS - 1,)]),
        ],
        sync=False,
    )


class EvidenceWriter:
    """Writes what changes, in batches; the disk has all that the experience knows at the start."""

    def __init__(self, ledger: Ledger, experience: Experience, wall: Callable[[], float]) -> None:
        self._ledger = ledger
        self._experience = experience
        self._wall = wall
        self._seen = self._tried = self._written = experience.events
        self._changed_at = 0.0
        self._due = AutoResetEvent()

    def look(self, now: float) -> None:
        """See whether a write is due; called often."""
        events = self._experience.events
        if events == self._written:
            return
        if self._seen == self._written:
            self._changed_at = now
        self._seen = events
        if now - self._changed_at >= WRITE_S or events - self._tried >= WRITE_EVENTS:
            self._due.set()

    async def run(self) -> None:
        """Write when it is due, and once more at the end."""
        try:
            while True:
                await self._due.wait()
                await self._write()
        finally:
            with trio.CancelScope(deadline=trio.current_time() + LAST_WRITE_S, shield=True):
                await self._write()

    async def _write(self) -> None:
        events = self._tried = self._experience.events
        changed = self._experience.changes(self._written)
        if await self._ledger.ask(save, changed, trio.current_time(), self._wall()):
            self._written = events
        self._changed_at = trio.current_time()
