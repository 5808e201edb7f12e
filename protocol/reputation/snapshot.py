"""What a node keeps of its experience over a restart: plain rows.

A row is evidence about a peer in one dimension, the counts of its jobs, or evidence about the newcomers of a network
group.  ``model`` is "" for what holds for all models.  A restore ignores rows that this version does not know.

Not here: storage, and the ages of rows on the clock of another life (the driver).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from protocol.ids import PeerId

#: Peer, model (or network group), and dimension (or phase).
Key = tuple[PeerId, str, str]
#: The dimension of the counts of jobs (completed, failed), which do not decay.
JOBS: Final = "jobs"
#: The dimension of newcomers, in place of a model their network group ("" for all), and in place of a peer nobody.
NEWCOMERS: Final = "newcomers"
NOBODY: Final = PeerId(bytes(32))


class Pair(NamedTuple):
    """Good and bad at the monotonic second ``at``."""

    good: float
    bad: float
    at: float


class Factor(NamedTuple):
    """A learned log factor, its variance, and the observations behind it, at the monotonic second ``at``."""

    mean: float
    variance: float
    amount: float
    at: float


class ExperienceSnapshot(NamedTuple):
    """All of it, by key."""

    evidence: Mapping[Key, Pair] = MappingProxyType({})
    corrections: Mapping[Key, Factor] = MappingProxyType({})
