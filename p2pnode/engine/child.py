"""A child process in a process group of its own, which does not outlive the node (see ``keeper``)."""

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
#: Bytes at the end of a log that are searched for what went wrong.
TAIL_BYTES: Final = 16 * 1024


class Child:
    """A running child, seen through its keeper."""

    def __init__(self, process: trio.Process, log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """The keeper's, which is the process group's."""
        pid: int = self._process.pid
        return pid

    def stop(self) -> None:
        """Ask the whole group to end; ``wait`` tells when it has."""
        self._process.terminate()

    async def wait(self) -> int:
        """The exit code; negative for a signal."""
        code: int = await self._process.wait()
        return code

    def last_words(self) -> str:
        """The line of the log that most likely says what went wrong."""
        return last_words(self._log)


@asynccontextmanager
async def child(command: Sequence[str], environment: Mapping[str, str], log: Path) -> AsyncIterator[Child]:
    """Start a command; when the block ends, its whole process group does."""
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    kept = [sys.executable, "-I", child_reaper.__file__, str(log), str(GRACE_S), *command]
    process = await trio.lowlevel.open_process(
        kept,
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
        # The keeper reads the end of its stdin as the end of the node.
        await process.stdin.aclose()
        with trio.move_on_after(GRACE_S + 1.0):
            await process.wait()
        # Also after a keeper that ended by itself: the child's own children may still be there.
        with trio.move_on_after(1.0):
            _kill_group(process.pid)
            await process.wait()


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def last_words(log: Path) -> str:
    """The last line that speaks of an error, else the last line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    except OSError:
        return ""
    errors = [line for line in lines if "Error" in line or "error:" in line]
    return (errors or lines or [""])[-1][-300:]
