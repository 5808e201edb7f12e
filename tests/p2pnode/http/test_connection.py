"""One connection, over raw sockets: slow, big, odd, many, stuck and gone clients."""

from __future__ import annotations

import gc
import json
import socket
from typing import Any

import pytest
import trio

from p2pnode.http import connection, request, server
from tests.p2pnode.http.scripted import CHAT, CHUNK, SOON, Api, ScriptedGateway, Wire, chat, running, streaming


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_S", SOON)
    monkeypatch.setattr(connection, "LINGER_S", SOON)
    monkeypatch.setattr(request, "BODY_S", SOON)
    monkeypatch.setattr(server, "SWEEP_S", SOON / 4)


# --- slow ------------------------------------------------------------------------------------------------------------


async def test_a_slow_head_is_told_so(impatient: None) -> None:
    async with running() as api:
        wire = await api.wire()
        await wire.send(b"GET /v1/models HTTP/1.1\r\nhost: x")
        with trio.fail_after(3):
            reply = await wire.reply()
            assert (reply.status, reply.error["code"]) == (408, "request_timeout")
            assert await wire.at_end()


@pytest.mark.slow
async def test_a_head_that_drips_has_no_more_time_than_others(impatient: None) -> None:
    async with running() as api:
        wire = await api.wire()
        with trio.fail_after(3), pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
            await drip(wire, "GET /v1/models HTTP/1.1\r\nx-long: " + "a" * 1000)


async def drip(wire: Wire, text: str) -> None:
    for letter in text:
        await wire.send(letter)
        await trio.sleep(SOON / 10)


async def test_a_silent_connection_just_ends(impatient: None) -> None:
    async with running() as api:
        wire = await api.wire()
        with trio.fail_after(3):
            assert await wire.at_end()


@pytest.mark.slow
async def test_a_connection_may_rest_between_requests_but_not_in_one(impatient: None) -> None:
    async with running() as api:
        wire = await api.wire()
        assert (await wire.ask("GET", "/v1/models")).status == 200
        await trio.sleep(SOON * 2)
        assert (await wire.ask("GET", "/v1/models")).status == 200
        await trio.sleep(SOON * 2)
        await wire.send("GET /v1/mod")
        with trio.fail_after(3):
            assert (await wire.reply()).status == 408


@pytest.mark.slow
async def test_a_rest_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REST_S", SOON)
    monkeypatch.setattr(server, "SWEEP_S", SOON / 4)
    async with running() as api:
        wire = await api.wire()
        await wire.ask("GET", "/v1/models")
        with trio.fail_after(3):
            assert await wire.at_end()


async def test_a_slow_body_is_told_so(impatient: None) -> None:
    async with running() as api:
        wire = await api.wire()
        await wire.send(wire.request("POST", CHAT, b"x" * 100)[:-50])
        with trio.fail_after(3):
            reply = await wire.reply()
            assert (reply.status, reply.error["code"]) == (408, "request_timeout")
            assert reply.headers["retry-after"] == "1"
            assert await wire.at_end()


@pytest.mark.slow
async def test_two_hundred_slow_clients_do_not_keep_an_honest_one_waiting() -> None:
    async with running() as api:
        for number in range(200):
            wire = await api.wire()
            half = wire.request("POST", CHAT, b"x" * 100)
            await wire.send(half[:40] if number % 2 else half[:-50])
        with trio.fail_after(1):
            assert (await api.ask("POST", CHAT, chat())).status == 200


async def test_when_all_places_are_taken_the_oldest_that_only_waits_makes_room() -> None:
    async with running(connections=8) as api:
        slow = [await api.wire() for _ in range(4)]
        for wire in slow:
            await wire.send("GET /")
        for wire in (uploading := [await api.wire() for _ in range(4)]):
            await wire.send(wire.request("POST", CHAT, b"x" * 100)[:-50])
        await trio.sleep(0.05)
        with trio.fail_after(1):
            for _ in range(20):
                assert (await api.ask("GET", "/v1/models")).status == 200
        assert await slow[0].at_end()
        await uploading[-1].send(b"x")


async def test_who_is_being_answered_is_not_thrown_out() -> None:
    async with running(connections=3) as api:
        busy = [await streaming(api) for _ in range(3)]
        wire = await api.wire()
        reply = await wire.reply()
        assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (503, "no_capacity", "1")
        assert await wire.at_end()
        assert api.dispatch.running == 3
        await busy[0].stream.aclose()
        with trio.fail_after(1):
            await api.dispatch.left.wait()
            assert (await api.ask("GET", "/v1/models")).status == 200


async def test_one_address_gets_its_share_and_loopback_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "is_loopback", lambda address: address == "127.0.0.1")
    async with running(per_address=2, host="0.0.0.0") as api:
        busy = [await streaming(api) for _ in range(3)]
        assert len(busy) == 3
        await use_address(api, "127.0.0.2", 2)
        wire = Wire(await connected(api.port, "127.0.0.2"), api.port)
        async with wire.stream:
            assert (await wire.reply()).status == 503
        await use_address(api, "127.0.0.3", 2)


async def connected(port: int, source: str) -> trio.SocketStream:
    sock = trio.socket.socket()
    await sock.bind((source, 0))
    await sock.connect(("127.0.0.1", port))
    return trio.SocketStream(sock)


async def use_address(api: Api, source: str, count: int) -> None:
    for _ in range(count):
        wire = Wire(await connected(api.port, source), api.port)
        api.wires.append(wire)
        await streaming(api, wire)


# --- big -------------------------------------------------------------------------------------------------------------


async def test_headers_have_a_size() -> None:
    async with running() as api:
        assert (await api.ask("GET", "/v1/models", headers={"x-big": "a" * 8000})).status == 200
        for rest in (b"", b"\r\nhost: x\r\n\r\n"):
            wire = await api.wire()
            await wire.send(b"GET /v1/models HTTP/1.1\r\nx-big: " + b"a" * 17_000 + rest)
            reply = await wire.reply()
            assert (reply.status, reply.error["code"]) == (431, "headers_too_large")
            assert await wire.at_end()
        assert (await api.ask("GET", "/v1/models?" + "a" * 17_000)).status == 431


async def test_a_body_that_says_it_is_too_big_is_not_read() -> None:
    async with running() as api:
        wire = await api.wire()
        await wire.send(wire.request("POST", CHAT, b"", {"content-length": str(8 * 1024 * 1024 + 1)}))
        reply = await wire.reply()
        assert (reply.status, reply.error["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_that_is_too_big_is_refused_and_the_client_gets_to_know(chunked: bool) -> None:
    async with running() as api:
        wire = await api.wire()
        size = 9 * 1024 * 1024
        if chunked:
            await wire.send(
                wire.request("POST", CHAT, None, {"content-type": "application/json", "transfer-encoding": "chunked"})
                + b"%x\r\n" % size
            )
        else:
            await wire.send(wire.request("POST", CHAT, b"", {"content-length": str(size)}))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour, wire, size)
            with trio.fail_after(5):
                assert (await wire.reply()).status == 413
            nursery.cancel_scope.cancel()


async def pour(wire: Wire, size: int) -> None:
    for _ in range(size // 65536):
        try:
            await wire.send(b" " * 65536)
        except trio.BrokenResourceError:
            return


@pytest.mark.slow
async def test_the_biggest_body_is_taken() -> None:
    text = "x" * (8 * 1024 * 1024 - 200)
    async with running() as api:
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
        assert (await api.ask("POST", CHAT, body)).status == 200
        assert api.dispatch.specs[0].body == body


async def test_a_body_where_none_is_wanted_is_thrown_away() -> None:
    async with running() as api:
        reply = await api.ask("POST", "/v1/nothing", b"x" * 500_000)
        assert reply.status == 404
        assert (await api.ask("GET", "/v1/models", b"{}")).status == 200


# --- odd -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n bad: b\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00" * 100,
    ],
)
async def test_garbage_is_answered_and_closed(garbage: bytes) -> None:
    async with running() as api:
        wire = await api.wire()
        await wire.send(garbage)
        with trio.fail_after(3):
            if b"\n" in garbage or not garbage.startswith(b"\x16"):
                reply = await wire.reply()
                assert reply.status in (400, 421, 501)
                assert reply.error["message"]
        assert (await api.ask("GET", "/v1/models")).status == 200


@pytest.mark.parametrize("size", [20, 50_000])
async def test_who_sends_ahead_and_leaves_is_noticed(size: int) -> None:
    async with running() as api:
        wire = await streaming(api)
        await wire.send(b"\0" * size)
        await trio.sleep(0.02)
        wire.abort()
        with trio.fail_after(1):
            await api.dispatch.left.wait()


async def test_who_sends_ahead_in_one_piece_and_leaves_is_noticed() -> None:
    async with running() as api:
        wire = await api.wire()
        await streaming(api, wire)
        body = json.dumps(chat("slow", stream=True)).encode()
        await wire.send(wire.request("POST", CHAT, body) * 2)
        await trio.sleep(0.02)
        await wire.stream.aclose()
        with trio.fail_after(1):
            await api.dispatch.left.wait()


async def test_garbage_after_a_request_waits_for_its_answer() -> None:
    async with running() as api:
        wire = await api.wire()
        await wire.send(wire.request("POST", CHAT, json.dumps(chat(stream=True)).encode()) + b"\0garbage\r\n\r\n")
        assert (await wire.reply()).body.endswith(b"[DONE]\n\n")
        assert (await wire.reply()).status == 400
        assert await wire.at_end()


async def test_upgrades_are_ignored() -> None:
    async with running() as api:
        for upgrade in ("websocket", "h2c"):
            headers = {
                "connection": "upgrade, http2-settings",
                "upgrade": upgrade,
                "http2-settings": "AAMAAABkAAQAAP__",
            }
            headers |= {"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version": "13"}
            assert (await api.ask("GET", "/v1/models", headers=headers)).status == 200


async def test_head_and_expect_are_http() -> None:
    async with running() as api:
        wire = await api.wire()
        await wire.send(wire.request("HEAD", "/v1/models"))
        status, headers = await wire.head()
        assert (status, headers["content-type"]) == (200, "application/json")
        assert (await wire.ask("GET", "/v1/models")).status == 200
        body = json.dumps(chat()).encode()
        await wire.send(wire.request("POST", CHAT, body, {"expect": "100-continue"})[: -len(body)])
        assert (await wire.head())[0] == 100
        await wire.send(body)
        assert (await wire.reply()).status == 200


# --- the two defects of the stack ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/models", "/livez", "/v1/nothing", CHAT])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_connection_close_is_honoured(path: str, version: str) -> None:
    body = json.dumps(chat()).encode() if path == CHAT else None
    async with running() as api:
        for _ in range(20):
            wire = await api.wire()
            asked = wire.request("POST" if body else "GET", path, body, {"connection": "close"})
            await wire.send(asked.replace(b"HTTP/1.1", b"HTTP/" + version.encode()))
            with trio.fail_after(2):
                reply = await wire.reply()
                assert reply.headers["connection"] == "close"
                assert reply.status in (200, 404)
                assert await wire.at_end()


async def test_a_stream_with_connection_close_ends_with_its_connection() -> None:
    async with running() as api:
        for _ in range(20):
            wire = await api.wire()
            body = json.dumps(chat(stream=True)).encode()
            await wire.send(wire.request("POST", CHAT, body, {"connection": "close"}))
            with trio.fail_after(2):
                assert (await wire.reply()).body.endswith(b"data: [DONE]\n\n")
                assert await wire.at_end()


@pytest.mark.slow
async def test_connections_that_close_leave_nothing_behind() -> None:
    async with running() as api:
        before = len(trio_sockets())
        for _ in range(30):
            await api.ask("GET", "/livez", headers={"connection": "close"})
        await trio.sleep(0.05)
        assert len(trio_sockets()) <= before + 1


def trio_sockets() -> list[Any]:
    gc.collect()
    return [thing for thing in gc.get_objects() if isinstance(thing, connection.Connection)]


async def stuck(api: Api, window: int = 4096) -> Wire:
    """A client that asked for an endless stream and does not read it."""
    wire = await api.wire()
    wire.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    await wire.send(wire.request("POST", CHAT, json.dumps(chat("endless", stream=True)).encode()))
    answers = api.dispatch.answers
    while not answers or answers[-1].pulled < 2:  # noqa: ASYNC110
        await trio.sleep(0.01)
    return wire


def endless() -> ScriptedGateway:
    gateway = ScriptedGateway()
    gateway.dispatch.scripts["endless"] = lambda _: [[CHUNK * 200]] * 100_000
    return gateway


@pytest.mark.slow
async def test_a_client_that_stops_reading_stops_the_job_from_being_read() -> None:
    async with running(endless()) as api:
        await stuck(api)
        await trio.sleep(0.3)
        answer = api.dispatch.answers[-1]
        pulled = answer.pulled
        await trio.sleep(0.3)
        assert answer.pulled == pulled  # nothing is read ahead of the client
        assert pulled < 2000
        assert (await api.ask("POST", CHAT, chat())).status == 200


async def test_a_client_that_stops_reading_is_let_go_of() -> None:
    async with running(endless(), write_idle_s=SOON) as api:
        await stuck(api)
        with trio.fail_after(3):
            await api.dispatch.left.wait()
        assert api.dispatch.running == 0


@pytest.mark.slow
async def test_a_client_that_reads_slowly_is_not() -> None:
    gateway = ScriptedGateway()
    gateway.dispatch.scripts["endless"] = lambda _: [[CHUNK * 200]] * 200
    async with running(gateway, write_idle_s=0.4) as api:
        wire = await stuck(api, 65536)
        for _ in range(20):
            await wire.more()
            await trio.sleep(0.05)
        while b"[DONE]" not in wire.data[-40:]:
            wire.data = wire.data[-40:]
            assert await wire.more()


async def test_a_client_that_stops_reading_does_not_hold_up_the_end() -> None:
    async with running(endless(), drain_s=SOON) as api:
        await stuck(api)
        api.stop.set()
        with trio.fail_after(3):
            await api.ended.wait()
        assert api.dispatch.running == 0


async def test_cancelling_the_server_ends_it_at_once_whatever_clients_do() -> None:
    async with running(endless()) as api:
        await stuck(api)
        await streaming(api)
        half = await api.wire()
        await half.send("GET /")
        with trio.fail_after(2):
            api.nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await api.ended.wait()
    assert api.dispatch.running == 0
