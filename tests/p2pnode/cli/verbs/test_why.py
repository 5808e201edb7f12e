"""``p2pnode why``: the terms of every candidate, who was left out, and the attempts of a request."""

from __future__ import annotations

import pytest

from p2pnode.cli import app
from p2pnode.cli.exits import OK, USAGE
from tests.p2pnode.cli.fake_daemon import ROUTE, FakeDaemon


def test_why_shows_terms_and_who_was_left_out(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["/v1/p2p/route"] = (200, ROUTE)
    assert app.run(["why", "mock-8b", "--prompt-tokens", "100", "--max-tokens", "7"]) == OK
    text = capsys.readouterr().out
    assert "1. ABCDEFGH  ada" in text
    assert "bandwidth" in text
    assert "declared" in text
    assert "3 missed probes" in text
    assert max(map(len, text.splitlines())) <= 80
    body = daemon.asked[0][2]
    assert (len(body["messages"][0]["content"]), body["max_tokens"]) == (400, 7)


def test_why_of_a_request_shows_its_attempts(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    attempts = [{"peer": "12D3KooWABCDEFGH", "outcome": "failed", "code": "link_broken", "ms": 12.0}]
    daemon.answers["/v1/jobs/req_1"] = (200, {"id": "req_1", "model": "m", "state": "failed", "attempts": attempts})
    assert app.run(["why", "--request", "req_1"]) == OK
    assert "link_broken" in capsys.readouterr().out
    assert app.run(["why"]) == USAGE
    assert app.run(["why", "m", "--request", "x"]) == USAGE
