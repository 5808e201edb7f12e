"""Experience over a restart: bit by bit what it was, whatever the rows are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import PeerId
from protocol.membership.columns import LEARNED
from protocol.membership.learned import OF_A_GROUP, OF_A_PEER
from protocol.membership.peer_columns import PEER_COLUMNS
from protocol.membership.peer_view import PeerView
from protocol.perf.forecast import Forecast
from protocol.reputation import snapshot
from protocol.reputation.correction import MOST_COUNT
from protocol.reputation.evidence import LAWS, Dimension
from protocol.reputation.experience import Experience
from protocol.reputation.observation import Observation
from protocol.reputation.outcomes import BLAMED, Outcome
from protocol.reputation.snapshot import JOBS, NEWCOMERS, NOBODY, ExperienceSnapshot, Factor, Key, Pair
from tests.protocol.sample_peers import MODEL, new_view, peer, put

FORECAST = Forecast(1.0, 0.02, 0.35, 0.0, 1.0, 0.02)


def lived(jobs: list[tuple[int, Outcome]]) -> tuple[PeerView, Experience]:
    """Jobs at peers, one each second."""
    view = new_view()
    for number in (1, 2, 3):
        put(view, number)
        view.set_link(peer(number), True, True, f"192.0.2.{number}", 0.0)
    experience = Experience(view)
    for now, (number, outcome) in enumerate(jobs):
        experience.attempted(peer(number), float(now))
        times = (2.0, 0.05, 40) if outcome is Outcome.COMPLETED else (None, None, 0)
        seen = Observation(peer(number), MODEL, outcome, outcome in BLAMED, *times, forecast=FORECAST, lost_s=1.0)
        experience.observed(seen, float(now))
    return view, experience


def column(view: PeerView, who: PeerId, name: str) -> float:
    record = view.get(who)
    assert record is not None
    columns = view.columns if name in PEER_COLUMNS else view.learned.past
    return float(columns[name][record.row])


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from(Outcome)), max_size=40))
def test_a_restored_experience_is_bit_by_bit_what_it_was(jobs: list[tuple[int, Outcome]]) -> None:
    view, experience = lived(jobs)
    assert experience.events == len(jobs)
    kept = experience.snapshot()
    after_view, after = lived([])
    after.restore(kept, 40.0)
    assert after.snapshot() == kept
    for number in (1, 2, 3):
        for name in (*OF_A_PEER[:-1], *OF_A_GROUP):
            assert column(after_view, peer(number), name) == column(view, peer(number), name)
    offers, before = after_view.offers(MODEL), view.offers(MODEL)
    assert offers is not None
    assert before is not None
    assert all((offers.column(name) == before.column(name)).all() for name in LEARNED[:-1])
    assert after.newcomers.prior(40.0) == experience.newcomers.prior(40.0)


def test_a_peer_that_is_met_later_has_its_past() -> None:
    _, experience = lived([(1, Outcome.FAILED)] * 3)
    view = new_view()
    after = Experience(view)
    after.restore(experience.snapshot(), 3.0)
    put(view, 1)
    assert column(view, peer(1), "bad") > 0
    history = after.histories.get(peer(1))
    assert history is not None
    assert (history.completed, history.failed) == (0, 3)


def test_no_row_counts_for_more_than_a_life_of_jobs_could_make() -> None:
    _, after = lived([])
    rows = {
        (peer(1), "", "complete"): Pair(1e9, 1e9, 0.0),
        (NOBODY, "", NEWCOMERS): Pair(1e9, 0.0, 0.0),
        (NOBODY, "192.0.0.0/8", NEWCOMERS): Pair(0.0, 1e9, 0.0),
        (peer(1), "", JOBS): Pair(7.0, 2.0, 0.0),
        (peer(2), "a model", "complete"): Pair(1.0, 1.0, 0.0),
        (peer(2), "", "something of a later version"): Pair(1.0, 1.0, 0.0),
    }
    after.restore(ExperienceSnapshot(rows, {(peer(1), "", "prompt"): Factor(1.0, 0.0, 1e9, 0.0)}), 0.0)
    assert after.snapshot().corrections[peer(1), "", "prompt"].amount == MOST_COUNT
    kept = after.snapshot().evidence
    most = LAWS[Dimension.COMPLETE].most
    assert kept[peer(1), "", "complete"] == Pair(most / 2, most / 2, 0.0)
    assert kept[peer(1), "", JOBS] == Pair(7.0, 2.0, 0.0)
    assert kept[NOBODY, "", NEWCOMERS].good <= 50.0
    assert kept[NOBODY, "192.0.0.0/8", NEWCOMERS].bad <= 50.0
    assert after.histories.get(peer(2)) is None


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from(Outcome)), max_size=40), st.sets(st.integers(0, 39)))
def test_changes_written_one_after_the_other_are_the_snapshot(
    jobs: list[tuple[int, Outcome]], writes: set[int]
) -> None:
    _, experience = lived([])
    evidence: dict[Key, Pair] = {}
    corrections: dict[Key, Factor] = {}
    written = 0
    for now, (number, outcome) in enumerate([*jobs, (1, Outcome.COMPLETED)]):
        blame = outcome in BLAMED and now % 7 > 0  # now and then our own network is to blame
        times = (2.0, 0.05, 40) if outcome is Outcome.COMPLETED else (None, None, 0)
        model = f"model {now % 3}"
        seen = Observation(peer(number), model, outcome, blame, *times, forecast=FORECAST, lost_s=1.0)
        experience.observed(seen, float(now))
        if now in writes or now == len(jobs):
            changed = experience.changes(written)
            evidence = {key: row for key, row in evidence.items() if key[0] not in changed.peers}
            corrections = {key: row for key, row in corrections.items() if key[0] not in changed.peers}
            evidence |= changed.evidence
            corrections |= changed.corrections
            written = experience.events
    assert (evidence, corrections) == experience.snapshot()[:2]
    assert experience.changes(written) == ExperienceSnapshot()


def test_rows_of_a_peer_that_was_forgotten_are_gone() -> None:
    experience = Experience(new_view(), most_peers=2)
    for number in range(1, 5):
        experience.observed(Observation(peer(number), "m", Outcome.COMPLETED, False), 1.0)
    changed = experience.changes(0)
    assert len(changed.peers) == 4
    assert {key[0] for key in changed.evidence} == {who for who, _ in experience.histories.items()} | {NOBODY}


def test_of_too_many_changes_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "MOST_CHANGES", 2)
    changes = snapshot.Changes[str]()
    for event, thing in enumerate("abcb"):
        changes.note(thing, event)
    assert changes.since(-1) == {"b", "c"}
    assert changes.since(2) == {"b"}
    assert changes.since(3) == frozenset()
