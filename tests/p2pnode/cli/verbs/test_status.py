"""``p2pnode status``: ten lines, what is wrong and how to mend it."""

from __future__ import annotations

import pytest

from p2pnode.cli import app
from p2pnode.cli.exits import DEGRADED, OK
from tests.p2pnode.cli.fake_daemon import STATUS, FakeDaemon


def test_status_says_it_in_ten_lines(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["/v1/p2p/status"] = (200, STATUS)
    assert app.run(["status"]) == OK
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert "ready, up 1 min" in lines[1]
    assert "simulated" in lines[4]
    assert "2 × RTX 4090 (24 GiB)" in lines[5]
    assert "3 alive, 2 linked, 4 known" in lines[7]


def test_an_address_is_never_cut(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    address = f"/ip4/192.0.2.7/tcp/4411/p2p/{STATUS['peer_id']}{'x' * 40}"
    daemon.answers["/v1/p2p/status"] = (200, STATUS | {"listen": [address]})
    assert app.run(["status"]) == OK
    assert f"address   {address}\n" in capsys.readouterr().out


def test_status_says_what_is_wrong_and_how_to_mend_it(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    problems = [{"what": "no bootstrap peer answers", "fix": "check the address"}]
    for ready in (True, False):
        daemon.answers["/v1/p2p/status"] = (200, STATUS | {"ready": ready, "problems": problems})
        assert app.run(["status"]) == DEGRADED, "a node that can serve, but with a problem, is degraded as well"
        text = capsys.readouterr().out
        assert "no bootstrap peer answers" in text
        assert "check the address" in text


def test_an_engine_that_loads_is_not_wrong(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    problems = [{"what": "engine vllm: is loading", "fix": "it takes minutes", "kind": "wait"}]
    daemon.answers["/v1/p2p/status"] = (200, STATUS | {"problems": problems})
    assert app.run(["status"]) == OK, "peers serve meanwhile"
    text = capsys.readouterr().out
    assert "wait      engine vllm: is loading" in text
    assert "wrong" not in text


def test_no_line_is_cut_in_a_narrow_terminal(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    problem = "vLLM ended with status 1: CUDA out of memory, see its log"
    engine = STATUS["engine"] | {"problem": problem}
    daemon.answers["/v1/p2p/status"] = (200, STATUS | {"engine": engine})
    assert app.run(["status"]) == OK
    assert problem in capsys.readouterr().out
