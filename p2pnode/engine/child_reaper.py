"""A process between node and child: it bounds the child's log, and ends the child's process group with the node.

It runs as ``child_reaper.py LOG GRACE_S COMMAND…`` in a process group of its own; its stdin is a pipe from the node.
The pipe closes even if SIGKILL ends the node.  PR_SET_PDEATHSIG covers neither the child's own children nor a child
that was started from a thread.  Only the standard library is imported, so it starts in a few milliseconds and needs a
few megabytes.  Not here: restarts and health (``vllm_supervisor``).
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

#: Bytes of one log file; its predecessor is kept too.
MOST_LOG_BYTES = 4 * 1024 * 1024
#: Seconds between checks of the child while nothing happens.
CHECK_S = 0.5


class BoundedLog:
    """A log file that is rotated when it is full; its predecessor is named ``….1``."""

    def __init__(self, path: Path, most: int = MOST_LOG_BYTES) -> None:
        self._path = path
        self._most = most
        self._file = self._open()

    def _open(self) -> BinaryIO:
        # Only the owner may read it: an engine's log may contain prompts.
        return os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0)

    def close(self) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        if self._file.tell() + len(data) > self._most:
            self._file.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._file = self._open()
        self._file.write(data)


def supervise(log: BoundedLog, grace_s: float, command: list[str]) -> int:
    """Run the command until it or the node ends; returns its exit code."""
    stop_read, stop_write = os.pipe()
    os.set_blocking(stop_write, False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os.write(stop_write, b"x"))
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        )
    except OSError as error:
        log.write(f"{command[0]} could not be started: {error}\n".encode())
        return 127
    assert child.stdout is not None
    output = child.stdout.fileno()
    watched = [sys.stdin.fileno(), stop_read, output]
    while child.poll() is None:
        # The output closes shortly before the child ends.
        ready, _, _ = select.select(watched, [], [], CHECK_S if output in watched else 0.01)
        if output in ready and not _copy(output, log):
            watched.remove(output)
        if stop_read in ready or (sys.stdin.fileno() in ready and not os.read(sys.stdin.fileno(), 64)):
            _end_group(child, output if output in watched else None, log, grace_s)
    while output in watched and select.select([output], [], [], 0)[0] and _copy(output, log):
        pass
    return child.returncode


def _copy(output: int, log: BoundedLog) -> bool:
    data = os.read(output, 65536)
    if data:
        log.write(data)
    return bool(data)


def _end_group(child: subprocess.Popen[bytes], output: int | None, log: BoundedLog, grace_s: float) -> None:
    """SIGTERM to the group, after the grace time SIGKILL; the group includes this process."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while child.poll() is None and (left := deadline - time.monotonic()) > 0:
        if output is None:
            time.sleep(min(left, 0.05))
        elif select.select([output], [], [], min(left, 0.05))[0] and not _copy(output, log):
            output = None
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Run the child and end as it ended, by the same signal if there was one."""
    code = supervise(BoundedLog(Path(sys.argv[1])), float(sys.argv[2]), sys.argv[3:])
    if code < 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
