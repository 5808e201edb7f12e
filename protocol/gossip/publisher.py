"""The statements of this node about itself, its advert and load: when it repeats them, their versions and their seals.

Theory of operation
===================

With ``n`` nodes, each statement of ``b`` bytes goes once over each link, so a node with ``2c`` neighbours uploads it
about ``c`` times (:data:`COPIES`).  If every node repeats it every ``p`` seconds, it costs each node ``n * b * c / p``
bytes per second.  Loads may use ``LOAD_SHARE`` of the byte budget and adverts ``ADVERT_SHARE``, so the periods grow
with the network::

    load period   = max(load_period_s, n * b * c / (LOAD_SHARE   * budget_bytes_s))
    advert period = max(advert_ttl_s/2, n * b * c / (ADVERT_SHARE * budget_bytes_s))

In a network so large that loads wait for the budget (:meth:`Publisher.crowded`), nodes pass them on to few neighbours
only (:func:`few_of`).  A load then costs fewer uploads (:data:`COPIES_OF_FEW`), so it can be published more often.  If
one version misses a node, the next version or a digest reaches it.

A load lives ``load_ttl_periods`` of its period, an advert two of its own.  A load that changed much is published before
its period is over, but at most ``HASTE`` times as often.  A change of status is published within a tick.

Not here: which neighbours get a statement (``gossip``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from protocol.rng import Rng
from protocol.settings import GossipSettings
from protocol.statements.adverts import Advert, Load, Status
from protocol.statements.envelope import MAX_INC, MAX_TTL_S, Envelope, statement
from protocol.statements.keys import ADVERT, LOAD, Signer

#: Shares of the byte budget, chosen in the simulator so that load figures are as young as their links allow with
#: adverts still everywhere in seconds; the rest is for digests and for newcomers.
LOAD_SHARE: Final = 0.58
ADVERT_SHARE: Final = 0.22
#: Times a statement is uploaded by each node, for each of its neighbours (measured: 4 to 5 with 8).
COPIES: Final = 0.56
#: The least number of neighbours that a node assumes: a newcomer will have as many (``overlay``).
LEAST_LINKS: Final = 8
#: Neighbours that a load is passed on to in a crowded network: an epidemic of three reaches 94 % (1 - s = exp(-3 s)).
#: Of more than eight this share of them: a node with few neighbours, all of whom have many, would otherwise get few
#: (simulated with 50 to 300 nodes: the same bytes, figures 4 to 9 % younger).
FEW: Final = 3
FEW_SHARE: Final = 3 / 8
#: Times a load is then uploaded by each node, for each of these few (simulated with 300 and 1,000 nodes: 2.4 of 3).
COPIES_OF_FEW: Final = 0.8
#: A changed load may come this many times as often as an unchanged one (guess).
HASTE: Final = 4.0
#: Periods are shortened by up to this share at random so that nodes do not fall into step (guess).
JITTER: Final = 0.1


class Publisher:
    """The author's side of a node: decides what to state and seals it."""

    def __init__(self, signer: Signer, settings: GossipSettings, rng: Rng, inc: int) -> None:
        self._signer = signer
        self._settings = settings
        self._rng = rng
        self.inc = inc  # under which this node speaks now
        self._seq = 0
        self.advert: Advert | None = None
        self.load: Load | None = None
        self.left = False
        #: How many neighbours we have: as many as anybody, as far as we know.  Those that others have chosen are among
        #: them, so others can make us state things up to half as often; it is what they cost us.
        self.links = LEAST_LINKS
        self._stated: Load | None = None
        self._stated_at = -math.inf
        self._overtook_at = -math.inf
        self._due = {ADVERT: math.inf, LOAD: math.inf}
        self._bytes = {ADVERT: 0, LOAD: 0}

    def period(self, kind: int, nodes: int) -> float:
        """Seconds between two statements of ``kind`` in a network of ``nodes``; the formula is at the top."""
        links = max(LEAST_LINKS, self.links)
        base, share, copies = self._settings.load_period_s, LOAD_SHARE, COPIES * links
        if kind == ADVERT:
            base, share = self._settings.advert_ttl_s / 2, ADVERT_SHARE
        elif self.crowded(nodes):
            copies = COPIES_OF_FEW * few_of(links)
        return max(base, nodes * self._bytes[kind] * copies / (share * self._settings.budget_bytes_s))

    def crowded(self, nodes: int) -> bool:
        """Whether loads have to be stated less often than ``load_period_s`` for the sake of the budget."""
        settings, copies = self._settings, COPIES * max(LEAST_LINKS, self.links)
        return nodes * self._bytes[LOAD] * copies > LOAD_SHARE * settings.budget_bytes_s * settings.load_period_s

    def advertise(self, advert: Advert, nodes: int, now: float, wall: float) -> list[Envelope]:
        """Our advert if it changed; a load goes with the first one, so that others see that we live."""
        if advert == self.advert:
            return []
        self.advert = advert
        stated = [self._state(ADVERT, nodes, now, wall)]
        if self._stated is None:
            self.load = self.load or Load()
            stated.append(self._state(LOAD, nodes, now, wall))
        return stated

    def report(self, load: Load, nodes: int, now: float, wall: float) -> list[Envelope]:
        """Our load, if it differs enough from the published one."""
        if self.left:
            return []
        self.load = load
        if self._worth_it(nodes, now):
            return [self._state(LOAD, nodes, now, wall)]
        return []

    def state_due(self, nodes: int, now: float, wall: float) -> list[Envelope]:
        """Publish again the statements that are due."""
        if self.left:
            return []
        stated = [self._state(kind, nodes, now, wall) for kind in (ADVERT, LOAD) if self._due[kind] <= now]
        if not stated and self._worth_it(nodes, now):
            stated = [self._state(LOAD, nodes, now, wall)]
        return stated

    def leave(self, nodes: int, now: float, wall: float) -> list[Envelope]:
        """The last statement of this node."""
        if self.left:
            return []
        self.left = True
        self.load = Load(status=int(Status.LEFT))
        return [self._state(LOAD, nodes, now, wall)]

    def resume(self, load: Load, ages: Mapping[int, float], nodes: int, now: float, wall: float) -> list[Envelope]:
        """State each kind as if it had been stated long ago: its age is this share of its period."""
        self.load = load
        stated: list[Envelope] = []
        for kind, share in ages.items():
            age = share * self.period(kind, nodes)
            stated.append(self._state(kind, nodes, now, wall - age))
            self._due[kind] = max(now, self._due[kind] - age)
        return stated

    def refute(self, nodes: int, now: float, wall: float) -> list[Envelope]:
        """A peer doubts that we live: publish a statement, once per load period at most.

        A doubt costs its author fifty bytes and nothing proves its cause, but the answer goes to the whole network.
        With one answer per tick and node no budget would be left for adverts.  A peer that doubts our last statement
        hears from us again before it may count us as dead.
        """
        if self.left or self.load is None or now - self._stated_at < self._settings.load_period_s:
            return []
        return [self._state(LOAD, nodes, now, wall)]

    def overtake(self, inc: int, nodes: int, now: float, wall: float) -> list[Envelope]:
        """A statement in our name is newer than ours: an earlier life of this node, or a second holder of its key.

        Publish everything again with a higher ``inc``, at most once per load period: two holders must not race.  The
        last ``inc`` cannot be exceeded: a second holder of the key that uses it has silenced this node.
        """
        if inc < self.inc or inc >= MAX_INC or now - self._overtook_at < self._settings.load_period_s:
            return []
        self._overtook_at = now
        self.inc = inc + 1
        return self.repeat(nodes, now, wall)

    def repeat(self, nodes: int, now: float, wall: float) -> list[Envelope]:
        """Publish each statement again with a new version."""
        kinds = (ADVERT, LOAD) if self.advert is not None else (LOAD,) if self._stated is not None else ()
        return [self._state(kind, nodes, now, wall) for kind in kinds]

    def _state(self, kind: int, nodes: int, now: float, wall: float) -> Envelope:
        self._seq += 1
        value = self.advert if kind == ADVERT else self.load
        assert value is not None, "stated only after it was set"
        period = self.period(kind, nodes)
        lives = 2.0 if kind == ADVERT else self._settings.load_ttl_periods
        ttl = max(1, min(MAX_TTL_S, math.ceil(period * lives)))
        envelope = statement(self._signer, value, (self.inc, self._seq), wall, ttl)
        self._bytes[kind] = len(envelope.wire)
        # A ttl cut at its maximum still has to be renewed in time, hence ttl / lives and not period.
        self._due[kind] = now + min(period, ttl / lives) * (1 - JITTER * self._rng.random())
        if kind == LOAD:
            self._stated, self._stated_at = self.load, now
        return envelope

    def _worth_it(self, nodes: int, now: float) -> bool:
        old, new = self._stated, self.load
        if old is None or new is None or new == old:
            return old is None and new is not None and self.advert is not None
        since = now - self._stated_at
        if (old.status, old.throttled) != (new.status, new.throttled):
            return since >= self._settings.tick_s
        pause = max(self._settings.tick_s, self.period(LOAD, nodes) / HASTE)
        return since >= pause and changed(old, new, self._settings.load_change)


def few_of(links: int) -> int:
    """How many of so many neighbours a load is passed on to in a crowded network."""
    return min(links, max(FEW, int(links * FEW_SHARE)))


def changed(old: Load, new: Load, share: float) -> bool:
    """Whether two loads differ by ``share`` anywhere: counts by their ratio, percentages by their points."""
    counts = (
        (old.running, new.running),
        (old.waiting, new.waiting),
        (old.slots, new.slots),
        (old.free_vram_mib, new.free_vram_mib),
        (old.queued_prefill_tokens, new.queued_prefill_tokens),
        (old.tokens_s, new.tokens_s),
    )
    points = (
        (old.kv_permille, new.kv_permille, 1000),
        (old.gpu_percent, new.gpu_percent, 100),
        (old.clock_percent, new.clock_percent, 100),
    )
    return any(abs(a - b) > share * max(a, b) for a, b in counts) or any(
        abs(a - b) > share * whole for a, b, whole in points
    )
