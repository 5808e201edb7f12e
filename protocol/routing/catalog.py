"""What can be asked for now: the models of all peers that are there, one summary each.

It counts what stands: a peer that is dead, leaving, or silent for too long offers nothing.  Everything but the counts
is the peers' own claim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from protocol import PROTOCOL_VERSION
from protocol.arrays import BoolArray
from protocol.membership.columns import Offers
from protocol.membership.peer_view import PeerView
from protocol.routing.candidate_table import CandidateTable, JobQuery
from protocol.statements.adverts import ModelState, Status

#: ``Advert.runtime`` of an engine that makes its answers up.
SIMULATED: Final = "simulated"
#: Most names listed (guess): names cost nothing, and a list of them is asked for often.
MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One name on offer.  Prices are the lowest (USD per million tokens), ``context_length`` the largest (tokens).

    ``simulated`` is True if nobody offers the real thing.  ``expected_wait_s`` is the least time to the first token
    of a short prompt that any peer is predicted to need.
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
    """The models that those who are there offer, by name; of very many names those that most peers offer."""
    summaries = (_summary(view, name, now) for name in sorted(view.models(MOST)))
    return [summary for summary in summaries if summary is not None]


def anything(view: PeerView, now: float) -> bool:
    """Whether the catalog has anything in it, without making it."""
    crowds = (CandidateTable(view, _offers(view, name), JobQuery(name), now) for name in view.models(MOST))
    return any(_there(table).any() for table in crowds)


def _summary(view: PeerView, name: str, now: float) -> ModelSummary | None:
    table = CandidateTable(view, _offers(view, name), JobQuery(name), now)
    places = np.flatnonzero(_there(table))
    if not places.size:
        return None
    states = np.bincount(table.offered("state")[places], minlength=len(ModelState))
    found = [table.offer(place) for place in places.tolist()]
    adverts = [table.record(place).advert for place in places.tolist()]
    wait = (table.rtt + table.cold + table.queue + table.prefill)[places]
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
    assert offers is not None, "the view names models that somebody offers"
    return offers


def _there(table: CandidateTable) -> BoolArray:
    there: BoolArray = (
        (table.column("alive") > 0)
        & (table.column("advert_until") > table.now)
        & (table.column("status") <= int(Status.BUSY))
        & (table.column("protocol") == PROTOCOL_VERSION)
    )
    return there
