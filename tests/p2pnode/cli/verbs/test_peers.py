"""``p2pnode peers``: 80 columns, warm models first, and nothing that a name can draw."""

from __future__ import annotations

import pytest

from p2pnode.cli import app
from p2pnode.cli.exits import OK
from tests.p2pnode.cli.fake_daemon import PEER, FakeDaemon


def test_peers_fit_80_columns_and_warm_models_come_first(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
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
