"""The verbs against a fake daemon on a real socket: what they print, where, and with which exit code."""

from __future__ import annotations

import io
import json
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from p2pnode.cli import app, checks, render
from p2pnode.cli.client import Api, ApiError
from p2pnode.cli.exits import DEGRADED, FAILED, INTERRUPTED, NO_DAEMON, OK, USAGE, Exit

STATUS: dict[str, Any] = {
    "peer_id": "12D3KooWFhXabcdefghijkmnopqrstuvwxyz123456789ABCDEFG",
    "name": "ada",
    "version": "0.1.0",
    "uptime_s": 75.0,
    "ready": True,
    "listen": ["/ip4/10.0.0.7/tcp/4411/p2p/12D3KooWFhX"],
    "api": "http://127.0.0.1:8411/v1",
    "auth": "key",
    "engine": {"name": "mock", "state": "ready", "problem": "", "simulated": True},
    "gpus": [{"model": "RTX 4090", "count": 2, "vram_mib": 24564}],
    "models": [{"name": "mock-8b"}],
    "peers": {"alive": 3, "linked": 2, "known": 4},
    "jobs": {"running": 1, "completed": 5, "failed": 0},
    "gossip": {"out_bytes_s": 300.0, "budget_bytes_s": 8192},
    "policy": "neuralgrid",
    "problems": [],
}
PEER: dict[str, Any] = {
    "id": "12D3KooWFhX",
    "short": "ABCDEFGH",
    "name": "ada",
    "self": False,
    "state": "alive",
    "route": "direct",
    "gpus": [{"model": "NVIDIA GeForce RTX 4090", "count": 1, "vram_mib": 24564}],
    "vram_total_mib": 24564,
    "vram_free_mib": 12282,
    "load": {"running": 1, "waiting": 2},
    "models": [{"name": "b", "state": "on disk"}, {"name": "a", "state": "resident"}],
    "rtt_ms": 1.26,
    "advert_age_s": 12.0,
}
MODEL: dict[str, Any] = {
    "id": "mock-8b",
    "object": "model",
    "p2pnode": {
        "peers": 4,
        "warm": 3,
        "sleeping": 0,
        "on_disk": 1,
        "context_length": 8192,
        "quantization": "bf16",
        "price_in": 0,
        "price_out": 0.5,
        "fingerprint": "00" * 16,
        "simulated": True,
        "expected_wait_s": 0.0421,
    },
}
ROUTE: dict[str, Any] = {
    "model": "mock-8b",
    "policy": "neuralgrid",
    "candidates": [
        {
            "peer": "12D3KooWFhX",
            "short": "ABCDEFGH",
            "name": "ada",
            "score": 1.25,
            "warm": True,
            "rtt_ms": 0.8,
            "terms": [
                {
                    "name": "bandwidth",
                    "value": 1008.0,
                    "unit": "GB/s",
                    "source": "declared",
                    "age_s": 3.0,
                    "contribution": 0.75,
                }
            ],
        }
    ],
    "excluded": [{"peer": "12D3KooWXyz", "short": "HGFEDCBA", "reason": "dead", "detail": "3 missed probes"}],
}
CHUNKS = [
    {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
    {"choices": [{"delta": {"content": "Hel"}}]},
    {"choices": [{"delta": {"content": "lo"}}]},
    {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"completion_tokens": 2}},
]


class FakeDaemon(ThreadingHTTPServer):
    """Answers by path from ``answers``; ``(status, body)``, a list of events, or bytes sent as they are."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, str, Any, str | None]] = []

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answering(BaseHTTPRequestHandler):
    server: FakeDaemon

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.asked.append(
            (self.command, self.path, json.loads(body) if body else None, self.headers.get("authorization"))
        )
        answer = self.server.answers.get(
            self.path, (404, {"error": {"message": "no such thing", "code": "unknown_url"}})
        )
        if isinstance(answer, list):
            self.send_response(200)
            for name, value in (
                ("x-request-id", "req_1"),
                ("x-p2pnode-peer", "ABCDEFGH"),
                ("x-p2pnode-route", "direct"),
            ):
                self.send_header(name, value)
            self.end_headers()
            for event in answer:
                raw = event if isinstance(event, bytes) else b"data: " + json.dumps(event).encode() + b"\n\n"
                self.wfile.write(raw)
            return
        status, document = answer
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(raw)))
        self.send_header("x-request-id", "req_1")
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeDaemon]:
    server = FakeDaemon()
    monkeypatch.setenv("P2PNODE_HOME", str(tmp_path))
    monkeypatch.delenv("P2PNODE_API_URL", raising=False)
    (tmp_path / "daemon.json").write_text(json.dumps({"api": server.base + "/v1"}))
    (tmp_path / "api-key").write_text("secret-key\n")
    (tmp_path / "api-key").chmod(0o600)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


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


def test_a_model_that_nobody_offers_is_told_apart(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    other = {"peer": "p", "short": "p", "reason": "model", "detail": "offers another"}
    route = {"model": "m", "policy": "random", "candidates": [], "excluded": [other]}
    daemon.answers["/v1/p2p/route"] = (200, route)
    assert app.run(["why", "m"]) == FAILED
    assert "No peer offers it" in capsys.readouterr().err


def test_status_says_what_is_wrong_and_how_to_mend_it(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    problems = [{"what": "no bootstrap peer answers", "fix": "check the address"}]
    daemon.answers["/v1/p2p/status"] = (200, STATUS | {"ready": False, "problems": problems})
    assert app.run(["status"]) == DEGRADED
    text = capsys.readouterr().out
    assert "no bootstrap peer answers" in text
    assert "check the address" in text


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


def test_names_from_the_network_cannot_draw_on_the_terminal() -> None:
    assert render.safe("\x1b[31mred[/]\n") == "?\\[31mred\\[/]?"
    assert len(render.safe("x" * 100, 10)) == 10


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


def test_an_error_of_the_api_is_one_line(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    error = {"error": {"message": "no peer offers 'x'; similar: mock-8b", "code": "model_not_found"}}
    daemon.answers["/v1/chat/completions"] = (404, error)
    assert app.run(["ask", "x", "Hi"]) == FAILED
    assert "similar: mock-8b" in capsys.readouterr().err
    daemon.answers["/v1/p2p/status"] = (500, b"<html>oops")
    assert app.run(["status"]) == FAILED
    assert "oops" in capsys.readouterr().err


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


def test_ctrl_c_is_130(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Api, path: str) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Api, "get", interrupted)
    assert app.run(["status"]) == INTERRUPTED


def test_wrong_usage_is_2_and_an_unknown_verb_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["peers", "--nonsense"]) == USAGE
    assert app.run(["fly"]) == USAGE
    assert "fly" in capsys.readouterr().err


def test_the_client_names_whom_it_could_not_reach() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(Exit, match="no p2pnode daemon"):
        Api(base).get("/v1/models")
    with pytest.raises(Exit, match="no p2pnode daemon"), Api(base).stream("/v1/chat/completions", {}):
        pass


def test_the_client_keeps_status_code_and_headers_of_an_error(daemon: FakeDaemon) -> None:
    daemon.answers["/x"] = (503, {"error": {"message": "all busy", "code": "no_capacity"}})
    with pytest.raises(ApiError) as caught:
        Api(daemon.base).get("/x")
    assert (caught.value.status, caught.value.code) == (503, "no_capacity")
    assert caught.value.headers["x-request-id"] == "req_1"


def test_units_read_well() -> None:
    assert [render.seconds(value) for value in (None, 0.0013, 0.25, 3.44, 42, 300, 7200, 200000)] == [
        "-",
        "1.3 ms",
        "250 ms",
        "3.4 s",
        "42 s",
        "5 min",
        "2 h",
        "2 d",
    ]
    assert [render.gib(value) for value in (0, None, 512, 24564)] == ["-", "-", "0.5", "24"]


def test_a_report_can_be_posted_in_public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2PNODE_HOME", str(tmp_path))
    monkeypatch.setattr(socket, "gethostname", lambda: "secret-machine")
    from p2pnode.state.paths import find_paths

    redact = checks.redaction(find_paths(None))
    text = redact(
        f"{tmp_path}/node.key on secret-machine at /ip4/203.0.113.7/tcp/4411/p2p/"
        "12D3KooWFhXabcdefghijkmnopqrstuvwxyz123456789ABCDEFG, fe80:0:0:0:1:2:3:4, /dns4/my.example.org/tcp/1, "
        "127.0.0.1"
    )
    for secret in (str(tmp_path), "secret-machine", "203.0.113.7", "FhXabc", "fe80", "my.example.org"):
        assert secret not in text
    assert "127.0.0.1" in text
