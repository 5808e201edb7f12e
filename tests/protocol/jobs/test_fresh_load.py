"""The worker's side of fresh loads: who is told what, how often, and within which bounds."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.effects import Effect, Send, SetTimer
from protocol.ids import PeerId
from protocol.jobs.fresh_load import LOAD_BYTES, RECENT_S, RESERVED, TURN_S, LoadTeller
from protocol.settings import LinkPoolSettings
from protocol.statements.adverts import Load, Status
from protocol.wire.messages import FreshLoad, Full, Watch, encode
from protocol.wire.mux import FRAME_OVERHEAD
from tests.protocol.sample_peers import peer

SETTINGS = LinkPoolSettings(watchers=8)


class Sim:
    """A teller with a clock; notes what each peer was told and when."""

    def __init__(self, settings: LinkPoolSettings = SETTINGS) -> None:
        self.settings = settings
        self.teller = LoadTeller(settings)
        self.now = 0.0
        self.timer = math.inf
        self.told: list[tuple[float, PeerId, FreshLoad | Full]] = []

    def perform(self, effects: list[Effect]) -> list[PeerId]:
        found = []
        for effect in effects:
            if isinstance(effect, SetTimer):
                self.timer = effect.at
            else:
                assert isinstance(effect, Send)
                assert isinstance(effect.message, FreshLoad | Full)
                self.told.append((self.now, effect.peer, effect.message))
                found.append(effect.peer)
        return found

    def watch(self, number: int, *, on: bool = True) -> list[PeerId]:
        return self.perform(self.teller.watch(peer(number), Watch(on), self.now))

    def report(self, running: int, jobs: dict[PeerId, int] | None = None, **more: int) -> list[PeerId]:
        load = Load(running=running, slots=8, **more)  # type: ignore[arg-type]
        return self.perform(self.teller.report(load, jobs or {}, self.now))

    def fire(self) -> list[PeerId]:
        assert self.timer < math.inf
        self.now, self.timer = self.timer, math.inf
        return self.perform(self.teller.timer(self.now))


def test_a_watcher_is_told_at_once_and_after_each_change() -> None:
    sim = Sim()
    sim.report(1)
    assert sim.told == []
    assert sim.watch(1) == [peer(1)]
    assert sim.watch(1) == []
    sim.now = 1.0
    assert sim.report(2) == [peer(1)]
    assert sim.report(2) == []
    assert [load for _, _, load in sim.told] == [FreshLoad(1, 0, 8), FreshLoad(2, 0, 8)]
    assert sim.timer == math.inf
    assert sim.teller.told == 2


def test_who_was_told_a_moment_ago_hears_a_change_when_its_turn_comes() -> None:
    sim = Sim()
    sim.watch(1)
    sim.now = 0.1
    assert sim.report(1) == []
    assert sim.timer == 0.1 + TURN_S
    assert sim.report(2) == []
    assert sim.fire() == []
    assert sim.fire() == [peer(1)]
    assert sim.told[-1][2] == FreshLoad(2, 0, 8)
    assert sim.timer == math.inf


def test_coming_and_going_wins_no_turns() -> None:
    sim = Sim()
    assert sim.watch(1) == [peer(1)]
    for _ in range(40):
        sim.now += 0.01
        sim.watch(1, on=False)
        assert sim.watch(1) == [], "told a moment ago"
    while sim.timer < math.inf and not (told := sim.fire()):
        pass
    assert told == [peer(1)]


def test_peers_that_went_are_remembered_within_a_bound() -> None:
    sim = Sim(LinkPoolSettings(watchers=2))
    for number in range(1, 9):
        sim.watch(number)
        sim.watch(number, on=False)
    sim.watch(1, on=False)
    assert sim.watch(1) == [peer(1)], "forgotten by now"
    assert sim.watch(8) == [], "remembered"


def test_a_change_that_was_undone_before_the_turn_is_not_told() -> None:
    sim = Sim()
    sim.watch(1)
    sim.now = 0.1
    sim.report(1)
    sim.perform(sim.teller.report(Load(), {}, sim.now))
    while sim.timer < math.inf:
        assert sim.fire() == []


def test_each_watcher_hears_how_many_of_the_jobs_are_its_own() -> None:
    sim = Sim()
    sim.watch(1)
    sim.watch(2)
    sim.now = 1.0
    assert sim.report(3, {peer(1): 2}) == [peer(1), peer(2)]
    assert sim.told[-2][2] == FreshLoad(3, 0, 8, yours=2)
    assert sim.told[-1][2] == FreshLoad(3, 0, 8)
    assert sim.teller.load_for(peer(1)) == FreshLoad(3, 0, 8, yours=2)
    assert sim.teller.load_for(peer(9)) == FreshLoad(3, 0, 8)


def test_who_has_jobs_here_goes_first_and_has_a_part_of_the_budget_for_itself() -> None:
    tight = LinkPoolSettings(fresh_bytes_s=8 * LOAD_BYTES)
    sim = Sim(tight)
    for number in range(1, 7):
        sim.watch(number)
    told_first = 8 * (1 - RESERVED)
    assert len(sim.told) == told_first, "the others wait for their turn"
    sim.now = 100.0
    assert sim.report(1, {peer(6): 1})[0] == peer(6)
    assert len(sim.told) == 2 * told_first
    sim.now += 0.5
    assert sim.report(2, {peer(6): 1})[0] == peer(6)
    for number in (4, 5):
        sim.now += 0.5
        assert sim.report(number, {peer(6): 1})[0] == peer(6)


def test_all_get_their_turn_within_the_budget() -> None:
    sim = Sim(LinkPoolSettings(fresh_bytes_s=10 * LOAD_BYTES))
    for number in range(1, 21):
        sim.watch(number)
    sim.told.clear()
    sim.now = 100.0
    jobs = 0
    end = sim.now + 60
    while sim.now < end:
        jobs += 1
        sim.now += 0.1
        sim.report(jobs, {peer(1): 1})
    counts = {number: sum(who == peer(number) for _, who, _ in sim.told) for number in range(1, 21)}
    assert counts[1] >= 100
    others = [counts[number] for number in range(2, 21)]
    assert max(others) - min(others) <= 2
    assert sum(counts.values()) <= 10 * 61
    assert sum(counts.values()) >= 10 * 59


def test_who_has_had_no_jobs_here_for_a_while_is_one_of_the_others() -> None:
    sim = Sim()
    sim.watch(1)
    sim.watch(2)
    sim.now = 1.0
    assert sim.report(1, {peer(2): 1}) == [peer(2), peer(1)]
    sim.now = 2.0
    assert sim.report(0) == [peer(2), peer(1)]
    sim.now = 2.0 + RECENT_S
    assert sim.report(1) == [peer(2), peer(1)]
    sim.now += 1.0
    assert sim.report(2, {peer(1): 1}) == [peer(1), peer(2)]


def test_others_hear_notable_changes_and_whether_a_slot_is_free() -> None:
    sim = Sim()

    def report(running: int, waiting: int = 0) -> list[PeerId]:
        sim.now += 1.0
        return sim.perform(sim.teller.report(Load(running=running, waiting=waiting, slots=40), {peer(2): 1}, sim.now))

    sim.watch(1)
    sim.watch(2)
    assert report(10) == [peer(2), peer(1)]
    assert report(13) == [peer(2)]
    assert report(14) == [peer(2), peer(1)]
    assert report(39) == [peer(2), peer(1)]
    assert report(40) == [peer(2), peer(1)], "no slot is free any more"
    assert report(40, 3) == [peer(2)]
    assert report(38) == [peer(2), peer(1)]


def test_there_is_room_for_so_many_watchers() -> None:
    sim = Sim()
    for number in range(1, SETTINGS.watchers + 1):
        sim.watch(number)
    assert sim.watch(99) == [peer(99)]
    assert sim.told[-1][2] == Full()
    assert peer(99) not in sim.teller
    assert sim.watch(1, on=False) == []
    sim.watch(99)
    assert peer(99) in sim.teller
    sim.teller.forget(peer(99))
    assert len(sim.teller) == SETTINGS.watchers - 1


def test_a_watcher_without_jobs_gives_way_in_the_end() -> None:
    sim = Sim()
    for number in range(1, SETTINGS.watchers + 1):
        sim.watch(number)
    sim.now = 1.0
    sim.report(1, {peer(1): 1})
    sim.now = SETTINGS.wanted_s
    sim.watch(99)
    assert peer(99) not in sim.teller
    sim.now = SETTINGS.wanted_s + 5.0
    sim.told.clear()
    sim.watch(99)
    assert peer(99) in sim.teller
    assert len(sim.teller) == SETTINGS.watchers
    ((_, gone, message), _) = sim.told
    assert message == Full()
    assert gone not in sim.teller
    assert gone != peer(1)


def test_prompts_and_memory_are_told_with_the_jobs_and_alone_are_no_reason_to_tell() -> None:
    sim = Sim()
    sim.watch(1)
    sim.now = 1.0
    assert sim.report(1, queued_prefill_tokens=900, kv_permille=40) == [peer(1)]
    assert sim.told[-1][2] == FreshLoad(1, 0, 8, 900, 40)
    sim.now = 2.0
    assert sim.report(1, queued_prefill_tokens=100, kv_permille=50) == []
    sim.now = 3.0
    assert sim.report(1, status=int(Status.BUSY)) == [peer(1)]


def test_a_load_is_as_long_as_its_bound() -> None:
    most = FreshLoad(127, 127, 127, 65535, 1000, int(Status.LEFT), 127)
    assert len(encode(most)) + FRAME_OVERHEAD <= LOAD_BYTES


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(("watch", "off", "report", "gone", "wait")), st.integers(1, 12))))
def test_in_the_end_every_watcher_knows_the_load(steps: list[tuple[str, int]]) -> None:
    sim = Sim()
    running = 0
    for what, number in steps:
        sim.now += 0.07
        if what in ("watch", "off"):
            sim.watch(number, on=what == "watch")
        elif what == "report":
            running = number
            sim.report(running, {peer(number): 1})
        elif what == "gone":
            sim.teller.forget(peer(number))
        elif sim.timer < math.inf:
            sim.fire()
        assert len(sim.teller) <= SETTINGS.watchers
    for _ in range(100):
        if sim.timer < math.inf:
            sim.fire()
    assert sim.timer == math.inf
    last = {who: load for _, who, load in sim.told}
    for number in range(1, 13):
        if peer(number) in sim.teller:
            load = last[peer(number)]
            assert isinstance(load, FreshLoad)
            assert load.running == running or not running
