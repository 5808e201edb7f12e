"""Ranks the peers for a job: all that offer the model, without the excluded ones, in the order of a policy.

Theory of operation
===================

::

    table      the rows that offer the model, as columns                     (``candidate_table``, ``peer_view``)
    filters    exclude peers; the first reason counts                        (``filters``)
    parts      the policy's terms for all peers at once, added or multiplied (``policies``)
    order      named by ``order`` > not barred by its breaker > not suspect > proven by jobs of ours > no failed dial
               > warm > a free slot > reached once > not laden with jobs of ours > a fresh load > score > a draw; now
               and then a newcomer first                                 (``standing``)

The draw decides between equal peers, so that a thousand nodes with the same view do not all choose the same one; a
policy with a temperature draws by the score itself.  The default draws those whose load is fresh (``jobs.fresh_load``)
before all others, and of the first ``best_of`` it asks the one first whose first token comes soonest.  This node is a
candidate like any other, with a round trip of 0 and a fresh load.
For a job nothing is explained (0.2 ms among 1,000 peers, measured); the dry run explains all peers.

Not here: asking a peer, and the next attempt (``jobs/cascade``).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from protocol.arrays import BoolArray, FloatArray, IntArray
from protocol.errors import LocalProtocolError
from protocol.ids import PeerId
from protocol.membership.peer_record import PeerRecord
from protocol.membership.peer_view import SUSPECT, PeerView
from protocol.perf.forecast import Forecast
from protocol.reputation.experience import Experience
from protocol.reputation.projections import LEAST_CHANCE
from protocol.rng import Rng
from protocol.routing.candidate_table import CandidateTable
from protocol.routing.catalog import ModelSummary, catalog
from protocol.routing.filters import FILTERS, Case, Named, removed_by
from protocol.routing.job_query import JobQuery
from protocol.routing.odds import (
    BARRED_TIER,
    BUSY_TIER,
    COLD_TIER,
    LADEN_TIER,
    NAMED_TIER,
    STALE_TIER,
    SUSPECT_TIER,
    UNPROVEN_TIER,
    UNREACHED_TIER,
    UNTRIED_TIER,
    RunnerUp,
    first_odds,
    lacking,
    runner_up,
)
from protocol.routing.policies import DEFAULT, POLICIES, SORTS, Part, Policy
from protocol.statements.adverts import Status

__all__ = [
    "DEFAULT",
    "Candidate",
    "Excluded",
    "JobQuery",
    "ModelSummary",
    "Ranking",
    "Term",
    "catalog",
    "policy_named",
    "rank",
    "similar",
]

#: Names in the detail of a peer that does not offer the model.
_NAMES_SHOWN: Final = 3
#: Names compared to find similar ones (guess: 20 ms).
_NAMES_COMPARED: Final = 1000


class Term(msgspec.Struct, frozen=True, gc=False):
    """One part of a candidate's score.

    ``source`` is ``declared`` (by the peer), ``measured`` (on this node), ``observed`` (from here), ``learned`` (from
    the outcomes of past jobs) or ``assumed``; ``contribution`` is the summand of the score, or its factor under
    ``gputorrent``.
    """

    name: str
    value: float
    unit: str
    source: str
    age_s: float | None
    contribution: float


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A peer that may get the job.

    Only an explanation fills the last three: the probability to be asked first (None where the policy draws and does
    not tell its weights), what it lacks for an earlier tier, and whether a link stands.
    """

    peer: PeerId
    score: float
    terms: tuple[Term, ...]
    warm: bool
    rtt_s: float | None
    forecast: Forecast | None = None
    odds: float | None = None
    needs: tuple[str, ...] = ()
    linked: bool = False


class Excluded(msgspec.Struct, frozen=True, gc=False):
    """An excluded peer: the filter that excluded it, and the explanation."""

    peer: PeerId
    reason: str
    detail: str


class Ranking(msgspec.Struct, frozen=True, gc=False):
    """The result, best candidate first.  ``excluded`` is empty without ``explain``.

    ``offered`` is the number of peers that offer the model, excluded ones included.  ``drawn``: another request gets
    another order; ``temperature`` is that of a draw by seconds, else 0; ``best_of`` is the number of peers drawn for
    the first place, 0 for one.
    """

    query: JobQuery
    policy: str
    candidates: tuple[Candidate, ...]
    excluded: tuple[Excluded, ...] = ()
    offered: int = 0
    drawn: bool = False
    temperature: float = 0.0
    runner_up: RunnerUp | None = None
    best_of: int = 0


def policy_named(name: str) -> Policy:
    """A policy; raises ``LocalProtocolError``, which names the existing ones."""
    policy = POLICIES.get(name)
    if policy is None:
        raise LocalProtocolError(f"no policy {name!r}; choose one of {', '.join(POLICIES)}")
    return policy


def rank(
    view: PeerView,
    query: JobQuery,
    policy: str,
    rng: Rng,
    now: float,
    limit: int = 8,
    explain: bool = False,
    experience: Experience | None = None,
) -> Ranking:
    """The best ``limit`` candidates for a job; with ``explain``, all of them and the reasons of the exclusions.

    ``experience`` is what this node has learned of the peers; without it every peer is believed.
    """
    chosen = SORTS.get(query.sort or "") or policy_named(policy)
    view.want(query.model)
    offers = view.offers(query.model)
    if offers is None:
        return Ranking(query, chosen.name, (), _strangers(view, query.model) if explain else (), drawn=chosen.draws)
    if experience is not None:
        experience.project(offers, now)
    table = CandidateTable(view, offers, query, now, rng.getrandbits(64), experience if chosen.learns else None)
    removed = [each.removes(table) for each in FILTERS] if explain else removed_by(table)
    out, *more = [mask for mask in removed if mask is not None]
    for mask in more:
        out = out | mask
    parts = chosen.parts(table)
    scores = chosen.scores(parts)
    keys = chosen.keys(scores, table.noise)
    places = np.flatnonzero(~out)
    tiers, most = _tiers(table, chosen, out, explain), len(table) if explain else limit
    order = _order(places, table, tiers, keys, max(most, chosen.best_of))
    contest = chosen.contest(parts, scores)
    order = _best_first(order, tiers, chosen, contest)[:most]
    if not explain:
        order = _with_lead(order, out, table, chosen, scores)
    candidates = tuple(_candidate(table, scores, place) for place in order)
    ranking = Ranking(query, chosen.name, candidates, (), len(table), chosen.draws, chosen.temperature)
    if not explain:
        return ranking
    excluded = (*_removed(table, removed), *_strangers(view, query.model))
    return _explained(
        msgspec.structs.replace(ranking, excluded=excluded), order, table, chosen, parts, scores, tiers[order]
    )


def _candidate(table: CandidateTable, scores: FloatArray, place: int) -> Candidate:
    record = table.record(place)
    rtt_s = 0.0 if record.is_self else record.rtt_s
    warm = bool(table.warm[place])
    return Candidate(record.peer, float(scores[place]), (), warm, rtt_s, table.forecast(place))


def _explained(
    ranking: Ranking,
    order: list[int],
    table: CandidateTable,
    policy: Policy,
    parts: list[Part],
    scores: FloatArray,
    tiers: IntArray,
) -> Ranking:
    """The ranking with the terms of each candidate, the odds and the runner-up; ``tiers`` are in the same order."""
    ranked = scores[order]
    # A draw that a part of the score holds hides its weights.
    odds, second = None, None
    if not policy.drawn:
        contest = policy.contest(parts, scores)
        shares = _odds(np.array(order, np.int64), table, policy, scores, contest, tiers)
        second = runner_up(tiers, ranked, shares, contest[order], policy.unit(parts))
        odds = shares.tolist()
    facts = [_Facts.of(part) for part in parts]
    candidates = [
        msgspec.structs.replace(
            candidate,
            terms=tuple(_term(each, table.record(place), place, table.now) for each in facts),
            odds=None if odds is None else odds[index],
            needs=lacking(int(tiers[index]), int(tiers.min())),
            linked=table.record(place).linked,
        )
        for index, (candidate, place) in enumerate(zip(ranking.candidates, order, strict=True))
    ]
    return msgspec.structs.replace(ranking, candidates=tuple(candidates), runner_up=second, best_of=policy.best_of)


def _odds(
    places: IntArray, table: CandidateTable, policy: Policy, scores: FloatArray, contest: FloatArray, tiers: IntArray
) -> FloatArray:
    """The probability of each place to be asked first: over jobs that newcomers lead, open ones, and all others."""
    ranked, weights, standing = contest[places], policy.log_weights(scores), table.standing
    count = policy.best_of
    if standing is None or weights is None:
        return first_odds(tiers, ranked, None if weights is None else weights[places], count)
    together = tiers & ~UNPROVEN_TIER
    apart = together + ~standing.proven[places] * UNPROVEN_TIER
    out = np.ones(len(scores), np.bool_)
    out[places] = False
    share = standing.open_share(out)
    odds = share * first_odds(together, ranked, weights[places], count)
    odds = odds + (1.0 - share) * first_odds(apart, ranked, weights[places], count)
    led = np.zeros(len(places)) if table.query.order else standing.lead_odds(out, weights)[places]
    mixed: FloatArray = led + (1.0 - led.sum()) * odds
    return mixed


def _with_lead(
    order: list[int], out: BoolArray, table: CandidateTable, policy: Policy, scores: FloatArray
) -> list[int]:
    """The order, with a newcomer first where newcomers have the turn; peers that the caller named go before all."""
    weights = policy.log_weights(scores)
    if table.standing is None or weights is None or table.query.order:
        return order
    lead = table.standing.lead(out, weights)
    return order if lead is None else [lead, *(place for place in order if place != lead)][: len(order)]


def _order(places: IntArray, table: CandidateTable, tiers: IntArray, keys: FloatArray, most: int) -> list[int]:
    """The first ``most`` of these places in order.  A partition discards most, because sorting is slow."""
    if most < len(places):
        front = places[tiers[places] == tiers[places].min()] if tiers.any() else places
        if 0 < most < len(front):
            worst = np.partition(keys[front], len(front) - most)[len(front) - most]
            places = front[keys[front] >= worst]
    order: list[int] = places[np.lexsort((table.noise[places], -keys[places], tiers[places]))].tolist()
    return order[: max(0, most)]


def _best_first(order: list[int], tiers: IntArray, policy: Policy, contest: FloatArray) -> list[int]:
    """Put the best by ``contest`` of the first few that were drawn first, if their loads are fresh.

    With fewer fresh loads than that, the first one drawn of the others competes as well.  Among stale loads only the
    draw counts: all nodes see the same ones, and would all find the same best.
    """
    if not policy.best_of or not order:
        return order
    front = tiers[order[0]]
    if front & STALE_TIER:
        return order
    first = [place for place in order[: policy.best_of] if tiers[place] == front]
    if len(first) < min(policy.best_of, len(order)) and tiers[order[len(first)]] == front + STALE_TIER:
        first.append(order[len(first)])
    return sorted(first, key=lambda place: -contest[place]) + order[len(first) :]


def prospects(view: PeerView, query: JobQuery, rng: Rng, now: float, most: int) -> list[PeerId]:
    """Peers to which links for such jobs are worth a dial: drawn as for a job, with no failed dial and no link."""
    offers = view.offers(query.model)
    if offers is None:
        return []
    table = CandidateTable(view, offers, query, now, rng.getrandbits(64))
    out = table.column("me") | table.column("linked") | (table.column("reached") < 0)
    out = out | (table.column("barred_until") > now) | (table.column("chance") < LEAST_CHANCE)
    for mask in removed_by(table):
        if mask is not None:
            out = out | mask
    policy, places = POLICIES[DEFAULT], np.flatnonzero(~out)
    keys = policy.keys(policy.scores(policy.parts(table)), table.noise)
    return [table.record(place).peer for place in _order(places, table, _tiers(table, policy, out, True), keys, most)]


def _tiers(table: CandidateTable, policy: Policy, out: BoolArray, explain: bool) -> IntArray:
    """The tier of each peer, which counts before the score; the lowest goes first.  ``out`` are no candidates."""
    missed = table.column("missed_until") > table.now
    tiers: IntArray = (table.column("alive") == SUSPECT) * SUSPECT_TIER + missed * UNREACHED_TIER
    if table.standing is not None:
        tiers = tiers + table.standing.barred * BARRED_TIER
        # A statement that another peer relayed does not prove that its author can be reached from here.
        tiers = tiers + ((table.column("reached") == 0) & ~table.column("me")) * UNTRIED_TIER
        tiers = tiers + table.standing.laden * LADEN_TIER
        if table.standing.proven_first(out, not explain):
            tiers = tiers + ~table.standing.proven * UNPROVEN_TIER
    if policy.best_of:
        tiers = tiers + ~(table.column("fresh") | table.column("me")) * STALE_TIER
    if policy.warm_first:
        tiers = tiers + ~table.warm * COLD_TIER
    if policy.free_first:
        full = (table.column("slots") > 0) & (table.jobs >= table.slots)
        tiers = tiers + (full | (table.column("status") == int(Status.BUSY))) * BUSY_TIER
    if table.query.order:
        last = len(table.query.order)
        named = [last if place is None else place for place in Named(table.query.order).places(table)]
        tiers = tiers + np.array(named, np.int64) * NAMED_TIER
    return tiers


@dataclass(frozen=True, slots=True)
class _Facts:
    """A part of the score, with the masks of what is known and of what past jobs have corrected."""

    part: Part
    known: BoolArray | None
    learned: BoolArray | None

    @classmethod
    def of(cls, part: Part) -> _Facts:
        return cls(part, part.known and part.known(), part.learned and part.learned())


def _term(facts: _Facts, record: PeerRecord, place: int, now: float) -> Term:
    part, (source, age) = facts.part, _source(facts.part, record, now)
    if facts.learned is not None and facts.learned[place]:
        source = "learned"
    elif facts.known is not None and not facts.known[place]:
        source, age = "assumed", None
    return Term(part.name, float(part.values[place]), part.unit, source, age, float(part.makes[place]))


def _source(part: Part, record: PeerRecord, now: float) -> tuple[str, float | None]:
    """Where a known value comes from, and its age in seconds."""
    if part.basis not in ("advert", "load"):
        return ("learned" if part.basis == "learned" else "observed"), None
    load = record.load if part.basis == "load" else None
    age = max(0.0, now - (record.advert_at if load is None else record.load_at))
    return ("measured" if record.is_self else "declared"), age


def _removed(table: CandidateTable, removed: list[BoolArray | None]) -> list[Excluded]:
    told: dict[int, Excluded] = {}
    for each, mask in zip(FILTERS, removed, strict=True):
        for place in np.flatnonzero(mask).tolist() if mask is not None else ():
            if place not in told:
                case = Case(table, place)
                told[place] = Excluded(case.record.peer, each.reason, each.detail(case))
    return list(told.values())


def _strangers(view: PeerView, model: str) -> tuple[Excluded, ...]:
    """Peers that do not offer the model."""
    offering = set(view.offering(model).tolist())
    return tuple(
        Excluded(record.peer, "model", _offers_instead(record))
        for record in view.records()
        if record.row not in offering
    )


def _offers_instead(record: PeerRecord) -> str:
    if record.advert is None:
        return "has said nothing of itself"
    names = [offer.name for offer in record.advert.models]
    if not names:
        return "offers no model"
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"offers {', '.join(names[:_NAMES_SHOWN])}{more}"


def similar(view: PeerView, model: str, most: int = 5) -> tuple[str, ...]:
    """Names of models on offer that resemble ``model``, the most alike first."""
    wanted = model.lower()
    names = {name: name.lower() for name in view.models(_NAMES_COMPARED)}
    within = [name for name, lowered in names.items() if wanted and (wanted in lowered or lowered in wanted)]
    close = difflib.get_close_matches(wanted, sorted(set(names.values())), n=most, cutoff=0.5)
    alike = [name for lowered in close for name, other in names.items() if other == lowered]
    return tuple(dict.fromkeys((*sorted(within), *alike)))[:most]
