"""``p2pnode models``: what the network offers, and what of it is simulated."""

from __future__ import annotations

import pytest

from p2pnode.cli import app
from p2pnode.cli.exits import OK
from tests.p2pnode.cli.fake_daemon import MODEL, FakeDaemon


def test_models_say_when_they_are_simulated(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["/v1/models"] = (200, {"data": [MODEL]})
    assert app.run(["models"]) == OK
    shown = capsys.readouterr()
    assert "simulated" in shown.out
    assert "made-up" in shown.err
    assert "free / $0.5" in shown.out
    assert "4 (3 warm, 1 disk)" in shown.out
    assert "42 ms" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    daemon.answers["/v1/models"] = (200, {"data": []})
    assert app.run(["models"]) == OK
    assert "No peer offers a model" in capsys.readouterr().err
