"""``p2pnode peers``: 80 columns, warm models first, and nothing that a name can draw."""

from __future__ import annotations

import pytest

from p2pnode.cli import app
from p2pnode.cli.exits import OK
from tests.p2pnode.cli.fake_daemon import PEER, FakeDaemon


def test_peers_fit_80_columns_and_warm_models_come_first(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    dead = PEER | {"short": "DEADDEAD", "state": "dead"}
    mine = PEER | {"short": "MYSELFXX", "self": True, "name": "zoe", "route": "self"}
    daemon.answers["/v1/p2p/peers"] = (200, {"data": [PEER, dead, mine]})
    assert app.run(["peers"]) == OK
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("MYSELFXX")
    assert "12/24" in lines[2]
    assert "a* +1" in lines[2]
    assert len(lines) == 3
    assert app.run(["peers", "--all"]) == OK
    assert "DEADDEAD" in capsys.readouterr().out


def test_a_node_alone_is_told_how_to_get_company(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["/v1/p2p/peers"] = (200, {"data": [PEER]})
    assert app.run(["peers"]) == OK
    assert "second node" in capsys.readouterr().err


def test_names_are_complete_in_a_pipe_and_in_a_narrow_terminal_and_never_markup(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4[/b]"
    hostile = PEER | {"name": "\\[/x]", "models": [{"name": model, "state": "resident"}]}
    daemon.answers["/v1/p2p/peers"] = (200, {"data": [hostile]})
    for columns in ("40", "80", "100", "200", None):
        monkeypatch.setenv("COLUMNS", columns) if columns else monkeypatch.delenv("COLUMNS")
        assert app.run(["peers"]) == OK
        text = capsys.readouterr().out
        assert model in text
        assert "\\[/x]" in text
