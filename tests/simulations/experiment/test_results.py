"""Results: the same bytes for the same runs, figures over the seeds, ratios to the ceiling."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulations.experiment import results, tables
from simulations.experiment.goals import check_metric
from simulations.experiment.loading import Loaded, load
from simulations.experiment.overrides import Overrides, ScenarioError
from simulations.experiment.run_pool import one_run, plan
from simulations.sim.jobs import STAGES

ROOT = Path(__file__).parents[3]
FAKE_RUN = "tests.simulations.experiment.fake_run:run"
TEXT = (
    'name = "x"\nseeds = [1, 2, 3]\n[sweep]\n"topology.nodes" = [5, 6]\n'
    '"routing.policy" = ["random", "neuralgrid", "omniscient"]\n'
    '[goals]\nsuccess_rate = ">= 0.5"\n"routing.policy=neuralgrid: ttft_p50_ratio" = "<= 1.5"\n'
)


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    path = tmp_path / "x.toml"
    path.write_text(TEXT)
    return load(path)


def document_of(loaded: Loaded) -> dict[str, Any]:
    return results.document(loaded, [one_run(each, FAKE_RUN).run for each in plan(loaded)], False)


def test_the_same_runs_are_the_same_bytes(loaded: Loaded, tmp_path: Path) -> None:
    first, second = document_of(loaded), document_of(loaded)
    results.write(tmp_path / "a", first, {"schema": 1, "runs": [{"wall_s": 1.0}]})
    results.write(tmp_path / "b", second, {"schema": 1, "runs": [{"wall_s": 2.0}]})
    assert (tmp_path / "a/results.json").read_bytes() == (tmp_path / "b/results.json").read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["results.json", "timing.json"]
    assert results.read(tmp_path / "a") == first
    assert results.read_timing(tmp_path / "b")["runs"] == [{"wall_s": 2.0}]
    assert results.read_timing(tmp_path)["runs"] == []
    with pytest.raises(ScenarioError, match=r"cannot be read: .*; there are results in .*/a, .*/b$"):
        results.read(tmp_path)


def test_nothing_of_the_clock_is_in_it(loaded: Loaded) -> None:
    document = document_of(loaded)
    assert set(document) == {
        *("schema", "name", "about", "scenario", "scenario_hash", "commit", "partial", "warnings", "runs", "summary"),
        "goals",
    }
    assert not {name for run in document["runs"] for name in run if "wall" in name or "cpu_s" in name}
    keys = list(json.loads(results.encoded(document)))
    assert keys == sorted(keys)


def test_runs_are_in_the_order_of_sweep_and_seeds(loaded: Loaded) -> None:
    document = document_of(loaded)
    assert [run["seed"] for run in document["runs"]] == [1, 2, 3] * 6
    assert [at["point"] for at in document["summary"]] == [point for point, _ in loaded.points]
    assert document["summary"][0]["jobs"] == {"submitted": 300, "completed": 0, "failed": 0, "unserved": 0}


def test_warnings_are_said_once_for_the_points_that_they_are_about(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(
        'name = "x"\n[topology]\nnodes = 5\n[sweep]\n"workload.rate_per_s" = [0.1, 1e6]\n'
        '"routing.policy" = ["random", "neuralgrid", "omniscient"]\n'
    )
    loaded = load(path)
    (warning,) = results.warnings_of(loaded)
    assert re.fullmatch(r"1e\+06 jobs/s are more than .* \(at 3 of 6 points\)", warning)
    assert results.document(loaded, [], True, [warning])["warnings"] == [warning]


def test_ratios_are_to_the_ceiling_of_the_same_point_and_seed(loaded: Loaded) -> None:
    for run in document_of(loaded)["runs"]:
        expected = {"random": 4.0, "neuralgrid": 2.0, "omniscient": 1.0}[run["point"]["routing.policy"]]
        metrics = run["metrics"]
        assert metrics["ttft_p50_ratio"] == pytest.approx(expected)
        assert metrics["goodput_ratio"] == pytest.approx(1 / expected)
        best = 0.3 + run["seed"] / 1000
        assert metrics["ttft_p99_ratio"] == pytest.approx(metrics["ttft_s"]["p99"] / best)


def test_without_a_ceiling_there_are_no_ratios(loaded: Loaded) -> None:
    runs = [run for run in document_of(loaded)["runs"] if run["point"]["routing.policy"] == "random"]
    runs = [{**run, "metrics": {"ttft_s": run["metrics"]["ttft_s"]}} for run in runs]
    assert all("ttft_p50_ratio" not in run["metrics"] for run in results.with_ratios(runs))


def test_goals_are_judged_at_the_points_they_are_about(loaded: Loaded) -> None:
    goals = document_of(loaded)["goals"]
    assert [goal["goal"] for goal in goals] == ["success_rate"] * 6 + ["ttft_p50_ratio"] * 2
    assert [goal["passed"] for goal in goals] == [True] * 6 + [False] * 2
    assert {goal["point"]["routing.policy"] for goal in goals[6:]} == {"neuralgrid"}


def test_goals_on_what_the_runs_cost_are_judged_beside_the_results(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(f'{TEXT}virtual_per_cpu_s = ">= 8"\n"topology.nodes=5: peak_mib" = "<= 100"\n')
    loaded = load(tmp_path / "x.toml")
    runs = [one_run(each, FAKE_RUN).run for each in plan(loaded)]
    costs = [
        {"point": run["point"], "seed": run["seed"], "virtual_per_cpu_s": 7.0 + run["seed"], "peak_mib": 101.0}
        for run in runs
    ]
    timing = results.timing(loaded, runs, costs)
    assert timing["runs"] == costs
    assert [goal["goal"] for goal in timing["goals"]] == ["virtual_per_cpu_s"] * 6 + ["peak_mib"] * 3
    assert [goal["passed"] for goal in timing["goals"]] == [True] * 6 + [False] * 3
    assert [goal["value"] for goal in timing["goals"]][::8] == [9.0, 101.0]
    assert len(results.document(loaded, runs, False)["goals"]) == 8
    assert results.timing(loaded, runs[:1], costs[:1])["goals"][0]["reason"] == "only 1 of 3 seeds were finished"


def test_the_interval_is_students() -> None:
    found = results.over_seeds([1.0, 2.0, 3.0])
    assert (found["n"], found["mean"], found["median"]) == (3, 2.0, 2.0)
    half = 4.303 / math.sqrt(3)
    assert found["ci95"] == pytest.approx([2 - half, 2 + half])
    assert results.over_seeds([1.0])["ci95"] is None
    never = results.tidy(results.over_seeds([1.0, math.inf, 3.0]))
    assert (never["mean"], never["median"], never["ci95"]) == ("inf", 3.0, None)
    many = results.over_seeds([0.0, 1.0] * 50)
    assert many["ci95"][1] - many["mean"] == pytest.approx(1.96 * np.std([0.0, 1.0] * 50, ddof=1) / 10)


def test_what_was_not_reached_with_one_seed_is_in_every_figure_over_the_seeds(loaded: Loaded) -> None:
    runs = [one_run(each, FAKE_RUN).run for each in plan(loaded)]
    for run in runs:
        if run["seed"] == 2 and run["point"]["routing.policy"] != "omniscient":
            run["metrics"]["ttft_s"]["p99"] = math.inf
    document = json.loads(results.encoded(results.document(loaded, runs, False)))
    of_random, of_ceiling = document["summary"][0]["metrics"], document["summary"][2]["metrics"]
    assert of_random["ttft_s.p99"] == {"n": 3, "mean": "inf", "median": 1.203, "ci95": None}
    assert of_random["ttft_p99_ratio"]["mean"] == "inf"
    assert of_ceiling["ttft_s.p99"]["mean"] == 0.302
    assert document["runs"][1]["metrics"]["ttft_p99_ratio"] == "inf"


def test_nothing_is_held_against_a_ceiling_that_was_not_reached(loaded: Loaded) -> None:
    runs = [one_run(each, FAKE_RUN).run for each in plan(loaded)]
    for run in runs:
        run["metrics"]["ttft_s"]["p99"] = math.inf
    assert all("ttft_p99_ratio" not in run["metrics"] for run in results.with_ratios(runs))


def test_a_swept_key_and_a_metric_of_one_name_are_two_columns() -> None:
    run = {"point": {"workload.utilisation": 0.5}, "seed": 1, "metrics": {"utilisation": 0.4}}
    run |= {"error": None, "breach": None, "partial": False}
    columns = tables.runs_table({"runs": [run], "goals": [{"goal": "utilisation"}]}).columns
    assert [column.header for column in columns] == ["workload.utilisation", "seed", "utilisation", ""]


def test_the_stages_of_the_wait_are_a_table_of_those_that_took_time() -> None:
    metrics = {f"ttft_{stage}_s": {"mean": 0.25 if stage in ("dial", "prompt") else 0.0} for stage in STAGES}
    run = {"point": {"routing.policy": "random"}, "seed": 1, "metrics": {"ttft_s": {"mean": 0.5}, **metrics}}
    table = tables.stages_table({"summary": [results.summary(run["point"], [run])]})  # type: ignore[arg-type]
    assert table is not None
    cells = {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}
    assert cells == {"policy": ["random"], "ttft": ["0.5"], "dial": ["0.25"], "prompt": ["0.25"]}
    assert tables.stages_table({"summary": [results.summary({}, [])]}) is None


def test_numbers_are_plain_and_short() -> None:
    value = {
        "a": np.float64(1 / 3),
        "b": np.int64(3),
        "c": (math.nan, math.inf, -math.inf),
        "d": True,
        5: np.array([1.5]),
    }
    assert results.tidy(value) == {"a": 0.333333333, "b": 3, "c": [None, "inf", "-inf"], "d": True, "5": [1.5]}
    with pytest.raises(TypeError, match="object has no place in results"):
        results.tidy(object())


@pytest.mark.slow
def test_the_hash_is_of_the_scenario_and_of_its_traces_content(tmp_path: Path, loaded: Loaded) -> None:
    again = results.scenario_hash(load(loaded.path).scenario)
    other = results.scenario_hash(load(loaded.path, Overrides(("topology.nodes=7",))).scenario)
    assert results.scenario_hash(loaded.scenario) == again != other
    hashes = []
    for name, content in (("one.csv", "1,2,3\n"), ("two.csv", "1,2,3\n"), ("three.csv", "1,2,4\n")):
        (tmp_path / name).write_text(f"arrival_s,input_tokens,output_tokens\n{content}")
        hashes.append(results.scenario_hash(load(loaded.path, Overrides(trace=tmp_path / name)).scenario))
    assert hashes[0] == hashes[1] != hashes[2]


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"results\.json cannot be read: No such file"):
        results.read(tmp_path)
    for content, says in (("{", "is not JSON"), ("[]", "holds no results"), ('{"schema": 99}', "of schema 1")):
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(ScenarioError, match=says):
            results.read(tmp_path)


@pytest.mark.slow
def test_the_real_network_is_the_same_bytes_under_two_hash_seeds(tmp_path: Path) -> None:
    """And measures nothing that a goal could not name."""
    (tmp_path / "x.toml").write_text(
        'name = "x"\nseeds = [1]\nduration_s = 12\nwarmup_s = 4\n[topology]\nnodes = 6\n[workload]\nrate_per_s = 2.0\n'
        '[sweep]\n"routing.policy" = ["neuralgrid", "omniscient"]\n'
    )
    written = []
    for hash_seed in ("0", "1"):
        command = [sys.executable, "-m", "simulations", "run", str(tmp_path / "x.toml"), "--no-report"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        subprocess.run([*command, "--out", str(tmp_path / hash_seed)], cwd=ROOT, env=environment, check=True)
        written.append((tmp_path / hash_seed / "x/results.json").read_bytes())
    assert written[0] == written[1]
    for run in json.loads(written[0])["runs"]:
        assert run["metrics"]["jobs_completed"] > 0
        assert run["metrics"]["ttft_p50_ratio"] > 0
        for name in results.flat(run["metrics"]):
            check_metric(name)
