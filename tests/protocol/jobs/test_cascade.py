"""The cascade: its table, its deadlines, what it tells the caller, and that no order of events breaks its promises."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.effects import SetTimer
from protocol.errors import LocalProtocolError
from protocol.events import TimerFired
from protocol.ids import PeerId
from protocol.jobs.cascade import TIMER, Cascade, OwnNetwork
from protocol.jobs.cascade_events import (
    Abort,
    Accepted,
    Attempt,
    AttemptFailed,
    Begin,
    CallerGone,
    CascadeEffect,
    CascadeEvent,
    Commit,
    Completed,
    Contradicted,
    Finish,
    GiveUp,
    Keepalive,
    Observe,
    Paused,
    Progress,
    Refused,
    Resumed,
    Searching,
    WasBusy,
)
from protocol.jobs.reach import REACH_S
from protocol.jobs.retries import PAUSE_S, RESERVE, RetryBudget
from protocol.perf.forecast import Forecast
from protocol.reputation.outcomes import Outcome
from protocol.settings import CascadeSettings
from protocol.wire.messages import Refuse
from protocol.wire.mux import ResetCode

SETTINGS = CascadeSettings()
PEERS = tuple(PeerId(bytes([number]) * 32) for number in range(1, 12))
A, B, C, D = PEERS[:4]
TICK = TimerFired(TIMER)


SIGMA = 0.35


def forecast(ttft_s: float = 0.5, itl_s: float = 0.02) -> Forecast:
    return Forecast(ttft_s, itl_s, SIGMA, 0.0, ttft_s, itl_s)


class Play:
    """A cascade under a clock, with its timer kept."""

    def __init__(self, *peers: PeerId, deadline: float | None = None, **begin: object) -> None:
        self.network = OwnNetwork(SETTINGS)
        self.budget = RetryBudget(random.Random(1), 0.0)
        self.cascade = Cascade(SETTINGS, self.network, self.budget, SETTINGS.total_s if deadline is None else deadline)
        self.now = 0.0
        self.timer = math.inf
        self.all: list[CascadeEffect] = []
        self.do(Begin(peers, **begin))

    def do(self, event: CascadeEvent, at: float | None = None) -> list[CascadeEffect]:
        self.now = self.now if at is None else at
        effects = self.cascade.handle(event, self.now)
        for effect in effects:
            if isinstance(effect, SetTimer):
                self.timer = effect.at
        effects = [effect for effect in effects if not isinstance(effect, SetTimer)]
        self.all += effects
        return effects

    def until_over(self) -> list[CascadeEffect]:
        """Nothing is heard any more: what the timer alone leads to."""
        effects: list[CascadeEffect] = []
        while not effects:
            effects = self.do(TICK, self.timer)
        return effects

    def pause(self) -> list[CascadeEffect]:
        """The pause before a retry, and what follows."""
        assert self.cascade.state == "pausing"
        assert self.do(TICK) == [], "it is not over yet"
        assert self.now < self.timer
        return self.do(TICK, self.timer)

    def flowing(self, peer: PeerId = A) -> Play:
        self.do(Accepted(peer))
        self.do(Progress(peer))
        return self


def kinds(effects: list[CascadeEffect]) -> list[str]:
    return [type(effect).__name__ for effect in effects]


def gave_up(effects: list[CascadeEffect]) -> GiveUp:
    found = effects[-1]
    assert isinstance(found, GiveUp)
    return found


def observed(effects: list[CascadeEffect]) -> Observe:
    return next(effect for effect in effects if isinstance(effect, Observe))


# --- going well -------------------------------------------------------------------------------------------------------


def test_a_stream_commits_with_its_first_piece_and_ends() -> None:
    play = Play(A, B)
    assert play.all == [Attempt(A, 1)]
    assert play.do(Accepted(A, 0.5), 1.0) == []
    assert play.do(Keepalive(A), 1.5) == []
    assert play.do(Progress(A, 2), 2.0) == [Commit(A)]
    assert play.do(Progress(A, 3), 3.0) == []
    effects = play.do(Completed(A), 4.0)
    assert kinds(effects) == ["Observe", "Finish"]
    seen = observed(effects)
    assert (seen.outcome, seen.blame, seen.pieces, seen.promise_s) == (Outcome.COMPLETED, False, 5, 0.5)
    assert (seen.asked_at, seen.accepted_at, seen.first_at, seen.ended_at) == (0, 1, 2, 4)
    assert play.cascade.state == "over"
    assert play.do(CallerGone()) == []


def test_a_whole_answer_commits_with_its_end() -> None:
    play = Play(A, stream=False)
    play.do(Accepted(A))
    assert play.do(Progress(A, 4)) == []
    assert not play.cascade.committed
    assert kinds(play.do(Completed(A))) == ["Commit", "Observe", "Finish"]
    assert play.cascade.committed


# --- deadlines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "promise_s", "due", "outcome"),
    [
        ({}, 0.0, 5.0, Outcome.NO_ANSWER),
        ({"body_bytes": 1280 * 1024}, 0.0, 6.0, Outcome.SILENT),
        ({"tokens_before": 100}, 10.0, 6.0, Outcome.SILENT),
    ],
)
def test_silence_after_accept(begin: dict[str, float], promise_s: float, due: float, outcome: Outcome) -> None:
    play = Play(A, B, **begin)
    play.do(Accepted(A, promise_s))
    effects = play.until_over()
    assert play.now == due
    assert observed(effects).outcome is outcome


@pytest.mark.parametrize(
    ("begin", "promise_s", "due"),
    [
        ({}, 0.0, 5.0),
        ({}, 4.0, 12.0),
        ({}, 1e6, 60.0),
        ({"body_bytes": 1280 * 1024}, 0.0, 15.0),
        ({"tokens_before": 100.0}, 0.0, 25.0),
        ({"tokens_before": 1e6}, 0.0, 600.0),
        ({"forecasts": (forecast(10.0),)}, 0.0, 10 * math.exp(2 * SIGMA)),
    ],
)
def test_a_peer_that_is_alive_has_until_its_promise(begin: dict[str, float], promise_s: float, due: float) -> None:
    play = Play(A, **begin)
    play.do(Accepted(A, promise_s))
    effects: list[CascadeEffect] = []
    while not effects:
        play.do(Keepalive(A), play.now + 1)
        effects = play.do(TICK) if play.now >= play.timer else []
    assert play.now == pytest.approx(due, abs=1.0)
    assert observed(effects).outcome is (Outcome.DEADLINE if due == 600 else Outcome.NO_ANSWER)


def test_a_promise_that_is_too_late_is_as_good_as_busy_while_others_are_left() -> None:
    play = Play(A, B, forecasts=(forecast(), forecast()))
    effects = play.do(Accepted(A, 40.0), 1.0)
    assert effects[0] == Abort(A, ResetCode.CANCELLED)
    assert (observed(effects).outcome, observed(effects).promise_s) == (Outcome.BUSY, 40.0)
    assert effects[-1] == Attempt(B, 2, last=True)
    assert play.do(Accepted(B, 50.0), 2.0) == [], "there is nobody else, so it is waited for"
    while play.now < 55:
        assert play.do(Keepalive(B), play.now + 1) == []
        assert play.now < play.timer or play.do(TICK) == []
    play = Play(A, B, forecasts=(forecast(), forecast()))
    play.do(Accepted(A, 40.0))
    assert gave_up(play.do(WasBusy(B))).retry_after == 1.0
    play = Play(A, B)
    play.do(Accepted(A, 100.0))
    found = gave_up(play.do(WasBusy(B, 70.0)))
    assert (found.code, found.retry_after) == ("queue_full", 70.0)


def test_a_pace_far_below_the_prediction_ends_it_within_seconds() -> None:
    play = Play(A, forecasts=(forecast(itl_s=0.02),)).flowing()
    effects: list[CascadeEffect] = []
    while not effects:
        play.do(Progress(A), play.now + 1.9)
        effects = play.do(TICK) if play.now >= play.timer else []
    assert play.now < SETTINGS.pace_window_s + 2
    assert (observed(effects).outcome, observed(effects).blame) == (Outcome.SLOW, True)
    play = Play(A, forecasts=(forecast(itl_s=1.0),)).flowing()
    while play.now < 100:
        play.do(Progress(A), play.now + 1.9)
        assert play.now < play.timer or play.do(TICK) == [], "it was predicted to be slow"


def test_who_falls_silent_is_silent_and_not_slow() -> None:
    play = Play(A, forecasts=(forecast(),)).flowing()
    play.do(Keepalive(A), 1.0)
    effects = play.until_over()
    assert (play.now, observed(effects).outcome) == (1 + SETTINGS.frame_s, Outcome.SILENT)
    play = Play(A, forecasts=(forecast(),)).flowing()
    play.do(Keepalive(A), 1.0)
    assert play.do(TICK, play.timer) == []
    play.do(Keepalive(A), 5.5)
    effects = play.until_over()
    assert (play.now, observed(effects).outcome) == (1 + SETTINGS.frame_s, Outcome.SLOW)


def test_no_word_within_the_time_to_accept() -> None:
    play = Play(A, B)
    effects = play.until_over()
    assert play.now == SETTINGS.accept_s
    assert kinds(effects) == ["Abort", "Observe", "Attempt"]
    assert (observed(effects).outcome, observed(effects).blame) == (Outcome.NO_ACCEPT, True)


def test_a_peer_that_is_looked_up_has_more_time() -> None:
    play = Play(A, B, addrs=(("/ip4/10.0.0.1/tcp/1",), ()))
    assert play.all == [Attempt(A, 1, ("/ip4/10.0.0.1/tcp/1",))]
    play.do(Searching(A), 1.0)
    assert play.timer == SETTINGS.accept_s + REACH_S
    effects = play.until_over()
    assert effects[-1] == Attempt(B, 2, last=True)
    assert play.timer == play.now + SETTINGS.accept_s


def test_who_called_the_request_wrong_is_named_where_another_peer_completes_it() -> None:
    play = Play(A, B)
    play.do(Refused(A, Refuse(400, "invalid_parameter", "never", final=True)))
    play.flowing(B)
    assert [effect for effect in play.do(Completed(B)) if isinstance(effect, Contradicted)] == [Contradicted(A)]


def test_silence_in_the_middle_is_final() -> None:
    play = Play(A, B).flowing()
    play.do(Keepalive(A), 3.0)
    effects = play.until_over()
    assert play.now == 9.0
    assert effects[0] == Abort(A, ResetCode.CANCELLED)
    assert (gave_up(effects).status, gave_up(effects).retry_after) == (502, None)


def test_beats_are_life_but_no_progress() -> None:
    play = Play(A).flowing()
    effects: list[CascadeEffect] = []
    while not effects:
        play.do(Keepalive(A), play.now + 1)
        effects = play.do(TICK)
    assert play.now == SETTINGS.progress_window_s
    assert observed(effects).outcome is Outcome.SLOW


def test_enough_progress_goes_on_for_as_long_as_there_is_time() -> None:
    play = Play(A).flowing()
    effects: list[CascadeEffect] = []
    while not effects:
        play.do(Progress(A), play.now + 1)
        effects = play.do(TICK) if play.now >= play.timer else []
    assert play.now == SETTINGS.total_s
    assert gave_up(effects).code == "deadline_exceeded"
    assert effects[0] == Abort(A, ResetCode.DEADLINE)
    assert not observed(effects).blame


def test_while_the_caller_does_not_read_nothing_is_expected() -> None:
    play = Play(A).flowing()
    play.do(Paused(), 1.0)
    assert play.do(TICK, 100.0) == []
    assert play.timer == SETTINGS.total_s
    play.do(Resumed(), 300.0)
    play.do(Resumed())
    assert play.do(TICK) == []
    assert play.timer == 306.0
    play.do(Keepalive(A), 305.0)
    play.do(Keepalive(A), 310.0)
    play.do(Keepalive(A), 318.0)
    assert observed(play.do(TICK, 319.0)).outcome is Outcome.SLOW, "19 s of the window were left when it paused"


def test_the_callers_deadline_comes_before_ours() -> None:
    play = Play(A, B, deadline=2.0)
    effects = play.until_over()
    assert play.now == 2.0
    assert gave_up(effects).status == 504
    assert gave_up(Play(A, deadline=0.0).all).status == 504, "it was over before anybody was asked"


def test_the_worker_may_keep_the_deadline_and_not_invent_one() -> None:
    play = Play(A, B, deadline=20.0)
    play.do(Accepted(A))
    effects = play.do(AttemptFailed(A, Outcome.DEADLINE), 5.0)
    assert (observed(effects).outcome, observed(effects).blame) == (Outcome.BROKEN, True)
    play.do(Accepted(B))
    effects = play.do(AttemptFailed(B, Outcome.DEADLINE), 19.5)
    assert (gave_up(effects).status, observed(effects).blame) == (504, False)


# --- going on and giving up -------------------------------------------------------------------------------------------


def test_three_attempts_fail_and_the_rest_is_not_asked() -> None:
    play = Play(A, B, C, D)
    play.do(AttemptFailed(A, Outcome.BROKEN, "x"), 0.0)
    play.do(AttemptFailed(B, Outcome.MISBEHAVED, "y"), 20.0)
    assert play.pause() == [Attempt(C, 3)]
    assert 20 < play.now <= 20 + 2 * PAUSE_S
    effects = play.do(AttemptFailed(C, Outcome.DEFECT, "bug"), 40.0)
    assert (gave_up(effects).status, gave_up(effects).code) == (502, "peer_failed")
    assert "3 peers were tried and failed; the last: bug" in gave_up(effects).message
    assert [effect.blame for effect in play.all if isinstance(effect, Observe)] == [True, True, False]
    assert play.cascade.asked == 3


def test_the_caller_may_leave_during_a_pause_and_late_news_change_nothing() -> None:
    play = Play(A, B, C)
    play.do(AttemptFailed(A, Outcome.BROKEN))
    play.do(AttemptFailed(B, Outcome.BROKEN))
    assert play.do(Progress(B)) == []
    assert play.cascade.state == "pausing"
    assert play.do(CallerGone()) == []
    assert play.cascade.state == "over"


def test_a_pause_does_not_outlast_the_job() -> None:
    play = Play(A, B, C, deadline=1.0)
    play.do(AttemptFailed(A, Outcome.BROKEN), 1.0 - PAUSE_S / 1000)
    play.do(AttemptFailed(B, Outcome.BROKEN))
    assert gave_up(play.pause()).code == "deadline_exceeded"


def test_a_node_whose_jobs_all_fail_does_not_try_them_all_again() -> None:
    play = Play(A, B)
    while play.budget.take(0.0):
        pass
    effects = play.do(AttemptFailed(A, Outcome.FAILED, "bang"))
    found = gave_up(effects)
    assert (found.status, found.code, found.retry_after) == (503, "no_capacity", 1.0)
    assert found.message == "So many jobs of this node fail now that it tries none again; the last: bang."
    assert kinds(effects) == ["Abort", "Observe", "GiveUp"]
    play = Play(*PEERS)
    while play.budget.take(0.0):
        pass
    for peer in PEERS[:5]:
        assert isinstance(play.do(WasBusy(peer))[-1], Attempt), "who is busy costs nothing"
    assert SETTINGS.attempts < RESERVE


def test_what_risks_nothing_is_bounded_by_the_number_asked() -> None:
    play = Play(*PEERS)
    for peer in PEERS[: SETTINGS.asked]:
        effects = play.do(WasBusy(peer, 7.0))
    assert (gave_up(effects).status, gave_up(effects).code, gave_up(effects).retry_after) == (429, "queue_full", 7.0)
    assert play.cascade.asked == SETTINGS.asked


@pytest.mark.parametrize("retry_s", [0.0, 0.25])
def test_nobody_is_told_to_come_back_at_once(retry_s: float) -> None:
    play = Play(A)
    found = gave_up(play.do(WasBusy(A, retry_s)))
    assert (found.code, found.retry_after) == ("queue_full", 1.0)
    assert found.message.endswith("try again in 1 s.")
    assert found.message.startswith("1 peer was asked")


@pytest.mark.parametrize("status", [503, 404, 429, 408])
def test_a_refusal_for_now_is_nobodys_fault(status: int) -> None:
    play = Play(A)
    effects = play.do(Refused(A, Refuse(status, "x", "not now")))
    assert (observed(effects).outcome, observed(effects).blame) == (Outcome.REFUSED, False)
    assert (gave_up(effects).status, gave_up(effects).retry_after) == (503, 1.0)
    assert "not now" in gave_up(effects).message


def test_an_engine_that_breaks_costs_an_attempt() -> None:
    play = Play(*PEERS)
    for peer in (A, B, C):
        if peer is C:
            play.pause()
        play.do(Accepted(peer))
        effects = play.do(Refused(peer, Refuse(502, "engine_failed", "bang", final=True)))
    assert (gave_up(effects).status, observed(effects).blame) == (502, True)


def test_what_each_said_is_told() -> None:
    play = Play(A, B, C)
    play.do(WasBusy(A, 2.5))
    play.do(AttemptFailed(B, Outcome.UNREACHABLE, "refused"))
    found = gave_up(play.do(WasBusy(C, 7.0)))
    assert (found.status, found.retry_after) == (503, 2.5)
    assert "3 peers were asked: 2 busy, 1 unreachable; the last: busy" in found.message
    assert found.message.endswith("try again in 3 s.")


def wrong(peer: PeerId, code: str = "unsupported_parameter", *, checked: bool = False) -> Refused:
    """A peer says that the request itself is wrong."""
    return Refused(peer, Refuse(400, code, "leave out lora", "lora", True), checked)


def test_the_callers_mistake_ends_it_at_once_where_this_node_found_it_too() -> None:
    effects = Play(A, B).do(wrong(A, checked=True))
    assert gave_up(effects) == GiveUp(400, "unsupported_parameter", "leave out lora", "lora")
    assert not observed(effects).blame
    effects = Play(A, B, too_long=True).do(wrong(A, "context_length_exceeded"))
    assert gave_up(effects).code == "context_length_exceeded"


def test_one_peer_that_blames_the_request_ends_nothing() -> None:
    play = Play(A, B, C)
    effects = play.do(wrong(A, "invalid_api_key"))
    assert (observed(effects).outcome, observed(effects).blame) == (Outcome.REFUSED, False)
    assert effects[-1] == Attempt(B, 2)
    play.do(WasBusy(B))
    play.do(Accepted(C))
    play.do(Progress(C))
    assert isinstance(play.do(Completed(C))[-1], Finish), "the peer was wrong, or lied"


def test_two_peers_that_blame_the_request_end_it() -> None:
    play = Play(A, B, C)
    play.do(wrong(A))
    play.do(Accepted(B))
    assert (gave_up(play.do(wrong(B))).status, play.cascade.asked) == (400, 2)


def test_the_one_refusal_is_told_where_the_others_could_not_be_asked() -> None:
    play = Play(A, B, C)
    play.do(wrong(A))
    play.do(WasBusy(B))
    found = gave_up(play.do(AttemptFailed(C, Outcome.UNREACHABLE)))
    assert (found.status, found.code) == (400, "unsupported_parameter")
    assert "No other peer could be asked" in found.message
    play = Play(A, B)
    play.do(wrong(A))
    found = gave_up(play.do(AttemptFailed(B, Outcome.BROKEN)))
    assert found.status == 503, "the other one took the job, so it did not find the request wrong"


def test_nobody_to_ask() -> None:
    assert (gave_up(Play().all).status, gave_up(Play().all).code) == (503, "no_capacity")


def test_an_answer_without_a_word_is_none() -> None:
    play = Play(A, B)
    play.do(Accepted(A))
    effects = play.do(Completed(A))
    assert observed(effects).outcome is Outcome.MISBEHAVED
    assert effects[-1] == Attempt(B, 2, last=True)


def test_a_stalled_reader_is_believed_only_if_it_was_one() -> None:
    play = Play(A).flowing()
    effects = play.do(AttemptFailed(A, Outcome.STALLED))
    assert (observed(effects).outcome, observed(effects).blame) == (Outcome.BROKEN, True)
    play = Play(A).flowing()
    play.do(Paused(), 1.0)
    play.do(Resumed(), 40.0)
    effects = play.do(AttemptFailed(A, Outcome.STALLED))
    assert (gave_up(effects).status, gave_up(effects).code, observed(effects).blame) == (408, "slow_reader", False)


def test_the_caller_may_leave_at_any_time() -> None:
    fresh = Cascade(SETTINGS, OwnNetwork(SETTINGS), RetryBudget(random.Random(1), 0.0), SETTINGS.total_s)
    assert fresh.handle(CallerGone(), 0.0) == []
    assert fresh.handle(Begin((A,)), 0.0) == []
    play = Play(A, B)
    effects = play.do(CallerGone())
    assert effects[0] == Abort(A, ResetCode.CANCELLED)
    assert (observed(effects).outcome, observed(effects).blame) == (Outcome.CANCELLED, False)


def test_late_news_of_a_peer_that_was_given_up_are_passed_over() -> None:
    play = Play(A, B)
    play.do(AttemptFailed(A, Outcome.UNREACHABLE))
    assert play.do(Progress(A)) == []
    assert play.do(Completed(A)) == []
    assert play.cascade.state == "asking"


def test_a_driver_that_breaks_the_order_is_told() -> None:
    with pytest.raises(LocalProtocolError, match="Progress while asking"):
        Play(A).do(Progress(A))


# --- whose network ----------------------------------------------------------------------------------------------------


def test_many_peers_failing_at_once_look_like_our_own_network() -> None:
    play = Play(*PEERS)
    for number, peer in enumerate(PEERS):
        effects = play.do(AttemptFailed(peer, Outcome.UNREACHABLE, "no answer"), number * 0.5)
    blamed = [effect.blame for effect in play.all if isinstance(effect, Observe)]
    assert blamed == [True, True] + [False] * 9
    assert "own network" in gave_up(effects).message


def test_hosts_that_refuse_show_that_our_own_network_works() -> None:
    play = Play(*PEERS)
    for peer in PEERS:
        assert not play.network.suspected(0.0)
        effects = play.do(AttemptFailed(peer, Outcome.UNREACHABLE, "refused", answered=True))
    assert all(effect.blame for effect in play.all if isinstance(effect, Observe))
    assert "own network" not in gave_up(effects).message
    assert play.cascade.reached_none


def test_a_peer_that_was_not_even_dialled_did_nothing_wrong() -> None:
    play = Play(*PEERS)
    for peer in PEERS:
        play.do(AttemptFailed(peer, Outcome.UNREACHABLE, "not now", tried=False))
    assert not any(effect.blame for effect in play.all if isinstance(effect, Observe))
    assert not play.network.suspected(0.0)


def test_peers_that_cannot_be_reached_do_not_use_up_the_others() -> None:
    paper = [PeerId(bytes([number]) * 32) for number in range(100, 100 + SETTINGS.unreached - 1)]
    play = Play(*paper, *PEERS)
    assert not play.cascade.reached_none
    for peer in paper:
        play.do(AttemptFailed(peer, Outcome.UNREACHABLE, "refused", answered=True))
    for peer in PEERS[: SETTINGS.asked]:
        effects = play.do(WasBusy(peer))
    assert play.cascade.asked == len(paper) + SETTINGS.asked
    assert gave_up(effects).code == "no_capacity"
    assert not play.cascade.reached_none


def test_a_bounded_number_of_peers_is_dialled_in_vain() -> None:
    paper = [PeerId(bytes([number]) * 32) for number in range(100, 101 + SETTINGS.unreached)]
    play = Play(*paper)
    for peer in paper[: SETTINGS.unreached]:
        effects = play.do(AttemptFailed(peer, Outcome.UNREACHABLE, "refused", answered=True))
    assert gave_up(effects).code == "peer_failed"
    lasts = [effect.last for effect in play.all if isinstance(effect, Attempt)]
    assert lasts == [False] * SETTINGS.unreached
    assert SETTINGS.ranked == SETTINGS.asked + SETTINGS.unreached


def test_a_peer_that_answers_clears_our_network() -> None:
    network = OwnNetwork(SETTINGS)
    for peer in (A, B, C, C):
        network.failed(peer, 1.0)
    assert network.suspected(2.0)
    assert not network.suspected(11.5)
    network.failed(D, 12.0)
    assert not network.suspected(12.0)
    for peer in (A, B, C):
        network.failed(peer, 13.0)
    network.worked()
    assert not network.suspected(13.0)


# --- no order of events breaks it -------------------------------------------------------------------------------------


class CascadeMachine(RuleBasedStateMachine):
    """Peers and caller do whatever the table allows, at whatever time."""

    @initialize(
        peers=st.integers(0, 10),
        stream=st.booleans(),
        deadline=st.none() | st.floats(0, 50),
        body=st.integers(0, 10**7),
        tokens=st.sampled_from([0.0, 100.0, 1e6]),
        predicted=st.none() | st.builds(forecast, st.floats(0, 20), st.floats(0, 3)),
    )
    def begin(
        self,
        peers: int,
        stream: bool,
        deadline: float | None,
        body: int,
        tokens: float,
        predicted: Forecast | None,
    ) -> None:
        more = {"body_bytes": body, "tokens_before": tokens, "forecasts": (predicted,) * 5}
        self.play = Play(*PEERS[:peers], deadline=deadline, stream=stream, **more)
        self.stream = stream

    @property
    def peer(self) -> PeerId:
        return [effect.peer for effect in self.play.all if isinstance(effect, Attempt)][-1]

    def state(self) -> str:
        return self.play.cascade.state

    @precondition(lambda self: self.state() != "over")
    @rule(seconds=st.floats(0, 30))
    def time_passes(self, seconds: float) -> None:
        until = self.play.now + seconds
        while self.play.timer <= until and self.state() != "over":
            self.play.do(TICK, max(self.play.now, self.play.timer))
        self.play.now = max(self.play.now, until)

    @precondition(lambda self: self.state() == "asking")
    @rule(promise_s=st.floats(0, 100))
    def accepts(self, promise_s: float) -> None:
        self.play.do(Accepted(self.peer, promise_s))

    @precondition(lambda self: self.state() == "asking")
    @rule(retry_s=st.floats(0, 100))
    def is_busy(self, retry_s: float) -> None:
        self.play.do(WasBusy(self.peer, retry_s))

    @precondition(lambda self: self.state() in ("asking", "waiting"))
    @rule(status=st.integers(400, 599), final=st.booleans())
    def refuses(self, status: int, final: bool) -> None:
        self.play.do(Refused(self.peer, Refuse(status, "x", "y", final=final)))

    @precondition(lambda self: self.state() in ("waiting", "flowing"))
    @rule(event=st.sampled_from([Keepalive, Progress, Completed]))
    def says(self, event: type[Keepalive]) -> None:
        self.play.do(event(self.peer))

    @precondition(lambda self: self.state() == "flowing")
    @rule(event=st.sampled_from([Paused(), Resumed()]))
    def reads_or_not(self, event: CascadeEvent) -> None:
        self.play.do(event)

    @precondition(lambda self: self.state() in ("asking", "waiting", "flowing"))
    @rule(outcome=st.sampled_from(Outcome))
    def is_lost(self, outcome: Outcome) -> None:
        self.play.do(AttemptFailed(self.peer, outcome))

    @rule(late=st.sampled_from(PEERS), kind=st.sampled_from([Progress, Completed, Keepalive]))
    def late_news(self, late: PeerId, kind: type[Progress]) -> None:
        if self.state() == "over" or late != self.peer:
            assert self.play.do(kind(late)) == []

    @rule()
    def caller_leaves(self) -> None:
        self.play.do(CallerGone())
        assert self.state() == "over"

    @invariant()
    def promises(self) -> None:
        effects = self.play.all
        tried = [effect.peer for effect in effects if isinstance(effect, Attempt)]
        seen = [effect for effect in effects if isinstance(effect, Observe)]
        commits = [effect for effect in effects if isinstance(effect, Commit)]
        ends = [effect for effect in effects if isinstance(effect, Finish | GiveUp)]
        missed = sum(each.outcome == "unreachable" for each in seen)
        assert len(tried) == len(set(tried)) <= SETTINGS.asked + missed
        assert len(seen) == len(tried) - (self.state() not in ("pausing", "over") and bool(tried))
        assert len(commits) <= 1
        assert len(ends) <= 1
        if ends:
            assert self.state() == "over"
            assert effects[-1] is ends[0]
        if commits:
            assert tried[-1] == commits[0].peer, "after the first byte nobody else is asked"
        if any(isinstance(end, Finish) for end in ends):
            assert commits
            assert seen[-1].outcome is Outcome.COMPLETED
        hard = [each for each in seen if each.outcome not in ("busy", "refused", "unreachable", "no_accept")]
        assert len(hard) <= SETTINGS.attempts
        for each in seen:
            assert each.asked_at <= (each.accepted_at or each.ended_at) <= (each.first_at or each.ended_at)
            assert (each.first_at or each.ended_at) <= each.ended_at
            assert not (each.blame and each.outcome in ("busy", "refused", "cancelled", "deadline", "completed"))


TestCascadeMachine = pytest.mark.slow(CascadeMachine.TestCase)
TestCascadeMachine.settings = hypothesis_settings(deadline=None, max_examples=100, stateful_step_count=30)
