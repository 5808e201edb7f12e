"""Comparisons and baselines: what counts, what is only said."""

from __future__ import annotations

import copy
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from simulations.experiment import compare, results, tables
from simulations.experiment.compare import Drift, GoalChange, baseline_of, compared
from simulations.experiment.loading import load
from simulations.experiment.overrides import ScenarioError
from simulations.experiment.run_pool import one_run, plan

FAKE_RUN = "tests.simulations.experiment.fake_run:run"


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "x.toml"
    path.write_text(
        'name = "x"\nseeds = [1, 2, 3]\n[sweep]\n"topology.nodes" = [5, 6]\n'
        '[goals]\nsuccess_rate = ">= 0.9"\n"ttft_s.p50" = "<= 0.1"\n'
    )
    loaded = load(path)
    return results.document(loaded, [one_run(each, FAKE_RUN).run for each in plan(loaded)], False)


def changed(document: dict[str, Any], metric: str, factor: float, point: int = 0) -> dict[str, Any]:
    other = copy.deepcopy(document)
    spread = other["summary"][point]["metrics"][metric]
    spread["median"] *= factor
    return other


@pytest.mark.parametrize(
    ("before", "now", "change"),
    [
        (True, True, "ok"),
        (True, False, "broken"),
        (False, False, "known"),
        (False, True, "mended"),
        (None, True, "new"),
        (None, False, "broken"),
        (True, None, "gone"),
    ],
)
def test_what_becomes_of_a_goal(before: bool | None, now: bool | None, change: str) -> None:
    old, new = (None if passed is None else {"passed": passed} for passed in (before, now))
    assert GoalChange("g", "", ">= 1", old, new).change == change


@pytest.mark.parametrize(
    ("before", "now", "tolerance", "share", "outside"),
    [
        (2.0, 2.1, 0.1, 0.05, False),
        (2.0, 1.7, 0.1, -0.15, True),
        (2.0, 9.0, None, 3.5, False),
        (0.0, 0.0, 0.1, 0.0, False),
        (0.0, 1.0, 0.1, float("inf"), True),
        (2.0, None, 0.1, None, True),
        (None, 2.0, 0.1, None, False),
        (-2.0, -2.1, 0.01, -0.05, True),
        (2.0, math.inf, 0.1, math.inf, True),
        (math.inf, 2.0, 0.1, -math.inf, True),
        (math.inf, math.inf, 0.1, 0.0, False),
    ],
)
def test_how_far_a_metric_has_moved(
    before: float | None, now: float | None, tolerance: float | None, share: float | None, outside: bool
) -> None:
    drift = Drift("m", "", before, now, tolerance)
    assert drift.share == (share if share is None else pytest.approx(share))
    assert drift.outside is outside


def test_the_same_results_are_the_same(document: dict[str, Any]) -> None:
    figures = baseline_of(document)
    comparison = compared(figures, figures, compare.TOLERANCES)
    assert comparison.ok
    assert not comparison.notes
    assert {goal.change for goal in comparison.goals} == {"ok", "known"}
    assert not any(drift.share for drift in comparison.drifts)
    assert {drift.point for drift in comparison.drifts} == {"topology.nodes=5", "topology.nodes=6"}


def test_a_drift_counts_only_beyond_its_tolerance(document: dict[str, Any]) -> None:
    before = baseline_of(document)
    within = compared(before, baseline_of(changed(document, "ttft_s.p50", 1.05)), {"ttft_s.p50": 0.1})
    assert within.ok
    beyond = compared(before, baseline_of(changed(document, "ttft_s.p50", 0.8, point=1)), {"ttft_s.p50": 0.1})
    assert [(drift.metric, drift.point) for drift in beyond.outside] == [("ttft_s.p50", "topology.nodes=6")]
    assert not beyond.ok
    assert compared(before, baseline_of(changed(document, "ttft_s.p99", 9.0)), {"ttft_s.p50": 0.1}).ok


def test_what_is_not_reached_any_more_counts_and_is_said(document: dict[str, Any], tmp_path: Path) -> None:
    before = baseline_of(document)
    never = copy.deepcopy(document)
    never["summary"][0]["metrics"]["ttft_s.p50"]["median"] = "inf"
    comparison = compared(before, baseline_of(never), compare.TOLERANCES)
    assert [(drift.metric, drift.now) for drift in comparison.outside] == [("ttft_s.p50", math.inf)]
    console = tables.console(io.StringIO())
    console.print(tables.comparison_table(comparison))
    assert "not reached  not reached" in console.file.getvalue()  # type: ignore[attr-defined]
    moved = [each for each in json.loads(tables.comparison_json(comparison))["metrics"] if each["now"] == "inf"]
    assert [(each["metric"], each["share"], each["outside"]) for each in moved] == [("ttft_s.p50", "inf", True)]
    path = compare.write_baseline(tmp_path, never)
    assert json.loads(path.read_text())["points"][0]["metrics"]["ttft_s.p50"] == "inf"
    again = compare.read_baseline(tmp_path, "x")
    assert again is not None
    assert compared(again, baseline_of(never), compare.TOLERANCES).ok
    back = compared(again, before, compare.TOLERANCES)
    assert [drift.share for drift in back.outside] == [-math.inf]


def test_null_in_a_baseline_is_what_inf_is_now(document: dict[str, Any]) -> None:
    old, now = baseline_of(document), copy.deepcopy(document)
    old["points"][0]["metrics"]["ttft_s.p99"] = None
    now["summary"][0]["metrics"]["ttft_s.p99"]["median"] = "inf"
    assert compared(old, baseline_of(now), compare.TOLERANCES).ok
    assert not compared(old, baseline_of(document), compare.TOLERANCES).ok


def test_points_that_only_one_has_are_said(document: dict[str, Any]) -> None:
    other = copy.deepcopy(document)
    del other["summary"][1]
    other["scenario_hash"] = "0"
    other["partial"] = True
    comparison = compared(baseline_of(document), baseline_of(other), {})
    assert comparison.notes == [
        "the scenario has changed in between",
        "the second was stopped before its end",
        "only before: topology.nodes=6",
    ]


def test_a_baseline_is_short_and_keeps_its_tolerances(document: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "baselines"
    assert compare.read_baseline(folder, "x") is None
    path = compare.write_baseline(folder, document)
    written = json.loads(path.read_text())
    usual = {"success_rate", "ttft_s.p50", "ttft_s.p99", "goodput_per_s"}
    assert set(written["tolerance"]) == usual
    assert set(written["points"][0]["metrics"]) == usual
    assert "runs" not in written
    written["tolerance"] = {"ttft_s.p50": 0.5}
    path.write_text(json.dumps(written))
    compare.write_baseline(folder, document)
    again = compare.read_baseline(folder, "x")
    assert again is not None
    assert again["tolerance"] == {"ttft_s.p50": 0.5}
    assert set(again["points"][0]["metrics"]) == {"ttft_s.p50", "success_rate"}  # goals are kept with their values
    assert compare.read_figures(path) == again


def test_results_are_no_baseline(document: dict[str, Any], tmp_path: Path) -> None:
    results.write(tmp_path, document, {"schema": 1})
    (tmp_path / "results.json").rename(tmp_path / "x.json")
    with pytest.raises(ScenarioError, match=r"x\.json is no baseline \(.*`points`\): --update-baseline writes one"):
        compare.read_baseline(tmp_path, "x")
    assert compare.read_figures(tmp_path / "x.json")["points"][0]["metrics"]["success_rate"] == 0.998


def test_lines_about_goals(document: dict[str, Any]) -> None:
    before = baseline_of(document)
    now = copy.deepcopy(document)
    success = [goal for goal in now["goals"] if goal["goal"] == "success_rate"]
    slow = [goal for goal in now["goals"] if goal["goal"] == "ttft_s.p50"]
    success[0] |= {"passed": False, "value": 0.5}
    slow[0] |= {"passed": True, "value": 0.05}
    comparison = compared(before, baseline_of(now), {})
    lines = [line.plain for line in tables.goal_lines(now["goals"], comparison.goals)]
    assert lines == [
        "✗ success_rate >= 0.9: 0.5 at topology.nodes=5",
        "✓ success_rate >= 0.9: 0.998 at topology.nodes=6",
        "✓ ttft_s.p50 <= 0.1: 0.05 at topology.nodes=5; now passes: update the baseline",
        "known ✗ ttft_s.p50 <= 0.1: 0.2 at topology.nodes=6",
    ]
    assert [line.plain for line in tables.change_lines(comparison)] == [
        "✗ success_rate >= 0.9: 0.998 → 0.5 at topology.nodes=5 (passed before)",
        "✓ ttft_s.p50 <= 0.1: 0.2 → 0.05 at topology.nodes=5 (now passes: update the baseline)",
        "known ✗ ttft_s.p50 <= 0.1: 0.2 → 0.2 at topology.nodes=6 (failed before)",
    ]
