"""Modules form no import circle, and no folder is too large to survey.  Imports for type checking count, too."""

from __future__ import annotations

import ast
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("protocol", "p2pnode", "bootstrap", "simulations")
#: A newcomer should find a behaviour from the names in a folder alone.
MOST_MODULES = 18
#: Folders that may have more, with the reason.
LARGER: dict[str, str] = {}


def module_name(path: Path) -> str:
    """``protocol.gossip`` for ``protocol/gossip/__init__.py``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, modules: set[str]) -> set[str]:
    """The modules of this repository that a module imports, inside functions and for type checking included."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & modules or {node.module}
    return found & modules


def import_graph(folder: Path) -> dict[str, set[str]]:
    files = {module_name(path): path for path in sorted(folder.rglob("*.py"))}
    return {
        name: imported(ast.parse(path.read_text(encoding="utf-8")), set(files)) - {name} for name, path in files.items()
    }


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one circle; empty without any."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    assert circle(import_graph(ROOT / package)) == []


def test_a_circle_would_be_seen() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()})
    hidden = ast.parse("if TYPE_CHECKING:\n    from protocol.node import Node\ndef f():\n    import protocol.ids\n")
    assert imported(hidden, {"protocol.node", "protocol.ids"}) == {"protocol.node", "protocol.ids"}


def test_no_folder_has_more_modules_than_a_reader_can_survey() -> None:
    folders = Counter(
        path.parent.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*.py")
    )
    assert {folder: count for folder, count in folders.items() if count > MOST_MODULES and folder not in LARGER} == {}
