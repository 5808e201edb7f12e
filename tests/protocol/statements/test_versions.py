"""Clocks that are wrong or jump (T-S5, T-S6), and marks that survive a restart (T-S4)."""

from __future__ import annotations

import pytest

from protocol.statements.envelope import MAX_TTL_S, UNSEEN, Envelope, Key, parse, seal
from protocol.statements.keys import LOAD, Ed25519Signer
from protocol.statements.versions import MAX_VOTES, SEEN_SHARE, HighWaterMarks, WallClock, next_incarnation

WALL = 1_800_000_000.0
SKEW = 120.0
SIGNERS = [Ed25519Signer(i.to_bytes(32, "big")) for i in range(300)]


def said(author: int = 0, issued: float = WALL, ttl: int = 60, version: tuple[int, int] = (1, 1)) -> Envelope:
    return seal(SIGNERS[author], LOAD, version, issued, ttl, b"")


def test_life_is_counted_from_receipt_and_never_longer_than_the_ttl() -> None:
    clock = WallClock(100.0, WALL)
    assert clock.life(said(), SKEW, 100.0) == 60
    assert clock.life(said(), SKEW, 100.0 + 170) == pytest.approx(10)
    assert clock.life(said(issued=WALL + 119), SKEW, 100.0) == 60
    assert clock.life(said(issued=WALL + 600), SKEW, 100.0) == 0
    assert clock.life(said(issued=WALL - 600), SKEW, 100.0) == 0


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_own_clock_jumps_an_hour_and_statements_of_others_still_count(jump: float) -> None:
    clock = WallClock(0.0, WALL)
    clock.observe(10.0, WALL + 10 + jump)
    assert clock.disputed
    assert clock.read(10.0) == WALL + 10
    assert clock.life(said(issued=WALL + 10), SKEW, 10.0) == 60
    assert not clock.vote(said(issued=WALL + 10), SKEW, 10.0)  # the others agree with the old time
    assert clock.read(20.0) == WALL + 20
    clock.observe(30.0, WALL + 30)  # the jump was undone
    assert not clock.disputed


def test_a_machine_that_slept_believes_its_clock_once_most_others_do() -> None:
    clock = WallClock(0.0, WALL)
    clock.observe(10.0, WALL + 3610)
    assert not clock.vote(said(0, WALL + 10), SKEW, 10.0)  # was in a buffer before the sleep
    assert clock.life(said(1, WALL + 3610), SKEW, 10.0) == 60
    assert not clock.vote(said(1, WALL + 3610), SKEW, 10.0)
    assert not clock.vote(said(1, WALL + 3610), SKEW, 10.0)  # one author, one vote
    assert clock.vote(said(0, WALL + 3610), SKEW, 10.0)  # and the newest of it counts
    assert clock.read(10.0) == WALL + 3610
    assert not clock.disputed


def test_a_second_jump_starts_the_vote_afresh_and_statements_that_fit_both_do_not_count() -> None:
    clock = WallClock(0.0, WALL)
    assert not clock.vote(said(), SKEW, 0.0)  # nothing is disputed
    clock.observe(0.0, WALL + 100)
    assert not clock.vote(said(0, WALL + 50), SKEW, 0.0)
    clock.observe(0.0, WALL + 101)  # the same jump
    clock.observe(0.0, WALL + 7200)
    assert not clock.vote(said(1, WALL), SKEW, 0.0)
    assert clock.disputed


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_votes_are_kept_while_the_same_jump_is_seen_again(jump: float) -> None:
    """Every message compares the clocks, so observations between two votes must not wipe the first one."""
    clock = WallClock(0.0, WALL)
    clock.observe(10.0, WALL + 10 + jump)
    assert not clock.vote(said(0, WALL + 10), SKEW, 10.0)  # one for the old time
    clock.observe(11.0, WALL + 11 + jump)
    assert not clock.vote(said(1, WALL + 11), SKEW, 11.0)  # two for the old time
    clock.observe(12.0, WALL + 12 + jump + 4.9)  # the rival drifts by less than a jump
    assert not clock.vote(said(2, WALL + 12 + jump), SKEW, 12.0)  # 1 of 3
    clock.observe(13.0, WALL + 13 + jump)
    assert not clock.vote(said(3, WALL + 13 + jump), SKEW, 13.0)  # 2 of 4 is no majority
    clock.observe(14.0, WALL + 14 + jump)
    assert clock.vote(said(4, WALL + 14 + jump), SKEW, 14.0)  # 3 of 5
    assert clock.read(14.0) == WALL + 14 + jump


def test_another_jump_wipes_the_votes_for_the_last_one() -> None:
    clock = WallClock(0.0, WALL)
    clock.observe(0.0, WALL + 3600)
    assert not clock.vote(said(0, WALL), SKEW, 0.0)
    assert not clock.vote(said(1, WALL), SKEW, 0.0)
    clock.observe(0.0, WALL + 3606)  # away from the rival by more than a jump: another rival
    assert clock.vote(said(2, WALL + 3606), SKEW, 0.0)  # one vote of one: the earlier two are gone
    assert clock.read(0.0) == WALL + 3606


def test_voters_are_bounded() -> None:
    clock = WallClock(0.0, WALL)
    clock.observe(0.0, WALL + 3600)
    for author in range(MAX_VOTES):
        assert not clock.vote(said(author, WALL), SKEW, 0.0)
    assert not clock.vote(said(MAX_VOTES, WALL + 3600), SKEW, 0.0)


def test_drift_is_followed() -> None:
    clock = WallClock(0.0, WALL)
    for second in range(1, 100):
        clock.observe(float(second), WALL + second * 1.01)
    assert clock.read(99.0) == pytest.approx(WALL + 99.99)
    assert not clock.disputed


def test_marks_survive_a_restart_on_another_monotonic_clock() -> None:
    before = HighWaterMarks(marks_s=1000.0)
    before.advance(said(0, version=(5, 7)), until=50.0, held=True)
    before.advance(said(1, version=(2, 3)), until=10.0, held=False)
    table = before.export(now=40.0, wall=WALL)
    assert table[SIGNERS[0].peer_id, LOAD] == (5, 7, WALL + 1010)

    after = HighWaterMarks(marks_s=1000.0)
    after.load(table, now=7.0, wall=WALL + 980)
    mark = after.get((SIGNERS[0].peer_id, LOAD))
    assert mark is not None
    assert (mark.inc, mark.seq, mark.until, mark.envelope) == (5, 7, UNSEEN, None)
    assert not mark.lives(7.0)
    assert after.get((SIGNERS[1].peer_id, LOAD)) is None  # older than it is kept
    after.sweep(36.0)
    assert len(after) == 1
    after.sweep(37.0)
    assert len(after) == 0


def test_a_clock_of_the_future_does_not_keep_marks_for_ever() -> None:
    marks = HighWaterMarks(marks_s=1000.0)
    marks.load({(SIGNERS[0].peer_id, LOAD): (1, 1, WALL * 2)}, now=0.0, wall=WALL)
    marks.sweep(1000.0 + MAX_TTL_S)
    assert len(marks) == 0


def test_statements_are_let_go_when_they_ran_out_but_marks_stay() -> None:
    marks = HighWaterMarks(marks_s=1000.0)
    mark = marks.advance(said(), until=60.0, held=True)
    marks.sweep(59.0)
    assert mark.envelope is not None
    marks.sweep(60.0)
    assert mark.envelope is None
    assert len(marks) == 1


def test_marks_are_bounded_and_rather_forget_what_nobody_holds() -> None:
    marks = HighWaterMarks(marks_s=1000.0, most=2)
    marks.advance(said(0), until=60.0, held=True)
    marks.advance(said(1), until=60.0, held=False)
    marks.advance(said(2), until=60.0, held=True)
    assert {key[0] for key, _ in marks.items()} == {SIGNERS[0].peer_id, SIGNERS[2].peer_id}
    marks.advance(said(3), until=60.0, held=True)
    assert {key[0] for key, _ in marks.items()} == {SIGNERS[2].peer_id, SIGNERS[3].peer_id}
    assert len({mark.tag for _, mark in marks.items()}) == 2


def test_hashes_are_those_of_the_statements_that_live() -> None:
    marks, rest = HighWaterMarks(1000.0), HighWaterMarks(1000.0)
    for author, until in ((0, 60.0), (1, 90.0), (2, 120.0)):
        marks.advance(said(author), until, held=True)
    assert marks.living(0.0) == 3
    for author, until in ((1, 90.0), (2, 120.0)):
        rest.advance(said(author), until, held=True)
    assert marks.living(60.0) == 2
    assert marks.hashes(60.0) == rest.hashes(60.0)
    assert {mark.envelope is None for key, mark in marks.items() if key[0] == SIGNERS[0].peer_id} == {True}
    marks.advance(said(1, version=(1, 2)), 200.0, held=True)
    assert marks.living(100.0) == 2
    assert marks.living(130.0) == 1
    assert marks.hashes(130.0)[SIGNERS[1].peer_id[0]] == said(1, version=(1, 2)).tag
    assert list(marks.hashes(200.0)) == [0] * 256


def test_a_mark_that_is_forgotten_leaves_the_hashes() -> None:
    marks = HighWaterMarks(marks_s=1000.0, most=1)
    gone = marks.advance(said(0), until=60.0, held=True)
    marks.advance(said(1), until=60.0, held=True)
    assert marks.living(0.0) == 1
    assert gone.envelope is None
    assert [key for key, _ in marks.within(SIGNERS[1].peer_id[0])] == [(SIGNERS[1].peer_id, LOAD)]


def test_a_bucket_is_listed_in_the_order_of_keys_whatever_comes_and_goes_meanwhile() -> None:
    marks = HighWaterMarks(marks_s=1000.0, most=3)

    def listed() -> list[Key]:
        return [key for bucket in range(256) for key, _ in marks.within(bucket)]

    for author in range(3):
        marks.advance(said(author), until=60.0, held=True)
        assert listed() == sorted(key for key, _ in marks.items())
    marks.advance(said(3), until=60.0, held=True)
    assert listed() == sorted((SIGNERS[author].peer_id, LOAD) for author in (1, 2, 3))


def test_tags_tell_versions_apart_but_not_copies() -> None:
    one, two = HighWaterMarks(10.0), HighWaterMarks(10.0)
    first = one.advance(said(), 1.0, held=True).tag
    assert two.advance(parse(said().wire), 1.0, held=False).tag == first
    assert one.advance(said(version=(1, 2)), 1.0, held=True).tag != first


def test_who_does_not_hold_a_statement_shares_its_mark_with_whoever_sees_it_at_about_the_same_time() -> None:
    one, two, statement, step = HighWaterMarks(10.0), HighWaterMarks(10.0), said(ttl=60), 60 * SEEN_SHARE
    mark = one.advance(statement, 60.2, held=False)
    assert 60.2 <= mark.until <= 60.2 + step
    assert two.advance(statement, 60.9, held=False) is mark
    assert two.hashes(0.0) == one.hashes(0.0)
    assert HighWaterMarks(10.0).advance(statement, 60.9 + step, held=False).until == mark.until + step
    held = one.advance(said(version=(1, 2)), 80.0, held=True)  # there is room for it now
    assert held is not mark
    assert (mark.seq, mark.envelope, two.living(60.0)) == (1, None, 1)
    assert one.advance(said(version=(1, 3)), 90.0, held=False).seq == 3  # and then there is none any more
    assert (held.envelope, one.living(0.0), two.living(mark.until)) == (None, 1, 0)
    assert one.hashes(0.0)[SIGNERS[0].peer_id[0]] == said(version=(1, 3)).tag


def test_what_ran_out_before_it_came_is_part_of_no_hash() -> None:
    marks = HighWaterMarks(10.0)
    marks.advance(said(0), 5.0, held=True)
    assert marks.living(7.0) == 0
    marks.advance(said(1), 6.0, held=True)
    assert (marks.living(7.0), list(marks.hashes(7.0))) == (0, [0] * 256)


def test_an_incarnation_is_above_all_before_it_and_at_least_the_time() -> None:
    assert next_incarnation(0, 1_800_000_000.9) == 1_800_000_000
    assert next_incarnation(1_800_000_000, 1_800_000_000.9) == 1_800_000_001  # two starts within a second
    assert next_incarnation(1_900_000_000, 1_800_000_000.0) == 1_900_000_001  # the clock was set back
