"""``p2pnode ask``: the answer on stdout, who served it on stderr, and a cut answer is a failure."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from p2pnode.cli import app
from p2pnode.cli.exits import FAILED, OK, USAGE
from tests.p2pnode.cli.fake_daemon import CHUNKS, FakeDaemon


def test_ask_streams_to_stdout_and_says_who_served_on_stderr(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers["/v1/chat/completions"] = [b": keep-alive\n\n", *CHUNKS, b"data: [DONE]\n\n"]
    assert app.run(["ask", "mock-8b", "Hi", "--system", "Be brief.", "--max-tokens", "5"]) == OK
    shown = capsys.readouterr()
    assert shown.out == "Hello\n"
    assert "served by ABCDEFGH (direct)" in shown.err
    assert "2 tokens" in shown.err
    body = daemon.asked[0][2]
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert body["max_tokens"] == 5
    assert "temperature" not in body


def test_ask_reads_stdin(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.answers["/v1/chat/completions"] = [*CHUNKS, b"data: [DONE]\n\n"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("a long diff"))
    assert app.run(["ask", "mock-8b", "-"]) == OK
    assert daemon.asked[0][2]["messages"][0]["content"] == "a long diff"
    monkeypatch.setattr(sys, "stdin", io.StringIO("  "))
    assert app.run(["ask", "mock-8b", "-"]) == USAGE


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([CHUNKS[1], {"error": {"message": "the peer died; ask again", "code": "peer_failed"}}], "the peer died"),
        ([CHUNKS[1]], "ended too early"),
    ],
)
def test_an_answer_that_breaks_off_is_a_failure_and_never_looks_complete(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], events: list[Any], said: str
) -> None:
    daemon.answers["/v1/chat/completions"] = events
    assert app.run(["ask", "mock-8b", "Hi"]) == FAILED
    shown = capsys.readouterr()
    assert shown.out == "Hel\n"
    assert said in shown.err
    assert "req_1" in shown.err
