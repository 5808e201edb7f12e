"""HTTP/1.1 byte for byte: a request that two readers could understand differently ends the connection."""

from __future__ import annotations

import json

import pytest
import trio

from tests.p2pnode.http.scripted import AUTH, CHAT, HOST, chat, running, said

BODY = json.dumps(chat())
TYPE = "content-type: application/json\r\n"
POST = f"POST {CHAT} HTTP/1.1\r\n{HOST}{AUTH}{TYPE}"
CHUNKED = f"{POST}transfer-encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (f"GET /v1/models HTTP/1.1\r\n{AUTH}\r\n", 400),
        (f"GET /v1/models HTTP/1.0\r\n{AUTH}\r\n", 421),
        (f"GET /v1/models HTTP/1.1\r\nhost: evil.example\r\n{HOST}{AUTH}\r\n", 400),
        (f"GET /v1/models HTTP/1.1\r\nhost : 127.0.0.1:{{port}}\r\n{AUTH}\r\n", 400),
        (f"GET /v1/models HTTP/1.1\r\n{HOST}{AUTH}x-a: a\rb\r\n\r\n", 400),
        (f"GET /v1/models HTTP/1.1\r\n{HOST}{AUTH}x-a: a\0b\r\n\r\n", 400),
        (f"GET /v1/models x HTTP/1.1\r\n{HOST}{AUTH}\r\n", 400),
        ("GET /v1/models\r\n\r\n", 400),
        (f"{POST}transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n", 400),
        (f"{POST}transfer-encoding: identity\r\n\r\n{BODY}", 501),
        (f"{POST}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (f"{POST}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
        (f"{POST}transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n", 400),
        (f"{CHUNKED}transfer-encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (f"{CHUNKED}\r\nzz\r\n", 400),
        (f"{CHUNKED}\r\n2\r\n{{}}XX0\r\n\r\n", 400),
        (f"{POST}content-length: +3\r\n\r\n{{}}}}", 400),
        (f"{POST}content-length: -1\r\n\r\n", 400),
        (f"{POST}content-length: {len(BODY)}, 3\r\n\r\n{BODY}", 400),
        (f"{POST}content-length: {'9' * 30}\r\n\r\n", 400),
        (f"{POST}content-length: \xb2\r\n\r\n", 400),
    ],
)
async def test_what_can_be_read_in_two_ways_is_refused_and_ends_the_connection(text: str, status: int) -> None:
    async with running() as api:
        reply, wire = await said(api, text)
        assert reply.status == status
        assert reply.error["message"]
        assert reply.headers["connection"] == "close"
        with trio.fail_after(5):
            assert await wire.at_end()
        assert not api.dispatch.specs


async def test_http_2_is_not_spoken() -> None:
    async with running() as api:
        reply, _ = await said(api, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert reply.status == 421
        upgrade = f"GET /v1/models HTTP/1.1\r\n{HOST}{AUTH}connection: upgrade\r\nupgrade: h2c\r\n\r\n"
        reply, _ = await said(api, upgrade)
        assert reply.status == 200


@pytest.mark.parametrize(
    "target",
    ["http://evil.example/v1/models", "evil.example:80", "*", "//evil.example/v1/models", "\\\\evil.example\\v1"],
)
async def test_a_target_is_a_path_or_nothing(target: str) -> None:
    async with running() as api:
        for method in ("GET", "CONNECT", "OPTIONS"):
            reply, _ = await said(api, f"{method} {target} HTTP/1.1\r\n{HOST}{AUTH}\r\n")
            assert (reply.status, reply.error["code"]) == (404, "unknown_url")
