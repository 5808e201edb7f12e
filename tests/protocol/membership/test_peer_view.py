"""The peer view: rooms, groups, expiry, and columns that always say what the records say."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocol.ids import PeerId
from protocol.membership.peer_view import MOST_WANTED, PeerView
from protocol.statements.adverts import Advert, Load, ModelOffer
from protocol.statements.keys import ADVERT, LOAD
from tests.protocol.sample_peers import ME, advert, card, envelope, idle, new_view, offer, peer, put


def at(address: str) -> Advert:
    return advert(addrs=(f"/ip4/{address}/tcp/4411",))


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
    assert view.columns["rtt"][record.row] == record.rtt_s
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


# --- room -------------------------------------------------------------------------------------------------------------


def test_what_a_link_had_above_the_size_goes_with_it() -> None:
    view = new_view(size=2)
    for number in (1, 2):
        view.observe_success(put(view, number))
    for number in (3, 4):
        view.set_link(peer(number), True, False, f"8.8.{number}.8", 1.0)
        assert view.put(envelope(peer(number), LOAD), idle(), 1.0, 99.0)
    assert len(view) == 4
    view.set_link(peer(3), False)
    view.set_link(peer(4), False)
    assert {record.peer for record in view.records()[1:]} == {peer(1), peer(2)}


def test_a_full_view_refuses_newcomers_but_lets_the_gone_go() -> None:
    view = new_view(size=3)
    put(view, 1, until=10.0)
    put(view, 2)
    put(view, 3)
    assert not view.put(envelope(peer(4), ADVERT), advert(), 5.0, 99.0)
    assert view.put(envelope(peer(4), ADVERT), advert(), 10.0, 99.0)
    assert peer(1) not in view
    view.set_state(peer(2), "dead", 11.0)
    assert view.put(envelope(peer(5), ADVERT), advert(), 11.0, 99.0)
    assert peer(2) not in view
    assert len(view) == 3


def test_a_link_finds_room_at_the_expense_of_the_newest_unproven() -> None:
    view = new_view(size=3)
    put(view, 1, now=1.0)
    put(view, 2, now=2.0)
    put(view, 3, now=3.0)
    view.observe_success(peer(3))
    view.set_link(peer(4), True, now=4.0)
    assert peer(2) not in view
    view.set_state(peer(1), "left", 5.0)
    view.set_link(peer(5), True, now=5.0)
    assert peer(1) not in view
    view.set_link(peer(6), True, now=6.0)  # nobody may go: links are limited where they are accepted
    assert len(view) == 4
    assert all(number in view for number in map(peer, (3, 4, 5, 6)))


def offering(*models: str) -> Advert:
    return Advert(1, models=tuple(ModelOffer(name, bytes(16)) for name in models))


def test_who_offers_what_this_node_serves_or_was_asked_for_is_kept_rather_than_others() -> None:
    view = new_view(size=3)
    for number in (1, 2, 3):
        assert view.put(envelope(peer(number), ADVERT), offering("other"), float(number), 9.0)
    assert not view.put(envelope(peer(4), ADVERT), offering("asked for"), 4.0, 9.0)
    view.want("asked for")
    view.put_self(offering("served"), None, 4.0)
    assert view.put(envelope(peer(4), ADVERT), offering("asked for"), 4.0, 9.0)
    assert view.put(envelope(peer(5), ADVERT), offering("x", "served"), 5.0, 9.0)
    assert {record.peer for record in view.records()} == {ME, peer(1), peer(4), peer(5)}, (
        "the newest of the others went"
    )
    assert not view.put(envelope(peer(6), ADVERT), offering("other"), 6.0, 9.0)
    assert not view.put(envelope(peer(6), LOAD), Load(), 6.0, 9.0)
    view.observe_success(peer(1))
    assert not view.put(envelope(peer(6), ADVERT), offering("served"), 6.0, 9.0), "the proven and the wanted stay"
    view.set_link(peer(7), True, True, "8.8.8.8", 7.0)
    assert {record.peer for record in view.records()} == {ME, peer(1), peer(4), peer(7)}


def test_what_was_asked_for_last_is_wanted() -> None:
    view = new_view(size=1)
    assert view.put(envelope(peer(1), ADVERT), offering("m0", "m5"), 1.0, 9.0)
    for number in range(MOST_WANTED):
        view.want(f"m{number}")
    view.want("m0")
    view.want("one more")  # m1 is forgotten
    assert view.columns["wanted"][view.get(peer(1)).row]
    for number in range(2, 6):
        view.want(f"new {number}")
    assert view.columns["wanted"][view.get(peer(1)).row], "m0 was asked for again"
    for number in range(MOST_WANTED):
        view.want(f"newer {number}")
    assert not view.columns["wanted"][view.get(peer(1)).row]
    view.want("m5")
    assert view.columns["wanted"][view.get(peer(1)).row]
    view.set_link(peer(1), True, True, "8.8.8.8", 2.0)
    assert view.expire(100.0) == []
    assert not view.columns["wanted"][view.get(peer(1)).row], "its advert ran out"


def test_a_job_of_ours_keeps_a_peer() -> None:
    view = new_view(size=1)
    one = put(view, 1, until=1.0)
    view.add_inflight(one, 1)
    assert not view.put(envelope(peer(2), ADVERT), advert(), 5.0, 99.0)
    view.add_inflight(one, -1)
    assert view.put(envelope(peer(2), ADVERT), advert(), 5.0, 99.0)


def test_a_group_is_bounded() -> None:
    view = new_view(size=100, per_group=2)
    put(view, 1, at("8.8.8.1"))
    put(view, 2, at("8.8.8.2"))
    assert not view.put(envelope(peer(3), ADVERT), at("8.8.8.3"), 0.0, 9.0)
    put(view, 3, at("8.8.9.3"))
    assert not view.put(envelope(peer(3), ADVERT), at("8.8.8.3"), 0.0, 9.0)  # moving there is not a way in
    assert peer(3) not in view
    view.set_state(peer(1), "dead", 0.0)
    put(view, 3, at("8.8.8.3"))
    assert peer(1) not in view
    put(view, 4, at("8.8.9.3"))
    view.observe_success(peer(4))
    put(view, 4, at("8.8.8.4"))  # the proven may move anywhere
    put(view, 5, at("9.9.9.9"))
    put(view, 5, at("9.9.8.9"))
    assert sum(record.group == "8.8.8.0/24" for record in view.records()) == 3


def test_a_peer_that_moves_to_another_group_leaves_its_place_in_the_old_one() -> None:
    view = new_view(size=100, per_group=2)
    for turn in range(5):  # there and back, by statements
        put(view, 1, at("8.8.8.1"))
        put(view, 2, at("8.8.8.2"))
        assert not view.put(envelope(peer(3), ADVERT), at("8.8.8.3"), 0.0, 9.0), turn
        put(view, 1, at("9.9.9.1"))
        put(view, 2, at("9.9.9.2"))
        put(view, 3, at("8.8.8.3"))  # both places of the old group are free again
        put(view, 4, at("8.8.8.4"))
        view.remove(peer(3))
        view.remove(peer(4))
    for number in (5, 6):  # and by links
        put(view, number, at("7.7.7.1"))
        view.set_link(peer(number), True, True, f"6.6.6.{number}", 0.0)
    put(view, 7, at("7.7.7.7"))
    put(view, 8, at("7.7.7.8"))
    assert not view.put(envelope(peer(9), ADVERT), at("7.7.7.9"), 0.0, 9.0)


def test_who_dials_in_under_ever_new_names_gets_no_more_than_its_groups_part() -> None:
    view = new_view(size=100, per_group=2)
    for number in range(1, 30):
        view.set_link(peer(number), True, False, f"8.8.8.{number}", 0.0)
        assert view.put(envelope(peer(number), ADVERT), at(f"1.1.{number}.1"), 0.0, 9.0)
        if number == 7:
            view.observe_success(peer(7))
        view.set_link(peer(number), False)
    assert {record.peer for record in view.records()} == {ME, peer(1), peer(2), peer(7)}


def test_a_private_network_may_take_a_quarter_of_the_view() -> None:
    view = new_view(size=100, per_group=2)
    taken = [view.put(envelope(peer(n), ADVERT), at(f"192.168.1.{n}"), 0.0, 9.0) for n in range(1, 40)]
    assert sum(taken) == 25


@pytest.mark.slow
def test_a_hundred_thousand_identities_cost_nobody_a_place() -> None:
    """T-Y1: identities from sixteen /24s, half of them claiming private addresses, or none, of their own choice."""
    view = new_view()
    proven = [put(view, n, at(f"44.{n}.0.1")) for n in range(1, 21)]
    for each in proven:
        view.observe_success(each)
    for n in range(100_000):
        claims = (at(f"66.0.{n % 16}.{n % 256}"), at("10.0.0.1"), advert(), at("127.0.0.1"))
        view.put(envelope(peer(1000 + n), ADVERT), claims[n % 4], float(n), float(n) + 120)
        if n % 5000 == 0:
            for each in proven:
                assert view.put(envelope(each, LOAD), idle(), float(n), float(n) + 10_000)
    assert all(each in view for each in proven)
    assert len(view) <= 4096
    assert view.columns.capacity <= 8192
    groups = [record.group for record in view.records()]
    assert max(groups.count(group) for group in set(groups) if group.startswith("66.")) <= 64


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
        gone = self.view._gone(np.arange(len(self.view._rows)), self.now)
        assert (self.view._gone_of_all(self.now) is None) == (gone is None)

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
