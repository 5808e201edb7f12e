"""Attaching to a server: what goes through, what is refused, and what happens when the server breaks its word."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, closing
from typing import Any

import h11
import pytest
import trio

from p2pnode.engine.base import CHAT, RESPONSES, EngineFailed, EngineJob, ModelSpec
from p2pnode.engine.openai import OpenAIEngine
from p2pnode.engine.upstream import Upstream, UpstreamBroken

from .model_server import Exchange, ModelServer, serving, sse

TOKENS = [{"choices": [{"index": 0, "delta": {"content": word}}]} for word in ("one", "two", "three")]
Script = Callable[[Exchange], Awaitable[None]]


def work(path: str = CHAT, *, stream: bool = True, client: str = "", **fields: Any) -> EngineJob:
    body = json.dumps({"model": "m", "stream": stream} | fields).encode()
    return EngineJob(path, "m", body, stream=stream, client=client)


@asynccontextmanager
async def attached(script: Script | None, *models: ModelSpec, **options: Any) -> Any:
    async with serving(ModelServer(script)) as server:
        with closing(OpenAIEngine(server.url, models, **options)) as engine:
            assert await engine.poll_models()
            yield engine, server


async def received(engine: OpenAIEngine, job: EngineJob) -> list[bytes]:
    pieces = []
    async with engine.open(job) as reply:
        while batch := await reply.receive():
            pieces += batch
    return pieces


async def stream_of_tokens(exchange: Exchange) -> None:
    await exchange.head()
    for token in TOKENS:
        await exchange.write(sse(token))
    await exchange.write(sse("[DONE]"))
    await exchange.send(h11.EndOfMessage())


async def test_events_come_through_as_they_were_and_done_does_not() -> None:
    async with attached(stream_of_tokens) as (engine, server):
        pieces = await received(engine, work())
        assert [json.loads(piece) for piece in pieces] == TOKENS
        assert json.loads(server.posted[0].body) == {"model": "m", "stream": True}


async def test_a_connection_is_used_again_and_a_stale_one_is_not() -> None:
    async with attached(stream_of_tokens) as (engine, server):
        for _ in range(3):
            await received(engine, work())
        assert server.connections == 1

    async def once(exchange: Exchange) -> None:
        await exchange.answer({"n": len(server.posted)})
        await exchange.stream.aclose()

    async with attached(once) as (engine, server):
        for number in (1, 2, 3):
            assert json.loads(b"".join(await received(engine, work(stream=False)))) == {"n": number}


async def test_leaving_early_hangs_up_at_once() -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.head()
        while True:
            await exchange.write(sse(TOKENS[0]))
            await trio.sleep(0.001)

    async with attached(endless) as (engine, server):
        async with engine.open(work()) as reply:
            assert await reply.receive()
            assert engine.load().running >= 1
        with trio.fail_after(10):
            await server.hung_up.wait()


async def test_cancelling_while_the_server_thinks_hangs_up_too() -> None:
    async def silent(exchange: Exchange) -> None:
        assert await exchange.stream.receive_some() == b""
        server.hung_up.set()

    async with attached(silent) as (engine, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(received, engine, work())
            await server.asked.wait()
            nursery.cancel_scope.cancel()
        with trio.fail_after(10):
            await server.hung_up.wait()


@pytest.mark.parametrize("ending", ["close", "no done", "error event", "late error"])
async def test_a_stream_that_does_not_end_as_it_should_is_a_failure(ending: str) -> None:
    async def broken(exchange: Exchange) -> None:
        await exchange.head()
        error = {"error": {"message": "out of memory", "type": "InternalServerError", "code": 500}}
        if ending == "late error":
            await exchange.write(sse(TOKENS[0], error, "[DONE]"))
        else:
            await exchange.write(sse(TOKENS[0]))
        if ending == "close":
            await exchange.stream.aclose()
            return
        if ending == "error event":
            await exchange.write(sse(error, "[DONE]"))
        await exchange.send(h11.EndOfMessage())

    async with attached(broken) as (engine, _):
        async with engine.open(work()) as reply:
            assert json.loads((await reply.receive())[0]) == TOKENS[0]
            with pytest.raises(EngineFailed) as caught:
                await reply.receive()
        assert caught.value.status == 502
        assert "error" not in ending or caught.value.message == "out of memory"


async def test_responses_end_with_their_last_event_and_without_done() -> None:
    names = ["response.created", 'a "response.completed" in a text', "response.completed"]

    async def responses(exchange: Exchange) -> None:
        await exchange.head()
        for name in names:
            await exchange.write(b"event: x\n" + sse({"type": name}) + b": ping\n\n")
        await exchange.send(h11.EndOfMessage())

    async with attached(responses) as (engine, _):
        assert len(await received(engine, work(RESPONSES))) == 3
        names.pop()
        with pytest.raises(EngineFailed, match="too early"):
            await received(engine, work(RESPONSES))


@pytest.mark.parametrize("cut", [0, 1])
async def test_a_body_without_a_length_has_to_be_whole(cut: int) -> None:
    body = b'{"choices": []}'

    async def old(exchange: Exchange) -> None:
        await exchange.stream.send_all(b"HTTP/1.0 200 OK\r\n\r\n" + body[: len(body) - cut])
        await exchange.stream.aclose()

    async with attached(old) as (engine, _):
        if cut:
            with pytest.raises(EngineFailed, match="incomplete"):
                await received(engine, work(stream=False))
        else:
            assert b"".join(await received(engine, work(stream=False))) == body


async def test_a_whole_body_comes_in_pieces_of_bounded_size() -> None:
    body = json.dumps({"text": "x" * 100_000}).encode()

    async def large(exchange: Exchange) -> None:
        await exchange.answer(body)

    async with attached(large) as (engine, _):
        pieces = await received(engine, work(stream=False))
        assert b"".join(pieces) == body
        assert max(map(len, pieces)) <= 32 * 1024


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, {"error": {"message": "no", "param": "n", "code": 400}}, (400, "invalid_parameter", "n")),
        (400, {"error": {"message": "longer than max_model_len", "code": 400}}, (400, "context_length_exceeded", "")),
        (404, {"error": {"message": "no model", "param": "model", "code": 404}}, (404, "model_not_found", "model")),
        (422, {"detail": [{"msg": "bad"}]}, (400, "invalid_parameter", "")),
        (400, {"error": {"message": "x", "code": "own_code"}}, (400, "own_code", "")),
        (401, {"error": "Unauthorized"}, (502, "engine_refused", "")),
        (429, {"error": {"message": "slow down"}}, (503, "engine_busy", "")),
        (500, b"<html>", (502, "engine_failed", "")),
    ],
)
async def test_errors_are_told_in_one_vocabulary(status: int, body: Any, expected: tuple[int, str, str]) -> None:
    async def refusing(exchange: Exchange) -> None:
        await exchange.answer(body, status)

    async with attached(refusing) as (engine, _):
        with pytest.raises(EngineFailed) as caught:
            await received(engine, work())
        assert (caught.value.status, caught.value.code, caught.value.param) == expected
        assert caught.value.message


async def test_key_other_name_and_salt_are_put_in() -> None:
    async def echo(exchange: Exchange) -> None:
        await exchange.answer({"ok": True})

    spec = ModelSpec("m", source="upstream-name")
    async with serving(ModelServer(echo, models={"data": [{"id": "upstream-name"}]})) as server:
        salted = OpenAIEngine(server.url + "/v1", [spec], key="secret", salt=lambda client: f"salt of {client}")
        with closing(salted) as engine:
            assert await engine.poll_models()
            await received(engine, work(stream=False, client="guest", cache_salt="mine"))
            await received(engine, work(stream=False))
        first, second = (json.loads(exchange.body) for exchange in server.posted)
        assert (first["model"], first["cache_salt"]) == ("upstream-name", "salt of guest")
        assert "cache_salt" not in second
        assert server.posted[0].headers["authorization"] == "Bearer secret"


async def test_what_is_offered_is_what_the_server_has() -> None:
    async with attached(None) as (engine, _):
        (offer,) = engine.offers()
        assert (offer.name, offer.context) == ("m", 512)
    missing = ModelSpec("absent")
    async with attached(None, ModelSpec("m", context=100), missing) as (engine, _):
        (offer,) = engine.offers()
        assert offer.context == 100
        assert engine.problem == "the engine does not have absent; it has m"


async def test_the_servers_gauges_are_the_load(nursery: trio.Nursery) -> None:
    async with serving(ModelServer()) as server:
        engine = OpenAIEngine(server.url, slots=8)
        await nursery.start(engine.run)
        with trio.fail_after(10):
            while not engine.load().waiting:  # noqa: ASYNC110 - a gauge announces nothing
                await trio.sleep(0.01)
        load = engine.load()
        assert (load.running, load.waiting, load.kv_permille, load.slots) == (4, 2, 250, 8)
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_it_waits_for_a_server_that_comes_later_and_says_so(nursery: trio.Nursery) -> None:
    async with serving(ModelServer()) as gone:
        url = gone.url
    engine = OpenAIEngine(url)
    await nursery.start(engine.run)
    with trio.fail_after(20):
        seen = await engine.wait_changed(0)
        assert engine.state == "failed"
        assert "start it or correct the URL" in engine.problem
        with pytest.raises(EngineFailed) as caught:
            await received(engine, work())
        assert caught.value.status == 503
        async with serving(ModelServer(), int(url.rpartition(":")[2])):
            await engine.wait_changed(seen)
            assert (engine.state, engine.problem) == ("ready", "")
    nursery.cancel_scope.cancel()


async def test_what_is_no_model_server_is_recognised() -> None:
    async with serving(ModelServer(models=[1, 2])) as server:
        with closing(OpenAIEngine(server.url)) as engine:
            assert not await engine.poll_models()
        assert "not OpenAI-compatible" in engine.problem


def test_a_bad_url_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="should look like"):
        Upstream("ftp://x")


async def test_nobody_there_is_one_error() -> None:
    async with serving(ModelServer()) as gone:
        url = gone.url
    with pytest.raises(UpstreamBroken):
        await Upstream(url).get("/", 5.0)
