"""The models on offer now, with one summary each over all available peers.

A peer that is dead, leaving, silent for too long, that claims what cannot be true, or that the last dial could not
reach counts for nothing.  All figures
but the counts are claims of the peers.  Not here: the choice of a peer (``ranking``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from protocol import PROTOCOL_VERSION
from protocol.arrays import BoolArray
from protocol.membership.columns import Offers
from protocol.membership.peer_view import PeerView
from protocol.routing.candidate_table import CandidateTable
from protocol.routing.job_query import JobQuery
from protocol.statements.adverts import ModelState, Status

#: ``Advert.runtime`` of an engine with made-up answers.
SIMULATED: Final = "simulated"
#: Most names in the list (guess): a peer can make up names, and clients request the list often.
MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One name on offer.  Prices are the lowest (USD per million tokens), ``context_length`` the largest (tokens).

    ``simulated`` is True if all offers are simulated.  ``expected_wait_s`` is the shortest predicted time to the first
    token of a short prompt.
    """

    name: str
    peers: int
    warm: int
    sleeping: int
    on_disk: int
    context_length: int
    quantizations: tuple[str, ...]
    capabilities: tuple[str, ...]
    price_in: float
    price_out: float
    fingerprints: tuple[bytes, ...]
    simulated: bool
    expected_wait_s: float


def catalog(view: PeerView, now: float) -> list[ModelSummary]:
    """The models of all available peers, by name; of more than ``MOST`` names those with the most peers."""
    summaries = (_summary(view, name, now) for name in sorted(view.models(MOST)))
    return [summary for summary in summaries if summary is not None]


def anything(view: PeerView, now: float) -> bool:
    """Whether the catalog has an entry, without making it."""
    tables = (CandidateTable(view, _offers(view, name), JobQuery(name), now) for name in view.models(MOST))
    return any(_available(table).any() for table in tables)


def _summary(view: PeerView, name: str, now: float) -> ModelSummary | None:
    table = CandidateTable(view, _offers(view, name), JobQuery(name), now)
    places = np.flatnonzero(_available(table))
    if not places.size:
        return None
    states = np.bincount(table.offered("state")[places], minlength=len(ModelState))
    found = [table.offer(place) for place in places.tolist()]
    adverts = [table.record(place).advert for place in places.tolist()]
    wait = table.ttft[places]
    return ModelSummary(
        name=name,
        peers=len(found),
        warm=int(states[ModelState.RESIDENT]),
        sleeping=int(states[ModelState.SLEEPING]),
        on_disk=int(states[ModelState.ON_DISK]),
        context_length=max(offer.context for offer in found),
        quantizations=tuple(sorted({offer.quantization for offer in found if offer.quantization})),
        capabilities=tuple(sorted({capability for offer in found for capability in offer.capabilities})),
        price_in=min(offer.price_in for offer in found),
        price_out=min(offer.price_out for offer in found),
        fingerprints=tuple(sorted({offer.fingerprint for offer in found})),
        simulated=all(advert is not None and advert.runtime == SIMULATED for advert in adverts),
        expected_wait_s=float(wait.min()),
    )


def _offers(view: PeerView, name: str) -> Offers:
    offers = view.offers(name)
    assert offers is not None, "the view names only models that a peer offers"
    return offers


def _available(table: CandidateTable) -> BoolArray:
    available: BoolArray = (
        (table.column("alive") > 0)
        & (table.column("advert_until") > table.now)
        & (table.column("status") <= int(Status.BUSY))
        & (table.column("protocol") == PROTOCOL_VERSION)
        & ~table.column("absurd")
        & (table.column("reached") >= 0)
    )
    return available
