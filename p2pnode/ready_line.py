"""Writes the ``ready`` line, and the files with the same facts, for scripts that wait until the node is ready.

The line goes to stdout because it is data; the command for the next machine goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import structlog

from p2pnode.json_types import JsonObject
from p2pnode.lifecycle import CannotStart
from p2pnode.state.keys import write_secret

log = structlog.get_logger("p2pnode.node")


def announce(facts: JsonObject, *, as_json: bool, ready_file: str, daemon_file: Path) -> None:
    """Write the files, then the line, so that a reader of the line finds the files; raises ``CannotStart``."""
    line = {"event": "ready", **facts}
    try:
        write_json(daemon_file, line | {"pid": os.getpid()})
    except OSError as error:  # a full disk does not stop a node; the verbs then try the configured address
        log.warning("daemon_file_not_written", path=str(daemon_file), reason=error.strerror)
    if ready_file:
        try:
            write_json(Path(ready_file), line)
        except OSError as error:
            raise CannotStart(f"cannot write {ready_file}: {error.strerror}; choose another --ready-file") from None
    sys.stdout.write((json.dumps(line) if as_json else _pretty(facts)) + "\n")
    sys.stdout.flush()
    sys.stderr.write(f"On the next machine: {next_command(facts['listen'])}\n")
    sys.stderr.flush()


def next_command(listen: list[str]) -> str:
    """The command to paste on the next machine, with the address that it can most likely reach."""
    if not listen:
        return "p2pnode run  (this node is not listening, so no other node can join through it)"
    outside = [address for address in listen if "/127." not in address and "/::1/" not in address]
    return f"p2pnode run --bootstrap {(outside or listen)[0]}"


def _pretty(facts: JsonObject) -> str:
    rows = [
        ("ready", facts["peer_id"]),
        ("listens", ", ".join(facts["listen"]) or "nowhere"),
        ("api", facts.get("api")),
        ("key", facts.get("key_file")),
        ("engine", facts.get("engine")),
        ("models", ", ".join(facts.get("models") or ())),
    ]
    return "\n".join(f"{name:<8} {value}" for name, value in rows if value)


def write_json(path: Path, value: JsonObject) -> None:
    """JSON into a file that is either the old one or the whole new one; 0600, since it names local files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_secret(path, json.dumps(value).encode())
