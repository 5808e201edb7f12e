"""Keeps a child process: bounds its log, and ends it and all it started when the node is gone, however that went.

Run as ``keeper.py LOG GRACE_S COMMAND…`` in a process group of its own, with a pipe from the node as its stdin.  A node
that is killed by SIGKILL can tell nobody, but its end of the pipe closes; PR_SET_PDEATHSIG would do for neither the
child's own children nor a child that was started from a thread.  Nothing but the standard library, so that it starts
in a few milliseconds and needs a few megabytes.
Not here: restarts and health (``vllm``).
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

#: Bytes of one log file; the one before it is kept too.
MOST_LOG_BYTES = 4 * 1024 * 1024
#: Seconds between looks at the child while nothing happens.
LOOK_S = 0.5


class BoundedLog:
    """A file that starts over when it is full; its forerunner keeps the name with ``.1``."""

    def __init__(self, path: Path, most: int = MOST_LOG_BYTES) -> None:
        self._path = path
        self._most = most
        self._file = self._open()

    def _open(self) -> BinaryIO:
        # Readable by its owner only: an engine's log may tell what is asked of it.
        return os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0)

    def close(self) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        if self._file.tell() + len(data) > self._most:
            self._file.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._file = self._open()
        self._file.write(data)


def keep(log: BoundedLog, grace_s: float, command: list[str]) -> int:
    """Run the command until it ends or the node does; returns its exit code."""
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
        # A closed output is the first sign of the end.
        ready, _, _ = select.select(watched, [], [], LOOK_S if output in watched else 0.01)
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
    """SIGTERM to the group, patience, SIGKILL to the group, this process included."""
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
    """Run and end as the child ended, by a signal too."""
    code = keep(BoundedLog(Path(sys.argv[1])), float(sys.argv[2]), sys.argv[3:])
    if code < 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
