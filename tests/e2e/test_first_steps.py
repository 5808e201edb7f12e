"""What somebody meets who starts a node for the first time: alone, reached from outside, told in the wrong way."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pnode.cli.processes import Fleet, NodeProcess, until

pytestmark = pytest.mark.slow

#: Seconds for what takes a second or two on an idle machine.
PATIENCE_S = 30.0


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path) as nodes:
        yield nodes


def verb(home: Path, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """A verb as a person types it, in a terminal of 80 columns without colours."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("P2PNODE_")}
    return subprocess.run(
        [sys.executable, "-m", "p2pnode", "--home", str(home), *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment | {"COLUMNS": "80", "NO_COLOR": "1"},
    )


def one_line(text: str) -> str:
    """The only line of a message to the user."""
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    return lines[0]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def test_a_bootstrap_peer_that_does_not_answer_is_said_and_tried_again_until_it_does(fleet: Fleet) -> None:
    port = free_port()
    node = fleet.node("ada", "--engine", "mock", "--bootstrap", f"/ip4/127.0.0.1/tcp/{port}").wait_ready()
    # Alone it answers: its own engine is as good as before.
    done = verb(node.home, "ask", node.ready["models"][0], "-", "--max-tokens", "3", stdin="hello")
    assert (done.returncode, "served by" in done.stderr) == (0, True)
    assert "bootstrap peer does not answer" in verb(node.home, "status").stdout
    until(lambda: "bootstrap peer does not answer" in node.log.read_text(), "the log says so", PATIENCE_S)
    seed = fleet.bootstrap("late", "--listen", f"/ip4/127.0.0.1/tcp/{port}").wait_ready()
    until(lambda: linked(node) == [seed.peer_id], "it tries again, and joins", PATIENCE_S)
    assert "does not answer" not in verb(node.home, "status").stdout


def linked(node: NodeProcess) -> list[str]:
    return [peer["id"] for peer in node.api.get("/v1/p2p/peers")["data"] if peer["linked"]]


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "localhost"])
def test_the_address_that_is_announced_is_one_that_answers(fleet: Fleet, host: str) -> None:
    node = fleet.node("ada", "--engine", "none", "--api", f"{host}:0").wait_ready()
    assert "0.0.0.0" not in node.ready["api"]
    status = node.api.get("/v1/p2p/status")
    assert (status["api"], status["key_file"]) == (node.ready["api"], node.ready["key_file"])
    assert verb(node.home, "peers").returncode == 0
    assert ("api_exposed" in node.log.read_text()) is (host == "0.0.0.0")


def test_verbs_without_a_daemon_end_with_3_and_one_line(tmp_path: Path) -> None:
    for words in (("status",), ("peers", "--json"), ("models",), ("ask", "m", "hi"), ("why", "m")):
        done = verb(tmp_path / "home", *words)
        assert (done.returncode, done.stdout) == (3, "")
        assert "p2pnode run" in one_line(done.stderr)


def test_what_was_asked_of_a_node_that_is_not_right_is_one_line(fleet: Fleet) -> None:
    node = fleet.node("ada", "--engine", "mock").wait_ready()

    def unknown() -> bool:
        done = verb(node.home, "ask", "no-such-model", "hi")
        assert (done.returncode, done.stdout) == (1, "")
        return "No peer offers" in one_line(done.stderr)  # "still looking for peers", for the first moments

    until(unknown, "it says that nobody offers it", PATIENCE_S)
    (node.home / "api-key").write_text("sk-p2pnode-another-key-altogether\n")
    wrong = verb(node.home, "status")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "API key is wrong" in one_line(wrong.stderr)


def test_a_ready_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    where = tmp_path / "file" / "ready.json"
    flags = ("--engine", "none", "--api", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0")
    done = verb(tmp_path / "home", "run", *flags, "--ready-file", str(where))
    assert done.returncode == 1
    assert f"cannot write {where}" in done.stderr
    assert "Traceback" not in done.stderr


def test_json_is_what_the_endpoint_says(fleet: Fleet) -> None:
    node = fleet.node("ada", "--engine", "mock").wait_ready()
    for words, path in ((("peers",), "/v1/p2p/peers"), (("models",), "/v1/models"), (("status",), "/v1/p2p/status")):
        shown = json.loads(verb(node.home, *words, "--json").stdout)
        answered = node.api.get(path)
        assert shown.keys() == answered.keys()
        if "data" in shown:
            assert [one["id"] for one in shown["data"]] == [one["id"] for one in answered["data"]]
