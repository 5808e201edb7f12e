"""What one observer has seen of each peer, in bounded memory.

The store keeps ``most`` peers, whether they are in the view or not, since a bad peer must not gain by leaving.  When it
is full, those with the least evidence go.  Peers with an open breaker or bad integrity are *pinned*: they stay, up to a
fifth of the store, or a stranger could flood the memory of its failures away.

Not here: what is recorded when (``experience``).
"""

from __future__ import annotations

import heapq
from collections.abc import ItemsView
from typing import Final

from protocol.ids import PeerId
from protocol.reputation.breaker import Breaker
from protocol.reputation.correction import Factors
from protocol.reputation.evidence import LAWS, Dimension, Evidence
from protocol.reputation.observation import Observation

#: Peers with a history, and how many of them may be pinned (trust study 4.4: 10,000, and a fifth of them).
MOST_PEERS: Final = 10_000
PINNED_SHARE: Final = 5
#: Models of one peer with factors of their own; the one seen least recently goes (guess: few nodes serve more).
MOST_MODELS: Final = 8
#: How many go at once when the store is full, as a share: searching for them reads all (guess).
_GO_SHARE: Final = 20
#: Below this chance a peer's integrity is bad.
BAD_INTEGRITY: Final = 0.5


class PeerHistory:
    """One peer.  ``asked``, ``completed`` and ``failed`` are counts of jobs that never decay, for people."""

    __slots__ = ("asked", "breaker", "completed", "evidence", "factors", "failed", "models", "seen_at")

    def __init__(self, now: float) -> None:
        self.evidence: dict[Dimension, Evidence] = {}
        self.breaker = Breaker()
        self.factors = Factors()
        self.models: dict[str, Factors] = {}
        self.asked = 0
        self.completed = 0
        self.failed = 0
        self.seen_at = now

    def observe(self, dimension: Dimension, value: float, weight: float, now: float) -> None:
        """Add evidence."""
        evidence = self.evidence.get(dimension)
        if evidence is None:
            evidence = self.evidence[dimension] = Evidence(at=now)
        evidence.observe(value, weight, LAWS[dimension], now)

    def correct(self, seen: Observation, now: float) -> Factors:
        """Learn how wrong the prediction was, of the peer and of its model; returns the factors of the model."""
        factors = self.models.pop(seen.model, None) or Factors()
        self.models[seen.model] = factors
        for scope in (self.factors, factors):
            scope.observe(seen, now)
            scope.age(now)
        if len(self.models) > MOST_MODELS:
            del self.models[next(iter(self.models))]
        return factors

    def scope(self, model: str) -> Factors:
        """The factors of one model, or under an empty name those of all."""
        return self.models.setdefault(model, Factors()) if model else self.factors

    def scopes(self) -> list[tuple[str, Factors]]:
        """All of them by name."""
        return [("", self.factors), *self.models.items()]

    def amount(self, now: float) -> float:
        """How much evidence there is of any kind."""
        total = 0.0
        for dimension, evidence in self.evidence.items():
            evidence.decay(LAWS[dimension], now)
            total += evidence.amount
        return total

    def is_pinned(self, now: float) -> bool:
        """Whether forgetting it would do the peer a favour."""
        integrity = self.evidence.get(Dimension.INTEGRITY)
        bad = integrity is not None and integrity.chance(LAWS[Dimension.INTEGRITY], now) < BAD_INTEGRITY
        return bad or not self.breaker.is_closed


class Histories:
    """The histories of at most ``most`` peers."""

    def __init__(self, most: int = MOST_PEERS) -> None:
        self._most = most
        self._peers: dict[PeerId, PeerHistory] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def items(self) -> ItemsView[PeerId, PeerHistory]:
        """All of them."""
        return self._peers.items()

    def get(self, peer: PeerId) -> PeerHistory | None:
        """The history of a peer, if there is one."""
        return self._peers.get(peer)

    def of(self, peer: PeerId, now: float) -> PeerHistory:
        """The history of a peer, which begins now if there is none."""
        history = self._peers.get(peer)
        if history is None:
            history = self._peers[peer] = PeerHistory(now)
        history.seen_at = now
        return history

    def shrink(self, now: float) -> list[PeerId]:
        """Forget the peers with the least evidence if there are too many; returns them."""
        surplus = len(self._peers) - self._most
        if surplus <= 0:
            return []
        pinned = [(history.seen_at, peer) for peer, history in self._peers.items() if history.is_pinned(now)]
        kept = {peer for _, peer in heapq.nlargest(self._most // PINNED_SHARE, pinned)}
        free = [
            (history.amount(now), history.seen_at, peer) for peer, history in self._peers.items() if peer not in kept
        ]
        gone = [peer for *_, peer in heapq.nsmallest(max(surplus, self._most // _GO_SHARE), free)]
        for peer in gone:
            del self._peers[peer]
        return gone
