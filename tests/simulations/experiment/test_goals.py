"""Goals: how they are read, and when they hold."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from simulations.experiment import goals
from simulations.experiment.goals import (
    DISTRIBUTIONS,
    FIGURES,
    NUMBERS,
    GoalError,
    as_text,
    judged,
    metric_of,
    read_goal,
)
from simulations.sim.jobs import STAGES


def made(seed: int, **metrics: Any) -> dict[str, Any]:
    return {"seed": seed, "virtual_s": 12.0, "partial": False, "breach": None, "error": None, "metrics": metrics}


@pytest.mark.parametrize(
    ("bound", "inside", "outside"),
    [
        (">= 0.995", 0.995, 0.994),
        ("<= 8192", 8192, 8193),
        ("> 1", 1.1, 1.0),
        ("<2e3", 1999, 2000),
        ("== 0", 0, 1),
        (">= 0.4, <= 0.6", 0.5, 0.7),
        (">= -1_000", -1000, -1001),
    ],
)
def test_a_bound_holds_or_not(bound: str, inside: float, outside: float) -> None:
    goal = read_goal("success_rate", bound)
    assert goal.bound.holds(inside)
    assert not goal.bound.holds(outside)


@pytest.mark.parametrize("bound", ["0.995", ">= high", "=> 1", "", ">= 1;", 0.995, ">= 10s"])
def test_a_bound_that_cannot_be_read(bound: Any) -> None:
    with pytest.raises(GoalError, match=r"is no bound: write one of >=, <=, ==, >, < and a number"):
        read_goal("success_rate", bound)


def test_an_unknown_metric_names_near_ones_and_all() -> None:
    with pytest.raises(
        GoalError, match=r"no metric coverage_t90_s \(did you mean coverage_t\d+_s\?\); there are .*jain"
    ):
        read_goal("coverage_t90_s", "<= 1")


def test_a_distribution_needs_a_figure_and_a_number_none() -> None:
    with pytest.raises(GoalError, match=r"ttft_s is a distribution: write one of ttft_s.n, ttft_s.mean, ttft_s.p50"):
        read_goal("ttft_s", "<= 1")
    with pytest.raises(GoalError, match=r"ttft_s is a distribution"):
        read_goal("ttft_s.p97", "<= 1")
    with pytest.raises(GoalError, match=r"success_rate is one number: write it without .p50"):
        read_goal("success_rate.p50", "<= 1")


def test_a_goal_can_be_bound_to_points() -> None:
    goal = read_goal("topology.nodes=100|1000, routing.policy=random, topology.loss=0.10: ttft_s.p99", "<= 6")
    assert goal.metric == "ttft_s.p99"
    point = {"topology.nodes": 1000, "routing.policy": "random", "topology.loss": 0.1}
    assert goal.concerns(point.get)
    assert not goal.concerns((point | {"topology.nodes": 10}).get)
    assert not goal.concerns((point | {"topology.loss": 0.2}).get)
    with pytest.raises(GoalError, match=r"'nodes' does not say which points: write KEY=VALUE: METRIC"):
        read_goal("nodes: success_rate", ">= 1")


def test_values_are_written_one_way() -> None:
    assert [as_text(value) for value in (True, 5, 5.0, 0.1, "x")] == ["true", "5", "5", "0.1", "x"]


def test_the_value_is_the_median_over_the_seeds() -> None:
    goal = read_goal("ttft_s.p99", "<= 2")
    runs = [made(1, ttft_s={"p99": 9.0}), made(2, ttft_s={"p99": 1.0}), made(3, ttft_s={"p99": 1.5})]
    found = judged(goal, {"topology.nodes": 5}, runs, 3)
    assert (found["value"], found["passed"], found["reason"]) == (1.5, True, "")
    assert (found["goal"], found["bound"], found["point"]) == ("ttft_s.p99", "<= 2", {"topology.nodes": 5})


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        ([], "no run of this point was finished"),
        ([made(1), made(2)], "success_rate was not measured"),
        ([made(1, success_rate=None)], "success_rate was not measured"),
        ([made(1, success_rate=1.0), made(2)], "success_rate was not measured with seed 2"),
        ([made(1, success_rate=1.0)], "only 1 of 2 seeds were finished"),
        ([made(1, success_rate=1.0), made(2, success_rate=1.0) | {"error": {"what": "x"}}], "seed 2 crashed"),
        (
            [made(1, success_rate=1.0), made(2, success_rate=1.0) | {"breach": {"invariant": "I5"}}],
            "seed 2 broke invariant I5",
        ),
        ([made(1, success_rate=1.0) | {"partial": True}], "seed 1 was stopped at 12 s"),
    ],
)
def test_what_cannot_be_told_has_failed_and_says_why(runs: list[dict[str, Any]], reason: str) -> None:
    found = judged(read_goal("success_rate", ">= 0.5"), {}, runs, 2)
    assert (found["passed"], found["reason"]) == (False, reason)


@pytest.mark.parametrize(("bound", "passed"), [("<= 2", False), ("< 2", False), ("== 2", False), (">= 1", True)])
def test_an_upper_bound_fails_if_one_seed_does_not_reach_it(bound: str, passed: bool) -> None:
    runs = [made(seed, ttft_s={"p99": value}) for seed, value in ((1, 2.0), (2, "inf"), (3, 2.0))]
    found = judged(read_goal("ttft_s.p99", bound), {}, runs, 3)
    assert (found["value"], found["passed"]) == (2.0, passed)
    assert found["reason"] == ("" if passed else "ttft_s.p99 was not reached with seed 2")


def test_metrics_are_found_by_name_and_figure() -> None:
    metrics = {"a": 1, "b": {"p50": 2}, "c": None, "e": "inf"}
    found = [metric_of(metrics, name) for name in ("a", "b.p50", "b", "b.p99", "a.p50", "c", "d")]
    assert found == [1.0, 2.0, None, None, None, None, None]
    assert metric_of(metrics, "e") == math.inf


def test_every_metric_is_documented() -> None:
    readme = (Path(goals.__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    documented = {name.removesuffix("{}") for name in re.findall(r"`([a-z0-9_]+(?:\{\})?)`", readme)}
    assert documented >= set(STAGES)
    known = {*goals.NUMBERS, *goals.DISTRIBUTIONS, *goals.COSTS}
    assert documented >= known - {f"ttft_{stage}{end}" for stage in STAGES for end in ("_s", "_slowest_s")}


def test_every_metric_can_be_named() -> None:
    for name in (*NUMBERS, *(f"{head}.{figure}" for head in DISTRIBUTIONS for figure in FIGURES)):
        assert read_goal(name, ">= 0").metric == name
