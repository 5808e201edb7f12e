"""The peer view: statements, links, expiry, and columns that always say what the records say."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocol.ids import PeerId
from protocol.membership.peer_view import PeerView
from protocol.statements.adverts import Advert, Load, Status
from protocol.statements.keys import ADVERT, LOAD
from protocol.wire.messages import FreshLoad
from tests.protocol.sample_peers import ME, MODEL, advert, at, card, envelope, idle, new_view, offer, peer, put


def test_a_fresh_view_knows_only_this_node() -> None:
    view = new_view()
    assert len(view) == 0
    assert [record.peer for record in view.records()] == [ME]
    assert ME in view
    assert view.offering("anything").size == 0
    assert view.offers("anything") is None


def test_what_a_peer_says_is_in_its_record_and_in_the_columns() -> None:
    view = new_view()
    one = put(view, 1, advert(gpu=card(24, 165.0, 1010.0)), idle(running=3, waiting=2), now=5.0, until=60.0)
    record = view.get(one)
    assert record is not None
    assert (record.advert_at, record.load_at, record.advert_until, record.state) == (5.0, 5.0, 60.0, "alive")
    assert record.advert_env is not None
    assert record.load_env is not None
    columns, row = view.columns, record.row
    assert (columns["vram"][row], columns["free"][row]) == (24 * 1024, 24 * 1024)
    assert (columns["tflops"][row], columns["bandwidth"][row]) == (165.0, 1010.0)
    assert (columns["jobs"][row], columns["slots"][row]) == (5, 8)
    assert view.at(row) is record


def test_a_load_may_come_before_the_advert() -> None:
    view = new_view()
    assert view.put(envelope(peer(1), LOAD), idle(running=4), 0.0, 10.0)
    assert len(view) == 1
    put(view, 1)
    record = view.get(peer(1))
    assert record is not None
    assert view.columns["jobs"][record.row] == 4


def test_nobody_else_speaks_for_this_node() -> None:
    view = new_view()
    assert not view.put(envelope(ME, ADVERT), advert(), 0.0, 10.0)
    assert view.offering("llama-3.1-8b-instruct").size == 0


def test_this_node_never_expires() -> None:
    view = new_view()
    view.put_self(None, None, 0.0)
    view.put_self(advert(), idle(), 0.0)
    assert view.expire(1e12) == []
    view.remove(ME)
    record = view.get(ME)
    assert record is not None
    assert record.is_self
    assert len(view.offering("llama-3.1-8b-instruct")) == 1
    assert record.load_until == math.inf


def test_round_trips_are_smoothed() -> None:
    view = new_view()
    one = put(view, 1)
    view.observe_rtt(one, 0.1)
    record = view.get(one)
    assert record is not None
    assert (record.rtt_s, record.rttvar_s) == (0.1, 0.05)
    view.observe_rtt(one, 0.2)
    assert record.rtt_s == pytest.approx(0.1125)
    assert record.rttvar_s == pytest.approx(0.0625)
    assert view.columns["rtt"][record.row] == view.columns["way"][record.row] == record.rtt_s
    assert view.columns["link"][record.row] == pytest.approx(0.1125 + 2 * 0.0625)
    view.observe_rtt(peer(9), 0.1)
    assert peer(9) not in view


def test_states_are_what_liveness_says() -> None:
    view = new_view()
    one = put(view, 1)
    record = view.get(one)
    assert record is not None
    for state, standing in (("suspect", 1), ("dead", 0), ("left", 0), ("alive", 2)):
        view.set_state(one, state, 3.0)
        assert (record.state, record.state_since, view.columns["alive"][record.row]) == (state, 3.0, standing)
    view.set_state(peer(9), "dead", 0.0)


def test_jobs_in_flight_count_beside_the_load_that_does_not_know_of_them() -> None:
    view = new_view()
    one = put(view, 1, load=idle(running=2))
    record = view.get(one)
    assert record is not None
    view.add_inflight(one, 1)
    view.add_inflight(one, 1)
    assert (record.inflight, view.columns["inflight"][record.row], view.columns["covered"][record.row]) == (2, 2, 0)
    assert view.put(envelope(one, LOAD), idle(running=4), 1.0, 9.0)
    assert view.columns["covered"][record.row] == 2
    for _ in range(3):
        view.add_inflight(one, -1)
    assert record.inflight == 0
    view.add_inflight(peer(9), 1)
    view.observe_success(peer(9))
    assert peer(9) not in view


@pytest.mark.parametrize(
    ("running", "throttled", "percent", "clock"),
    [
        *((0, False, 10, 1.0), (1, False, 60, 0.6), (1, False, 150, 1.0), (1, False, 0, 0.01)),
        *((0, True, 60, 0.6), (0, True, 100, 0.8), (2, True, 100, 0.8)),
    ],
)
def test_the_clock_of_a_card_that_works_or_is_throttled_counts(
    running: int, throttled: bool, percent: int, clock: float
) -> None:
    view = new_view()
    one = put(view, 1, load=idle(running=running, throttled=throttled, clock_percent=percent))
    record = view.get(one)
    assert record is not None
    assert view.columns["clock"][record.row] == clock


def test_prompts_of_our_own_jobs_are_processed_one_after_the_other_until_the_next_load() -> None:
    """A card of 100 TFLOPS at half its clock: 503 ms for a thousand tokens, twice the 251.5 ms of full clock."""
    view = new_view()
    one = put(view, 1, load=idle(running=1, queued_prefill_tokens=2000, clock_percent=50), now=10.0)
    record = view.get(one)
    assert record is not None

    def busy_until() -> float:
        return float(view.columns["busy_until"][record.row])

    assert busy_until() == -math.inf
    view.add_prompt(one, MODEL, 1000, 10.5)  # after the 2,000 tokens of the load
    assert busy_until() == pytest.approx(10 + 3 * 0.503, abs=2e-3)
    view.add_prompt(one, MODEL, 1000, 10.6)
    assert busy_until() == pytest.approx(10 + 4 * 0.503, abs=3e-3)
    view.add_prompt(one, MODEL, 1000, 20.0)  # nothing is left of the others
    assert busy_until() == pytest.approx(20 + 0.503, abs=1e-3)
    assert view.put(envelope(one, LOAD), idle(), 21.0, 99.0)
    assert busy_until() == -math.inf
    for who, model in ((peer(9), MODEL), (one, "other")):
        view.add_prompt(who, model, 1000, 21.0)
    put(view, 2, advert(offer("other")))
    view.add_prompt(one, "other", 1000, 21.0)
    assert busy_until() == -math.inf


def test_a_link_makes_a_record_and_takes_an_empty_one_away() -> None:
    view = new_view()
    view.set_link(peer(1), False)
    assert peer(1) not in view
    view.set_link(peer(1), True, True, "8.8.8.8", 4.0)
    record = view.get(peer(1))
    assert record is not None
    assert (record.linked, record.outbound, record.address, record.group) == (True, True, "8.8.8.8", "8.8.8.0/24")
    assert view.expire(1e9) == []
    view.set_link(peer(1), False)
    assert peer(1) not in view
    put(view, 1, at("1.1.1.1"))
    view.set_link(peer(1), True, False, "8.8.8.8")
    put(view, 1, at("1.1.1.1"))
    record = view.get(peer(1))
    assert record is not None
    assert record.group == "8.8.8.0/24"
    view.set_link(peer(1), False)
    assert not record.linked
    put(view, 1, at("1.1.1.1"))
    assert record.group == "1.1.1.0/24"
    view.set_link(ME, True)
    view.set_link(ME, False)
    assert ME in view


def test_what_ran_out_is_forgotten() -> None:
    view = new_view()
    gone, half, linked = put(view, 1, load=idle(), until=10.0), put(view, 2, until=10.0), put(view, 3, until=10.0)
    assert view.put(envelope(half, LOAD), idle(), 0.0, 20.0)
    view.set_link(linked, True)
    assert view.expire(9.0) == []
    assert view.expire(10.0) == [gone]
    record = view.get(half)
    assert record is not None
    assert record.advert is None
    assert record.load is not None
    assert view.models() == []
    assert view.expire(20.0) == [half]
    assert linked in view
    # A row is used again, and brings nothing from its former life.
    view.observe_rtt(put(view, 4), 0.5)
    put(view, 5)
    fresh = view.get(peer(5))
    assert fresh is not None
    assert math.isnan(view.columns["rtt"][fresh.row])


# --- the columns say what the records say -------------------------------------------------------------------------


class ViewMachine(RuleBasedStateMachine):
    """Anything in any order; afterwards the columns, the index and the groups agree with the records."""

    numbers = st.integers(1, 12)

    def __init__(self) -> None:
        super().__init__()
        self.view = PeerView(ME, 6, 3)
        self.now = 0.0
        self.proven: set[PeerId] = set()

    @rule(
        number=numbers,
        names=st.lists(st.sampled_from("abc"), max_size=3),
        address=st.sampled_from(("8.8.8.8", "9.9.9.9", "10.0.0.1")),
        life=st.integers(1, 20),
    )
    def advertise(self, number: int, names: list[str], address: str, life: int) -> None:
        said = Advert(1, models=tuple(map(offer, names)), addrs=(f"/ip4/{address}/tcp/1",), gpus=(card(),))
        self.view.put(envelope(peer(number), ADVERT), said, self.now, self.now + life)

    @rule(number=numbers, running=st.integers(0, 9), life=st.integers(1, 20))
    def load(self, number: int, running: int, life: int) -> None:
        self.view.put(envelope(peer(number), LOAD), Load(running=running), self.now, self.now + life)

    @rule(names=st.lists(st.sampled_from("abc"), max_size=3))
    def advertise_myself(self, names: list[str]) -> None:
        self.view.put_self(advert(*map(offer, names)), idle(), self.now)

    @rule(number=numbers, linked=st.booleans())
    def link(self, number: int, linked: bool) -> None:
        self.view.set_link(peer(number), linked, True, "9.9.9.9", self.now)

    @rule(number=numbers, state=st.sampled_from(("alive", "suspect", "dead", "left")))
    def state(self, number: int, state: str) -> None:
        self.view.set_state(peer(number), state, self.now)

    @rule(number=numbers, change=st.sampled_from((1, -1)))
    def job(self, number: int, change: int) -> None:
        self.view.add_inflight(peer(number), change)

    @rule(number=numbers)
    def success(self, number: int) -> None:
        self.view.observe_success(peer(number))

    @rule(seconds=st.integers(1, 15))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        gone = self.view.expire(self.now)
        assert all(each not in self.view for each in gone)

    @rule(number=numbers)
    def remove(self, number: int) -> None:
        self.view.remove(peer(number))

    @rule(name=st.sampled_from("abc"))
    def ask(self, name: str) -> None:
        self.view.offering(name)

    @invariant()
    def rows_are_used_once(self) -> None:
        records = self.view.records()
        assert sorted(record.row for record in records) == np.flatnonzero(self.view.columns["used"]).tolist()
        assert all(self.view.at(record.row) is record for record in records)

    @invariant()
    def columns_agree(self) -> None:
        columns = self.view.columns
        for record in self.view.records():
            row = record.row
            assert columns["me"][row] == record.is_self
            assert columns["inflight"][row] == record.inflight
            assert columns["kept"][row] == (
                record.is_self or record.linked or record.successes > 0 or record.inflight > 0
            )
            assert columns["until"][row] == max(record.advert_until, record.load_until)
            if record.load is not None:
                assert columns["jobs"][row] == record.load.running + record.load.waiting
                assert columns["load_until"][row] == record.load_until
            if record.advert is not None:
                assert columns["open_until"][row] == record.open_until

    @invariant()
    def nobody_who_is_gone_is_overlooked(self) -> None:
        eviction = self.view._eviction
        gone = eviction._gone(np.flatnonzero(eviction._may_go()), self.now)
        assert (eviction._gone_of_all(self.now) is None) == (gone is None)

    @invariant()
    def the_index_agrees(self) -> None:
        offered: dict[str, set[int]] = {}
        for record in self.view.records():
            for each in record.advert.models if record.advert else ():
                offered.setdefault(each.name, set()).add(record.row)
        assert {name: set(self.view.offers(name).offers) for name in self.view.models()} == offered  # type: ignore[union-attr]
        for name, rows in offered.items():
            if name != "c":  # that one is never looked at, unless `ask` does
                assert set(self.view.offering(name).tolist()) == rows

    @invariant()
    def it_is_bounded(self) -> None:
        records = self.view.records()
        linked = sum(record.linked for record in records)
        assert len(self.view) <= 6 + linked
        groups = itertools.groupby(sorted(r.group for r in records if not (r.linked or r.successes or r.inflight)))
        for group, members in groups:
            if group not in ("", "10.0.0.0/24", "9.9.9.0/24"):  # 9.9.9.0/24 is where links come from
                assert len(list(members)) <= 3 + 12


TestView = pytest.mark.slow(ViewMachine.TestCase)
TestView.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


# --- what a peer tells over its link ----------------------------------------------------------------------------------


def counts(view: PeerView, who: PeerId) -> tuple[float, float, float]:
    """Jobs, those of them that we know of ourselves, and whether the load is fresh."""
    record = view.get(who)
    assert record is not None
    return tuple(float(view.columns[name][record.row]) for name in ("jobs", "covered", "fresh"))  # type: ignore[return-value]


def test_what_a_peer_told_over_its_link_holds_against_gossip_until_the_link_is_gone() -> None:
    view = new_view()
    one = put(view, 1, load=idle(running=1), now=5.0)
    view.put_fresh(one, FreshLoad(3, 1, 8), 6.0, math.inf)
    assert counts(view, one) == (1, 0, 0), "nobody tells anything without a link"
    view.set_link(one, True)
    view.add_inflight(one, 1)
    view.put_fresh(one, FreshLoad(3, 1, 8, 900, 500, int(Status.BUSY), 2), 6.0, math.inf)
    assert counts(view, one) == (4, 2, 1)
    record = view.get(one)
    assert record is not None
    assert record.load == idle(
        running=3, waiting=1, queued_prefill_tokens=900, kv_permille=500, status=int(Status.BUSY)
    )
    assert (record.load_at, record.load_until) == (6.0, 1e6)
    put(view, 1, load=idle(running=7, free_vram_mib=1), now=9.0)
    assert counts(view, one) == (4, 2, 1)
    assert (record.load.free_vram_mib, record.load_at) == (1, 9.0), "silence confirms the counts"
    view.set_link(one, False)
    assert counts(view, one) == (4, 2, 0)
    put(view, 1, load=idle(running=7), now=10.0)
    assert counts(view, one) == (7, 1, 0)


def test_a_load_told_once_gives_way_to_gossip_after_its_time() -> None:
    view = new_view()
    one = put(view, 1, load=idle())
    view.set_link(one, True)
    view.put_fresh(one, FreshLoad(5, 0, 8), 6.0, 11.0)
    assert counts(view, one) == (5, 0, 0)
    put(view, 1, load=idle(running=2), now=10.0)
    assert counts(view, one) == (5, 0, 0)
    put(view, 1, load=idle(running=2), now=11.0)
    assert counts(view, one) == (2, 0, 0)


def test_a_load_told_before_gossip_has_brought_one_counts_when_that_comes() -> None:
    view = new_view()
    view.set_link(peer(1), True)
    view.put_fresh(peer(1), FreshLoad(5, 0, 8), 6.0, math.inf)
    record = view.get(peer(1))
    assert record is not None
    assert record.load is None
    put(view, 1, load=idle(running=2), now=7.0)
    assert counts(view, peer(1)) == (5, 0, 1)


def test_only_a_statement_says_that_a_peer_leaves_and_only_it_takes_that_back() -> None:
    view = new_view()
    one = put(view, 1, load=idle(status=int(Status.LEFT)))
    view.set_link(one, True)
    view.put_fresh(one, FreshLoad(), 6.0, math.inf)
    record = view.get(one)
    assert record is not None
    assert record.said_goodbye
    view.put_fresh(ME, FreshLoad(), 6.0, math.inf)
    view.end_fresh(peer(9))
    view.end_fresh(one)
    assert not view.columns["fresh"][record.row]


def test_the_prompts_of_jobs_on_their_way_count_beside_a_load_that_does_not_know_of_them() -> None:
    view = new_view()
    one = put(view, 1, load=idle())
    record = view.get(one)
    assert record is not None
    view.set_link(one, True)
    view.add_inflight(one, 1)
    view.add_prompt(one, MODEL, 10_000, 5.0)
    busy_until = view.columns["busy_until"][record.row]
    assert busy_until > 5.0
    view.put_fresh(one, FreshLoad(slots=8), 5.1, math.inf)
    assert view.columns["busy_until"][record.row] == busy_until
    view.put_fresh(one, FreshLoad(1, 0, 8, 10_000, yours=1), 5.2, math.inf)
    assert view.columns["busy_until"][record.row] == -math.inf
