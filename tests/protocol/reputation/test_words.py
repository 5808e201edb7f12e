"""Evidence in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.membership.peer_view import PeerView
from protocol.reputation.breaker import FIRST_S, MOST_FAILURES
from protocol.reputation.experience import RETRACT_S, Experience
from protocol.reputation.observation import Observation
from protocol.reputation.outcomes import Outcome
from protocol.reputation.words import Seen, in_words, seen_of
from protocol.statements.adverts import Load
from tests.protocol.sample_peers import new_view, peer, put

A = peer(1)


def told(view: PeerView, experience: Experience, now: float) -> str:
    record = view.get(A)
    assert record is not None
    return in_words(seen_of(record, experience.histories.get(A), now))


def met(load: Load | None = None) -> tuple[PeerView, Experience]:
    view = new_view()
    put(view, 1, load=load)
    return view, Experience(view)


def ended(outcome: Outcome, blame: bool = True) -> Observation:
    return Observation(A, "m", outcome, blame, lost_s=1.0)


def test_jobs_are_told_until_the_breaker_opens_and_after_it() -> None:
    view, experience = met()
    assert told(view, experience, 0.0) == "no evidence yet"
    experience.observed(ended(Outcome.COMPLETED), 0.0)
    experience.observed(ended(Outcome.BUSY, blame=False), 0.0)
    assert told(view, experience, 0.0) == "1 of 1 complete", "a full peer has not failed"
    for _ in range(MOST_FAILURES + 1):
        experience.observed(ended(Outcome.FAILED), 1.0)
    assert told(view, experience, 4.0) == "1 of 7 complete, breaker open for 27 s more after 6 failures"
    assert told(view, experience, 1.0 + FIRST_S) == "1 of 7 complete, breaker half-open: one job at a time may try"


def test_what_our_own_network_broke_is_told_of_no_peer() -> None:
    view, experience = met()
    for _ in range(2):
        experience.observed(ended(Outcome.BROKEN), 1.0)
    assert told(view, experience, 1.0) == "0 of 2 complete"
    experience.observed(ended(Outcome.BROKEN, blame=False), 1.0 + RETRACT_S / 2)
    assert told(view, experience, 6.0) == "no evidence yet"


def test_failed_dials_and_claims_that_cannot_be_true_are_told_of_a_stranger() -> None:
    view, experience = met(Load(slots=1 << 20))
    view.observe_unreachable(A, 1.0)
    assert told(view, experience, 1.0) == (
        "no evidence yet, the last dial failed, claims 1,048,576 slots; up to 4,096 are plausible: not used"
    )


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (Seen(), "no evidence yet"),
        (Seen(completed=41, failed=2, slower=1.3), "41 of 43 complete, 1.3 × slower than it claims"),
        (Seen(completed=3, slower=1.05), "3 of 3 complete"),
        (Seen(completed=3, slower=0.5), "3 of 3 complete, 2.0 × faster than it claims"),
        (Seen(failed=4, slower=1234.0), "0 of 4 complete, 1,234 × slower than it claims"),
        (
            Seen(failed=6, breaker="open", barred_s=27.2, failures=6),
            "0 of 6 complete, breaker open for 27 s more after 6 failures",
        ),
        (Seen(completed=1, breaker="open", barred_s=300.0), "1 of 1 complete, breaker open for 5 min more"),
        (
            Seen(completed=1, failed=6, breaker="half-open"),
            "1 of 7 complete, breaker half-open: one job at a time may try",
        ),
        (Seen(misses=1), "no evidence yet, the last dial failed"),
        (Seen(misses=3), "no evidence yet, the last 3 dials failed"),
        (
            Seen(absurd="claims 1e+12 TFLOPS in fp16 for each 'X'; 990 count"),
            "no evidence yet, claims 1e+12 TFLOPS in fp16 for each 'X'; 990 count: not used",
        ),
    ],
)
def test_the_sentence(seen: Seen, words: str) -> None:
    assert in_words(seen) == words


@given(st.floats(1e-9, 1e9), st.floats(0, 1e6))
def test_no_figure_makes_a_sentence_of_nonsense(slower: float, barred_s: float) -> None:
    words = in_words(Seen(completed=1, slower=slower, breaker="open", barred_s=barred_s))
    assert "e+" not in words
    assert " 0.0 ×" not in words
