"""The store of histories: it is bounded, and forgets those who have the least to lose."""

from __future__ import annotations

from protocol.reputation.breaker import MOST_FAILURES
from protocol.reputation.evidence import Dimension
from protocol.reputation.observation import Observation
from protocol.reputation.outcomes import Outcome
from protocol.reputation.peer_history import MOST_MODELS, Histories
from tests.protocol.sample_peers import peer


def test_the_peers_with_the_least_evidence_go_first() -> None:
    histories = Histories(40)
    for number in range(1, 42):
        for _ in range(number):
            histories.of(peer(number), 0.0).observe(Dimension.COMPLETE, 1.0, 1.0, 0.0)
    assert histories.shrink(0.0) == [peer(1), peer(2)], "a twentieth at once"
    assert len(histories) == 39
    assert histories.get(peer(1)) is None
    assert histories.get(peer(41)) is not None
    assert histories.shrink(0.0) == []
    assert dict(histories.items())[peer(3)].amount(0.0) == 3.0


def test_a_flood_of_strangers_does_not_wash_failures_away() -> None:
    histories = Histories(20)
    barred, liar = histories.of(peer(1), 0.0), histories.of(peer(2), 0.0)
    for _ in range(MOST_FAILURES + 1):
        barred.breaker.failed(0.0)
    liar.observe(Dimension.INTEGRITY, 0.0, 1.0, 0.0)
    for number in range(3, 200):
        for _ in range(9):
            histories.of(peer(number), 1.0).observe(Dimension.LIVE, 1.0, 1.0, 1.0)
        histories.shrink(1.0)
    assert histories.get(peer(1)) is barred
    assert histories.get(peer(2)) is liar
    assert len(histories) <= 20


def test_the_pinned_have_a_bound_as_well() -> None:
    histories = Histories(20)
    for number in range(1, 100):
        history = histories.of(peer(number), float(number))
        for _ in range(MOST_FAILURES + 1):
            history.breaker.failed(float(number))
        histories.shrink(float(number))
    assert len(histories) <= 20
    assert histories.get(peer(99)) is not None


def test_a_peer_has_factors_of_the_models_that_it_was_asked_for_last() -> None:
    history = Histories().of(peer(1), 0.0)
    for number in range(MOST_MODELS + 2):
        history.correct(Observation(peer(1), f"m{number}", Outcome.BUSY, False), 0.0)
        history.correct(Observation(peer(1), "m0", Outcome.BUSY, False), 0.0)
    assert len(history.models) == MOST_MODELS
    assert "m0" in history.models
    assert "m1" not in history.models
