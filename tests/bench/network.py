"""What a node adds to a request, measured with real processes on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from p2pnode.cli.processes import Fleet, NodeProcess, until
from tests.bench.load import Target, first_token_times, requests_per_second, tokens_per_second
from tests.bench.row import Row
from tests.bench.upstream import MODEL

ROOT = Path(__file__).parents[2]
LITELLM = "litellm[proxy]==1.106.2"
#: Interleaved rounds; the median of the rounds is quoted.
ROUNDS = 5


@contextlib.contextmanager
def child(command: list[str], **options: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, text=True, start_new_session=True, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def upstream() -> Iterator[Target]:
    """The bare server of ``upstream.py``."""
    with child([sys.executable, "-m", "tests.bench.upstream"], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        yield Target(f"http://127.0.0.1:{int(process.stdout.readline())}/v1", "none", MODEL)


def attached(fleet: Fleet, name: str, server: Target) -> NodeProcess:
    """A node in front of ``server``."""
    return fleet.node(name, "--engine", "openai", "--engine-url", server.base_url).wait_ready()


def target_of(node: NodeProcess) -> Target:
    return Target(str(node.ready["api"]), Path(node.ready["key_file"]).read_text().strip(), MODEL)


def wait_for_model(node: NodeProcess) -> None:
    """Until the node knows somebody who offers the model."""

    def look() -> bool:
        return any(entry["id"] == MODEL for entry in node.api.get("/v1/models")["data"])

    until(look, f"{node.name} knows {MODEL}\n{node.tail()}", 30)


def start(folder: Path) -> list[Row]:
    """Process start to listening API."""
    times = []
    with Fleet(folder) as fleet:
        for number in range(ROUNDS):
            began = time.perf_counter()
            fleet.node(f"node{number}", "--engine", "mock", "--profile", "wan").wait_ready()
            times.append(time.perf_counter() - began)
    median = statistics.median(times)
    how = f"p2pnode run --engine mock, until the ready file; median of {ROUNDS}"
    return [Row("start to listening API", "≤ 2 s", f"{median:.2f} s", median <= 2, how)]


def added_first_token(folder: Path) -> list[Row]:
    """Time to first token through entry and worker, less the same request straight to the engine."""
    with Fleet(folder) as fleet, upstream() as server:
        worker = attached(fleet, "worker", server)
        entry = fleet.node("entry", "--engine", "none", "--bootstrap", worker.address).wait_ready()
        wait_for_model(entry)
        direct, through = [], []
        for _ in range(ROUNDS):
            direct += asyncio.run(first_token_times(server, 60))
            through += asyncio.run(first_token_times(target_of(entry), 60))
    added = (statistics.median(through) - statistics.median(direct)) * 1000
    tail = (statistics.quantiles(through, n=20)[-1] - statistics.median(direct)) * 1000
    how = f"p95 {tail:.1f} ms; straight {statistics.median(direct) * 1000:.2f} ms; {len(through)} requests, interleaved"
    return [Row("added time to first token, entry + worker", "p50 ≤ 8 ms", f"p50 {added:.1f} ms", added <= 8, how)]


def litellm_environment() -> Path | None:
    """An environment with litellm's proxy, or None where it cannot be had."""
    folder = Path(os.environ.get("P2PNODE_LITELLM_VENV", ROOT / ".venv-litellm"))
    if not (folder / "bin" / "litellm").exists():
        print(f"installing {LITELLM} into {folder} (740 MB, once)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        done = subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", LITELLM], check=False)
        if done.returncode != 0:
            return None
    return folder


@contextlib.contextmanager
def litellm(folder: Path, server: Target) -> Iterator[Target | None]:
    """litellm's proxy in front of ``server``, one worker."""
    environment = litellm_environment()
    if environment is None:
        yield None
        return
    config = folder / "litellm.yaml"
    config.write_text(
        f"model_list:\n  - model_name: {MODEL}\n    litellm_params:\n      model: openai/{MODEL}\n"
        f"      api_base: {server.base_url}\n      api_key: none\n"
        "general_settings:\n  master_key: sk-a-strong-master-key-for-the-bench\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "*"}
    command = [str(environment / "bin" / "litellm"), "--config", str(config), "--port", str(port), "--num_workers", "1"]
    with (folder / "litellm.log").open("w") as log, child(command, stdout=log, stderr=log, env=env):
        target = Target(f"http://127.0.0.1:{port}/v1", "sk-a-strong-master-key-for-the-bench", MODEL)
        until(lambda: reachable(port), "litellm's proxy listens", 60)
        asyncio.run(requests_per_second(target, 4, 1.0))
        yield target


def reachable(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def requests(folder: Path) -> list[Row]:
    """Requests a second through a node to its own engine, against litellm's proxy to the same server."""
    ours, theirs = [], []
    with Fleet(folder) as fleet, upstream() as server, litellm(folder, server) as proxy:
        node = attached(fleet, "node", server)
        wait_for_model(node)
        for _ in range(ROUNDS):
            ours.append(asyncio.run(requests_per_second(target_of(node), 16, 2.0)))
            if proxy is not None:
                theirs.append(asyncio.run(requests_per_second(proxy, 16, 2.0)))
    mine = statistics.median(ours)
    if not theirs:
        return [Row("requests/s to its own engine", "≥ 6 × litellm", f"{mine:.0f}/s", None, "litellm could not be had")]
    ratio = mine / statistics.median(theirs)
    how = f"{mine:.0f}/s against {statistics.median(theirs):.0f}/s, 16 connections, median of {ROUNDS} rounds"
    return [Row("requests/s to its own engine", "≥ 6 × litellm", f"{ratio:.1f} ×", ratio >= 6, how)]


def cpu_seconds(node: NodeProcess) -> float:
    """CPU used so far by a node's process (Linux; else 0)."""
    try:
        fields = Path(f"/proc/{node.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def streaming(folder: Path) -> list[Row]:
    """Tokens a second from one worker process through one entry process to 50 HTTP clients."""
    rates, used = [], []
    with Fleet(folder) as fleet:
        fast = {"P2PNODE_MOCK_SPEED": "100000"}
        worker = fleet.node("worker", "--engine", "mock", "--model", MODEL, env=fast).wait_ready()
        entry = fleet.node("entry", "--engine", "none", "--bootstrap", worker.address).wait_ready()
        wait_for_model(entry)
        asyncio.run(tokens_per_second(target_of(entry), 5, 50))
        for _ in range(ROUNDS):
            before, began = cpu_seconds(entry) + cpu_seconds(worker), time.perf_counter()
            rates.append(asyncio.run(tokens_per_second(target_of(entry), 50, 1500)))
            used.append((cpu_seconds(entry) + cpu_seconds(worker) - before) / (time.perf_counter() - began))
    rate = statistics.median(rates)
    how = f"50 streams of 1,500 tokens, median of {ROUNDS}; both nodes together {statistics.median(used):.2f} cores"
    return [Row("tokens/s, worker → entry → 50 clients", "≥ 10,000", f"{rate:,.0f}", rate >= 10_000, how)]
