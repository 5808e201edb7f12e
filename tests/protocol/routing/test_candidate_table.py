"""The columns that policies read: queues, predicted seconds, and a draw without a pattern."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.routing.candidate_table import CandidateTable, JobQuery, noise
from tests.protocol.sample_peers import MODEL, idle, new_view, put


def test_jobs_without_a_place_make_the_next_wait() -> None:
    view = new_view()
    put(view, 1, load=idle(running=8, waiting=8))
    put(view, 2, load=idle(running=7))
    offers = view.offers(MODEL)
    assert offers is not None
    waits, starts = CandidateTable(view, offers, JobQuery(MODEL), 1.0).queue.tolist()
    assert waits > starts == 0


@settings(deadline=None, max_examples=50)
@given(st.integers(), st.integers(0, 300))
def test_noise_is_between_nought_and_one_and_repeats(seed: int, size: int) -> None:
    drawn = noise(seed, size)
    assert len(drawn) == size
    assert ((drawn > 0) & (drawn < 1)).all()
    assert (drawn == noise(seed, size)).all()


def test_noise_has_no_pattern() -> None:
    drawn = noise(3, 100_000)
    assert drawn.mean() == pytest.approx(0.5, abs=0.01)
    assert drawn.var() == pytest.approx(1 / 12, abs=0.005)
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.02
