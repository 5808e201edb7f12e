"""Runs real nodes as child processes on loopback, in a temporary home, for the demo and the end-to-end tests.

Each child has its own process group, a log and a ready file.  Leaving the ``with`` block ends and reaps all of them,
also after an exception; they also end when this process is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self, TypeVar

from p2pnode.cli.client import Api
from p2pnode.json_types import JsonObject
from p2pnode.lifecycle import PARENT_VARIABLE

T = TypeVar("T")

#: Seconds until a node is ready: 2 s on an idle machine, but here six start at once.
READY_S: Final = 25.0
#: Seconds a node may take to end after SIGTERM before it is killed.
STOP_S: Final = 8.0
#: Seconds between checks of a condition.
POLL_S: Final = 0.05
#: Seconds an engine may take to end after its node, which gives it 5 s after SIGTERM.
ENGINE_STOP_S: Final = 8.0
LOOPBACK: Final = "/ip4/127.0.0.1/tcp/0"


class NotYet(Exception):
    """A condition was not true in time."""


def until(condition: Callable[[], T | None], what: str, within_s: float) -> T:
    """Wait for the first true result of ``condition``; raises ``NotYet`` after ``within_s``."""
    deadline = time.monotonic() + within_s
    while True:
        if answer := condition():
            return answer
        if time.monotonic() > deadline:
            raise NotYet(f"{what}: not within {within_s:g} s")
        time.sleep(POLL_S)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay SIGINT and SIGTERM, so that no child is lost between its start and its entry in the list."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [(number, signal.signal(number, lambda got, _: held.append(got))) for number in numbers]
    try:
        yield
    finally:
        for number, action in before:
            signal.signal(number, action)
    for got in held:
        signal.raise_signal(got)


@dataclass
class NodeProcess:
    """One node in a process of its own."""

    name: str
    home: Path
    process: subprocess.Popen[bytes]
    log: Path
    ready: JsonObject = field(default_factory=dict)
    #: The process group of the engine that it started; 0 if none is known.
    engine_group: int = 0

    @property
    def peer_id(self) -> str:
        return str(self.ready["peer_id"])

    @property
    def address(self) -> str:
        """Its address for ``--bootstrap``."""
        return str(self.ready["listen"][0])

    @property
    def api(self) -> Api:
        """A client with this node's key."""
        key = Path(self.ready["key_file"]).read_text().strip() if self.ready.get("key_file") else None
        return Api(str(self.ready["api"]).removesuffix("/v1"), key, self.name)

    def send(self, number: int) -> None:
        """Send a signal to the whole process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def wait_ready(self, within_s: float = READY_S) -> Self:
        """Wait for the ready file; raises ``NotYet`` with the end of the log if the node ends before."""

        def is_ready() -> bool:
            if self.process.poll() is not None:
                raise NotYet(f"{self.name} ended with {self.process.returncode} before it was ready:\n{self.tail()}")
            return (self.home / "ready.json").exists()

        until(is_ready, f"{self.name} is ready", within_s)
        self.ready = json.loads((self.home / "ready.json").read_text())
        return self

    def tail(self, lines: int = 12, log: Path | None = None) -> str:
        """The end of its log, or of another one."""
        try:
            return "\n".join((log or self.log).read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def stop(self, within_s: float = STOP_S) -> int:
        """Send SIGTERM, wait, and send SIGKILL if it does not end; returns the exit code."""
        self.send(signal.SIGTERM)
        return self.reap(within_s)

    def reap(self, within_s: float = STOP_S) -> int:
        """Wait, and send SIGKILL if it does not end; returns the exit code."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """Send SIGKILL to the group, and reap it."""
        self.send(signal.SIGKILL)
        return self.process.wait()

    def engine_ended(self) -> bool:
        """Whether its engine has ended completely."""
        if self.engine_group:
            # If this is process 1 of a container, it inherits the children of a dead node and has to reap them.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-self.engine_group, os.WNOHANG)
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS raises the latter for zombies
                os.killpg(self.engine_group, 0)
                return False
        return True

    def end_engine(self) -> None:
        """Wait until the engine of a dead node ends, and kill it otherwise."""
        try:
            until(self.engine_ended, f"the engine of {self.name} has ended", ENGINE_STOP_S)
        except NotYet:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.engine_group, signal.SIGKILL)


class Fleet:
    """Several nodes in one temporary directory."""

    def __init__(self, home: Path | None = None) -> None:
        self._temporary = None if home else tempfile.TemporaryDirectory(prefix="p2pnode-", ignore_cleanup_errors=True)
        self.home = home or Path(self._temporary.name if self._temporary else ".")
        self.children: dict[str, NodeProcess] = {}
        # The read end is the nodes' standard input.  If this process is killed, the pipe closes and the nodes end.
        self._lives = os.pipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with uninterrupted():
            for child in self.children.values():
                child.send(signal.SIGCONT)
                child.send(signal.SIGKILL)
            for child in self.children.values():
                child.process.wait()
            for child in self.children.values():
                child.end_engine()
            for end in self._lives:
                os.close(end)
            if self._temporary:
                self._temporary.cleanup()

    def bootstrap(self, name: str = "bootstrap", *flags: str) -> NodeProcess:
        """Start ``python -m bootstrap``."""
        return self._start(name, ("-m", "bootstrap"), ("--listen", LOOPBACK, "--name", name, *flags))

    def node(
        self,
        name: str,
        *flags: str,
        env: Mapping[str, str] = MappingProxyType({}),
        program: tuple[str, ...] = ("-m", "p2pnode", "run"),
    ) -> NodeProcess:
        """Start ``p2pnode run``, or a program with the same flags.

        ``flags`` override the defaults for loopback; ``env`` is added to an environment without ``P2PNODE_*``.
        """
        given = {flag for flag in flags if flag.startswith("--")}
        defaults = (("--listen", LOOPBACK), ("--api", "127.0.0.1:0"), ("--name", name))
        extra = [part for pair in defaults if pair[0] not in given for part in pair]
        return self._start(name, program, (*extra, *flags), env)

    def _start(
        self,
        name: str,
        program: tuple[str, ...],
        flags: tuple[str, ...],
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> NodeProcess:
        home = self.home / name
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        (home / "ready.json").unlink(missing_ok=True)
        log = home / "output.log"
        command = [sys.executable, *program, "--home", str(home), "--ready-file", str(home / "ready.json")]
        command += ["--profile", "test", "--log-format", "json", *flags]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("P2PNODE_")}
        environment |= {PARENT_VARIABLE: "1", **env}
        with uninterrupted(), log.open("ab") as sink:
            process = subprocess.Popen(
                command,
                stdin=self._lives[0],
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
            self.children[name] = NodeProcess(name, home, process, log)
        return self.children[name]

    def forget(self, name: str) -> None:
        """Remove a child that was stopped from the list."""
        self.children.pop(name, None)

    def stop_all(self, within_s: float = STOP_S) -> dict[str, int]:
        """Send SIGTERM to all running children at once; returns their exit codes by name."""
        running = [child for child in self.children.values() if child.process.poll() is None]
        for child in running:
            child.send(signal.SIGTERM)
        return {child.name: child.reap(within_s) for child in running}
