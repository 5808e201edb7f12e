"""An object's private names are its own: no module reads, writes or imports the ``_name`` of another one's object."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("protocol", "p2pnode", "bootstrap", "simulations")
#: What has no public way, by file; everything else is a defect.
ALLOWED = {
    # trio lets other tasks run before each send, and keeps the socket that does not to itself.
    "p2pnode/http/connection.py": {"sock._sock"},
    "p2pnode/swarm/tcp_listener.py": {"self.stream.socket._sock"},
    # Workarounds for defects of libp2p 0.8.1, whose text is checked before it is patched.
    "p2pnode/swarm/libp2p_workarounds.py": {"muxed._sweep_stale_streams"},
    "p2pnode/swarm/yamux.py": {"stream._pending_recv_release", "stream._auto_tune_and_send_window_update"},
    "p2pnode/swarm/frame_decoder.py": {"session._drain"},
    # The documented way to end a process at once.
    "simulations/experiment/run_pool.py": {"os._exit"},
}


def private_accesses(source: str) -> set[str]:
    """Each access of a module to a private name of another module's objects, as it is written there.

    A class may use those of ``self``, ``cls`` and ``super()``; a module may use the names that its classes define,
    where it has such an object under a name of its own.
    """
    tree = ast.parse(source)
    defined = {name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for name in _defined_by(node)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {f"import {alias.name}" for alias in node.names if _is_private(alias.name)}
        elif isinstance(node, ast.Attribute) and _is_private(node.attr):
            base = node.value.func if isinstance(node.value, ast.Call) else node.value
            own = isinstance(base, ast.Name) and (base.id in ("self", "cls", "super") or node.attr in defined)
            found |= set() if own else {ast.unparse(node)}
    return found


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def _defined_by(node: ast.ClassDef) -> set[str]:
    """Methods, fields and slots of a class, and what its methods set."""
    names = set()
    for each in ast.walk(node):
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(each.name)
        elif isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            names.add(each.id)
        elif isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store):
            names |= {each.attr} if isinstance(each.value, ast.Name) and each.value.id == "self" else set()
    return names


def accesses_by_file() -> dict[str, set[str]]:
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    found = {str(path.relative_to(ROOT)): private_accesses(path.read_text(encoding="utf-8")) for path in paths}
    return {path: accesses for path, accesses in found.items() if accesses}


def test_private_names_are_left_to_their_owners() -> None:
    assert accesses_by_file() == ALLOWED


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("node.overlay._links[peer].chosen = True", {"node.overlay._links"}),
        ("from protocol.dht import _Own", {"import _Own"}),
        ("def f(x):\n    x._secret = 1", {"x._secret"}),
        ("class A:\n    def f(self, other: 'B') -> None:\n        other._b = self._a", {"other._b"}),
        ("class A:\n    def f(self) -> None:\n        self._a = 1\n        self.part._a = 2", {"self.part._a"}),
        ("class A:\n    def f(self, other: 'A') -> None:\n        self._a = other._a", set()),
        ("class A:\n    _a: int\n\n\ndef f(a: A) -> int:\n    return a._a", set()),
        ("class A:\n    def _f(self) -> None: ...\n\n\nTABLE = {int: A._f}", set()),
        ("class B(A):\n    def f(self) -> None:\n        super()._f()\n        self.__dict__", set()),
    ],
)
def test_what_counts_as_access(source: str, expected: set[str]) -> None:
    assert private_accesses(source) == expected
