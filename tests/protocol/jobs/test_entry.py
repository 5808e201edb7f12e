"""The entry: its table, its one deadline, what the caller is told, and that no order of events loses a job."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol import PROTOCOL_VERSION
from protocol.effects import Found, SetTimer
from protocol.errors import LocalProtocolError
from protocol.events import TimerFired
from protocol.ids import PeerId, model_id, name_key
from protocol.jobs.cascade import TIMER
from protocol.jobs.cascade_events import (
    Abort,
    Accepted,
    Attempt,
    AttemptFailed,
    CallerGone,
    Completed,
    Finish,
    GiveUp,
    Keepalive,
    Observe,
    Progress,
    Refused,
    WasBusy,
)
from protocol.jobs.entry import (
    ESTIMATE,
    LOOKUP_S,
    STARTING_S,
    Entry,
    EntryEffect,
    EntryEvent,
    EntryState,
    LookUp,
    Submit,
)
from protocol.jobs.providers import FOUND_S, MISSED_S, UNKNOWN_S
from protocol.membership.peer_view import PeerView
from protocol.reputation.evidence import Dimension
from protocol.reputation.outcomes import Outcome
from protocol.routing.ranking import Candidate, Excluded, JobQuery, Ranking
from protocol.settings import CascadeSettings
from protocol.statements.adverts import Advert, ModelOffer, Provider
from protocol.statements.envelope import Envelope, statement
from protocol.statements.keys import Ed25519Signer
from protocol.wire.messages import Refuse

SETTINGS = CascadeSettings()
MODEL = "m"
SIGNERS = [Ed25519Signer(bytes([number]) * 32) for number in range(1, 12)]
ME, A, B, C, *MORE = (signer.peer_id for signer in SIGNERS)
TICK = TimerFired(TIMER)
#: Older than a node that may still be starting.
GROWN = 100.0


def provider(number: int, addrs: tuple[str, ...] = ()) -> Envelope:
    return statement(SIGNERS[number], Provider(name_key(MODEL), addrs), (1, 1), 1e9, 3600)


def found(*numbers: int) -> Found:
    return Found(1, tuple(provider(number) for number in numbers), (), 1)


class Play:
    """Jobs at one entry, under a clock: the ranking is by script, the view is real."""

    def __init__(self, *peers: PeerId, now: float = GROWN) -> None:
        self.view = PeerView(ME, 100, 100)
        self.peers: Sequence[PeerId] = peers
        self.excluded: dict[PeerId, str] = {}
        #: The longest prompt for which the scripted filter of the context lets anybody pass.
        self.context = math.inf
        self.looks: list[tuple[JobQuery, bool]] = []
        self.now = now
        self.timer = math.inf
        self.shared = EntryState(self.view, self.rank, SETTINGS, random.Random(1), 0.0)
        self.entry = Entry(self.shared)

    def rank(self, query: JobQuery, now: float, explain: bool) -> Ranking:
        assert now == self.now
        self.looks.append((query, explain))
        fits = query.prompt_tokens <= self.context
        candidates = tuple(Candidate(peer, 1.0, (), True, None) for peer in self.peers if fits)
        told = self.excluded if fits else dict.fromkeys(self.peers, "context") | self.excluded
        excluded = tuple(Excluded(peer, reason, "") for peer, reason in told.items() if explain)
        return Ranking(query, "scripted", candidates, excluded, len(self.peers) + len(self.excluded))

    def knows(self, peer: PeerId, model: str = MODEL) -> None:
        """The view holds a peer that offers a model."""
        advert = Advert(PROTOCOL_VERSION, models=(ModelOffer(model, model_id(model, "", "", "", 1)),))
        signer = next(signer for signer in SIGNERS if signer.peer_id == peer)
        self.view.put(statement(signer, advert, (1, 1), 1e9, 3600), advert, self.now, self.now + 1e6)

    def submit(self, query: JobQuery | None = None, deadline: float | None = None, **more: object) -> list[EntryEffect]:
        self.entry = Entry(self.shared, deadline)
        return self.do(Submit(query or JobQuery(MODEL, 100, 50), **more))  # type: ignore[arg-type]

    def do(self, event: EntryEvent, at: float | None = None) -> list[EntryEffect]:
        self.now = self.now if at is None else at
        effects = self.entry.handle(event, self.now)
        for effect in effects:
            if isinstance(effect, SetTimer):
                assert effect.key == TIMER
                self.timer = effect.at
        return [effect for effect in effects if not isinstance(effect, SetTimer)]

    def until_over(self, word: EntryEvent) -> GiveUp:
        """The peer says this every second, and nothing else: how the job ends."""
        while True:
            self.do(word, self.now + 1)
            if self.timer <= self.now + 1:
                for effect in self.do(TICK, self.timer):
                    if isinstance(effect, GiveUp):
                        return effect

    def inflight(self, peer: PeerId) -> int:
        record = self.view.get(peer)
        assert record is not None
        return record.inflight


def gave_up(effects: list[EntryEffect]) -> GiveUp:
    (effect,) = effects
    assert isinstance(effect, GiveUp)
    return effect


# --- the view has candidates -----------------------------------------------------------------------------------------


def test_the_best_candidate_is_asked_at_once() -> None:
    play = Play(A, B)
    assert play.entry.state == "idle"
    assert play.submit() == [Attempt(A, 1)]
    assert (play.entry.state, play.entry.asked, play.entry.committed) == ("asking", 1, False)
    assert play.timer == GROWN + SETTINGS.accept_s
    assert [explain for _, explain in play.looks] == [False]
    play.do(WasBusy(A))
    assert play.entry.asked == 2
    play.do(Accepted(B))
    play.do(Progress(B))
    assert play.entry.committed
    assert isinstance(play.do(Completed(B))[-1], Finish)
    assert play.entry.state == "over"


def test_a_refusal_that_another_peer_disproves_is_misbehaviour_of_the_first() -> None:
    play = Play(A, B)
    play.submit()
    play.do(Refused(A, Refuse(400, "invalid_parameter", "never", final=True)))
    play.do(Accepted(B))
    play.do(Progress(B))
    history = play.shared.experience.histories.get(A)
    assert history is not None
    before = history.evidence[Dimension.COMPLETE].bad
    play.do(Completed(B))
    assert history.evidence[Dimension.COMPLETE].bad == before + 2.0


def test_the_view_knows_what_runs_and_what_went_well() -> None:
    play = Play(A, B)
    play.knows(A)
    play.knows(B)
    play.submit()
    assert (play.inflight(A), play.inflight(B)) == (1, 0)
    play.do(WasBusy(A))
    assert (play.inflight(A), play.inflight(B)) == (0, 1)
    play.do(Accepted(B))
    play.do(Progress(B))
    play.do(Completed(B))
    records = [play.view.get(peer) for peer in (A, B)]
    assert [(record.inflight, record.successes) for record in records if record is not None] == [(0, 0), (0, 1)]


def test_the_prompt_of_an_attempt_keeps_its_peer_busy_for_the_next_job() -> None:
    play = Play(A, B)
    play.knows(A)
    play.knows(B)
    play.submit(JobQuery(MODEL, 1000, 50))
    rows = [record.row for peer in (A, B) if (record := play.view.get(peer)) is not None]
    busy_until = play.view.columns["busy_until"][rows]
    assert busy_until[0] > play.now
    assert busy_until[1] == -math.inf
    play.do(WasBusy(A), play.now + 1)
    assert play.view.columns["busy_until"][rows[1]] - play.now == pytest.approx(busy_until[0] - GROWN)


def test_peers_are_ranked_for_the_bytes_that_have_to_be_sent() -> None:
    play = Play(A)
    play.submit(JobQuery(MODEL, 100, 50), body_bytes=4000)
    assert play.looks == [(JobQuery(MODEL, 100, 50, body_bytes=4000), False)]


def test_a_node_without_an_engine_does_not_ask_itself() -> None:
    assert Play(ME, A).submit(has_engine=True) == [Attempt(ME, 1)]
    assert Play(ME, A).submit(has_engine=False) == [Attempt(A, 1, last=True)]
    failed = gave_up(Play(ME).submit(has_engine=False))
    assert (failed.status, failed.code, failed.retry_after) == (503, "no_capacity", 1.0)
    assert "this node has no engine" in failed.message


@pytest.mark.parametrize(
    ("stream", "answer_tokens", "seconds"), [(True, 100, 6.0), (False, 100, 26.0), (False, 0, SETTINGS.total_s)]
)
def test_a_whole_answer_has_the_time_that_its_tokens_take(stream: bool, answer_tokens: int, seconds: float) -> None:
    play = Play(A)
    play.submit(stream=stream, answer_tokens=answer_tokens, body_bytes=SETTINGS.upload_bytes_s)
    play.do(Accepted(A))
    play.until_over(Keepalive(A))
    assert play.now == pytest.approx(GROWN + seconds)


# --- a second look ---------------------------------------------------------------------------------------------------


def test_a_prompt_that_only_our_estimate_finds_too_long_is_tried() -> None:
    play = Play(A, B)
    play.context = 60
    assert play.submit() == [Attempt(A, 1)]
    assert [(query.prompt_tokens, explain) for query, explain in play.looks] == [
        (100, False),
        (100, True),
        (100 // ESTIMATE, False),
    ]
    refuse = Refuse(400, "context_length_exceeded", "too long", "messages", True)
    assert isinstance(play.do(Refused(A, refuse))[-1], GiveUp), "its count confirms our estimate"


def test_a_peer_that_finds_a_prompt_too_long_against_our_estimate_needs_a_second_voice() -> None:
    play = Play(A, B)
    play.submit()
    refuse = Refuse(400, "context_length_exceeded", "too long", "messages", True)
    assert play.do(Refused(A, refuse))[-1] == Attempt(B, 2, last=True)


def test_a_prompt_that_is_too_long_by_any_count_is_the_callers_mistake() -> None:
    play = Play(A, B)
    play.context = 40
    failed = gave_up(play.submit(prompt_field="messages"))
    assert (failed.status, failed.code, failed.param) == (400, "context_length_exceeded", "messages")
    assert failed.retry_after is None
    assert "about 150 tokens: 2 peers offer 'm'" in failed.message
    assert play.entry.state == "over"


@pytest.mark.parametrize(
    ("reasons", "retry_after"),
    [
        (["not_named"], None),
        (["price", "context"], None),
        (["not_alive"], 1.0),
        (["zone", "stale_load", "context"], 1.0),
        (["not_alive", "model"], 1.0),
    ],
)
def test_offers_that_cannot_be_asked_are_explained_and_not_looked_up(
    reasons: list[str], retry_after: float | None
) -> None:
    play = Play()
    play.excluded = dict(zip((A, B, C), reasons, strict=False))
    failed = gave_up(play.submit())
    assert (failed.status, failed.code, failed.retry_after) == (503, "no_capacity", retry_after)
    assert all((f"1 {reason}" in failed.message) == (reason != "model") for reason in reasons)
    assert ("try again shortly" in failed.message) == (retry_after is not None)
    assert len(play.looks) == 2, "half the length is tried only where the length is all that is wrong"
    assert play.do(CallerGone()) == []


# --- the DHT ---------------------------------------------------------------------------------------------------------


def test_a_model_that_the_view_does_not_know_is_looked_up_and_its_providers_are_asked() -> None:
    play = Play()
    assert play.submit() == [LookUp(name_key(MODEL))]
    assert (play.entry.state, play.entry.asked, play.entry.committed) == ("searching", 0, False)
    assert play.timer == GROWN + LOOKUP_S
    addrs = ("/ip4/10.0.0.2/tcp/1",)
    given = Found(1, (provider(2, addrs), provider(1), provider(0)), (), 1)
    assert play.do(given, GROWN + 0.5) == [Attempt(B, 1, addrs)], "this node is none of its own providers"
    assert play.timer == GROWN + 0.5 + SETTINGS.accept_s
    assert play.do(WasBusy(B))[-1] == Attempt(A, 2, last=True)
    assert isinstance(play.do(WasBusy(A))[-1], GiveUp), "each of them once"


def test_no_more_providers_are_asked_than_candidates() -> None:
    play = Play()
    play.submit()
    effects = play.do(found(*range(1, 11)))
    while not isinstance(effects[-1], GiveUp):
        effects = play.do(WasBusy(effects[-1].peer))  # type: ignore[union-attr]
    assert play.entry.asked == SETTINGS.asked


@pytest.mark.parametrize("answer", [found(), found(0), None])
def test_a_name_without_providers_is_not_found_and_not_looked_up_again_at_once(answer: Found | None) -> None:
    play = Play()
    play.submit()
    play.knows(A, "mm")
    failed = gave_up(play.do(answer, GROWN + 0.5) if answer is not None else play.do(TICK, play.timer))
    assert (failed.status, failed.code, failed.param, failed.retry_after) == (404, "model_not_found", "model", None)
    assert failed.message.endswith("Similar: mm.")
    ended = play.now
    assert gave_up(play.submit()).code == "model_not_found"
    assert play.submit(JobQuery("other")) == [LookUp(name_key("other"))]
    play.now = ended + UNKNOWN_S
    assert play.submit() == [LookUp(name_key(MODEL))]


def test_a_name_that_resembles_nothing_on_offer_leads_to_the_list() -> None:
    play = Play()
    play.submit()
    assert "GET /v1/models" in gave_up(play.do(found())).message


def test_offers_that_gossip_brings_during_the_look_up_go_first() -> None:
    play = Play()
    play.submit()
    play.peers = (C,)
    assert play.do(found(1)) == [Attempt(C, 1, last=True)]
    assert play.timer == play.now + SETTINGS.accept_s
    play.peers = ()
    play.submit(JobQuery("another"))
    play.excluded = {C: "leaving"}
    assert gave_up(play.do(found())).code == "no_capacity"
    play.excluded = {}
    play.submit(JobQuery("other"))
    play.excluded = {C: "leaving"}
    assert play.do(found(1)) == [Attempt(A, 1, last=True)], "a provider is better than an offer that cannot be asked"


def test_a_provider_is_remembered_until_it_leads_nowhere() -> None:
    play = Play()
    play.submit()
    play.do(found(1))
    play.do(Accepted(A))
    play.do(Progress(A))
    play.do(Completed(A))
    assert play.submit() == [Attempt(A, 1, last=True)], "without another look-up"
    effects = play.do(AttemptFailed(A, Outcome.UNREACHABLE, "refused", answered=True))
    failed = effects[-1]
    assert isinstance(failed, GiveUp)
    assert (failed.status, failed.code, failed.retry_after) == (404, "model_not_found", None)
    assert failed.message.startswith("No peer that offers the model 'm' can be reached now.")
    assert gave_up(play.submit()).code == "model_not_found", "it is not dialled again at once"
    play.now += FOUND_S
    assert play.submit() == [LookUp(name_key(MODEL))]
    assert gave_up(play.do(found(1))).code == "model_not_found", "its statement outlives it"
    assert play.submit(JobQuery(MODEL)) != [LookUp(name_key(MODEL))]
    play.now += MISSED_S
    play.submit()
    assert play.do(found(1)) == [Attempt(A, 1, last=True)]


def test_offers_of_peers_that_cannot_be_reached_are_none() -> None:
    play = Play(A, B)
    play.submit()
    play.do(AttemptFailed(A, Outcome.UNREACHABLE, "refused", answered=True))
    play.peers, play.excluded = (), {A: "unreachable", B: "unreachable", C: "model"}
    effects = play.do(AttemptFailed(B, Outcome.UNREACHABLE, "refused", answered=True))
    assert isinstance(effects[-1], GiveUp)
    assert (effects[-1].status, effects[-1].code) == (404, "model_not_found")
    assert play.submit() == [LookUp(name_key(MODEL))], "perhaps the DHT knows another"
    assert gave_up(play.do(found())).code == "model_not_found"
    play.excluded[C] = "leaving"
    assert gave_up(play.submit()).code == "no_capacity"


def test_a_peer_that_answered_or_that_is_left_keeps_the_model() -> None:
    play = Play(A, B)
    play.submit()
    play.do(WasBusy(A))
    effects = play.do(AttemptFailed(B, Outcome.UNREACHABLE, "refused", answered=True))
    assert isinstance(effects[-1], GiveUp)
    assert effects[-1].status == 503
    play = Play(A)
    play.submit()
    effects = play.do(AttemptFailed(A, Outcome.UNREACHABLE, "no answer"))
    assert isinstance(effects[-1], GiveUp)
    assert effects[-1].status == 502, "the ranking still has it"


def test_nothing_is_unknown_because_our_own_network_failed() -> None:
    play = Play(A, B, C)
    play.submit()
    for peer in (A, B, C):
        play.peers = ()
        effects = play.do(AttemptFailed(peer, Outcome.UNREACHABLE, "no answer"))
    assert isinstance(effects[-1], GiveUp)
    assert effects[-1].status == 502
    assert "own network" in effects[-1].message


@pytest.mark.parametrize(
    "wish",
    [
        {"zone": "local"},
        {"max_price": 1.0},
        {"only": ("a",)},
        {"order": ("a",)},
        {"ignore": ("a",)},
        {"quantizations": ("q8",)},
        {"capabilities": frozenset({"tools"})},
    ],
)
def test_a_request_with_wishes_is_not_looked_up(wish: dict[str, object]) -> None:
    play = Play()
    failed = gave_up(play.submit(JobQuery(MODEL, **wish)))  # type: ignore[arg-type]
    assert failed.code == "model_not_found"
    assert play.submit() == [LookUp(name_key(MODEL))], "the name as such may still be known"


def test_what_is_found_too_late_changes_nothing() -> None:
    play = Play()
    play.submit()
    assert gave_up(play.do(TICK, play.timer)).code == "model_not_found"
    assert gave_up(play.submit()).code == "model_not_found"
    assert play.do(found(1)) == []
    assert play.entry.state == "over"
    assert play.submit() == [Attempt(A, 1, last=True)], "it is kept for the next request"
    play = Play()
    play.submit()
    play.do(found(1))
    assert play.do(found(2)) == []
    assert play.entry.state == "asking"


# --- a node that has just begun --------------------------------------------------------------------------------------


def test_a_young_node_without_peers_says_that_it_is_starting() -> None:
    play = Play(now=0.0)
    play.submit()
    failed = gave_up(play.do(found(), STARTING_S - 0.1))
    assert (failed.status, failed.code, failed.retry_after) == (503, "starting", 1.0)
    play.now = STARTING_S
    assert gave_up(play.submit()).code == "model_not_found"
    play = Play(now=0.0)
    play.knows(A, "other")
    play.submit()
    assert gave_up(play.do(found())).code == "model_not_found"


def test_an_engine_that_is_starting_may_bring_the_model() -> None:
    play = Play()
    play.submit(engine_starting=True)
    failed = gave_up(play.do(found()))
    assert (failed.status, failed.code, failed.retry_after) == (503, "starting", 2.0)


# --- one deadline ----------------------------------------------------------------------------------------------------


def test_the_callers_deadline_holds_during_the_look_up() -> None:
    for event in (TICK, found(1)):
        play = Play()
        play.submit(deadline=GROWN + 0.5)
        assert play.timer == GROWN + 0.5
        failed = gave_up(play.do(event, GROWN + 0.5))
        assert (failed.status, failed.code) == (504, "deadline_exceeded")
        known = play.shared.providers.known(MODEL, play.now)
        assert known != {}, "a look-up that was cut short says nothing of the name"


def test_the_time_of_the_look_up_counts_for_the_whole_job() -> None:
    for deadline, end in ((None, GROWN + SETTINGS.total_s), (GROWN + 50, GROWN + 50)):
        play = Play()
        play.submit(deadline=deadline)
        assert play.entry.end == end
        play.do(found(1), GROWN + LOOKUP_S / 2)
        play.do(Accepted(A))
        assert play.until_over(Progress(A)).code == "deadline_exceeded"
        assert play.now == end


def test_a_job_that_comes_after_its_deadline_is_too_late() -> None:
    assert gave_up(Play(A).submit(deadline=GROWN)).code == "deadline_exceeded"
    play = Play()
    assert play.submit(deadline=GROWN) == [LookUp(name_key(MODEL))]
    assert play.timer == GROWN
    assert gave_up(play.do(TICK)).code == "deadline_exceeded"


def test_a_timer_that_fires_too_early_is_set_again() -> None:
    play = Play()
    play.submit()
    play.timer = 0.0
    assert play.do(TICK, GROWN + 0.5) == []
    assert play.timer == GROWN + LOOKUP_S
    assert play.entry.state == "searching"


# --- leaving, and what must not happen -------------------------------------------------------------------------------


def test_the_caller_may_leave_at_any_time() -> None:
    play = Play()
    assert play.do(CallerGone()) == []
    assert play.entry.state == "over"
    play.submit()
    assert play.do(CallerGone()) == []
    assert play.do(found(1)) == []
    assert play.entry.state == "over"
    play = Play(A)
    play.knows(A)
    play.submit()
    assert [type(effect) for effect in play.do(CallerGone())] == [Abort, Observe]
    assert play.inflight(A) == 0


def test_what_the_table_does_not_have_is_a_defect_of_the_driver() -> None:
    with pytest.raises(LocalProtocolError, match="TimerFired while idle"):
        Play().do(TICK)
    play = Play()
    play.submit()
    with pytest.raises(LocalProtocolError, match="Submit while searching"):
        play.do(Submit(JobQuery(MODEL)))
    play = Play(A)
    play.submit()
    with pytest.raises(LocalProtocolError, match="Submit while asking"):
        play.do(Submit(JobQuery(MODEL)))


class EntryMachine(RuleBasedStateMachine):
    """View, DHT, peers and caller do whatever they like, whenever; the timer fires when it is due."""

    @initialize(
        ranked=st.integers(0, 3),
        offered=st.lists(st.sampled_from(["context", "leaving", "price"]), max_size=2),
        deadline=st.none() | st.floats(0, 20),
        context=st.sampled_from([40, 60, 1000]),
        wishes=st.booleans(),
    )
    def begin(self, ranked: int, offered: list[str], deadline: float | None, context: int, wishes: bool) -> None:
        self.play = Play(*(ME, A, B)[:ranked])
        self.play.excluded = dict(zip((C, MORE[0]), offered, strict=False))
        self.play.context = context
        for peer in (A, B, C, *MORE):
            self.play.knows(peer, "other")
        self.end = GROWN + (SETTINGS.total_s if deadline is None else deadline)
        self.all: list[EntryEffect] = []
        query = JobQuery(MODEL, 100, 50, max_price=1.0 if wishes else None)
        limit = None if deadline is None else GROWN + deadline
        self.all += self.play.submit(query, limit, has_engine=False)

    def asked(self) -> list[PeerId]:
        return [effect.peer for effect in self.all if isinstance(effect, Attempt)]

    def busy(self) -> bool:
        return self.play.entry.state in ("asking", "waiting", "flowing")

    @precondition(lambda self: self.play.entry.state != "over")
    @rule(seconds=st.floats(0, 8))
    def time_passes(self, seconds: float) -> None:
        now = self.play.now + seconds
        while self.play.timer <= now and self.play.entry.state != "over":
            self.all += self.play.do(TICK, max(self.play.now, self.play.timer))
        self.play.now = now

    @rule()
    def the_timer_fires_early(self) -> None:
        if self.play.entry.state not in ("idle", "over"):
            self.all += self.play.do(TICK)

    @rule(ranked=st.integers(0, 2))
    def gossip_brings_and_takes(self, ranked: int) -> None:
        self.play.peers = (C, MORE[1])[:ranked]

    @rule(numbers=st.lists(st.integers(0, 10), max_size=10))
    def the_lookup_ends(self, numbers: list[int]) -> None:
        self.all += self.play.do(found(*numbers))

    @precondition(lambda self: self.play.entry.state == "asking")
    @rule(accepts=st.booleans())
    def a_peer_answers(self, accepts: bool) -> None:
        peer = self.asked()[-1]
        self.all += self.play.do(Accepted(peer) if accepts else WasBusy(peer))

    @precondition(lambda self: self.busy())
    @rule(outcome=st.sampled_from([Outcome.BROKEN, Outcome.UNREACHABLE, Outcome.MISBEHAVED]))
    def an_attempt_fails(self, outcome: Outcome) -> None:
        self.all += self.play.do(AttemptFailed(self.asked()[-1], outcome))

    @precondition(lambda self: self.play.entry.state in ("waiting", "flowing"))
    @rule(ends=st.booleans())
    def the_answer_comes(self, ends: bool) -> None:
        peer = self.asked()[-1]
        self.all += self.play.do(Progress(peer))
        if ends:
            self.all += self.play.do(Completed(peer))

    @rule()
    def the_caller_leaves(self) -> None:
        self.gone = True
        self.all += self.play.do(CallerGone())

    gone = False

    @invariant()
    def a_job_ends_once_and_is_not_lost(self) -> None:
        if not hasattr(self, "play"):
            return
        ends = [effect for effect in self.all if isinstance(effect, Finish | GiveUp)]
        over = self.play.entry.state == "over"
        assert len(ends) == (0 if not over or (self.gone and not ends) else 1)
        assert over or self.play.now <= self.play.timer or self.play.timer < self.end
        assert over or math.isfinite(self.play.timer), "something will happen"

    @invariant()
    def the_deadline_is_kept(self) -> None:
        if hasattr(self, "play"):
            assert self.play.entry.state == "over" or self.play.timer <= self.end
            assert self.play.entry.state == "over" or self.play.now <= self.end

    @invariant()
    def nobody_is_asked_twice_and_this_node_never(self) -> None:
        if hasattr(self, "play"):
            asked = self.asked()
            assert len(set(asked)) == len(asked) <= SETTINGS.asked + SETTINGS.unreached
            assert ME not in asked
            assert sum(isinstance(effect, LookUp) for effect in self.all) <= 1

    @invariant()
    def the_view_counts_what_runs(self) -> None:
        if hasattr(self, "play"):
            running = {record.peer: record.inflight for record in self.play.view.records() if record.inflight}
            assert running == ({self.asked()[-1]: 1} if self.busy() else {})


TestEntryMachine = pytest.mark.slow(EntryMachine.TestCase)
TestEntryMachine.settings = hypothesis_settings(deadline=None, max_examples=100, stateful_step_count=30)
