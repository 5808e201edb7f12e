"""What one observer has learned of its peers from its own jobs, and its effect on the view that ranking reads.

Only this node's observations count: no other node's word changes anything here.  An attempt becomes evidence
(``evidence``), moves the breaker of the peer (``breaker``) and, for a newcomer, what newcomers are worth
(``newcomers``).  What follows is written into the columns of the view, where ranking finds it for a thousand peers at
once.

*Our own network.*  If many peers fail at once in ways that a broken network of ours explains, the cascade blames none
of them.  The first failures came before that was clear, so they are taken back: each peer's failures of that kind
within ``RETRACT_S``.

Not here: the ranking itself (``routing``), the attempts (``jobs``), storage (the driver).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Container, Iterable
from typing import Final

import numpy as np

from protocol.ids import PeerId
from protocol.membership.columns import Offers
from protocol.membership.peer_record import PeerRecord
from protocol.membership.peer_view import PeerView
from protocol.perf.forecast import Forecast
from protocol.reputation.correction import Factor, Newcomer
from protocol.reputation.estimator import CHOSEN, Estimator
from protocol.reputation.evidence import LAWS, Dimension, Evidence, restored
from protocol.reputation.newcomers import PROVEN, Newcomers
from protocol.reputation.observation import Observation
from protocol.reputation.outcomes import VERDICTS, Outcome, Verdict
from protocol.reputation.peer_history import MOST_PEERS, Histories, PeerHistory
from protocol.reputation.projections import EVERY_S, project_factors, project_peers
from protocol.reputation.snapshot import JOBS, NEWCOMERS, NOBODY, Changes, ExperienceSnapshot, Key, Pair
from protocol.reputation.snapshot import Factor as Row

#: Seconds that a failure costs before any was observed, and the observations that this guess counts for (trust study:
#: ``T_fail`` starts at 10 s).
FIRST_LOST_S: Final = 10.0
_FIRST_LOST_COUNT: Final = 2.0
#: The most failures over which the mean is taken: later ones weigh more.
_MOST_LOST_COUNT: Final = 50.0
#: Failures of the last so many seconds are taken back when our own network is suspected (the window of the suspicion).
RETRACT_S: Final = 10.0
#: The weight of a job that a peer turned away before it completed any, and the most that these add up to (guess: a
#: fifth of a failure in all, since an honest peer may be busy at first).
UNHELPFUL_WEIGHT: Final = 0.1
UNHELPFUL_MOST: Final = 0.4
_UNHELPFUL: Final = frozenset({Outcome.BUSY, Outcome.REFUSED})
#: Failures that are remembered for that (guess: several dozen jobs in flight).
_RECENT: Final = 256
_DIMENSIONS: Final = frozenset(dimension.value for dimension in Dimension)


class Experience:
    """The observations of one node.  Times are monotonic seconds."""

    def __init__(self, view: PeerView, most_peers: int = MOST_PEERS, estimator: Estimator = CHOSEN) -> None:
        self._view = view
        self.estimator: Estimator = estimator
        self._projected_at = -math.inf
        self.newcomers = Newcomers()
        self._newcomer_logs = Newcomer()
        self.histories = Histories(most_peers)
        self._lost_s = FIRST_LOST_S
        self._lost_count = _FIRST_LOST_COUNT
        #: Observations so far: whether a snapshot would differ.
        self.events = 0
        self._changed_peers = Changes[PeerId]()
        self._changed_groups = Changes[str]()
        self._recent: deque[tuple[float, PeerId, Verdict]] = deque(maxlen=_RECENT)

    @property
    def lost_s(self) -> float:
        """Mean time that a failed attempt costs, seconds."""
        return self._lost_s

    def attempted(self, peer: PeerId, now: float) -> None:
        """A job of ours begins at a peer."""
        self._view.add_inflight(peer, +1)
        history = self.histories.of(peer, now)
        history.asked += 1
        history.breaker.asked(now)
        self._publish(peer, history)

    def observed(self, seen: Observation, now: float) -> None:
        """A job of ours ended there."""
        self._view.add_inflight(seen.peer, -1)
        self.events += 1
        self._changed_peers.note(seen.peer, self.events)
        history, verdict = self.histories.of(seen.peer, now), VERDICTS[seen.outcome]
        if seen.outcome is Outcome.COMPLETED:
            history.completed += 1
            history.breaker.worked(now)
            self._view.observe_success(seen.peer)
        elif seen.blame:
            self._blame(seen, history, verdict, now)
        else:
            history.breaker.released()
            if verdict.network:  # blamed on our own network
                self._take_back(now)
        if seen.blame or not verdict.blame:
            self._learn(seen.peer, history, verdict, now)
        if seen.outcome in _UNHELPFUL:
            self._unhelpful(history, now)
        if seen.forecast is not None:
            self._correct(seen, seen.forecast, history, now)
        self._publish(seen.peer, history)
        self._project(seen, now)
        for peer in self.histories.shrink(now):
            self._changed_peers.note(peer, self.events)
            self._view.learned.forget(peer)

    def contradicted(self, peer: PeerId, now: float) -> None:
        """A peer called a request wrong for every peer, and another one has completed it: that is misbehaviour."""
        self.events += 1
        self._changed_peers.note(peer, self.events)
        history = self.histories.of(peer, now)
        history.breaker.failed(now)
        self._learn(peer, history, VERDICTS[Outcome.MISBEHAVED], now)
        self._publish(peer, history)
        self._project_peer(peer, now)

    # --- over a restart -----------------------------------------------------------------------------------------------

    def snapshot(self) -> ExperienceSnapshot:
        """What the next life of this node should know; the state of breakers is too short-lived for that."""
        peers, groups = dict(self.histories.items()), dict(self.newcomers.items())
        return ExperienceSnapshot(*self._rows(peers, groups))

    def changes(self, since: int) -> ExperienceSnapshot:
        """What a driver has to write that wrote all up to the event ``since``."""
        peers = self._changed_peers.since(since)
        return ExperienceSnapshot(*self._rows(peers, self._changed_groups.since(since)), peers)

    def _rows(self, peers: Iterable[PeerId], groups: Container[str]) -> tuple[dict[Key, Pair], dict[Key, Row]]:
        rows: dict[Key, Pair] = {}
        factors: dict[Key, Row] = {}
        for peer in peers:
            history = self.histories.get(peer)
            if history is None:
                continue
            for dimension, evidence in history.evidence.items():
                rows[peer, "", dimension.value] = Pair(evidence.good, evidence.bad, evidence.at)
            if history.completed or history.failed:
                rows[peer, "", JOBS] = Pair(float(history.completed), float(history.failed), history.seen_at)
            factors |= {
                (peer, model, phase): Row(factor.mean, factor.variance, factor.count, factor.at)
                for model, scope in history.scopes()
                for phase, factor in scope.items()
                if factor.count > 0.0
            }
        rows |= {
            (NOBODY, group, NEWCOMERS): Pair(evidence.good, evidence.bad, evidence.at)
            for group, evidence in self.newcomers.items()
            if group in groups
        }
        return rows, factors

    def restore(self, snapshot: ExperienceSnapshot, now: float) -> None:
        """Take over what an earlier life has learned; called once, before any job.  Its times are of this life."""
        for (peer, model, name), row in snapshot.evidence.items():
            if name == NEWCOMERS:
                evidence = self.newcomers.restore(model, row)
                if model:
                    self._view.learned.learn_of_group(model, (evidence.good, evidence.bad, evidence.at))
            elif name == JOBS:
                history = self.histories.of(peer, min(now, row.at))
                history.completed, history.failed = int(row.good), int(row.bad)
            elif name in _DIMENSIONS and not model:
                history, law = self.histories.of(peer, min(now, row.at)), LAWS[Dimension(name)]
                history.evidence[Dimension(name)] = restored(row, law)
        for (peer, model, phase), kept in snapshot.corrections.items():
            history = self.histories.get(peer) or self.histories.of(peer, min(now, kept.at))
            history.scope(model).restore(phase, Factor(kept.mean, kept.amount, kept.variance, kept.at))
        for peer, history in self.histories.items():
            self._publish(peer, history)
            for model in history.models:
                self._publish_model(peer, model, history)

    def _blame(self, seen: Observation, history: PeerHistory, verdict: Verdict, now: float) -> None:
        history.failed += verdict.complete is not None
        history.breaker.failed(now)
        self._lost_count = min(_MOST_LOST_COUNT, self._lost_count + 1.0)
        self._lost_s += (seen.lost_s - self._lost_s) / self._lost_count
        if seen.outcome is Outcome.UNREACHABLE:
            self._view.observe_unreachable(seen.peer, now)
        if verdict.network:
            self._recent.append((now, seen.peer, verdict))

    def _learn(self, peer: PeerId, history: PeerHistory, verdict: Verdict, now: float) -> None:
        """Take an outcome as evidence about the peer and, while it is new, about newcomers."""
        new = self._is_new(history, now)
        if verdict.live is not None:
            history.observe(Dimension.LIVE, *verdict.live, now)
        if verdict.complete is not None:
            history.observe(Dimension.COMPLETE, *verdict.complete, now)
        of_newcomers = verdict.complete or (verdict.live if verdict.blame else None)
        if new and of_newcomers is not None:
            self._newcomer(peer, *of_newcomers, now)

    def _time(self, seen: Observation, forecast: Forecast, history: PeerHistory, now: float) -> None:
        """Take the times of an attempt as evidence: whether it was as soon as promised, and as fast as predicted."""
        if seen.first_s is not None and seen.streamed:
            due_s = seen.promise_s or forecast.ttft_s
            history.observe(Dimension.LATENCY, due_s / max(due_s, seen.first_s), 1.0, now)
        if seen.token_s is not None:
            history.observe(Dimension.RATE, forecast.itl_s / max(forecast.itl_s, seen.token_s), 1.0, now)

    def _correct(self, seen: Observation, forecast: Forecast, history: PeerHistory, now: float) -> None:
        if self._is_new(history, now):
            self._newcomer_logs.observe(seen, now)
        history.correct(seen, now)
        self._time(seen, forecast, history, now)
        self._publish_model(seen.peer, seen.model, history)

    def project(self, offers: Offers, now: float) -> None:
        """Bring up to date what ranking reads of the peers that offer a model, if it is old."""
        if now >= self._projected_at + EVERY_S:
            self._projected_at = now
            project_peers(self._view, self.newcomers.prior(now), now)
        if now >= offers.projected_at + EVERY_S:
            offers.projected_at = now
            project_factors(self._view, offers, self._newcomer_logs.logs(now), now)

    def _project(self, seen: Observation, now: float) -> None:
        """The same at once for the peer that a job just ended at."""
        record, offers = self._project_peer(seen.peer, now), self._view.offers(seen.model)
        if record is None:
            return
        if offers is not None and record.row in offers.offers and offers.projected_at > -math.inf:
            places = np.flatnonzero(offers.rows == record.row)
            project_factors(self._view, offers, self._newcomer_logs.logs(now), now, places)

    def _project_peer(self, peer: PeerId, now: float) -> PeerRecord | None:
        record = self._view.get(peer)
        if record is not None:
            project_peers(self._view, self.newcomers.prior(now), now, np.array([record.row]))
        return record

    def _unhelpful(self, history: PeerHistory, now: float) -> None:
        """A peer turned a job away.  Until it has completed one, that is a weak sign that it never will."""
        evidence = history.evidence.get(Dimension.COMPLETE) or _NONE
        if history.completed or evidence.bad >= UNHELPFUL_MOST:
            return
        history.observe(Dimension.COMPLETE, 0.0, UNHELPFUL_WEIGHT, now)

    def _newcomer(self, peer: PeerId, value: float, weight: float, now: float) -> None:
        record = self._view.get(peer)
        group = "" if record is None else record.group
        evidence = self.newcomers.observe(group, value, weight, now)
        for changed in ("", group):
            self._changed_groups.note(changed, self.events)
        if evidence is not None:
            self._view.learned.learn_of_group(group, (evidence.good, evidence.bad, evidence.at))
        for forgotten in self.newcomers.shrink():
            self._view.learned.forget_group(forgotten)

    def _take_back(self, now: float) -> None:
        """Our own network failed: what the last failures of its kind said of the peers was wrong."""
        for at, peer, verdict in self._recent:
            history = self.histories.get(peer)
            self._changed_peers.note(peer, self.events)
            if at <= now - RETRACT_S or history is None:
                continue
            history.breaker.forgive(now - RETRACT_S)
            history.failed = max(0, history.failed - (verdict.complete is not None))
            for dimension, said in ((Dimension.COMPLETE, verdict.complete), (Dimension.LIVE, verdict.live)):
                evidence = history.evidence.get(dimension)
                if said is not None and evidence is not None:
                    evidence.take_back(said[1])
            self._publish(peer, history)
        self._recent.clear()

    def _is_new(self, history: PeerHistory, now: float) -> bool:
        evidence = history.evidence.get(Dimension.COMPLETE)
        if evidence is None:
            return True
        evidence.decay(LAWS[Dimension.COMPLETE], now)
        return evidence.good < PROVEN

    def _publish(self, peer: PeerId, history: PeerHistory) -> None:
        """Write what ranking reads of a peer into the view."""
        evidence = history.evidence.get(Dimension.COMPLETE) or _NONE
        factors = history.factors
        prompt, token = factors.prompt, factors.token
        figures = (
            *(evidence.good, evidence.bad, evidence.at),
            *(prompt.mean, prompt.count, token.mean, token.count, prompt.variance, max(prompt.at, token.at)),
        )
        self._view.learned.learn(peer, figures, history.breaker.barred_until)

    def _publish_model(self, peer: PeerId, model: str, history: PeerHistory) -> None:
        prompt, token = history.models[model].prompt, history.models[model].token
        figures = (prompt.mean, prompt.count, token.mean, token.count, max(prompt.at, token.at))
        self._view.learned.learn_of_offer(peer, model, figures)


_NONE: Final = Evidence()
