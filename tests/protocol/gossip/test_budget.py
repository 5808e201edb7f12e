"""The upload budget of gossip: a flow, bursts, and how a burst is paid back."""

from __future__ import annotations

import pytest

from protocol.gossip.budget import EVEN_S, PAYBACK_SHARE, SAVED_S, SAVED_SHARE, SYNC_SHARE, Budget


def test_a_node_begins_with_a_burst_and_no_flow_and_saves_half_of_it_again() -> None:
    budget = Budget(1000.0, 100_000.0, 1.0, now=0.0)
    assert budget.flow.level(0.0) == (1 - SYNC_SHARE) * 1000.0
    assert budget.flow.level(100.0) == (1 - SYNC_SHARE) * 1000.0 * SAVED_S
    assert budget.sync.spend(20_000, 0.0)
    budget.settle(0, 0.0)
    assert budget.sync.level(10_000.0) == 80_000.0  # what was spent of the first burst does not come back
    assert budget.sync.spend(80_000, 10_000.0)
    budget.settle(0, 10_000.0)
    assert budget.sync.level(20_000.0) == SAVED_SHARE * 100_000.0


def test_a_burst_is_paid_back_by_the_flow() -> None:
    budget = Budget(1000.0, 100_000.0, 1.0, now=0.0)
    sent, timing = 50_000.0, []
    budget.settle(50_000, 0.0)
    for second in range(1, 601):  # all that may be sent is
        flow = max(0.0, budget.flow.level(second))
        budget.flow.spend(flow, second)
        sent += flow + SYNC_SHARE * 1000.0
        timing.append(flow)
        budget.settle(round(sent), second)
    assert timing[100] == pytest.approx((1 - PAYBACK_SHARE) * timing[-1])
    assert timing[-1] == pytest.approx((1 - SYNC_SHARE) * 1000.0)
    assert sent <= 1000.0 * (600 + EVEN_S)


def test_after_a_long_rest_all_that_may_be_saved_is() -> None:
    budget = Budget(1000.0, 100_000.0, 1.0, now=0.0)
    budget.settle(500_000, 0.0)
    budget.rest()
    assert budget.sync.level(0.0) == SAVED_SHARE * 100_000.0
    before = budget.flow.level(0.0)
    budget.settle(500_000, 0.0)
    assert budget.flow.level(0.0) == before
