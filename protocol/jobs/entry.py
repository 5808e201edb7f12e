"""One job at its entry, from the caller's request to the end of the answer: finds candidates, then runs the cascade.

Not here: the order of candidates (``ranking``), the attempts (``cascade``), the look-up itself (``dht``),
channels, tokens and engines (the driver).

Theory of operation
-------------------
The view is ranked at once; where it has candidates, the same call returns the first attempt.  Otherwise:

* *It has offers, and the filters removed all of them.*  A second look asks for the reasons.  The length of a prompt is
  an estimate, so if only the context speaks against the offers, half of that length is tried and the engine's own count
  decides.  Any other reason is told to the caller.  A look-up would not help: it knows less of a peer than the view.
  Offers of peers that could not be reached a moment ago count as none.
* *It has no offer.*  The DHT is asked for providers, for ``LOOKUP_S`` at most: an unknown name is answered within a
  second.  The look-up itself goes on, and its answer is kept for the next request (``providers``).  A provider
  statement names a model and nothing else, so a request with further wishes does not get that far.  After the look-up
  the view is ranked once more, because gossip may have brought offers meanwhile; providers are asked only if it has
  none.

If not one peer could be reached and none is left, the model is as good as unknown: 404, not 502.

One deadline holds for everything: the settings' time for a whole job, counted from the request, or the caller's own if
that is earlier.  The job has one timer: that of the look-up, later that of the cascade.

========= ================================== =============================================== =========
state     event                              effects                                         next
========= ================================== =============================================== =========
idle      Submit, candidates in the view     those of the cascade: Attempt, SetTimer         asking
idle      Submit, offers but no candidates   as above if half the length fits, else GiveUp   asking
                                             (400 or 503)                                    over
idle      Submit, no offers, providers known those of the cascade: Attempt, SetTimer         asking
idle      Submit, no offers                  SetTimer, LookUp                                searching
idle      Submit, no offers, look-up useless GiveUp (404 or 503)                             over
searching Found with providers               those of the cascade: Attempt, SetTimer         asking
searching Found without, LOOKUP_S are over   as Submit, without another look-up              asking,
                                                                                             over
searching TimerFired, deadline               GiveUp (504)                                    over
searching TimerFired too early               SetTimer                                        searching
idle,     CallerGone                         none                                            over
searching
asking …  any but Found                      those of the cascade                            (cascade)
asking …  Found: it came too late            none; it is kept for the next job               as it was
over
over      any                                none                                            over
========= ================================== =============================================== =========

Attempts count in the view while they run: as jobs in flight, and as a success if they complete.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import msgspec

from protocol.effects import Found, SetTimer
from protocol.errors import LocalProtocolError
from protocol.events import TimerFired
from protocol.ids import ModelId, PeerId, name_key
from protocol.jobs.cascade import TIMER, Cascade, OwnNetwork
from protocol.jobs.cascade_events import (
    Attempt,
    Begin,
    CallerGone,
    CascadeEffect,
    CascadeEvent,
    Contradicted,
    GiveUp,
    Observe,
)
from protocol.jobs.providers import Provided, Providers
from protocol.jobs.retries import RetryBudget
from protocol.membership.peer_view import PeerView
from protocol.perf.forecast import Forecast
from protocol.reputation.experience import Experience
from protocol.reputation.observation import Observation
from protocol.reputation.outcomes import Outcome
from protocol.rng import Rng
from protocol.routing.ranking import JobQuery, Ranking, similar
from protocol.settings import CascadeSettings

#: Seconds a look-up in the DHT may hold a request up: an unknown name is answered within one (guess).
LOOKUP_S: Final = 0.8
#: A node that is younger than this and knows no peer says so, instead of that a model does not exist; seconds (guess).
STARTING_S: Final = 5.0
#: The length of a prompt is a guess at four bytes a token, good to this factor.
ESTIMATE: Final = 2
#: Filters that may pass a moment later; by the others no peer can fulfil the request.
_PASSING: Final = frozenset({"leaving", "not_alive", "stale_advert", "stale_load", "memory", "protocol"})
#: Tokens that an answer without a bound is taken to have, for the deadline of a whole one (guess: what chats ask for).
UNBOUNDED_TOKENS: Final = 4096
#: Filters by which a peer counts as absent.
_ABSENT: Final = frozenset({"model", "unreachable"})
#: Characters of a model's name that are repeated to the caller.
_NAME: Final = 128

#: Ranks the peers for a query at a time; the last argument asks for the reasons of those left out.
Rank = Callable[[JobQuery, float, bool], Ranking]


class Submit(msgspec.Struct, frozen=True, gc=False):
    """A caller asks for a job.

    ``answer_tokens`` is the most that the answer may have, 0 if the caller set no bound.  ``prompt_field`` is what the
    caller calls the prompt.  ``has_engine`` and ``engine_starting`` describe this node's own engine.  ``holds_back``:
    the request makes engines keep tokens back (``Begin``).
    """

    query: JobQuery
    stream: bool = True
    body_bytes: int = 0
    answer_tokens: int = 0
    prompt_field: str = ""
    has_engine: bool = True
    engine_starting: bool = False
    holds_back: bool = False


class LookUp(msgspec.Struct, frozen=True, gc=False):
    """Look for the providers of a model in the DHT; answered by ``Found``, or not at all."""

    model: ModelId


EntryEvent = Submit | Found | CascadeEvent
EntryEffect = LookUp | CascadeEffect


class EntryState:
    """The state that all jobs of one entry share: the view, its ranking, and the findings of earlier jobs."""

    def __init__(
        self,
        view: PeerView,
        rank: Rank,
        settings: CascadeSettings,
        rng: Rng,
        now: float,
        experience: Experience | None = None,
    ) -> None:
        self.view = view
        self.rank = rank
        self.settings = settings
        self.network = OwnNetwork(settings)
        self.retries = RetryBudget(rng, now)
        self.experience = experience or Experience(view)
        self.providers = Providers(view.me)
        self._since = now

    def is_starting(self, now: float) -> bool:
        """Whether this node has had no time yet to find a peer."""
        return now < self._since + STARTING_S and len(self.view) == 0


class Entry:
    """See the module's docstring.  ``deadline`` is the caller's, monotonic seconds."""

    def __init__(self, state: EntryState, deadline: float | None = None) -> None:
        self._shared = state
        self._deadline = math.inf if deadline is None else deadline
        self._state = "idle"
        self._submit = _NOTHING
        self._cascade: Cascade | None = None
        self._end = self._lookup_end = 0.0
        self._forecasts: dict[PeerId, Forecast | None] = {}
        self._provided: Provided = {}

    @property
    def state(self) -> str:
        """``idle``, ``searching``, a state of the cascade, or ``over``."""
        return self._state if self._cascade is None else self._cascade.state

    @property
    def end(self) -> float:
        """When the time for the job is over, monotonic seconds; known from ``Submit`` on."""
        return self._end

    @property
    def committed(self) -> bool:
        """Whether a part of the answer may have gone to the caller."""
        return self._cascade is not None and self._cascade.committed

    @property
    def asked(self) -> int:
        """How many peers were asked."""
        return 0 if self._cascade is None else self._cascade.asked

    def handle(self, event: EntryEvent, now: float) -> list[EntryEffect]:
        """The effects of an event, in their order."""
        cascade = self._cascade
        if cascade is not None and not isinstance(event, Submit | Found):
            return self._note(cascade.handle(event, now), now)
        if isinstance(event, Found) and (cascade is not None or self._state == "over"):
            self._shared.providers.found(self._submit.query.model, event, now)
            return []
        if self.state == "over":
            return []
        step = _STEPS.get((self.state, type(event)))
        if step is None:
            raise LocalProtocolError(f"{type(event).__name__} while {self.state}")
        return step(self, event, now)

    def _on_submit(self, event: Submit, now: float) -> list[EntryEffect]:
        query = replace(event.query, body_bytes=event.body_bytes)
        self._submit = event = msgspec.structs.replace(event, query=query)
        self._end = min(now + self._shared.settings.total_s, self._deadline)
        ranking = self._shared.rank(event.query, now, False)
        peers = self._able(ranking)
        if peers:
            return self._begin(peers, now)
        return self._second_look(now) if ranking.offered else self._look_elsewhere(now)

    def _look_elsewhere(self, now: float) -> list[EntryEffect]:
        """The view knows no peer that can be asked: perhaps the DHT does."""
        query = self._submit.query
        if self._state != "idle" or not _can_be_looked_up(query):
            return self._give_up(self._not_offered(now))
        providers = self._shared.providers.known(query.model, now)
        if providers is not None:
            return self._ask(providers, now) if providers else self._give_up(self._not_offered(now))
        self._state = "searching"
        self._lookup_end = min(now + LOOKUP_S, self._end)
        return [SetTimer(TIMER, self._lookup_end), LookUp(name_key(query.model))]

    def _on_found(self, event: Found, now: float) -> list[EntryEffect]:
        self._shared.providers.found(self._submit.query.model, event, now)
        return self._searched(now)

    def _on_timer(self, _event: TimerFired, now: float) -> list[EntryEffect]:
        if now < self._lookup_end:
            return [SetTimer(TIMER, self._lookup_end)]
        if now < self._end:  # a look-up that was cut short says nothing of the name
            self._shared.providers.none_found(self._submit.query.model, now)
        return self._searched(now)

    def _on_gone(self, _event: CallerGone, _now: float) -> list[EntryEffect]:
        self._state = "over"
        return []

    def _searched(self, now: float) -> list[EntryEffect]:
        """The look-up is over."""
        query = self._submit.query
        self._state = "searched"
        if now >= self._end:
            return self._begin((), now)  # the cascade says that the time is over
        ranking = self._shared.rank(query, now, False)
        peers = self._able(ranking)
        if peers:
            return self._begin(peers, now)
        providers = self._shared.providers.known(query.model, now)
        if providers:
            return self._ask(providers, now)
        return self._second_look(now) if ranking.offered else self._give_up(self._not_offered(now))

    # --- asking --------------------------------------------------------------------------------------------------

    def _able(self, ranking: Ranking) -> tuple[PeerId, ...]:
        """The candidates, without this node if it has no engine: its view may still hold an old advert of its own."""
        self._forecasts = {candidate.peer: candidate.forecast for candidate in ranking.candidates}
        peers = tuple(self._forecasts)
        me = self._shared.view.me
        return peers if self._submit.has_engine else tuple(peer for peer in peers if peer != me)

    def _ask(self, providers: Provided, now: float) -> list[EntryEffect]:
        """Ask peers of which the DHT says that they have the model."""
        self._provided = providers
        return self._begin(tuple(providers), now)

    def _begin(self, peers: tuple[PeerId, ...], now: float, *, too_long: bool = False) -> list[EntryEffect]:
        submit, shared = self._submit, self._shared
        tokens_before = 0.0 if submit.stream else float(submit.answer_tokens or UNBOUNDED_TOKENS)
        shared.retries.began()
        self._cascade = Cascade(shared.settings, shared.network, shared.retries, self._end)
        forecasts = tuple(self._forecasts.get(peer) for peer in peers)
        begin = Begin(
            peers,
            submit.stream,
            submit.body_bytes,
            tokens_before,
            forecasts,
            tuple(self._provided.values()),
            too_long,
            submit.holds_back,
        )
        return self._note(self._cascade.handle(begin, now), now)

    def _note(self, effects: list[CascadeEffect], now: float) -> list[EntryEffect]:
        """Report attempts that begin and end to the experience and the view, because they change the ranking."""
        shared, query = self._shared, self._submit.query
        for effect in effects:
            if isinstance(effect, Attempt):
                shared.experience.attempted(effect.peer, now)
                shared.view.add_prompt(effect.peer, query.model, query.prompt_tokens, now)
            elif isinstance(effect, Observe):
                forecast = self._forecasts.get(effect.peer)
                shared.experience.observed(self._observation(effect, forecast), now)
                if effect.outcome in (Outcome.UNREACHABLE, Outcome.NO_ACCEPT):
                    shared.providers.missed(effect.peer, now)
                else:
                    shared.providers.reached(effect.peer)
            elif isinstance(effect, Contradicted):
                shared.experience.contradicted(effect.peer, now)
        if effects and isinstance(effects[-1], GiveUp) and self._is_gone(now):
            return [*effects[:-1], self._not_offered(now)]
        return [*effects]

    def _observation(self, seen: Observe, forecast: Forecast | None) -> Observation:
        """An attempt as the reputation takes it."""
        submit, token_s = self._submit, None
        first_s = None if seen.first_at is None else seen.first_at - seen.asked_at
        if seen.first_at is not None and seen.pieces > 1:
            token_s = (seen.ended_at - seen.first_at) / (seen.pieces - 1)
        return Observation(
            *(seen.peer, submit.query.model, seen.outcome, seen.blame, first_s, token_s, seen.pieces, seen.promise_s),
            forecast,
            lost_s=seen.ended_at - seen.asked_at,
            streamed=submit.stream,
            tokens=min(seen.tokens, submit.answer_tokens or UNBOUNDED_TOKENS),
        )

    def _is_gone(self, now: float) -> bool:
        """Whether not one of the peers could be reached, which is not this node's own fault, and none is left."""
        cascade, shared = self._cascade, self._shared
        if cascade is None or not cascade.reached_none or shared.network.suspected(now):
            return False
        ranking = shared.rank(self._submit.query, now, True)
        left = ranking.candidates or shared.providers.known(self._submit.query.model, now)
        return not left and all(each.reason in _ABSENT for each in ranking.excluded)

    # --- no peer to ask ------------------------------------------------------------------------------------------

    def _second_look(self, now: float) -> list[EntryEffect]:
        """There are offers, and every one was filtered out: perhaps only because of our estimate."""
        query = self._submit.query
        ranking = self._shared.rank(query, now, True)
        reasons = Counter(each.reason for each in ranking.excluded if each.reason != "model")
        if set(reasons) == {"unreachable"}:
            return self._look_elsewhere(now)
        if set(reasons) == {"context"}:
            shorter = replace(query, prompt_tokens=query.prompt_tokens // ESTIMATE)
            peers = self._able(self._shared.rank(shorter, now, False))
            if peers:
                return self._begin(peers, now, too_long=True)
        return self._give_up(self._none_free(ranking.offered, reasons))

    def _give_up(self, effect: GiveUp) -> list[EntryEffect]:
        self._state = "over"
        return [effect]

    def _none_free(self, count: int, reasons: Counter[str]) -> GiveUp:
        """Why none of those that offer the model can be asked."""
        query = self._submit.query
        told = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common()) or "this node has no engine"
        offered = f"{count} peers offer" if count > 1 else "1 peer offers"
        message = f"{offered} {query.model!r}, but none can be asked ({told})"
        hint = "POST /v1/p2p/route with the same body shows each"
        if set(reasons) == {"context"}:
            size = query.prompt_tokens + query.max_tokens
            message = (
                f"The request needs about {size} tokens: {offered} {query.model!r}, with less context. Shorten it."
            )
            return GiveUp(400, "context_length_exceeded", message, self._submit.prompt_field)
        if reasons and not _PASSING & set(reasons):
            return GiveUp(503, "no_capacity", f"{message}: ask for less; {hint}.")
        return GiveUp(503, "no_capacity", f"{message}: try again shortly; {hint}.", retry_after=1.0)

    def _not_offered(self, now: float) -> GiveUp:
        """Why the model is not known here."""
        if self._submit.engine_starting:
            return GiveUp(503, "starting", "The engine of this node is still starting: try again.", retry_after=2.0)
        if self._shared.is_starting(now):
            return GiveUp(503, "starting", "This node is still looking for peers: try again.", retry_after=1.0)
        model = self._submit.query.model
        names = similar(self._shared.view, model)
        hint = f"Similar: {', '.join(names)}." if names else "GET /v1/models lists what can be asked for."
        what = (
            f"No peer that offers the model {model[:_NAME]!r} can be reached"
            if self.asked
            else (f"No peer offers the model {model[:_NAME]!r}")
        )
        return GiveUp(404, "model_not_found", f"{what} now. {hint}", "model")


def _can_be_looked_up(query: JobQuery) -> bool:
    """Of peers beyond the view only the model's name is known, so no other wish can be checked."""
    wishes = (query.only, query.capabilities, query.quantizations, query.order, query.ignore)
    return query.zone == "anyone" and query.max_price is None and not any(wishes)


#: What an entry has to do before its job is submitted.
_NOTHING: Final = Submit(JobQuery(""))
_Step = Callable[[Entry, Any, float], list[EntryEffect]]
#: The table of the docstring, up to where the cascade begins.
_STEPS: Final[dict[tuple[str, type[EntryEvent]], _Step]] = {
    ("idle", Submit): Entry._on_submit,
    ("idle", CallerGone): Entry._on_gone,
    ("searching", Found): Entry._on_found,
    ("searching", TimerFired): Entry._on_timer,
    ("searching", CallerGone): Entry._on_gone,
}
