"""``p2pnode sim`` and ``python -m simulations``: options, exit codes, what is printed where, baselines end to end."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from p2pnode.cli import app, exits
from simulations import cli
from simulations.cli import seconds_of
from simulations.experiment import campaign, run_pool
from simulations.experiment import fuzz as chaos
from simulations.experiment.progress import Bars, Lines, Tally, clock_text
from simulations.experiment.run_pool import Made, Planned
from simulations.run import RunProgress
from simulations.scenario import Scenario, Topology

FAKE_RUN = "tests.simulations.experiment.fake_run:run"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in; runs are those of the stand-in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(campaign.Campaign, "__init__", _with_fake_run(campaign.Campaign.__init__))
    return tmp_path


def _with_fake_run(init: Any) -> Any:
    return lambda self, **given: init(self, **given, entry_point=FAKE_RUN)


def scenario(folder: Path, text: str = "", name: str = "x", about: str = "") -> str:
    path = folder / f"{name}.toml"
    path.write_text(f'name = "{name}"\nabout = "{about}"\nseeds = [1, 2]\n{text}')
    return path.name


def sim(*args: str) -> int:
    return app.run(["sim", *args])


GOAL = '[goals]\nsuccess_rate = ">= 0.9"\n'
FAILING = GOAL + '"ttft_s.p50" = "<= 0.1"\n'


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("2.5 min", 150), ("500ms", 0.5)]
)
def test_times(text: str, seconds: float) -> None:
    assert seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "m", "5x", "-5", "0s", "5m!", "1 day"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="is no time: "):
        seconds_of(text)


def test_the_exit_codes_are_those_of_the_daemon() -> None:
    ours = (cli.OK, cli.FAILED, cli.USAGE, cli.INTERRUPTED)
    assert ours == (exits.OK, exits.FAILED, exits.USAGE, exits.INTERRUPTED)
    assert (campaign.OK, campaign.FAILED, campaign.INTERRUPTED) == (exits.OK, exits.FAILED, exits.INTERRUPTED)


def test_help_shows_the_verbs_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("--help") == 0
    said = capsys.readouterr().out
    for word in ("run", "compare", "report", "list", "p2pnode sim run E4", "Exit codes: 0 ok"):
        assert word in said
    assert sim("run", "--help") == 0
    said = capsys.readouterr().out
    for word in ("--seed", "--jobs", "--out", "--baseline", "--set", "--policy", "--trace", "--until", "--json"):
        assert word in said
    assert "--set topology.nodes=300" in said
    assert app.run(["--help"]) == 0
    assert ["sim", "The", "network", "simulator:"] in [
        line.split()[:4] for line in capsys.readouterr().out.splitlines()
    ]


def test_what_help_names_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("run", "compare", "fuzz", "report", "list"):
        assert sim(verb, "--help") == 0
        for name in re.findall(r"simulations/[\w/.-]+", capsys.readouterr().out):
            assert (Path(__file__).parents[2] / name).exists(), name


@pytest.mark.parametrize("verb", ["run", "compare", "fuzz", "report", "list"])
def test_help_fits_within_80_columns(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sim(verb, "--help") == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_make_simulations_makes_every_experiment() -> None:
    root = Path(__file__).parent.parent.parent
    said = subprocess.run(["make", "-n", "simulations"], cwd=root, capture_output=True, text=True, check=True).stdout
    for command in ("tests.fullstack --layer all", "sim fuzz --seeds 200", "sim run all --baseline"):
        assert command in said


@pytest.mark.slow
def test_the_package_is_the_same_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "simulations", "run", "no.toml"]
    root = Path(__file__).parent.parent.parent
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "no.toml is neither a file nor a shipped scenario" in ended.stderr
    assert ended.stdout == ""


@pytest.mark.slow
def test_help_brings_no_numpy() -> None:
    code = "import sys; from p2pnode.cli import app; app.run(['sim', '--help']); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_a_run_prints_points_goals_and_files(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = scenario(shelf, '[sweep]\n"topology.nodes" = [5, 6]\n' + GOAL)
    assert sim("run", file, "--jobs", "0", "--no-report") == 0
    out, err = capsys.readouterr()
    assert ["6", "2", "0.998"] in [line.split()[:3] for line in out.splitlines()]
    assert ["nodes", "seed", "success_rate"] in [line.split()[:3] for line in out.splitlines()]
    assert "✓ success_rate >= 0.9: 0.9985 at topology.nodes=5" in out
    assert "simulation-results/x/results.json  simulation-results/x/timing.json" in out
    assert "[4/4] topology.nodes=6, seed 2: 120 s in" in err


def test_a_goal_that_fails_fails_the_command(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("run", scenario(shelf, FAILING), "--jobs", "0", "--no-report") == 1
    assert "✗ ttft_s.p50 <= 0.1: 0.2" in capsys.readouterr().out


def test_a_goal_on_what_the_runs_cost_counts_and_is_no_part_of_the_results(
    shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = scenario(shelf, '[goals]\nvirtual_per_cpu_s = "> 1e12"\n')
    assert sim("run", file, "--jobs", "0") == 1
    assert "✗ virtual_per_cpu_s > 1e12: " in capsys.readouterr().out
    folder = shelf / "simulation-results/x"
    assert b"virtual_per_cpu_s >" not in (folder / "results.json").read_bytes()
    assert not json.loads((folder / "results.json").read_bytes())["goals"]
    html = (folder / "report.html").read_text()
    assert "1 of 1 goals failed" in html
    assert "virtual_per_cpu_s" in html


@pytest.mark.parametrize(
    ("about", "says"),
    [
        (
            "crash",
            "✗ crashed, seed 2: ZeroDivisionError: nothing to share\n  repeat: p2pnode sim run x.toml --seed 2\n",
        ),
        (
            "breach",
            "✗ I2 broken at 7.25 s, seed 2: job 3 was answered twice\n"
            "  repeat: p2pnode sim run x.toml --seed 2 --until 9\n",
        ),
    ],
)
def test_trouble_says_how_to_repeat_it(shelf: Path, capsys: pytest.CaptureFixture[str], about: str, says: str) -> None:
    assert sim("run", scenario(shelf, about=about), "--jobs", "0", "--no-report") == 1
    assert says in capsys.readouterr().out


def test_json_is_the_file_and_nothing_else(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [scenario(shelf, GOAL), scenario(shelf, name="y")]
    assert sim("run", *files, "--jobs", "0", "--no-report", "--json", "--out", "here", "--seed", "7") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines(keepends=True)
    assert lines == [(shelf / f"here/{name}/results.json").read_text() for name in ("x", "y")]
    assert [run["seed"] for run in json.loads(lines[0])["runs"]] == [7]
    assert "✓ success_rate" in err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("run", "no.toml"), "no.toml is neither a file nor a shipped scenario"),
        (
            ("run", "x.toml", "--set", "topology.nodez=3"),
            "--set topology.nodez=3: topology.nodez is no key of [topology]",
        ),
        (("run", "x.toml", "--until", "soon"), "'soon' is no time: write 90s, 5m or 1h30m"),
        (("run", "x.toml", "x.toml"), "x.toml and x.toml are both called 'x': results would be lost"),
        (("run", "x.toml", "--update-baseline"), "--update-baseline needs --baseline DIR"),
        (
            ("run", "x.toml", "--baseline", "b", "--seed", "1"),
            "--baseline compares a scenario as it stands: drop --seed",
        ),
        (("fuzz", "--time", "1m"), "--time: 60 s are too few: 125 s are for healing (I9), so write 180s or more"),
        (("compare", "a", "b"), "a cannot be read: No such file"),
        (("report", "a"), "a cannot be read: No such file"),
    ],
)
def test_usage_errors(shelf: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], says: str) -> None:
    scenario(shelf)
    assert sim(*args) == 2
    assert says in capsys.readouterr().err


def test_until_judges_no_goals(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ("run", scenario(shelf, FAILING), "--jobs", "0", "--no-report", "--until")
    assert sim(*run, "1m") == 0
    out = capsys.readouterr().out
    assert "the goals were not judged: --until stopped at 60 s" in out
    assert "✗" not in out
    assert sim(*run, "1h") == 1, "longer than the runs: it stops nothing"
    assert "✗ ttft_s.p50 <= 0.1: 0.2" in capsys.readouterr().out
    assert sim("run", scenario(shelf), "--jobs", "0", "--no-report", "--until", "1m") == 0
    assert "judged" not in capsys.readouterr().out


def test_what_cannot_be_read_or_written_in_the_end_is_told_before_the_first_run(
    shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ("run", scenario(shelf), "--jobs", "0", "--no-report")
    (shelf / "b").mkdir()
    (shelf / "file").touch()
    for text in ("{", "[]", '{"schema": 1, "points": [{}]}', '{"schema": 1, "runs": []}'):
        (shelf / "b/x.json").write_text(text)
        for option in ((), ("--update-baseline",)):
            assert sim(*run, "--baseline", "b", *option) == 2
            assert "b/x.json " in capsys.readouterr().err
    assert sim(*run, "--out", "file/deep") == 2
    assert "--out file/deep: file/deep/x cannot be written: Not a directory" in capsys.readouterr().err
    assert sim(*run, "--baseline", "file/deep", "--update-baseline") == 2
    assert "--baseline file/deep: file/deep cannot be written: Not a directory" in capsys.readouterr().err
    assert not list(shelf.rglob("results.json"))


def test_a_folder_of_baselines_that_is_not_there_is_made_only_for_writing(
    shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ("run", scenario(shelf), "--jobs", "0", "--no-report", "--baseline", "nodir")
    assert sim(*run) == 2
    assert "--baseline nodir: there is no such folder; --update-baseline makes it" in capsys.readouterr().err
    assert sim(*run, "--update-baseline") == 0
    assert (shelf / "nodir/x.json").is_file()


def test_too_much_load_is_said_before_the_runs_and_is_in_the_results(
    shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ("run", scenario(shelf), "--jobs", "0", "--no-report")
    assert sim(*run, "--set", "workload.utilisation=0.9") == 0
    assert "warning" not in capsys.readouterr().err
    assert sim(*run, "--set", "workload.utilisation=1.5") == 0
    said = capsys.readouterr().err
    warning = next(line for line in said.splitlines() if line.startswith("warning: "))
    assert said.index(warning) < said.index("[1/2]")
    assert json.loads((shelf / "simulation-results/x/results.json").read_bytes())["warnings"] == [warning[9:]]


def test_what_is_made_of_a_trace_is_told(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shelf / "mine.csv").write_text("arrival_s,input_tokens,output_tokens\n0,9,9\n2,9,9\n4,9,9\n")
    run = ("run", scenario(shelf), "--jobs", "0", "--no-report", "--trace", "mine.csv")
    assert sim(*run) == 0
    said = "mine.csv: 3 requests in 6 s (0.5/s), played 20 times over in 120 s, "
    assert f"{said}20 copies side by side for workload.rate_per_s = 10\n" in capsys.readouterr().err
    assert sim(*run, "--set", "workload.rate_per_s=0") == 0
    assert f"{said}at its own rate\n" in capsys.readouterr().err
    assert sim(*run, "--set", "workload.utilisation=0.5") == 0
    assert "for workload.utilisation = 0.5\n" in capsys.readouterr().err
    assert sim(*run, "--set", "workload.rate_per_s=0.1", "--set", "duration_s=25") == 0
    assert "played 5 times over in 25 s, thinned to 20% for workload.rate_per_s = 0.1" in capsys.readouterr().err


@pytest.mark.slow
def test_the_report_repeats_a_run_as_it_was_made(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shelf / "pol.toml").write_text('[routing]\npolicy = "random"\n')
    (shelf / "other.toml").write_text('name = "x"\n[sweep]\n"topology.nodes" = [5, 6]\n')
    options = ("--jobs", "0", "--seed", "3", "--policy", "pol.toml", "--set", "duration_s=60")
    assert sim("run", "other.toml", *options) == 0
    folder = shelf / "simulation-results/x"
    before = (folder / "results.json").read_bytes()
    words = "run other.toml --seed 3 --policy pol.toml --set duration_s=60 --set topology.nodes=6"
    assert f"p2pnode sim {words}</pre>" in html.unescape((folder / "report.html").read_text())
    assert b"pol.toml" not in before
    assert sim(*words.split(), "--out", "again", "--no-report", "--jobs", "0") == 0
    again = json.loads((shelf / "again/x/results.json").read_bytes())
    assert again["runs"][0]["metrics"] == json.loads(before)["runs"][1]["metrics"]
    assert "neither a file" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_baseline_forgives_what_it_knows(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ("run", scenario(shelf, FAILING), "--jobs", "0", "--no-report", "--baseline", "b")
    (shelf / "b").mkdir()
    assert sim(*run) == 1
    assert "no baseline yet: --update-baseline writes one" in capsys.readouterr().out
    assert sim(*run, "--update-baseline") == 0
    assert sim(*run) == 0
    out = capsys.readouterr().out
    assert "known ✗ ttft_s.p50 <= 0.1: 0.2" in out
    assert "all metrics of the baseline within their tolerance" in out

    path = shelf / "b/x.json"
    before = json.loads(path.read_text())
    before["points"][0]["metrics"]["ttft_s.p99"] *= 4
    path.write_text(json.dumps(before))
    assert sim(*run) == 1
    out = capsys.readouterr().out
    assert "1 of 4 metrics outside the tolerance of the baseline" in out
    assert "-75.0%" in out

    before["tolerance"] = {}
    before["goals"][1]["passed"] = True
    path.write_text(json.dumps(before))
    assert sim(*run) == 1
    before["goals"][0]["passed"] = before["goals"][1]["passed"] = False
    path.write_text(json.dumps(before))
    capsys.readouterr()
    assert sim(*run) == 0
    assert "; now passes: update the baseline" in capsys.readouterr().out


def test_compare(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = scenario(shelf, GOAL)
    assert sim("run", file, "--jobs", "0", "--no-report", "--out", "a") == 0
    assert sim("run", file, "--jobs", "0", "--no-report", "--out", "b", "--set", "routing.policy=random") == 0
    capsys.readouterr()
    assert sim("compare", "a/x", "a/x/results.json") == 0
    assert "the metrics are the same" in capsys.readouterr().out
    assert sim("compare", "a/x", "b/x") == 1
    out = capsys.readouterr().out
    assert "the scenario has changed in between" in out
    assert any(line.split()[:4] == ["ttft_s.p50", "0.2", "0.4", "+100.0%"] for line in out.splitlines())
    lenient = [f"--tolerance={metric}=2" for metric in ("ttft_s.p50", "ttft_s.p99", "goodput_per_s")]
    assert sim("compare", "a/x", "b/x", *lenient) == 0
    capsys.readouterr()
    assert sim("compare", "a/x", "b/x", "--json") == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False
    assert sim("compare", "a/x", "b/x", "--tolerance", "ttft=1") == 2
    assert "there is no metric ttft" in capsys.readouterr().err


def test_without_matplotlib_the_figures_are_there(
    shelf: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = campaign.importlib.util.find_spec
    monkeypatch.setattr(
        campaign.importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name)
    )
    assert sim("run", scenario(shelf), "--jobs", "0") == 0
    assert "pip install 'p2pnode[sim]'" in capsys.readouterr().err
    assert (shelf / "simulation-results/x/results.json").exists()
    assert sim("report", "simulation-results/x") == 1


def test_list_shows_what_is_shipped(
    shelf: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.experiment.loading.SHIPPED", shelf)
    scenario(shelf, name="e1-spreading", about="How fast does word get round?")
    assert sim("list") == 0
    assert capsys.readouterr().out == "e1-spreading  How fast does word get round?\n"


@pytest.mark.slow
def test_fuzz_makes_its_seeds_and_counts_them(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("fuzz", "--nodes", "4", "--time", "3m", "--seeds", "1", "--from-seed", "3", "--jobs", "0")
    code = sim(*asked)
    out, err = capsys.readouterr()
    assert "[1/1] " in err
    assert "seed 3" in err
    assert "1 of 1 runs made, 0 failed" in out
    assert code == 0


def test_a_failing_seed_fails_the_fuzz(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plans = chaos.planned([5], 4, 180.0)
    run = run_pool.one_run(plans[0], "tests.simulations.experiment.fake_run:nowhere").run
    failed = chaos.Fuzzed([Made(run, {"cpu_s": 1.0})])
    monkeypatch.setattr(chaos, "run", lambda plan, jobs, audience: failed)
    assert sim("fuzz", "--from-seed", "5", "--seeds", "1", "--nodes", "4", "--time", "3m") == 1
    out = capsys.readouterr().out
    assert "✗ crashed, seed 5: AttributeError" in out
    assert "1 of 1 runs made, 1 failed" in out


# --- progress --------------------------------------------------------------------------------------------------------

PLANS = [Planned(Scenario(name="x"), {"topology.nodes": nodes}, 1, ("p2pnode",)) for nodes in (5, 6)]


def test_the_time_that_is_left() -> None:
    now = [0.0]
    tally = Tally(PLANS, lambda: now[0])
    assert tally.left_s() is None
    tally.begins(0)
    now[0] = 10.0
    tally.goes(0, 60.0)
    assert tally.speed(0) == 6.0
    assert tally.left_s() == pytest.approx(30.0)
    tally.ends(0)
    assert tally.left_s() == pytest.approx(10.0)
    assert [clock_text(seconds) for seconds in (None, 0, 61, 3723.4)] == ["-:--", "0:00", "1:01", "1:02:03"]


def test_a_large_network_counts_for_more_of_what_is_left() -> None:
    now = [0.0]
    sizes = [Planned(Scenario(name="x", topology=Topology(nodes=count)), {}, 1, ()) for count in (10, 90)]
    tally = Tally(sizes, lambda: now[0])
    tally.begins(0)
    now[0] = 2.0
    tally.ends(0)
    assert tally.left_s() == pytest.approx(18.0)


def made() -> Made:
    run = {"error": None, "breach": None, "partial": False, "virtual_s": 120.0, "events": 1234}
    return Made(run, {"wall_s": 1.5})


def test_plain_lines_come_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    lines = Lines(PLANS, Console(width=200), lambda: now[0])
    lines.begins(0, PLANS[0])
    for second in range(12):
        now[0] = float(second)
        lines.goes(0, RunProgress(virtual_s=5.0 * second, jobs=10 * second))
    now[0] += 10.0
    lines.goes(0, RunProgress(virtual_s=120.0, rest_s=7.0, waiting=3, jobs=250))
    lines.ends(0, made())
    lines.ends(1, None)
    assert capsys.readouterr().out.splitlines() == [
        "topology.nodes=5, seed 1: 50 of 120 s, 5.0 s/s, 100 jobs, 0:38 left",
        "topology.nodes=5, seed 1: 120 s, 7 s more for 3 jobs under way, 250 jobs",
        "[1/2] topology.nodes=5, seed 1: 120 s in 1.5 s, 1,234 events",
        "[2/2] topology.nodes=6, seed 1: killed",
    ]


def test_bars_go_and_leave_only_trouble() -> None:
    console = Console(force_terminal=True, width=120, record=True)
    with Bars(PLANS, console) as bars:
        for index, plan in enumerate(PLANS):
            bars.begins(index, plan)
            bars.goes(index, RunProgress(virtual_s=60.0, jobs=5))
        bars.ends(0, made())
        bars.stopping()
        bars.ends(1, None)
    said = console.export_text()
    assert "topology.nodes=6, seed 1: killed" in said
    assert "1,234 events" not in said


def test_runs_are_those_of_the_simulator() -> None:
    assert run_pool.ENTRY_POINT == "simulations.run:run"
