"""Admission: order, bounds, what is promised, and that no order of events loses a place."""

from __future__ import annotations

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from protocol.ids import PeerId
from protocol.jobs.admission import (
    FIRST_MOST_S,
    JOB_S,
    NO_ENGINE,
    RETRY_LEAST_MS,
    RETRY_MOST_MS,
    Admission,
    AdmissionEffect,
    Admit,
    Arrived,
    Drain,
    Expect,
    FirstOutput,
    Left,
    Queue,
    Ready,
    SlotsAre,
    TurnAway,
    lacks_model,
)
from protocol.settings import AdmissionSettings
from protocol.wire.messages import Busy, Refuse

SETTINGS = AdmissionSettings(queue=3, per_peer=4)
P, Q, R = (PeerId(bytes([number]) * 32) for number in (1, 2, 3))


def admitted(effects: list[AdmissionEffect]) -> list[int]:
    return [effect.job for effect in effects if isinstance(effect, Admit)]


def filled(*jobs: tuple[int, PeerId | None], slots: int = 1) -> Admission:
    machine = Admission(SETTINGS, slots)
    for number, peer in jobs:
        machine.handle(Arrived(number, peer), 0.0)
    return machine


def test_jobs_run_while_there_are_slots_and_then_wait_in_order() -> None:
    machine = Admission(SETTINGS, 2)
    assert admitted(machine.handle(Arrived(1, P), 0.0)) == [1]
    assert admitted(machine.handle(Arrived(2, P), 0.0)) == [2]
    (queued,) = machine.handle(Arrived(3, Q), 0.0)
    assert isinstance(queued, Queue)
    assert (queued.job, queued.position) == (3, 0)
    (queued,) = machine.handle(Arrived(4, P), 0.0)
    assert isinstance(queued, Queue)
    assert queued.position == 1
    assert (machine.running, machine.waiting) == (2, 2)
    assert admitted(machine.handle(Left(2), 1.0)) == [3]
    assert admitted(machine.handle(Left(1), 1.0)) == [4]
    assert machine.handle(Left(1), 1.0) == [], "it had left already"


def test_jobs_are_counted_by_peer() -> None:
    machine = filled((1, P), (2, Q), (3, None), (4, P))
    assert machine.jobs_of_peers() == {P: 2, Q: 1}
    machine.handle(Left(1), 1.0)
    assert machine.jobs_of_peers() == {P: 1, Q: 1}


def test_own_jobs_go_before_those_of_guests() -> None:
    machine = filled((1, P), (2, P), (3, None), (4, None))
    (queued,) = machine.handle(Arrived(5, None), 0.0)
    assert isinstance(queued, Queue)
    assert queued.position == 2
    assert admitted(machine.handle(Left(1), 1.0)) == [3]
    assert admitted(machine.handle(Left(3), 1.0)) == [4]
    assert machine.handle(Left(5), 1.0) == [], "one that waited went away"
    assert admitted(machine.handle(Left(4), 1.0)) == [2]


def test_a_full_queue_turns_away_and_says_when_to_come_back() -> None:
    machine = filled((1, P), (2, P), (3, Q), (4, Q))
    (away,) = machine.handle(Arrived(5, R), 0.0)
    assert away == TurnAway(5, Busy(round(4 * JOB_S * 1000), 1, 3))
    assert isinstance(machine.handle(Arrived(6, None), 0.0)[0], Queue), "guests do not fill the queue of the node's own"


def hint(machine: Admission, job: int, peer: PeerId | None) -> int:
    """Milliseconds after which a job that is turned away may come back."""
    (away,) = machine.handle(Arrived(job, peer), 0.0)
    assert isinstance(away, TurnAway)
    assert isinstance(away.message, Busy)
    return away.message.retry_ms


def test_the_hint_when_to_come_back_is_the_time_until_a_place_is_free() -> None:
    """By hand, with jobs that are taken to need 5 s each."""
    machine = filled((1, P), (2, P), (3, Q), (4, Q))
    assert hint(machine, 5, R) == 20_000, "one slot; three wait before it: four jobs have to end"
    machine = filled((1, P), (2, P), (3, P), (4, Q), (5, Q), slots=2)
    assert hint(machine, 6, R) == 10_000, "two slots; three wait before it: two rounds"
    machine = filled(*((number, P) for number in range(4)), slots=8)
    assert hint(machine, 5, P) == 625, "there is room, but one of its own four has to end; eight slots"
    machine = filled(*((number, P) for number in range(4)), slots=50)
    assert hint(machine, 5, P) == RETRY_LEAST_MS == 250, "100 ms is below the least hint"
    machine = filled((1, None), (2, None), (3, None), (4, None))
    assert hint(machine, 5, None) == 20_000, "an own job, behind three others of its own"


def test_one_peer_cannot_fill_the_place_of_all() -> None:
    machine = filled(*((number, P) for number in range(4)), slots=8)
    (away,) = machine.handle(Arrived(5, P), 0.0)
    assert isinstance(away, TurnAway)
    assert isinstance(away.message, Busy)
    assert admitted(machine.handle(Arrived(6, Q), 0.0)) == [6]
    machine.handle(Left(0), 1.0)
    assert admitted(machine.handle(Arrived(7, P), 1.0)) == [7]


def test_a_request_that_is_still_coming_has_neither_slot_nor_turn() -> None:
    machine = filled(slots=1)
    (expected,) = machine.handle(Arrived(1, P, ready=False), 0.0)
    assert isinstance(expected, Expect)
    assert 0 < expected.promise_s < JOB_S
    assert (machine.running, machine.waiting) == (0, 0)
    assert admitted(machine.handle(Arrived(2, Q), 0.0)) == [2]
    (queued,) = machine.handle(Arrived(3, R, ready=False), 0.0)
    assert isinstance(queued, Queue)
    assert machine.handle(Ready(3), 1.0) == []
    assert machine.handle(Ready(1), 1.0) == []
    assert machine.handle(Ready(77), 1.0) == [], "it had left already"
    assert admitted(machine.handle(Left(2), 2.0)) == [3], "in the order in which they were here"


def test_who_is_coming_counts_against_the_bounds() -> None:
    machine = Admission(AdmissionSettings(queue=3, per_peer=2), 1)
    for number, peer in enumerate((P, P, Q, R)):
        assert not isinstance(machine.handle(Arrived(number, peer, ready=False), 0.0)[0], TurnAway)
    assert isinstance(machine.handle(Arrived(9, R, ready=False), 0.0)[0], TurnAway), "a slot and three in the queue"
    machine.handle(Left(3), 0.0)
    assert isinstance(machine.handle(Arrived(9, P, ready=False), 0.0)[0], TurnAway), "two of one peer"
    assert isinstance(machine.handle(Arrived(9, R), 0.0)[0], Admit)


def test_more_slots_let_more_in() -> None:
    machine = filled((1, P), (2, P), (3, None))
    assert admitted(machine.handle(SlotsAre(3), 0.0)) == [3, 2]
    assert machine.handle(SlotsAre(1), 0.0) == []
    assert machine.handle(Left(1), 0.0) == [], "still more than there are slots"


def test_draining_takes_no_guests_and_finishes_the_rest() -> None:
    machine = filled((1, P), (2, P))
    assert machine.handle(Drain(), 0.0) == []
    (away,) = machine.handle(Arrived(3, P), 0.0)
    assert isinstance(away, TurnAway)
    assert isinstance(away.message, Refuse)
    assert (away.message.status, away.message.final) == (503, False)
    assert isinstance(machine.handle(Arrived(4, None), 0.0)[0], Queue)
    assert admitted(machine.handle(Left(1), 0.0)) == [4]


def promise(machine: Admission, tokens: int, job: int = 99) -> float:
    (effect,) = machine.handle(Arrived(job, None, tokens), 0.0)
    assert isinstance(effect, Admit | Queue)
    machine.handle(Left(job), 0.0)
    return effect.promise_s


def test_promises_follow_what_was_measured() -> None:
    machine = Admission(SETTINGS, 1)
    assert promise(machine, 0) == pytest.approx(0.5)
    assert promise(machine, 1000) == pytest.approx(1.5)
    for number in range(50):
        machine.handle(Arrived(number, P, 10, stream=True), 0.0)
        machine.handle(FirstOutput(number), 2.0)
        machine.handle(FirstOutput(number), 50.0)
        machine.handle(Left(number), 10.0)
    assert promise(machine, 0) == pytest.approx(2.0, rel=0.01)
    for number in range(50):
        machine.handle(Arrived(number, P, 10_000, stream=True), 0.0)
        machine.handle(FirstOutput(number), 3.0)
        machine.handle(Left(number), 10.0)
    assert promise(machine, 10_000) == pytest.approx(3.0, rel=0.01)
    assert machine.handle(FirstOutput(77), 0.0) == [], "of a job that left"


def test_a_long_prompt_that_was_read_at_once_makes_prompts_cheaper_and_never_negative() -> None:
    """A token of a prompt is taken to need 1 ms; 0.1 s in all is less than the 0.5 s of any start, so 0 ms is measured.

    The newest measurement weighs a fifth: 0.8 ms after one, 0.64 ms after two.
    """
    machine = Admission(SETTINGS, 1)
    for number, per_token in enumerate((0.8e-3, 0.64e-3)):
        machine.handle(Arrived(number, P, 1000, stream=True), 0.0)
        machine.handle(FirstOutput(number), 0.1)
        machine.handle(Left(number), 1.0)
        assert promise(machine, 2000) == pytest.approx(0.5 + 2000 * per_token)


def test_nothing_is_kept_of_peers_whose_jobs_have_left() -> None:
    machine = Admission(SETTINGS, 1)
    for number in range(100):
        peer = PeerId(number.to_bytes(32, "big"))
        machine.handle(Arrived(number, peer, ready=number % 2 == 0), 0.0)
        machine.handle(Left(number), 1.0)
    assert [name for name, kept in vars(machine).items() if isinstance(kept, dict) and kept] == []


def test_whoever_waits_is_promised_the_time_of_those_before() -> None:
    machine = Admission(SETTINGS, 2)
    for number in range(50):
        machine.handle(Arrived(number, P), 0.0)
        machine.handle(Left(number), 10.0)
    for number in range(2):
        machine.handle(Arrived(number, P), 0.0)
    assert promise(machine, 0) == pytest.approx(5.5, rel=0.01), "one of two places, ten seconds each, and its own start"


def test_a_stream_that_nobody_waited_for_makes_the_next_promise_longer() -> None:
    machine = Admission(SETTINGS, 1)
    for number, waited in enumerate((5.0, 15.0, 500.0)):
        machine.handle(Arrived(number, P, 10, stream=True), 0.0)
        machine.handle(Left(number), waited)
        assert promise(machine, 0) == pytest.approx(min(waited, FIRST_MOST_S))


def test_the_wait_is_bounded() -> None:
    machine = filled((1, P), (2, P), (3, Q), (4, Q))
    for number in (1, 2):
        machine.handle(Left(number), 10_000.0)
        machine.handle(Arrived(number + 10, R), 10_000.0)
    (away,) = machine.handle(Arrived(20, R), 10_000.0)
    assert isinstance(away, TurnAway)
    assert isinstance(away.message, Busy)
    assert away.message.retry_ms == RETRY_MOST_MS


MOST_SLOTS = 4


class AdmissionMachine(RuleBasedStateMachine):
    """Jobs come and go in any order; a model of who should be where keeps count."""

    @initialize(slots=st.integers(1, MOST_SLOTS))
    def begin(self, slots: int) -> None:
        self.machine = Admission(SETTINGS, slots)
        self.slots = slots
        self.now = 0.0
        self.next = 0
        self.running: set[int] = set()
        self.waiting: list[tuple[int, PeerId | None]] = []
        self.coming: dict[int, PeerId | None] = {}

    def take(self, effects: list[AdmissionEffect]) -> None:
        for job in admitted(effects):
            own = [number for number, peer in self.waiting if peer is None]
            first = own[0] if own else self.waiting[0][0]
            assert job == first, "first come, first served, own jobs before guests'"
            self.waiting = [each for each in self.waiting if each[0] != job]
            self.running.add(job)

    @rule(peer=st.sampled_from([None, P, Q, R]), tokens=st.integers(0, 5000), ready=st.booleans())
    def arrives(self, peer: PeerId | None, tokens: int, ready: bool) -> None:
        self.next += 1
        effects = self.machine.handle(Arrived(self.next, peer, tokens, bool(tokens % 2), ready), self.now)
        if isinstance(effects[0], TurnAway):
            return
        if ready:
            self.waiting.append((self.next, peer))
        else:
            self.coming[self.next] = peer
        self.take(effects)

    @rule(pick=st.integers(0, 100))
    def is_ready(self, pick: int) -> None:
        if self.coming:
            job = sorted(self.coming)[pick % len(self.coming)]
            self.waiting.append((job, self.coming.pop(job)))
            self.take(self.machine.handle(Ready(job), self.now))

    @rule(pick=st.integers(0, 100), seconds=st.floats(0, 20))
    def leaves(self, pick: int, seconds: float) -> None:
        self.now += seconds
        jobs = sorted(self.running) + [number for number, _ in self.waiting] + sorted(self.coming)
        if not jobs:
            return
        job = jobs[pick % len(jobs)]
        self.running.discard(job)
        self.coming.pop(job, None)
        self.waiting = [each for each in self.waiting if each[0] != job]
        self.take(self.machine.handle(Left(job), self.now))

    @rule(pick=st.integers(0, 100))
    def says(self, pick: int) -> None:
        if self.running:
            self.machine.handle(FirstOutput(sorted(self.running)[pick % len(self.running)]), self.now)

    @rule(slots=st.integers(1, MOST_SLOTS))
    def slots_change(self, slots: int) -> None:
        self.slots = slots
        self.take(self.machine.handle(SlotsAre(slots), self.now))

    @invariant()
    def nothing_is_lost(self) -> None:
        assert (self.machine.running, self.machine.waiting) == (len(self.running), len(self.waiting))
        guests = [peer for peer in (*self.coming.values(), *dict(self.waiting).values()) if peer is not None]
        assert len(guests) <= SETTINGS.queue + MOST_SLOTS
        assert not self.waiting or len(self.running) >= self.slots


TestAdmissionMachine = pytest.mark.slow(AdmissionMachine.TestCase)
TestAdmissionMachine.settings = hypothesis_settings(deadline=None, max_examples=100, stateful_step_count=30)


def test_what_a_node_cannot_do_at_all_another_may() -> None:
    assert (NO_ENGINE.status, NO_ENGINE.code, NO_ENGINE.final) == (503, "no_capacity", False)
    refuse = lacks_model("m")
    assert (refuse.status, refuse.code, refuse.param, refuse.final) == (404, "model_not_found", "model", False)
    assert "'m'" in refuse.message
