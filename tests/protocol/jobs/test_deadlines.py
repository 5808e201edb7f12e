"""The time that one attempt has: what the prediction gives, what a promise adds, which pace is asked for."""

from __future__ import annotations

import math

import pytest

from protocol.ids import PeerId
from protocol.jobs.cascade_events import Begin
from protocol.jobs.deadlines import (
    PIECE_S,
    PIECE_TOKENS,
    TOKEN_LEAST_S,
    UNKNOWN_TOKEN_S,
    WINDOW_PIECES,
    WINDOW_TOKENS,
    Deadlines,
)
from protocol.perf.forecast import Forecast
from protocol.settings import CascadeSettings

SETTINGS = CascadeSettings()
PEER = PeerId(b"p" * 32)
SIGMA = 0.35
STRETCH = math.exp(2 * SIGMA)


def forecast(ttft_s: float = 0.5, itl_s: float = 0.02, sigma: float = SIGMA, chunk_s: float = 0.0) -> Forecast:
    return Forecast(ttft_s, itl_s, sigma, 0.0, ttft_s, itl_s, chunk_s)


def deadlines(given: Forecast | None = None, **begin: object) -> Deadlines:
    return Deadlines(SETTINGS, Begin((PEER,), **begin), given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "promise_s", "first_s"),
    [
        (None, 0.0, 5.0),
        (None, 4.0, 12.0),
        (None, 1e6, 60.0),
        (forecast(0.5), 0.0, 5.0),
        (forecast(10.0), 0.0, 10 * STRETCH),
        (forecast(0.5), 1.0, 5.0),
        (forecast(0.5), 4.0, 12.0),
        (forecast(0.5), 1e6, 15.0),
        (forecast(10.0), 1e6, 30 * STRETCH),
        (forecast(1.0, sigma=9.0), 0.0, math.exp(2)),
    ],
)
def test_the_first_piece_is_due_by_prediction_and_promise(
    given: Forecast | None, promise_s: float, first_s: float
) -> None:
    found = deadlines(given)
    assert found.first_due(100.0, promise_s, last=False) == pytest.approx(100 + first_s)
    assert found.first_due(100.0, promise_s, last=True) == pytest.approx(
        100 + (max(first_s, 60.0) if promise_s > 100 else first_s)
    )
    assert found.too_late(promise_s) == (promise_s > 100)


def test_upload_and_the_tokens_of_a_whole_answer_come_on_top() -> None:
    assert deadlines(forecast(), body_bytes=SETTINGS.upload_bytes_s).first_due(0, 0, last=False) == 6.0
    whole = {"stream": False, "tokens_before": 100.0}
    assert deadlines(forecast(itl_s=0.5), **whole).first_due(0, 0, last=False) == pytest.approx(5 + 50 * STRETCH)
    assert deadlines(forecast(itl_s=1e-6), **whole).first_due(0, 0, last=False) == 5 + 100 * TOKEN_LEAST_S
    assert deadlines(None, **whole).first_due(0, 0, last=False) == 5 + 100 * UNKNOWN_TOKEN_S


def test_the_pace_follows_the_prediction() -> None:
    fast = deadlines(forecast(itl_s=0.02))
    assert (fast.window_s, fast.least_pieces) == (SETTINGS.pace_window_s, SETTINGS.pace_window_s // PIECE_S)
    boundless = deadlines(forecast(itl_s=1e-9))
    assert (boundless.window_s, boundless.least_pieces) == (fast.window_s, fast.least_pieces)
    slow = deadlines(forecast(itl_s=2.0))
    assert slow.window_s == pytest.approx(2 * STRETCH * WINDOW_TOKENS)
    assert slow.least_pieces == WINDOW_TOKENS // PIECE_TOKENS
    reading = deadlines(forecast(chunk_s=3.0))
    assert reading.window_s == pytest.approx(3 * STRETCH * WINDOW_PIECES)
    assert reading.least_pieces == WINDOW_PIECES


def test_where_pieces_do_not_tell_the_pace_few_are_enough() -> None:
    held = deadlines(forecast(), holds_back=True)
    assert (held.window_s, held.least_pieces) == (SETTINGS.progress_window_s, 1)
    assert deadlines(forecast(itl_s=2.0), holds_back=True).window_s == pytest.approx(2 * STRETCH * WINDOW_TOKENS)
    for found in (deadlines(None), deadlines(forecast(), stream=False, tokens_before=10.0)):
        assert found.window_s == SETTINGS.progress_window_s
        assert found.least_pieces == SETTINGS.least_deltas_s * SETTINGS.progress_window_s
