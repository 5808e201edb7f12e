"""Penalties that add up to a ban or are forgotten, and bans that end."""

from __future__ import annotations

import pytest

from protocol.ids import PeerId
from protocol.membership.penalties import REMEMBERED, REMEMBERED_BANS, Bans, Penalties
from protocol.settings import PenaltySettings

ALICE, BOB = PeerId(b"a" * 32), PeerId(b"b" * 32)
SETTINGS = PenaltySettings(ban_points=5, ban_s=600.0)


def number(value: int) -> PeerId:
    return PeerId(value.to_bytes(32, "big"))


def test_five_points_ban_and_the_count_starts_anew() -> None:
    penalties = Penalties(SETTINGS)
    for _ in range(2):
        assert [penalties.penalise(ALICE, points, 0.0) for points in (2, 2, 1)] == [False, False, True]
        assert len(penalties) == 0


def test_each_peer_has_points_of_its_own() -> None:
    penalties = Penalties(SETTINGS)
    assert not penalties.penalise(ALICE, 4, 0.0)
    assert not penalties.penalise(BOB, 4, 0.0)
    assert penalties.penalise(BOB, 1, 0.0)
    assert len(penalties) == 1


@pytest.mark.parametrize(("later_s", "banned"), [(599.9, True), (600.0, False)])
def test_points_are_forgotten(later_s: float, banned: bool) -> None:
    penalties = Penalties(SETTINGS)
    penalties.penalise(ALICE, 4, 0.0)
    assert penalties.penalise(ALICE, 1, later_s) is banned


def test_many_small_penalties_over_a_long_time_do_not_ban() -> None:
    penalties = Penalties(SETTINGS)
    assert not any(penalties.penalise(ALICE, 1, 151.0 * minute) for minute in range(100))


def test_no_points_change_nothing() -> None:
    penalties = Penalties(SETTINGS)
    assert not penalties.penalise(ALICE, 0, 0.0)
    assert len(penalties) == 0


def test_of_too_many_peers_the_one_penalised_longest_ago_is_forgotten() -> None:
    penalties = Penalties(SETTINGS)
    for value in range(REMEMBERED):
        penalties.penalise(number(value), 4, 0.0)
    penalties.penalise(number(0), 0, 0.0)
    assert not penalties.penalise(number(REMEMBERED), 4, 0.0)
    assert len(penalties) == REMEMBERED
    assert penalties.penalise(number(1), 1, 0.0)
    assert not penalties.penalise(number(0), 1, 0.0)


def test_a_ban_ends_and_a_later_one_replaces_it() -> None:
    bans = Bans()
    bans.add(ALICE, 10.0)
    bans.add("198.51.100.1", 5.0)
    assert (bans.holds(ALICE, 9.9), bans.holds(ALICE, 10.0), bans.holds(BOB, 0.0)) == (True, False, False)
    bans.add(ALICE, 20.0)
    assert bans.active(0.0) == ["198.51.100.1", ALICE]
    assert bans.active(5.0) == [ALICE]


def test_of_too_many_bans_the_oldest_is_forgotten() -> None:
    bans = Bans()
    for value in range(REMEMBERED_BANS + 1):
        bans.add(number(value), 10.0)
    assert not bans.holds(number(0), 0.0)
    assert len(bans.active(0.0)) == REMEMBERED_BANS
