"""The demo, as a user runs it: everything happened, nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.vllm_fixture import need_vllm

pytestmark = pytest.mark.slow
proc = pytest.mark.skipif(not Path("/proc").exists(), reason="looks into /proc")

DEMO = [sys.executable, "-m", "p2pnode", "demo"]


def processes_of(home: Path) -> list[str]:
    """Command lines of processes that mention a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(home) in line:
            found.append(line)
    return found


@pytest.mark.timeout(120)
def test_all_of_it_happens(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([*DEMO, "--json"], capture_output=True, text=True, timeout=100, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["ok"]
    assert len(summary["steps"]) == 6
    assert all(step["ok"] and step["detail"] for step in summary["steps"])
    assert "All of it happened" in done.stderr
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == [], "the temporary home is gone"


@pytest.mark.vllm
@pytest.mark.timeout(400)
def test_all_of_it_happens_on_real_vllm(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "P2PNODE_VLLM_PYTHON": str(need_vllm())}
    command = [*DEMO, "--json", "--engine", "vllm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=390, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    steps = json.loads(done.stdout)["steps"]
    assert len(steps) == 6
    assert all(step["ok"] and step["detail"] for step in steps)
    assert "p2pnode-tiny is offered by 2" in steps[1]["detail"]
    assert "died with it" in steps[4]["detail"]
    assert "vLLM is loading p2pnode-tiny since" in done.stderr, "something moves while it loads"
    assert processes_of(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("p2pnode-")] == []


@proc
def test_without_vllm_one_line_says_what_to_run(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    for python in (sys.executable, str(tmp_path / "nothing" / "python")):
        environment["P2PNODE_VLLM_PYTHON"] = python
        command = [*DEMO, "--engine", "vllm"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert f"{python} has no vLLM: run `make demo ENGINE=vllm`" in done.stderr


@proc
def test_a_demo_that_is_killed_takes_its_nodes_along(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    demo = subprocess.Popen(DEMO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 30
    while len(processes_of(tmp_path)) < 6 and time.monotonic() < deadline:
        time.sleep(0.05)
    demo.kill()
    demo.wait()
    assert processes_of(tmp_path)
    deadline = time.monotonic() + 30
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(tmp_path) == []


@proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    demo = subprocess.Popen(DEMO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 30
    while len(processes_of(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(tmp_path)
    demo.send_signal(number)
    assert demo.wait(30) == 130
    assert processes_of(tmp_path) == []
