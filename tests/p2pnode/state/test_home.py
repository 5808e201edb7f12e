"""The home of a node: its identity, its incarnation, one daemon at a time, the modes of its files."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from p2pnode.lifecycle import CannotStart
from p2pnode.ready_line import write_json
from p2pnode.state import home as home_module
from p2pnode.state.home import open_home
from p2pnode.state.ledger import Ledger
from p2pnode.state.paths import find_paths
from protocol.ids import PeerId, peer_text
from protocol.node import NodeSnapshot

PEER = PeerId(bytes(range(32)))
ADDRESS = f"/ip4/203.0.113.7/tcp/4411/p2p/{peer_text(PEER)}"


def test_a_home_keeps_its_identity_and_its_incarnation_rises(tmp_path: Path) -> None:
    paths = find_paths(tmp_path / "home")
    with open_home(paths) as first:
        peer, inc = first.signer.peer_id, first.inc
        first.ledger.remember_peers([(PEER, (ADDRESS,), 1.0)])
        first.ledger.save_marks({(PEER, 1): (3, 4, 5.0)})
    with open_home(paths) as second:
        assert second.signer.peer_id == peer
        assert second.inc > inc
        assert second.snapshot == NodeSnapshot(((PEER, (ADDRESS,)),), {(PEER, 1): (3, 4, 5.0)})
    assert paths.home.stat().st_mode & 0o077 == 0
    assert paths.node_key.stat().st_mode & 0o077 == 0


async def test_marks_are_remembered_until_their_time_is_over(tmp_path: Path) -> None:
    now = time.time()
    marks = {(PEER, 1): (3, 4, now + 60.0), (PEER, 2): (3, 4, now - 60.0)}
    machine: Any = SimpleNamespace(snapshot=lambda: NodeSnapshot(marks=marks), view=SimpleNamespace(records=tuple))
    with open_home(find_paths(tmp_path / "home")) as home:
        await home_module._remember(home, machine, now)
        assert home.ledger.marks() == {(PEER, 1): (3, 4, now + 60.0)}


def test_a_home_is_for_one_daemon(tmp_path: Path) -> None:
    paths = find_paths(tmp_path / "home")
    with open_home(paths), pytest.raises(CannotStart, match="another p2pnode runs"), open_home(paths):
        pass


def test_wrong_modes_are_refused_with_the_chmod_to_run(tmp_path: Path) -> None:
    paths = find_paths(tmp_path / "home")
    with open_home(paths):
        pass
    paths.node_key.chmod(0o640)
    with pytest.raises(CannotStart, match=f"chmod 600 {paths.node_key}"), open_home(paths):
        pass
    paths.node_key.chmod(0o600)
    paths.home.chmod(0o755)
    with pytest.raises(CannotStart, match=f"chmod 700 {paths.home}"), open_home(paths):
        pass


def test_what_the_daemon_said_of_itself_goes_with_it(tmp_path: Path) -> None:
    paths = find_paths(tmp_path / "home")
    with open_home(paths):
        write_json(paths.daemon, {"api": "x"})
    assert not paths.daemon.exists()
    ledger = Ledger(paths.database)
    assert ledger.peers() == []
    ledger.close()
