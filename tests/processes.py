"""Real nodes as real processes on loopback, for the tests, the benchmarks and nobody else.

``Fleet`` starts ``p2pnode run`` in homes of their own, waits for the ready file, and ends every process group that it
started, whatever happens.  Synchronous: its users drive the nodes from outside, as a person would.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

#: Longest wait for a process to become ready or for a network to agree; generous because machines are shared.
PATIENCE_S = 60.0
_HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class NodeProcess:
    """One ``p2pnode run`` (or ``python -m bootstrap``) and what it said when it was ready."""

    name: str
    home: Path
    process: subprocess.Popen[bytes]
    log: Path
    ready: dict[str, Any] = field(default_factory=dict)

    @property
    def peer_id(self) -> str:
        return str(self.ready["peer_id"])

    @property
    def api(self) -> str:
        return str(self.ready["api"])

    @property
    def address(self) -> str:
        return str(self.ready["listen"][0])

    @property
    def key(self) -> str:
        return (self.home / "api-key").read_text().strip()

    def signal(self, number: int) -> None:
        """To the whole process group: the node and its engine."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def call(self, path: str, body: dict[str, Any] | None = None, timeout: float = 30.0) -> tuple[int, Any]:
        """``(status, parsed body)`` of a JSON request; ``path`` below ``/v1``."""
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.api + path, data=data, headers=headers)
        try:
            with _HTTP.open(request, timeout=timeout) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Fleet:
    """A set of nodes under one folder; use as a context manager."""

    def __init__(self, folder: Path, profile: str = "test") -> None:
        self.folder = folder
        self.profile = profile
        self.nodes: dict[str, NodeProcess] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes.values():
            node.signal(signal.SIGCONT)
            node.signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        for node in self.nodes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.process.wait(max(0.1, deadline - time.monotonic()))
            node.signal(signal.SIGKILL)
            node.process.wait()

    def start(self, name: str, *arguments: str, bootstrap: str = "", wait: bool = True, **env: str) -> NodeProcess:
        """Start a node with a fixed name (its home is kept between starts of the same name)."""
        home = self.folder / name
        ready = self.folder / f"{name}.ready"
        ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "p2pnode", "--home", str(home), "--log-format", "json", "run"]
        command += ["--profile", self.profile, "--name", name, "--ready-file", str(ready)]
        if "--listen" not in arguments:
            command += ["--listen", "/ip4/127.0.0.1/tcp/0"]
        if "--api" not in arguments:
            command += ["--api", "127.0.0.1:0"]
        if bootstrap:
            command += ["--bootstrap", bootstrap]
        log = self.folder / f"{name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                [*command, *arguments], stdout=out, stderr=out, start_new_session=True, env={**os.environ, **env}
            )
        node = NodeProcess(name, home, process, log)
        self.nodes[name] = node
        if wait:
            self.wait_ready(node, ready)
        return node

    def wait_ready(self, node: NodeProcess, ready: Path) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not ready.exists():
            if node.process.poll() is not None:
                raise AssertionError(f"{node.name} ended with {node.process.returncode}\n{node.tail()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{node.name} was not ready in {PATIENCE_S:.0f} s\n{node.tail()}")
            time.sleep(0.05)
        node.ready = json.loads(ready.read_text())

    def wait_for_model(self, node: NodeProcess, model: str, peers: int = 1) -> None:
        """Until ``node`` knows ``peers`` nodes that offer ``model``."""
        wait_until(
            lambda: any(
                entry["id"] == model and entry["p2pnode"]["peers"] >= peers for entry in node.call("/models")[1]["data"]
            ),
            f"{node.name} to see {model} on {peers} peers",
            node,
        )


def wait_until(condition: Any, what: str, node: NodeProcess | None = None, patience: float = PATIENCE_S) -> None:
    """Poll ``condition`` until it holds; on time-out fail with ``what`` and the node's last log lines."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience:.0f} s for {what}\n{node.tail() if node else ''}")
        time.sleep(0.1)
