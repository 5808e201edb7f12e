"""The command line as a whole, against a fake daemon on a real socket: verbs, options, and exit codes."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from p2pnode.cli import app
from p2pnode.cli.client import Api
from p2pnode.cli.exits import FAILED, INTERRUPTED, NO_DAEMON, OK, USAGE
from tests.p2pnode.cli.fake_daemon import MODEL, PEER, ROUTE, STATUS, FakeDaemon


def test_without_a_verb_it_prints_help_and_binds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    app.run([])
    shown = capsys.readouterr()
    for verb in app.VERBS:
        assert verb in shown.out + shown.err


@pytest.mark.parametrize("verb", sorted(app.VERBS))
def test_every_verb_has_help_with_an_example_within_80_columns(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([verb, "--help"]) == OK
    text = capsys.readouterr().out
    assert f"p2pnode {verb}" in text.split("Examples:")[1]
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("verb", "path", "answer"),
    [
        (["status"], "/v1/p2p/status", STATUS),
        (["peers"], "/v1/p2p/peers", {"object": "list", "data": [PEER]}),
        (["models"], "/v1/models", {"object": "list", "data": [MODEL]}),
        (["why", "mock-8b"], "/v1/p2p/route", ROUTE),
        (["why", "--request", "req_1"], "/v1/jobs/req_1", {"id": "req_1", "state": "completed", "attempts": []}),
        (["ask", "mock-8b", "Hi", "--json"], "/v1/chat/completions", {"id": "chatcmpl-1", "choices": []}),
    ],
)
def test_json_prints_exactly_what_the_endpoint_returned(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], verb: list[str], path: str, answer: dict[str, Any]
) -> None:
    daemon.answers[path] = (200, answer)
    assert app.run([*verb, *([] if "--json" in verb else ["--json"])]) == OK
    shown = capsys.readouterr()
    assert json.loads(shown.out) == answer
    assert shown.err == ""
    assert daemon.asked[0][3] == "Bearer secret-key"


def test_a_model_that_nobody_offers_is_told_apart(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    other = {"peer": "p", "short": "p", "reason": "model", "detail": "offers another"}
    route = {"model": "m", "policy": "random", "candidates": [], "excluded": [other]}
    daemon.answers["/v1/p2p/route"] = (200, route)
    assert app.run(["why", "m"]) == FAILED
    assert "No peer offers it" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["status"], ["peers"], ["models"], ["ask", "m", "p"], ["why", "m"]])
def test_no_daemon_is_exit_code_3_and_one_line_that_says_what_to_do(
    verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("P2PNODE_HTTP__API", f"127.0.0.1:{port}")
    assert app.run(["--home", str(tmp_path), *verb]) == NO_DAEMON
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "p2pnode run" in shown.err
    assert str(port) in shown.err
    assert len(shown.err.splitlines()) == 1


def test_global_options_may_stand_before_or_after_the_verb(
    daemon: FakeDaemon, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("P2PNODE_HOME")
    daemon.answers["/v1/models"] = (200, {"data": [MODEL]})
    assert app.run(["--home", str(tmp_path), "models"]) == OK
    assert app.run(["models", "--home", str(tmp_path)]) == OK
    assert capsys.readouterr().out.count("mock-8b") == 2


def test_an_error_of_the_api_is_one_line(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    error = {"error": {"message": "no peer offers 'x'; similar: mock-8b", "code": "model_not_found"}}
    daemon.answers["/v1/chat/completions"] = (404, error)
    assert app.run(["ask", "x", "Hi"]) == FAILED
    assert "similar: mock-8b" in capsys.readouterr().err
    daemon.answers["/v1/p2p/status"] = (500, b"<html>oops")
    assert app.run(["status"]) == FAILED
    assert "oops" in capsys.readouterr().err


def test_ctrl_c_is_130(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Api, path: str) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Api, "get", interrupted)
    assert app.run(["status"]) == INTERRUPTED


def test_wrong_usage_is_2_and_an_unknown_verb_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["peers", "--nonsense"]) == USAGE
    assert app.run(["fly"]) == USAGE
    assert "fly" in capsys.readouterr().err
