"""The runner measures what it says: Poisson arrivals, quantiles, and a small network in figures."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.fullstack.bench import measure
from tests.fullstack.figures import Run, arrivals, body_of, error_by_author, quantile_error, quantiles, share


def test_quantiles_are_by_nearest_rank() -> None:
    assert quantiles([]) is None
    found = quantiles([4.0, 1.0, 3.0, 2.0])
    assert found == {"n": 4, "mean": 2.5, "p50": 2.0, "p90": 4.0, "p99": 4.0, "max": 4.0}
    assert share([1.0, 2.0, 3.0], 0.5) == 2.0


def test_a_figure_says_how_sure_it_is() -> None:
    assert error_by_author([(1, 1.0), (1, 3.0)]) is None
    assert error_by_author([(1, 1.0), (1, 3.0), (2, 4.0)]) == pytest.approx(1.0)
    assert quantile_error([1.0], 0.5) is None
    assert quantile_error([float(number) for number in range(101)], 0.5) == pytest.approx(5.0, abs=0.5)
    assert quantile_error([1.0, 2.0, 3.0], 0.99) == pytest.approx(0.5, abs=0.5)


def test_arrivals_repeat_and_have_their_rate() -> None:
    run = Run(nodes=7, jobs_per_s=20.0, time_s=500.0)
    first = list(arrivals(run))
    assert first == list(arrivals(run))
    assert len(first) == pytest.approx(10_000, rel=0.03)
    assert {arrival.entry for arrival in first} == set(range(7))
    assert list(arrivals(Run())) == []
    assert len(body_of(run, 1, "m")["messages"][0]["content"]) == 4 * run.prompt_tokens


@pytest.mark.slow
def test_five_nodes_in_figures() -> None:
    run = Run(nodes=5, one_way_s=0.02, stagger_s=0.5, warm_s=5.0, time_s=20.0, jobs_per_s=1.0)
    found = measure(run)
    assert found["jobs_failed"] == found["faults"] == 0
    assert found["jobs_completed"] == sum(1 for _ in arrivals(run))
    assert found["gossip_changes"] == 4
    # Nobody is nearer than one way; a change that waits for its turn waits for a tick at most at each of two hops.
    assert 0.0199 <= found["gossip_t50_s"] <= found["gossip_t99_s"] < 2.5
    assert 100 < found["gossip_bytes_per_node_s"] < 8 * 1024
    assert found["bytes_per_node_s"] > found["gossip_bytes_per_node_s"]
    assert 0.05 < found["ttft_s"]["p50"] < 0.3
    assert found["prompt_tokens_counted"] == pytest.approx(run.prompt_tokens, rel=0.05)
    assert found["load_age_s"]["max"] < 10


@pytest.mark.slow
def test_the_command_prints_json() -> None:
    command = [sys.executable, "-m", "tests.fullstack", "--nodes", "2", "--stagger", "0", "--warm", "1", "--time", "5"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert {"gossip_t50_s", "gossip_t99_s", "gossip_bytes_per_node_s", "bytes_per_node_s", "ttft_s"} <= set(found)
    assert found["virtual_s_per_cpu_s"] > 0
