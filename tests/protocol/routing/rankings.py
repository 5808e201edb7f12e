"""A view ranked at second 10, and its answer read in short."""

from __future__ import annotations

import random

from protocol.ids import PeerId
from protocol.membership.peer_view import PeerView
from protocol.routing.ranking import JobQuery, Ranking, rank
from tests.protocol.sample_peers import MODEL

NOW = 10.0


def ranked(view: PeerView, *, policy: str = "neuralgrid", explain: bool = True, **wishes: object) -> Ranking:
    """The ranking for one job."""
    query = JobQuery(MODEL, **wishes)  # type: ignore[arg-type]
    return rank(view, query, policy, random.Random(1), NOW, explain=explain)


def chosen(ranking: Ranking) -> list[PeerId]:
    """The candidates, best first."""
    return [candidate.peer for candidate in ranking.candidates]


def why_not(ranking: Ranking, who: PeerId) -> tuple[str, str]:
    """The filter that removed a peer, and what it says."""
    return next((each.reason, each.detail) for each in ranking.excluded if each.peer == who)
