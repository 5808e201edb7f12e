"""Evidence on the disk: it comes back with its age, is written in batches, and no damage stops a start."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnode.state import evidence as module
from p2pnode.state.evidence import MOST_AGE_S, WRITE_EVENTS, WRITE_S, EvidenceWriter, load, save
from p2pnode.state.ledger import Ledger
from protocol.ids import PeerId
from protocol.reputation.experience import Experience
from protocol.reputation.observation import Observation
from protocol.reputation.outcomes import Outcome
from protocol.reputation.snapshot import JOBS, ExperienceSnapshot, Factor, Key, Pair
from tests.protocol.sample_peers import new_view

A, B = PeerId(bytes(32)), PeerId(bytes([1]) * 32)
NONE = ExperienceSnapshot()
WALL = 1_800_000_000.0


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "node.db", wall=lambda: WALL)
    yield opened
    opened.close()


SAMPLE = ExperienceSnapshot(
    {(A, "", "complete"): Pair(41.0, 2.0, 90.0), (A, "m", "latency"): Pair(0.25, 1e-9, 95.0)},
    {(A, "m", "prefill"): Factor(0.262, 0.04, 20.0, 99.0)},
)


def test_what_was_learned_comes_back_with_its_age_on_another_clock(ledger: Ledger) -> None:
    assert save(ledger, SAMPLE, 100.0, WALL)
    back = load(ledger, 5000.0, WALL + 60.0)
    assert back.evidence == {
        (A, "", "complete"): Pair(41.0, 2.0, 5000.0 - 70.0),
        (A, "m", "latency"): Pair(0.25, 1e-9, 5000.0 - 65.0),
    }
    assert back.corrections == {(A, "m", "prefill"): Factor(0.262, 0.04, 20.0, 5000.0 - 61.0)}


@given(
    st.dictionaries(
        st.tuples(st.sampled_from((A, B)), st.sampled_from(("", "m")), st.sampled_from(("complete", "rate"))),
        st.builds(Pair, st.floats(0, 200), st.floats(0, 200), st.floats(0, 100)),
        max_size=4,
    )
)
@settings(deadline=None, max_examples=30)
def test_amounts_are_kept_bit_by_bit(evidence: dict[Key, Pair]) -> None:
    ledger = Ledger(Path("/nowhere/node.db"), wall=lambda: WALL)  # in memory
    save(ledger, ExperienceSnapshot(evidence, {}), 100.0, WALL)
    back = load(ledger, 100.0, WALL).evidence
    ledger.close()
    assert {key: row[:2] for key, row in back.items()} == {key: row[:2] for key, row in evidence.items()}
    assert all(abs(row.at - evidence[key].at) < 1e-5 for key, row in back.items())


@pytest.mark.parametrize(("jump", "age"), [(-1e6, 0.0), (10.0, 20.0), (1e9, MOST_AGE_S)])
def test_a_wall_clock_that_was_set_neither_renews_nor_ages_beyond_bounds(
    ledger: Ledger, jump: float, age: float
) -> None:
    save(ledger, SAMPLE, 100.0, WALL)
    back = load(ledger, 0.0, WALL + jump)
    assert back.evidence[A, "", "complete"].at == pytest.approx(-age)


def test_rows_that_are_gone_too_old_or_too_many_leave_the_disk(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    many = {(PeerId(bytes([number]) * 32), "", "complete"): Pair(1.0, 0.0, float(number)) for number in range(10)}
    save(ledger, ExperienceSnapshot(many, SAMPLE.corrections), 100.0, WALL)
    save(ledger, ExperienceSnapshot(peers=frozenset({A, B})), 100.0, WALL)
    back = load(ledger, 100.0, WALL)
    assert (len(back.evidence), back.corrections) == (8, {})
    monkeypatch.setattr(module, "MOST_ROWS", 3)
    save(ledger, NONE, 100.0, WALL)
    assert sorted(row.at for row in load(ledger, 100.0, WALL).evidence.values()) == pytest.approx([7.0, 8.0, 9.0])
    save(ledger, NONE, 100.0, WALL + MOST_AGE_S - 91.5)
    assert len(load(ledger, 100.0, WALL).evidence) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "update evidence set r = -1.0",
        "update evidence set r = 1e300",
        "update evidence set s = 'x'",
        "update evidence set peer = x'00'",
        "update evidence set wall = 'x'",
        "update corrections set mean = 1e9",
        "update corrections set variance = -1e-9",
        "update corrections set count = 9e999",
    ],
)
def test_a_row_that_makes_no_sense_is_skipped(ledger: Ledger, statement: str) -> None:
    save(ledger, ExperienceSnapshot({(A, "", "complete"): Pair(1.0, 1.0, 1.0)}, SAMPLE.corrections), 100.0, WALL)
    with sqlite3.connect(ledger.path) as other:
        other.execute(statement)
    other.close()
    back = load(ledger, 100.0, WALL)
    assert len(back.evidence) + len(back.corrections) == 1


def observe(experience: Experience, who: PeerId) -> None:
    experience.observed(Observation(who, "m", Outcome.COMPLETED, False), trio.current_time())


def on_disk(ledger: Ledger) -> float:
    """Completed jobs."""
    return sum(row.good for key, row in load(ledger, 0.0, WALL).evidence.items() if key[2] == JOBS)


async def looked(writer: EvidenceWriter, seconds: float) -> None:
    """As the daemon's poll does."""
    end = trio.current_time() + seconds
    while trio.current_time() < end:
        await trio.sleep(0.5)
        writer.look(trio.current_time())
    await trio.testing.wait_all_tasks_blocked()


async def test_a_change_is_written_within_five_seconds_and_many_at_once(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    ledger, experience = Ledger(tmp_path / "node.db", wall=lambda: WALL, threads=False), Experience(new_view())
    writer = EvidenceWriter(ledger, experience, lambda: WALL)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        await looked(writer, 60)
        assert ledger.rows("select * from evidence", tuple) == [], "nothing happened, nothing is written"
        observe(experience, A)
        await looked(writer, 2)
        assert on_disk(ledger) == 0
        await looked(writer, 2.5)
        assert on_disk(ledger) == 1
        for _ in range(WRITE_EVENTS):
            observe(experience, B)
        await looked(writer, 0.5)
        assert on_disk(ledger) == 1 + WRITE_EVENTS
        observe(experience, A)
        nursery.cancel_scope.cancel()
    assert on_disk(ledger) == 2 + WRITE_EVENTS, "the last change is written at the end"
    ledger.close()


async def test_while_the_disk_takes_nothing_evidence_stays_in_memory_and_is_written_later(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, experience = Ledger(tmp_path / "node.db", wall=lambda: WALL, threads=False), Experience(new_view())
    ledger._connection.execute("pragma max_page_count = 12")
    writer, tries = EvidenceWriter(ledger, experience, lambda: WALL), []
    write = ledger.write
    monkeypatch.setattr(ledger, "write", lambda *args, **more: tries.append(1) or write(*args, **more))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        for number in range(1000):
            observe(experience, PeerId(random.Random(number).randbytes(32)))
        await looked(writer, 30)
        assert on_disk(ledger) == 0
        assert "disk is full" in ledger.problem
        assert len(tries) <= 30 / WRITE_S + 1
        ledger._connection.execute("pragma max_page_count = 10000")
        await looked(writer, 5)
        assert on_disk(ledger) == 1000
        assert ledger.problem == ""
        nursery.cancel_scope.cancel()
    ledger.close()
