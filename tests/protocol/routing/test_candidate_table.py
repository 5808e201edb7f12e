"""The columns that policies read: queues, predicted seconds, and a draw without a pattern."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.routing.candidate_table import CandidateTable, JobQuery, noise
from protocol.statements.adverts import ModelState
from tests.protocol.sample_peers import MODEL, advert, idle, new_view, offer, peer, put


def test_jobs_without_a_place_make_the_next_wait() -> None:
    view = new_view()
    put(view, 1, load=idle(running=8, waiting=8))
    put(view, 2, load=idle(running=7))
    offers = view.offers(MODEL)
    assert offers is not None
    waits, starts = CandidateTable(view, offers, JobQuery(MODEL), 1.0).queue.tolist()
    assert waits > starts == 0


def test_a_cold_start_takes_as_long_as_the_state_of_the_model_says() -> None:
    """16.06 GB: nothing if resident, copied at 25 GB/s and 0.3 s if asleep, read at 2 GB/s and 15 s if on disk."""
    view = new_view()
    for number, state in enumerate((ModelState.RESIDENT, ModelState.SLEEPING, ModelState.ON_DISK), 1):
        put(view, number, advert(offer(state=int(state))))
    offers = view.offers(MODEL)
    assert offers is not None
    table = CandidateTable(view, offers, JobQuery(MODEL), 1.0)
    by_peer = {table.record(place).peer: seconds for place, seconds in enumerate(table.cold.tolist())}
    assert by_peer == {
        peer(1): 0.0,
        peer(2): pytest.approx(16.06 / 25 + 0.3),
        peer(3): pytest.approx(16.06 / 2 + 15.0),
    }


def test_noise_is_splitmix64() -> None:
    """The first five outputs for the seed 1234567, as its authors' program prints them; 52 bits of each are used."""
    words = (
        *(6457827717110365317, 3203168211198807973, 9817491932198370423),
        *(4593380528125082431, 16408922859458223821),
    )
    assert noise(1234567, 5).tolist() == [((word >> 12) + 0.5) / 2**52 for word in words]


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
