"""``p2pnode keys``: made, listed without their secret, and taken back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2pnode.cli import app
from p2pnode.cli.exits import FAILED, OK, USAGE


def test_keys_are_made_listed_and_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("P2PNODE_HOME", str(tmp_path / "home"))
    assert app.run(["keys", "new", "laptop", "--policy", "zone=local,rpm=60"]) == OK
    secret = capsys.readouterr().out.strip()
    assert secret.startswith("sk-")
    assert app.run(["keys", "new", "laptop"]) == FAILED
    assert "laptop" in capsys.readouterr().err
    assert app.run(["keys", "ls"]) == OK
    shown = capsys.readouterr().out
    assert "laptop" in shown
    assert secret not in shown
    assert app.run(["keys", "ls", "--json"]) == OK
    assert json.loads(capsys.readouterr().out)["data"][0]["zone"] == "local"
    assert app.run(["keys", "rm", "laptop"]) == OK
    assert app.run(["keys", "rm", "laptop"]) == FAILED
    assert app.run(["keys", "new", "no spaces"]) == USAGE
    assert app.run(["keys", "new", "x", "--policy", "zone=mars"]) == USAGE
