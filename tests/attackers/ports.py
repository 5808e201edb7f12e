"""Ports on loopback that no node serves: one that refuses, and one that counts who connects."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

#: Connections that the kernel holds for a listener that is busy.
BACKLOG: Final = 512


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port that refuses connections: it is taken, and no socket listens on it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


class Victim:
    """Listens on a port, and counts the connections of each process; it says nothing and hangs up at once."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self.dials: Counter[str] = Counter()
        self._processes = processes
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Victim:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, (_, port) = self._socket.accept()
            except OSError:
                return
            self.dials[self._owner(port)] += 1
            connection.close()

    def _owner(self, port: int) -> str:
        """The name of the process that has a socket with this local port; Linux only."""
        inodes = {f"socket:[{line[9]}]" for line in _sockets() if line[1].endswith(f":{port:04X}")}
        for name, process in self._processes.items():
            with contextlib.suppress(OSError):
                for entry in os.listdir(f"/proc/{process}/fd"):
                    with contextlib.suppress(OSError):
                        if os.readlink(f"/proc/{process}/fd/{entry}") in inodes:
                            return name
        return "unknown"


def _sockets() -> Iterator[list[str]]:
    return (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
