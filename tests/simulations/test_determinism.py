"""Same scenario and seed: the same bytes, whatever Python's hash seed is; another seed: another run (I12)."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCENARIO = """
name = "determined"
seeds = [{seed}]
duration_s = 60.0
warmup_s = 5.0
quiet_s = 30.0
chaos = true
[topology]
nodes = 12
loss = 0.02
latency = "seattle99"
[models]
on_disk = 1
[workload]
kind = "trace"
trace = "mooncake-conversation"
rate_per_s = 2.0
[lookups]
rate_per_s = 0.5
[churn]
model = "weibull"
mean_session_s = 30.0
mean_off_s = 5.0
newcomers_per_s = 0.1
[[faults]]
kind = "partition"
at_s = 20.0
for_s = 10.0
[[faults]]
kind = "crash_forget"
at_s = 15.0
for_s = 5.0
[[attacks]]
kind = "garbage"
share = 0.2
[[attacks]]
kind = "forger"
share = 0.2
[measure]
track_every_s = 10.0
liveness_s = 30.0
"""


def results(folder: Path, seed: int, hash_seed: int, code: Path = ROOT) -> bytes:
    folder.mkdir()
    (folder / "determined.toml").write_text(SCENARIO.format(seed=seed), encoding="utf-8")
    command = [sys.executable, "-m", "simulations", "run", "determined.toml", "--jobs", "0", "--no-report"]
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(code)}
    subprocess.run(
        [*command, "--out", "out"], check=False, cwd=folder, env=environment, capture_output=True, timeout=300
    )
    return (folder / "out" / "determined" / "results.json").read_bytes()


@pytest.mark.slow
def test_the_hash_seed_changes_nothing_and_the_seed_everything(tmp_path: Path) -> None:
    first, second = results(tmp_path / "a", 7, 0), results(tmp_path / "b", 7, 1)
    assert hashlib.sha256(first).hexdigest() == hashlib.sha256(second).hexdigest()
    run = json.loads(first)["runs"][0]
    assert run["error"] is None
    assert run["events"] > 1000
    assert run["metrics"]["jobs_submitted"] > 10
    other = json.loads(results(tmp_path / "c", 8, 0))["runs"][0]
    assert other["digest"] != run["digest"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_code_does_the_very_same_things(tmp_path: Path) -> None:
    command = ["make", "fast", f"PYTHON={sys.executable}"]
    made = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    if "make fast needs a C compiler" in made.stderr:
        pytest.skip("no C compiler: the compiled code is NOT tried (make fast says what to install)")
    assert made.returncode == 0, made.stdout + made.stderr
    fast = ROOT / "build" / "fast"
    where = "import protocol.gossip.gossip as it; print(it.__file__)"
    environment = os.environ | {"PYTHONPATH": str(fast)}
    found = subprocess.run(
        [sys.executable, "-P", "-c", where], check=True, env=environment, capture_output=True, text=True
    )
    assert found.stdout.strip().endswith(".so"), "the test would compare the interpreter with itself"
    plain, compiled = results(tmp_path / "a", 7, 0), results(tmp_path / "b", 7, 0, fast)
    assert hashlib.sha256(plain).hexdigest() == hashlib.sha256(compiled).hexdigest()
