"""Runs a command in a process group of its own, which does not outlive the node.

``child_reaper`` is the process in between; restarts and health checks are ``vllm_supervisor``'s.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from p2pnode.engine import child_reaper

#: Seconds between SIGTERM and SIGKILL (vLLM ends within one; a GPU driver in trouble takes longer).
GRACE_S: Final = 5.0
#: Bytes at the end of a log that are searched for an error.
TAIL_BYTES: Final = 16 * 1024


class Child:
    """A running child, represented by its reaper."""

    def __init__(self, process: trio.Process, log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """The reaper's process id, which is also the id of the group."""
        pid: int = self._process.pid
        return pid

    def stop(self) -> None:
        """Ask the whole group to end; ``wait`` returns when it has."""
        self._process.terminate()

    async def wait(self) -> int:
        """The exit code; negative for a signal."""
        code: int = await self._process.wait()
        return code

    def last_error(self) -> str:
        """The line of the log that most likely names the error."""
        return last_error(self._log)


@asynccontextmanager
async def child(command: Sequence[str], environment: Mapping[str, str], log: Path) -> AsyncIterator[Child]:
    """Start a command; the end of the block ends its whole process group."""
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    process = await trio.lowlevel.open_process(
        [sys.executable, "-I", child_reaper.__file__, str(log), str(GRACE_S), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=dict(environment),
        start_new_session=True,
    )
    try:
        yield Child(process, log)
    finally:
        await _end(process)


async def _end(process: trio.Process) -> None:
    assert process.stdin is not None
    with trio.CancelScope(shield=True):
        # The reaper reads the end of its stdin as the end of the node.
        await process.stdin.aclose()
        with trio.move_on_after(GRACE_S + 1.0):
            await process.wait()
        # Also if the reaper ended by itself: the child's own children may still run.
        with trio.move_on_after(1.0):
            _kill_group(process.pid)
            await process.wait()


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def last_error(log: Path) -> str:
    """The last line with an error, else the last line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    except OSError:
        return ""
    errors = [line for line in lines if "Error" in line or "error:" in line]
    return (errors or lines or [""])[-1][-300:]
