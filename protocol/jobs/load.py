"""The load that a worker reports: its parts, the sampling interval, and which samples are worth a report.

Not here: the engine's own figures (its adapter), whether a report is published to the network (``gossip``).
"""

from __future__ import annotations

from typing import Final

import msgspec

from protocol.statements.adverts import Load, Status

#: Seconds between looks at the engine (guess: a short job takes that long).
LOAD_EVERY_S: Final = 0.5


def with_queue(load: Load, queued: int) -> Load:
    """An engine's load and the jobs that this node holds back until there is a place at it."""
    if not queued:
        return load
    return msgspec.structs.replace(load, waiting=load.waiting + queued, status=int(Status.BUSY))


def is_news(load: Load, reported: Load | None) -> bool:
    """Whether to report a load after another: if it differs, and each time while jobs are here.

    The view counts jobs that this node gave itself on top of the last load, so that has to be recent while they run.
    """
    return load != reported or load.running > 0 or load.waiting > 0
