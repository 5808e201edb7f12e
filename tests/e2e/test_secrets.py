"""What must be on no disk, in no log and in no number: prompts, answers and keys.  Canaries, and a search for them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2pnode.cli.client import ApiError
from p2pnode.cli.processes import Fleet, NodeProcess, until

pytestmark = pytest.mark.slow

MODEL = "llama-3.1-8b-instruct"
PATIENCE_S = 30.0
CANARY = "xanthic-quokka-74251"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path) as nodes:
        yield nodes


def chat(prompt: str, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": 24, **more}


def send(child: NodeProcess, body: bytes, **headers: str) -> int:
    """A POST of these bytes; its status."""
    host = child.ready["api"].split("/")[2]
    connection = http.client.HTTPConnection(host, timeout=PATIENCE_S)
    try:
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"} | headers)
        return connection.getresponse().status
    finally:
        connection.close()


def ask_in_every_way(gateway: NodeProcess) -> list[str]:
    """Requests that go well and requests that do not, all with the canary in the prompt; the answers."""
    answers = []
    answer, _ = gateway.api.post("/v1/chat/completions", chat(CANARY), PATIENCE_S)
    answers.append(answer["choices"][0]["message"]["content"])
    with gateway.api.stream("/v1/chat/completions", chat(f"{CANARY} again", stream=True), PATIENCE_S) as stream:
        pieces = [event["choices"][0]["delta"].get("content") or "" for event in stream if event["choices"]]
    answers.append("".join(pieces))
    with gateway.api.stream("/v1/chat/completions", chat(CANARY, stream=True, max_tokens=500), PATIENCE_S) as stream:
        next(iter(stream))  # and away
    bad = (chat(CANARY, model="nobody-has-it"), chat(CANARY, max_tokens=10_000_000), chat(CANARY, stream=CANARY))
    for body in bad:
        with pytest.raises(ApiError):
            gateway.api.post("/v1/chat/completions", body, PATIENCE_S)
    assert send(gateway, f'{{"model": "{CANARY}'.encode(), authorization=f"Bearer {gateway.api.key}") == 400
    assert send(gateway, json.dumps(chat(CANARY)).encode(), authorization=f"Bearer {CANARY}") == 401
    return answers


def test_prompts_answers_and_keys_are_in_no_file_log_or_number(fleet: Fleet) -> None:
    gateway = fleet.node("gateway", "--engine", "none", "--log-level", "debug").wait_ready()
    flags = ("--bootstrap", gateway.address, "--engine", "mock", "--model", MODEL, "--log-level", "debug")
    worker = fleet.node("ada", *flags).wait_ready()
    until(lambda: gateway.api.get("/v1/models")["data"], "the gateway knows the model", PATIENCE_S)
    answers = ask_in_every_way(gateway)
    shown = "".join(gateway.api.text(path) for path in ("/metrics", "/health", "/v1/p2p/status", "/v1/jobs"))
    own = [(node, (node.home / "api-key").read_bytes().strip()) for node in (gateway, worker)]
    assert fleet.stop_all() == {"gateway": 0, "ada": 0}

    hidden = [CANARY.encode(), *(answer[:40].encode() for answer in answers)]
    for node, key in own:
        seed = (node.home / "node.key").read_bytes()
        assert not [secret for secret in [*hidden, key] if secret.decode() in shown]
        for path in (path for path in node.home.rglob("*") if path.is_file()):
            content = path.read_bytes()
            assert not [secret for secret in [*hidden, seed.hex().encode()] if secret in content], path.name
            assert (key in content) is (path.name == "api-key")
            assert (seed in content) is (path.name == "node.key")


def test_secrets_are_in_no_command_line_and_for_their_owner_only(fleet: Fleet) -> None:
    node = fleet.node("ada", "--engine", "none").wait_ready()
    secret = (node.home / "api-key").read_text().strip()
    proc = Path(f"/proc/{node.process.pid}")
    if proc.is_dir():
        for name in ("cmdline", "environ"):
            assert secret.encode() not in (proc / name).read_bytes()
    modes = {path.name: path.stat().st_mode & 0o777 for path in node.home.iterdir() if path.name != "output.log"}
    assert {name: mode for name, mode in modes.items() if mode & 0o077} == {}
    assert node.home.stat().st_mode & 0o777 == 0o700
