"""Runs in processes: order, crashes, deaths, breaches, what repeats them, and ctrl-C with a real signal."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from simulations.experiment.loading import find, load
from simulations.experiment.overrides import Overrides
from simulations.experiment.run_pool import Made, Planned, RunPool, one_run, plan, toml_text
from simulations.run import RunProgress

FAKE_RUN = "tests.simulations.experiment.fake_run:run"
ROOT = Path(__file__).parents[3]


class Silent:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def begins(self, index: int, planned: Planned) -> None:
        self.told.append(("begins", index))

    def goes(self, index: int, word: RunProgress) -> None:
        self.told.append(("goes", index, word.virtual_s))

    def ends(self, index: int, made: Made | None) -> None:
        self.told.append(("ends", index))

    def stopping(self) -> None:
        self.told.append(("stopping",))


def planned(folder: Path, about: str = "", until: float | None = None) -> list[Planned]:
    path = folder / "x.toml"
    path.write_text(f'name = "x"\nabout = "{about}"\nseeds = [1, 2]\n[sweep]\n"topology.nodes" = [5, 6]\n')
    return plan(load(path), until)


def test_the_command_that_repeats_a_run_makes_the_same_run(tmp_path: Path) -> None:
    path = tmp_path / "a b.toml"
    path.write_text(
        'name = "x"\nseeds = [3, 4]\n[[faults]]\nkind = "crash"\n[sweep]\n"faults.0.share" = [0.25]\n'
        'hardware = [[{gpu = "T4", slots = 3}, {gpu = "A10"}]]\n"topology.settled" = [true]\n'
        '"routing.policy" = ["random"]\n'
    )
    given = Overrides(("topology.nodes=9",))
    run = plan(load(path, given))[1]
    words = shlex.split(run.command())
    assert words[:4] == ["p2pnode", "sim", "run", str(path)]
    pairs = list(zip(words[4::2], words[5::2], strict=True))
    again = Overrides(
        tuple(value for option, value in pairs if option == "--set"),
        seeds=tuple(int(value) for option, value in pairs if option == "--seed"),
    )
    ((point, scenario),) = load(path, again).points
    assert point == {}
    assert again.seeds == (4,)
    assert scenario.hardware == run.scenario.hardware
    assert scenario.faults == run.scenario.faults
    assert (scenario.topology, scenario.routing) == (run.scenario.topology, run.scenario.routing)
    assert shlex.split(run.command(7.5))[-2:] == ["--until", "7.5"]


def test_values_are_written_as_in_toml() -> None:
    value = [{"gpu": 'a "b" \\', "n": 1, "x": 0.5, "y": True}]
    assert toml_text(value) == '[{gpu = "a \\"b\\" \\\\", n = 1, x = 0.5, y = true}]'


def test_a_crash_and_a_breach_say_how_to_repeat_them(tmp_path: Path) -> None:
    made = RunPool(planned(tmp_path, "crash"), 0, Silent(), FAKE_RUN).all()
    crashed = made[1].run
    assert crashed["error"]["what"] == "ZeroDivisionError: nothing to share"
    assert crashed["error"]["repeat"].endswith("--seed 2 --set topology.nodes=5")
    assert "in run" in made[1].timing["traceback"]
    assert [one.run["error"] is None for one in made] == [True, False, True, False]
    broken = one_run(planned(tmp_path, "breach")[1], FAKE_RUN).run["breach"]
    assert broken["invariant"] == "I2"
    assert broken["repeat"].endswith("--seed 2 --set topology.nodes=5 --until 9")


@pytest.mark.parametrize("jobs", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_a_run_cost_says_how_to_repeat_it(tmp_path: Path, jobs: int) -> None:
    plans = planned(tmp_path, "die" if jobs else "")
    made = RunPool(plans, jobs, Silent(), FAKE_RUN).all()
    assert [one.timing["repeat"] for one in made] == [each.command() for each in plans]


def test_a_shipped_scenario_is_repeated_by_its_name() -> None:
    (file,) = find("quick-churn")
    assert plan(load(file))[0].command() == "p2pnode sim run quick-churn --seed 1"


class Enough(Silent):
    """Presses ctrl-C as soon as the second run begins, and once more if ``twice``, when it was told."""

    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.twice = twice

    def begins(self, index: int, planned: Planned) -> None:
        super().begins(index, planned)
        if index == 1:
            threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()

    def stopping(self) -> None:
        super().stopping()
        if self.twice:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize("twice", [False, True])
def test_ctrl_c_in_this_process_keeps_what_is_done(tmp_path: Path, twice: bool) -> None:
    plans = planned(tmp_path, "slow")
    audience = Enough(twice)
    runs = RunPool(plans, 0, audience, FAKE_RUN)
    made = runs.all()
    assert runs.interrupted
    assert ("stopping",) in audience.told
    assert [one.run["partial"] for one in made] == ([False] if twice else [False, True])
    assert [told for told in audience.told if told[0] == "ends"] == [("ends", 0), ("ends", 1)]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_until_makes_a_run_partial(tmp_path: Path) -> None:
    run = one_run(planned(tmp_path, until=30.0)[0], FAKE_RUN).run
    assert (run["partial"], run["virtual_s"]) == (True, 30.0)


def test_the_speed_of_a_run_is_without_its_rest(tmp_path: Path) -> None:
    timing = one_run(planned(tmp_path, "rest", until=30.0)[0], FAKE_RUN).timing
    assert timing["cpu_s"] >= 0.05
    assert timing["virtual_per_cpu_s"] > 2 * 30.0 / timing["cpu_s"]


@pytest.mark.slow
def test_runs_come_back_in_order_and_one_death_is_one_runs(tmp_path: Path) -> None:
    audience = Silent()
    made = RunPool(planned(tmp_path, "die"), 3, audience, FAKE_RUN).all()
    assert [(one.run["point"]["topology.nodes"], one.run["seed"]) for one in made] == [(5, 1), (5, 2), (6, 1), (6, 2)]
    assert [one.run["error"] and one.run["error"]["what"] for one in made] == [
        *(None, "the process ended with exit code 7") * 2
    ]
    assert sorted(told for told in audience.told if told[0] != "goes") == sorted(
        (what, index) for what in ("begins", "ends") for index in range(4)
    )
    assert all(one.timing["peak_mib"] > 1 for one in made if not one.run["error"])


@pytest.mark.slow
def test_processes_and_this_process_make_the_same(tmp_path: Path) -> None:
    plans = planned(tmp_path)
    apart = [one.run for one in RunPool(plans, 2, Silent(), FAKE_RUN).all()]
    assert apart == [one.run for one in RunPool(plans, 0, Silent(), FAKE_RUN).all()]


#: Runs a campaign of stand-ins: argv is scenario and folder.
PROGRAM = """
import sys
from pathlib import Path
from simulations.experiment.campaign import Campaign
from simulations.experiment.loading import load
if __name__ == "__main__":
    loaded = [load(Path(sys.argv[1]))]
    world = "tests.simulations.experiment.fake_run:run"
    sys.exit(Campaign(Path(sys.argv[2]), jobs=1, report=False, entry_point=world).all(loaded))
"""


@pytest.fixture
def campaign(tmp_path: Path) -> subprocess.Popen[str]:
    """Four runs of 1,000 s of 10 ms per second each, one at a time, in a process group of their own like a shell's."""
    (tmp_path / "program.py").write_text(PROGRAM)
    text = 'name = "x"\nabout = "slow"\nseeds = [1, 2, 3, 4]\nduration_s = 1000\n[goals]\nsuccess_rate = ">= 0"\n'
    (tmp_path / "x.toml").write_text(text)
    return subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "x.toml"), str(tmp_path / "out")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def child_of(process: subprocess.Popen[str]) -> None:
    """Until a run is under way, which is when the program has a grandchild."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        children = _children(process.pid)
        if any(_children(child) for child in children):
            time.sleep(0.5)
            return
        time.sleep(0.05)
    raise AssertionError("no run began")


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@linux
@pytest.mark.slow
def test_ctrl_c_writes_what_is_done_and_says_that_it_is_not_all(
    campaign: subprocess.Popen[str], tmp_path: Path
) -> None:
    child_of(campaign)
    os.killpg(campaign.pid, signal.SIGINT)  # the whole group, as a terminal does
    said, _ = campaign.communicate(timeout=60)
    assert campaign.returncode == 130, said
    document = json.loads((tmp_path / "out/x/results.json").read_text())
    assert document["partial"] is True
    (run,) = document["runs"]
    assert run["partial"] is True
    assert 0 <= run["virtual_s"] < 1000
    (goal,) = document["goals"]
    assert (goal["passed"], goal["reason"]) == (False, f"seed 1 was stopped at {run['virtual_s']:g} s")
    assert "stopping: what is done will be written" in said
    assert "x, stopped before its end" in said
    assert "Traceback" not in said


@linux
@pytest.mark.slow
def test_a_second_ctrl_c_kills(campaign: subprocess.Popen[str], tmp_path: Path) -> None:
    child_of(campaign)
    (server,) = [child for child in _children(campaign.pid) if _children(child)]
    (run,) = _children(server)
    os.kill(run, signal.SIGSTOP)  # it can hear nothing
    os.kill(campaign.pid, signal.SIGINT)
    time.sleep(1.0)
    assert campaign.poll() is None
    os.kill(campaign.pid, signal.SIGINT)
    said, _ = campaign.communicate(timeout=60)
    assert campaign.returncode == 130, said
    assert "seed 1: killed" in said
    assert json.loads((tmp_path / "out/x/results.json").read_text())["runs"] == []
    assert not Path(f"/proc/{run}").exists()
