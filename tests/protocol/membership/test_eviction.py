"""A full view: which peers give way to which, and what a thousand identities of one network gain."""

from __future__ import annotations

import pytest

from protocol.membership.peer_view import MOST_WANTED
from protocol.statements.adverts import Advert, Load, ModelOffer
from protocol.statements.keys import ADVERT, LOAD
from tests.protocol.sample_peers import ME, advert, at, envelope, idle, new_view, peer, put


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


@pytest.mark.parametrize(("others", "kept"), [(MOST_WANTED - 1, True), (MOST_WANTED, False)])
def test_so_many_models_are_wanted_and_no_more(others: int, kept: bool) -> None:
    view = new_view(size=1)
    put(view, 1, offering("first"))
    view.want("first")
    for number in range(others):
        view.want(f"later-{number}")
    newcomer = view.put(envelope(peer(2), ADVERT), offering("later-0"), 0.0, 9.0)
    assert newcomer is not kept, "an unwanted one gives way to a wanted one, and a wanted one does not"


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
