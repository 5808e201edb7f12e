"""Real vLLM behind two real nodes: what comes through is, token for token, what it says when asked directly."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2pnode.cli.processes import Fleet, NodeProcess, until
from tests.vllm_fixture import MODEL, VllmHost

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(400)]

#: What an engine or a gateway makes anew for each answer.
FRESH = {"id", "created", "request_id"}
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="module")
def gateway(vllm_host: VllmHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node without an engine, whose one peer is attached to the vLLM."""
    vllm_host.wait()
    with Fleet(tmp_path_factory.mktemp("vllm-nodes")) as fleet:
        attach = ("--engine", "openai", "--engine-url", f"{vllm_host.url}/v1")
        worker = fleet.node("worker", *attach, env={"P2PNODE_ENGINE_KEY": vllm_host.key}).wait_ready()
        entry = fleet.node("gateway", "--engine", "none", "--bootstrap", worker.address).wait_ready()

        def known() -> bool:
            return any(model["id"] == MODEL for model in entry.api.get("/v1/models")["data"])

        until(known, f"{MODEL} is known\n{entry.tail()}\n{worker.tail()}", 60)
        yield entry


def ask(base: str, key: str, path: str, body: dict[str, Any]) -> bytes:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = urllib.request.Request(f"{base}{path}", json.dumps(body).encode(), headers)
    with _DIRECT.open(request, timeout=120) as response:
        return bytes(response.read())


def both(gateway: NodeProcess, host: VllmHost, path: str, body: dict[str, Any]) -> tuple[bytes, bytes]:
    """The answer of vLLM itself, and the one through the network."""
    key = Path(gateway.ready["key_file"]).read_text().strip()
    direct = ask(f"{host.url}/v1", host.key, path, body)
    return direct, ask(str(gateway.ready["api"]), key, path, body)


def events(stream: bytes) -> list[dict[str, Any]]:
    lines = [line[6:] for line in stream.splitlines() if line.startswith(b"data: ")]
    assert lines[-1] == b"[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def said(chunks: list[dict[str, Any]]) -> list[tuple[str, float]]:
    """Every token with its log probability; vLLM may put several into one event when it is hurried."""
    tokens: list[tuple[str, float]] = []
    for chunk in chunks:
        for choice in chunk["choices"]:
            found = choice.get("logprobs") or {}
            tokens += [(token["token"], token["logprob"]) for token in found.get("content") or []]
            tokens += zip(found.get("tokens") or [], found.get("token_logprobs") or [], strict=True)
    return tokens


def finish(chunks: list[dict[str, Any]]) -> list[str]:
    return [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice.get("finish_reason")]


def durable(value: Any) -> Any:
    """A JSON value without what is made anew for each answer."""
    if isinstance(value, dict):
        return {name: durable(item) for name, item in value.items() if name not in FRESH}
    return [durable(item) for item in value] if isinstance(value, list) else value


CHAT = {
    "model": MODEL,
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tell me of the network."}],
    "max_tokens": 48,
    "temperature": 0,
    "logprobs": True,
}
COMPLETION = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 48, "temperature": 0, "logprobs": 1}


@pytest.mark.parametrize(("path", "body"), [("/chat/completions", CHAT), ("/completions", COMPLETION)])
def test_the_whole_answer_is_the_same(
    gateway: NodeProcess, vllm_host: VllmHost, path: str, body: dict[str, Any]
) -> None:
    direct, through = (json.loads(answer) for answer in both(gateway, vllm_host, path, body))
    assert len(direct["choices"][0]["logprobs"].get("content") or direct["choices"][0]["logprobs"]["tokens"]) >= 16
    assert durable(through) == durable(direct)


@pytest.mark.parametrize(("path", "body"), [("/chat/completions", CHAT), ("/completions", COMPLETION)])
def test_the_stream_is_the_same_token_for_token(
    gateway: NodeProcess, vllm_host: VllmHost, path: str, body: dict[str, Any]
) -> None:
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    direct, through = (events(answer) for answer in both(gateway, vllm_host, path, streamed))
    assert len(said(direct)) >= 16
    assert said(through) == said(direct)
    assert finish(through) == finish(direct)
    assert through[-1]["usage"] == direct[-1]["usage"]


def test_a_stream_without_usage_is_the_same_too(gateway: NodeProcess, vllm_host: VllmHost) -> None:
    body = {**CHAT, "stream": True}
    direct, through = (events(answer) for answer in both(gateway, vllm_host, "/chat/completions", body))
    assert said(through) == said(direct)
    assert all(chunk["choices"] for chunk in through)


def test_a_mistake_of_the_caller_comes_back_as_one(gateway: NodeProcess) -> None:
    from p2pnode.cli.client import ApiError

    with pytest.raises(ApiError) as caught:
        gateway.api.post("/v1/chat/completions", {**CHAT, "max_tokens": 10**6}, 60)
    assert caught.value.status == 400
