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

pytestmark = pytest.mark.slow

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


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks into /proc")
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
