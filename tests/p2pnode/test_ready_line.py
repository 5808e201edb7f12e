"""The ready line: one line for programs, a few for people, and files that say the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2pnode.ready_line import announce, next_command
from protocol.ids import PeerId, peer_text

PEER = PeerId(bytes(range(32)))


ADDRESS = f"/ip4/203.0.113.7/tcp/4411/p2p/{peer_text(PEER)}"


FACTS = {"peer_id": "12D3", "listen": [ADDRESS], "api": "http://127.0.0.1:8411/v1", "models": ["m"]}


def test_ready_is_one_json_line_and_the_files_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ready, daemon = tmp_path / "ready.json", tmp_path / "daemon.json"
    announce(FACTS, as_json=True, ready_file=str(ready), daemon_file=daemon)
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"event": "ready", **FACTS} == json.loads(ready.read_text())
    assert json.loads(daemon.read_text()).items() >= FACTS.items()
    assert f"p2pnode run --bootstrap {ADDRESS}" in shown.err
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_ready_for_people_is_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    announce(FACTS, as_json=False, ready_file="", daemon_file=tmp_path / "daemon.json")
    assert capsys.readouterr().out.splitlines()[2] == "api      http://127.0.0.1:8411/v1"


def test_the_next_machine_is_given_an_address_that_it_can_reach() -> None:
    loopback = ADDRESS.replace("203.0.113.7", "127.0.0.1")
    assert next_command([loopback, ADDRESS]).endswith(ADDRESS)
    assert next_command([loopback]).endswith(loopback)
    assert "not listening" in next_command([])
