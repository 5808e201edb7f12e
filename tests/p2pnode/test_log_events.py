"""Event names in the log are words that scripts may rely on; what differs travels in fields."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent.parent / "p2pnode"
SOURCES = [*sorted((PACKAGE / "swarm").glob("*.py")), PACKAGE / "node.py", PACKAGE / "jobs" / "execute.py"]
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def events(path: Path) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LEVELS
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "log"
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_event_is_one_word_and_its_facts_are_fields(path: Path) -> None:
    for call in events(path):
        assert len(call.args) == 1, f"{path.name}:{call.lineno}: facts belong into fields"
        name = call.args[0]
        assert isinstance(name, ast.Constant), f"{path.name}:{call.lineno}"
        assert re.fullmatch(r"[a-z][a-z0-9_]*", str(name.value)), f"{path.name}:{call.lineno}: {name.value!r}"


def test_there_are_some() -> None:
    assert sum(len(events(path)) for path in SOURCES) > 10
