"""The endpoints that run a model, over real sockets, against a scripted node."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
import trio

from p2pnode.http import sse
from p2pnode.jobs.records import JobFailed
from protocol.ids import short
from tests.p2pnode.http.scripted import CHAT, CHUNK, HANG, KEY, PEER, WHOLE, Api, ScriptedGateway, chat, running


async def test_a_whole_answer_comes_as_it_was_said() -> None:
    async with running() as api:
        reply = await api.ask("POST", CHAT, chat())
    assert (reply.status, reply.body) == (200, WHOLE)
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-p2pnode-peer"] == short(PEER)
    assert reply.headers["x-p2pnode-attempts"] == "2"
    assert reply.headers["x-p2pnode-route"] == "direct"
    assert reply.headers["server-timing"].startswith("dispatch;dur=")
    assert reply.headers["x-request-id"] == api.dispatch.specs[0].request_id
    assert "date" in reply.headers


async def test_a_stream_is_events_and_done_and_waiting_pieces_share_a_write() -> None:
    async with running() as api:
        wire = await api.wire()
        await wire.send(wire.request("POST", CHAT, json.dumps(chat(stream=True)).encode()))
        status, headers = await wire.head()
        pieces = [await wire.chunk() for _ in range(4)]
    assert status == 200
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    event = b"data: " + CHUNK + b"\n\n"
    assert pieces == [event, event + event, b"data: [DONE]\n\n", b""]


@pytest.mark.slow
async def test_the_head_waits_for_the_first_piece() -> None:
    gateway = ScriptedGateway()
    gateway.dispatch.scripts["m"] = lambda _: [0.3, [CHUNK]]
    async with running(gateway) as api:
        wire = await api.wire()
        await wire.send(wire.request("POST", CHAT, json.dumps(chat(stream=True)).encode()))
        with trio.move_on_after(0.1):
            await wire.more()
        assert wire.data == b""
        await wire.until(b"[DONE]")


async def test_only_the_fields_of_the_route_are_read_and_the_body_stays_as_it_was() -> None:
    messages = b'[{"role":"user","content":"h\\u00e9"}]'
    body = b'{"model":"m",  "messages":' + messages + b',"future_field":{"a":[1e3,-0.0]}, "max_tokens":7}'
    async with running() as api:
        await api.ask("POST", CHAT, body)
        await api.ask("POST", "/v1/completions", {"model": "m", "prompt": "x" * 400, "stream_options": None})
        await api.ask("POST", "/v1/embeddings", {"model": "m", "input": ["a"], "stream": True})
        stream = chat(stream=True, stream_options={"include_usage": True}, max_completion_tokens=9)
        await api.ask("POST", CHAT, stream)
    first, second, third, fourth = api.dispatch.specs
    assert (first.body, first.path, first.stream, first.max_tokens, first.client) == (body, CHAT, False, 7, "default")
    assert first.query.max_tokens == 7
    assert first.prompt_tokens == len(messages) // 4
    assert (second.prompt_tokens, second.max_tokens, second.query.max_tokens) == (100, 0, 256)
    assert not third.stream
    assert (fourth.usage, fourth.stream, fourth.max_tokens) == (True, True, 9)
    assert len({spec.job_id for spec in api.dispatch.specs}) == 4


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"{", "invalid_json", None),
        (b"", "invalid_json", None),
        (b"[]", "invalid_parameter", None),
        (b'"text"', "invalid_parameter", None),
        (b'{"messages":[{}]}', "invalid_parameter", "model"),
        (b'{"model":"","messages":[{}]}', "invalid_parameter", "model"),
        (b'{"model":7,"messages":[{}]}', "invalid_parameter", "model"),
        (b'{"model":"m"}', "invalid_parameter", "messages"),
        (b'{"model":"m","messages":[]}', "invalid_parameter", "messages"),
        (b'{"model":"m","messages":"hello"}', "invalid_parameter", "messages"),
        (b'{"model":"m","messages":[{}],"stream":"yes"}', "invalid_parameter", "stream"),
        (b'{"model":"m","messages":[{}],"max_tokens":-1}', "invalid_parameter", "max_tokens"),
        (b'{"model":"m","messages":[{}],"max_tokens":1.5}', "invalid_parameter", "max_tokens"),
        (b'{"model":"m","messages":[{}],"x":NaN}', "invalid_json", None),
        (b'{"model":"m","messages":[{}],"x":[-Infinity]}', "invalid_json", None),
        (b'{"model":"m","messages":[{"content":"\xff"}]}', "invalid_json", None),
        (b'{"model":"m","messages":[{}]} trailing', "invalid_json", None),
        (b'\xef\xbb\xbf{"model":"m","messages":[{}]}', "invalid_json", None),
        (b'{"model":"m","messages":[{}],"provider":{"sort":"best"}}', "invalid_parameter", "provider.sort"),
        (b'{"model":"m","messages":[{}],"provider":{"order":"ada"}}', "invalid_parameter", "provider.order"),
        (b'{"model":"m","messages":[{}],"provider":{"max_price":-1}}', "invalid_parameter", "provider.max_price"),
        (b'{"model":"m","messages":' + b"[" * 70 + b"]" * 70 + b"}", "invalid_json", None),
        (b'{"model":"m","messages":[' + b"{}," * 4096 + b"{}]}", "invalid_parameter", "messages"),
    ],
)
async def test_what_is_wrong_with_a_body_is_named(body: bytes, code: str, param: str | None) -> None:
    async with running() as api:
        reply = await api.ask("POST", CHAT, body)
    assert reply.status == 400
    assert (reply.error["code"], reply.error["param"]) == (code, param)
    assert reply.error["type"] == "invalid_request_error"
    assert reply.headers["x-should-retry"] == "false"
    assert not api.dispatch.specs


@pytest.mark.parametrize(
    ("failed", "headers"),
    [
        (JobFailed(502, "peer_failed", "All failed.", should_retry=False), {"x-should-retry": "false"}),
        (JobFailed(503, "no_capacity", "All are busy.", retry_after=2.2, should_retry=True), {"retry-after": "3"}),
        (JobFailed(503, "no_capacity", "All are busy.", retry_after=900, should_retry=True), {"retry-after": "120"}),
        (JobFailed(429, "queue_full", "The queue is full.", should_retry=True), {"retry-after": "1"}),
        (JobFailed(504, "deadline_exceeded", "Too late.", should_retry=False), {"x-should-retry": "false"}),
        (JobFailed(400, "context_length_exceeded", "Too long.", param="messages", should_retry=False), {}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_first_byte_is_an_ordinary_error(
    failed: JobFailed, headers: dict[str, str], stream: bool
) -> None:
    gateway = ScriptedGateway()
    gateway.dispatch.scripts["m"] = lambda _: [failed]
    async with running(gateway) as api:
        reply = await api.ask("POST", CHAT, chat(stream=stream))
    assert reply.status == failed.status
    assert (reply.error["code"], reply.error["message"]) == (failed.code, failed.message)
    assert headers.items() <= reply.headers.items()
    kind = {429: "requests", 400: "invalid_request_error"}.get(failed.status, "server_error")
    assert reply.error["type"] == kind


async def test_a_failure_after_the_head_is_the_last_event_without_done() -> None:
    gateway = ScriptedGateway()
    gateway.dispatch.scripts["m"] = lambda _: [[CHUNK], JobFailed(502, "peer_failed", "The peer is gone.")]
    async with running(gateway) as api:
        wire = await api.wire()
        reply = await wire.ask("POST", CHAT, json.dumps(chat(stream=True)).encode())
        assert reply.status == 200
        events = reply.body.split(b"\n\n")
        assert json.loads(events[1].removeprefix(b"data: "))["error"]["code"] == "peer_failed"
        assert b"[DONE]" not in reply.body
        assert (await wire.ask("GET", "/v1/models")).status == 200  # the connection is as good as before


async def test_a_failure_in_a_whole_answer_is_still_an_ordinary_error() -> None:
    gateway = ScriptedGateway()
    gateway.dispatch.scripts["m"] = lambda _: [[WHOLE[:20]], JobFailed(502, "peer_failed", "The peer is gone.")]
    async with running(gateway) as api:
        reply = await api.ask("POST", CHAT, chat())
    assert (reply.status, reply.error["code"]) == (502, "peer_failed")


async def test_silence_is_filled_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.02)
    gateway = ScriptedGateway()
    gateway.dispatch.scripts["m"] = lambda _: [[CHUNK], 0.2, [CHUNK]]
    async with running(gateway) as api:
        reply = await api.ask("POST", CHAT, chat(stream=True))
    assert reply.body.startswith(b"data: " + CHUNK + b"\n\n: keep-alive\n\n: keep-alive\n\n")
    assert reply.body.endswith(b": keep-alive\n\ndata: " + CHUNK + b"\n\ndata: [DONE]\n\n")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_goes_away_cancels_its_job(stream: bool, how: str) -> None:
    async with running() as api:
        wire = await api.wire()
        await wire.send(wire.request("POST", CHAT, json.dumps(chat("slow", stream=stream)).encode()))
        while not api.dispatch.running:  # noqa: ASYNC110
            await trio.sleep(0.005)
        if stream:
            await wire.until(b"\n\n")
        if how == "close":
            await wire.stream.aclose()
        else:
            wire.abort()
        with trio.fail_after(1):
            await api.dispatch.left.wait()
        assert api.dispatch.running == 0
        text = api.gateway.metrics.expose().decode()
    assert 'outcome="cancelled"' in text


async def test_what_was_asked_for_is_counted() -> None:
    async with running() as api:
        await api.ask("POST", CHAT, chat(stream=True))
        await api.ask("POST", CHAT, chat("nobody-has-this"))
        text = api.gateway.metrics.expose().decode()
    assert 'p2pnode_requests_total{model="m",outcome="completed"} 1.0' in text
    assert 'p2pnode_requests_total{model="unknown",outcome="refused"} 1.0' in text
    assert 'p2pnode_generation_tokens_total{model="m"} 3.0' in text
    assert "nobody-has-this" not in text


async def test_responses_have_named_events_and_no_memory() -> None:
    gateway = ScriptedGateway()
    gateway.dispatch.scripts["m"] = lambda _: [[b'{"type":"response.created"}', b'{"type":"response.completed"}']]
    async with running(gateway) as api:
        reply = await api.ask("POST", "/v1/responses", {"model": "m", "input": "x", "stream": True})
        refused = await api.ask("POST", "/v1/responses", {"model": "m", "input": "x", "previous_response_id": "r1"})
    assert reply.body == (
        b'event: response.created\ndata: {"type":"response.created"}\n\n'
        b'event: response.completed\ndata: {"type":"response.completed"}\n\n'
    )
    assert (refused.status, refused.error["code"]) == (400, "unsupported_parameter")
    assert refused.error["param"] == "previous_response_id"


async def test_a_hundred_requests_on_one_connection() -> None:
    async with running() as api:
        wire = await api.wire()
        body = json.dumps(chat()).encode()
        for _ in range(100):
            assert (await wire.ask("POST", CHAT, body)).body == WHOLE
        await wire.send(wire.request("POST", CHAT, body) * 3)  # pipelined
        assert [(await wire.reply()).status for _ in range(3)] == [200] * 3


async def test_an_ordinary_client_streams() -> None:
    async with running() as api, httpx2.AsyncClient(base_url=f"http://127.0.0.1:{api.port}/v1") as client:
        headers = {"authorization": f"Bearer {KEY}"}
        body: dict[str, Any] = chat(stream=True)
        async with client.stream("POST", "/chat/completions", json=body, headers=headers) as response:
            lines = [line async for line in response.aiter_lines() if line]
        assert response.status_code == 200
        assert len(lines) == 4
        whole = await client.post("/chat/completions", json=chat(), headers=headers)
        assert whole.json() == json.loads(WHOLE)


@pytest.mark.slow
async def test_fifty_streams_at_once() -> None:
    gateway = ScriptedGateway()
    gateway.dispatch.scripts["m"] = lambda _: [[CHUNK]] * 100
    async with running(gateway) as api:
        done: list[int] = []

        async def client(api: Api) -> None:
            reply = await api.ask("POST", CHAT, chat(stream=True))
            done.append(reply.body.count(b"data: {"))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(client, api)
    assert done == [100] * 50


async def test_an_answer_that_never_comes_does_not_keep_the_others_waiting() -> None:
    gateway = ScriptedGateway()
    gateway.dispatch.scripts["stuck"] = lambda _: [HANG]
    async with running(gateway) as api:
        wire = await api.wire()
        await wire.send(wire.request("POST", CHAT, json.dumps(chat("stuck")).encode()))
        assert (await api.ask("POST", CHAT, chat())).status == 200
