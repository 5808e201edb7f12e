"""The fresh load: a worker tells its load to the peers that route jobs to it, over the links that stand.

Theory of operation
===================

A peer whose pool keeps a link to this node sends ``Watch`` and is a *watcher* from then on: it is told the counts of
the load, when it begins to watch and after each change.  A watcher with jobs here, or whose last one was here a moment
ago, is told first, at most every ``fresh_every_s``.  The others are told when the jobs changed notably.  They get their
turn one after the other, as often as the byte budget allows and no more often than those.  The budget is apart from
that of gossip; a part of it is for watchers with jobs alone.

A message says how many jobs of the watcher itself are among the counts.  So the watcher can add those of its jobs that
are still on their way, and counts none twice.

======================= ========================================================================================
event                   effects
======================= ========================================================================================
Watch on                the load, in turn; where there is no room for one more watcher, ``Full`` to one that has had no
                        job here for ``wanted_s``, else to this one
Watch off, LinkDown     none: the peer is a watcher no more
the load, as it changes the load, to the watchers whose turn it is; a timer for the others
timer                   the same
======================= ========================================================================================

Not here: the use of a load (``membership.peer_view``), the far view (``gossip``), the links (``routing.link_pool``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from protocol.effects import Effect, Send, SetTimer, TimerKey
from protocol.ids import PeerId
from protocol.settings import LinkPoolSettings
from protocol.statements.adverts import Load
from protocol.token_bucket import TokenBucket
from protocol.wire.messages import FreshLoad, Full, Watch

#: Bytes of the longest load in its frame (8 of the frame, 12 of 7 fields that are mostly small).
LOAD_BYTES: Final = 20
#: The share of the slots by which the jobs have to change to be told to a watcher without jobs here; a slot that
#: becomes free, or the last one that is taken, always counts (simulated with 100 nodes: without it 0.81 instead of
#: 0.58 KB/s in the mean, and an SLO attainment of 98.7 instead of 99.0 %).
NOTABLE: Final = 0.1
#: Seconds for which a peer whose job ended here counts as one that sends jobs (guess: two jobs of ten users).
RECENT_S: Final = 10.0
#: The part of a second's budget that only watchers with jobs may spend.
RESERVED: Final = 0.5
#: Seconds between two turns while somebody waits for one (guess).
TURN_S: Final = 0.25

_TURN: Final[TimerKey] = ("fresh", "turn")


@dataclass(slots=True, eq=False)
class _Watcher:
    """``told_at`` is when it was told ``told``; the load since then may have changed and changed back.

    ``recent_until`` is a while after its last job, or when it began to watch.
    """

    told: FreshLoad | None = None
    told_at: float = -math.inf
    recent_until: float = 0.0


class LoadTeller:
    """The worker's side of one node."""

    def __init__(self, settings: LinkPoolSettings) -> None:
        self._settings = settings
        self._bucket: TokenBucket | None = None
        #: The watchers with jobs, and the others; each in the order in which they were told.
        self._recent: dict[PeerId, _Watcher] = {}
        self._others: dict[PeerId, _Watcher] = {}
        #: When the peers that watched last were told, and until when they were recent.
        self._left: dict[PeerId, tuple[float, float]] = {}
        self._load = FreshLoad()
        self._jobs: Mapping[PeerId, int] = MappingProxyType({})
        self._turn_at = float("inf")
        #: Loads told so far.
        self.told = 0

    def __len__(self) -> int:
        return len(self._recent) + len(self._others)

    def __contains__(self, peer: PeerId) -> bool:
        """Whether a peer is told the load."""
        return peer in self._recent or peer in self._others

    # --- events --------------------------------------------------------------------------------------------------

    def watch(self, peer: PeerId, message: Watch, now: float) -> list[Effect]:
        """A peer wants the load, or does not want it any more."""
        if not message.on:
            self.forget(peer)
            return []
        if peer in self:
            return []
        effects: list[Effect] = []
        if len(self) >= self._settings.watchers:
            useless = self._useless(now)
            if useless is None:
                return [Send(peer, Full())]
            self.forget(useless)
            effects.append(Send(useless, Full()))
        told_at, recent_until = self._left.pop(peer, (-math.inf, now))
        self._others[peer] = _Watcher(told_at=told_at, recent_until=recent_until)
        return effects + self._take_turns(now)

    def _useless(self, now: float) -> PeerId | None:
        """A watcher that has had no job here for so long that its own pool would let us go."""
        least = now - self._settings.wanted_s
        return next((peer for peer, watcher in self._others.items() if watcher.recent_until < least), None)

    def forget(self, peer: PeerId) -> None:
        """The link to a peer is gone, or it does not want the load any more."""
        watcher = self._recent.pop(peer, None) or self._others.pop(peer, None)
        if watcher is None:
            return
        # One that comes back has its place in the queue again: otherwise coming and going would win turns.
        self._left[peer] = (watcher.told_at, watcher.recent_until)
        if len(self._left) > self._settings.watchers:
            del self._left[next(iter(self._left))]

    def report(self, load: Load, jobs: Mapping[PeerId, int], now: float) -> list[Effect]:
        """This node's own load, and how many of its jobs are of which peer."""
        self._load = fresh(load)
        self._jobs = jobs
        for peer in jobs:
            watcher = self._others.pop(peer, None)
            if watcher is not None:
                self._recent[peer] = watcher
            watcher = self._recent.get(peer)
            if watcher is not None:
                watcher.recent_until = now + RECENT_S
        return self._take_turns(now)

    def timer(self, now: float) -> list[Effect]:
        """Watchers wait for their turn."""
        self._turn_at = float("inf")
        return self._take_turns(now)

    def load_for(self, peer: PeerId) -> FreshLoad:
        """The load for the answer to a job of a peer."""
        return _with_jobs(self._load, self._jobs.get(peer, 0))

    # --- turns ---------------------------------------------------------------------------------------------------

    def _take_turns(self, now: float) -> list[Effect]:
        if not self:
            return []
        effects: list[Effect] = []
        capacity = float(self._settings.fresh_bytes_s)
        waits = self._turn(self._recent, 0.0, effects, now)
        for peer in [peer for peer, watcher in self._recent.items() if watcher.recent_until <= now]:
            self._others[peer] = self._recent.pop(peer)
        waits = self._turn(self._others, RESERVED * capacity, effects, now) or waits
        if waits and self._turn_at > now + TURN_S:
            self._turn_at = now + TURN_S
            effects.append(SetTimer(_TURN, self._turn_at))
        return effects

    def _turn(self, watchers: dict[PeerId, _Watcher], reserve: float, effects: list[Effect], now: float) -> bool:
        """Tell those whose turn it is; whether one that does not know the load has to wait."""
        due = now - self._settings.fresh_every_s
        bucket, jobs = self._purse(now), self._jobs
        notable = NOTABLE * self._load.slots if reserve else 0.0
        for peer in list(watchers):
            watcher = watchers[peer]
            mine = jobs.get(peer, 0)
            if watcher.told is not None and _alike(watcher.told, self._load, mine, notable):
                continue
            if watcher.told_at > due or bucket.level(now) - LOAD_BYTES < reserve:
                return True
            bucket.spend(LOAD_BYTES, now)
            effects.append(self._tell(peer, watcher, watchers, mine, now))
        return False

    def _tell(self, peer: PeerId, watcher: _Watcher, watchers: dict[PeerId, _Watcher], jobs: int, now: float) -> Effect:
        del watchers[peer]
        watchers[peer] = watcher  # the one told last is at the end
        watcher.told_at = now
        watcher.told = _with_jobs(self._load, jobs)
        self.told += 1
        return Send(peer, watcher.told)

    def _purse(self, now: float) -> TokenBucket:
        if self._bucket is None:
            rate = float(self._settings.fresh_bytes_s)
            self._bucket = TokenBucket(rate, rate, now)
        return self._bucket


def fresh(load: Load) -> FreshLoad:
    """The counts of a load."""
    return FreshLoad(load.running, load.waiting, load.slots, load.queued_prefill_tokens, load.kv_permille, load.status)


def _with_jobs(load: FreshLoad, jobs: int) -> FreshLoad:
    """The load with the number of the receiver's own jobs."""
    if load.yours == jobs:
        return load
    return FreshLoad(
        load.running, load.waiting, load.slots, load.queued_prefill_tokens, load.kv_permille, load.status, jobs
    )


def _alike(told: FreshLoad, load: FreshLoad, jobs: int, notable: float) -> bool:
    """Whether a watcher knows all that matters: it computes itself how the prompts become fewer."""
    before, after = told.running + told.waiting, load.running + load.waiting
    return (
        told.yours == jobs
        and (before == after or (abs(before - after) < notable and (before < told.slots) == (after < load.slots)))
        and told.slots == load.slots
        and told.status == load.status
    )
