"""Who may ask, under which name, from which page, with which key: the matrix of DESIGN 2.7."""

from __future__ import annotations

import json

import pytest
import trio

from p2pnode.http.errors import ApiError
from p2pnode.http.gate import AllowedOrigins, Gate
from p2pnode.metrics import Metrics
from p2pnode.state.keys import ApiKey, KeyPolicy, Keyring, fingerprint
from tests.p2pnode.http.scripted import CHAT, KEY, ScriptedGateway, chat, running


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}", "[::1]:{port}"])
async def test_own_names_are_answered(host: str) -> None:
    async with running() as api:
        assert (await api.ask("GET", "/v1/models", headers={"host": host.format(port=api.port)})).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "evil/?",
        "127.0.0.1",
        "127.0.0.1:1",
        "localhost",
        "localhost:{port}@evil.example",
        "127.0.0.1.evil.example:{port}",
        "[::1]",
        "0.0.0.0:{port}",
        "user@localhost:{port}",
        "localhost:{port}0",
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", CHAT, "/livez", "/nowhere"])
async def test_foreign_names_are_not(host: str, path: str) -> None:
    async with running() as api:
        reply = await api.ask("GET", path, headers={"host": host.format(port=api.port)})
    assert reply.status == 421
    assert reply.error["code"] == "misdirected_request"


async def test_a_name_that_was_configured_is_answered_on_any_port() -> None:
    async with running(allowed=AllowedOrigins(hosts=("gpu.example.org",))) as api:
        for host in ("gpu.example.org", "GPU.example.org:443", f"gpu.example.org:{api.port}"):
            assert (await api.ask("GET", "/v1/models", headers={"host": host})).status == 200
        assert (await api.ask("GET", "/v1/models", headers={"host": "gpu.example.com"})).status == 421


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:{port}"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 200),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "https://127.0.0.1:{port}"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
async def test_pages_of_others_may_not_ask(headers: dict[str, str], status: int) -> None:
    async with running() as api:
        filled = {name: value.format(port=api.port) for name, value in headers.items()}
        for method, path, body in (("GET", "/v1/models", None), ("POST", CHAT, chat()), ("GET", "/livez", None)):
            reply = await api.ask(method, path, body, filled)
            assert reply.status == status
            if status == 403:
                assert reply.error["code"] == "not_allowed"
            assert "access-control-allow-origin" not in reply.headers


async def test_a_page_that_was_configured_may() -> None:
    origin = {"origin": "https://chat.example.org"}
    async with running(allowed=AllowedOrigins(origins=("https://chat.example.org/",))) as api:
        reply = await api.ask("POST", CHAT, chat(), origin | {"sec-fetch-site": "cross-site"})
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, "https://chat.example.org")
        listing = await api.ask("GET", "/v1/models", headers=origin)
        assert listing.headers["access-control-allow-origin"] == "https://chat.example.org"
        asking = origin | {"access-control-request-headers": "authorization,content-type"}
        preflight = await api.ask("OPTIONS", CHAT, headers=asking, key=False)
        assert preflight.status == 204
        assert preflight.headers["access-control-allow-headers"] == "authorization,content-type"
        other = await api.ask("OPTIONS", CHAT, headers={"origin": "http://evil.example"}, key=False)
        assert other.status == 403
    assert len(api.dispatch.specs) == 1


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Basic {KEY}",
        KEY,
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        "Bearer \xff",
    ],
)
async def test_without_the_right_key_nothing_is_answered(authorization: str) -> None:
    async with running() as api:
        for method, path in (("GET", "/v1/models"), ("POST", CHAT), ("GET", "/cluster/status"), ("GET", "/nowhere")):
            wire = await api.wire()
            headers = {"authorization": authorization} if authorization else {}
            await wire.send(wire.request(method, path, b"{}", headers, key=False).decode().encode("latin-1"))
            reply = await wire.reply()
            assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
            assert reply.headers["www-authenticate"] == "Bearer"
            assert KEY not in reply.body.decode()
    assert not api.dispatch.specs


async def test_the_scheme_is_not_case_sensitive_and_new_keys_open_too() -> None:
    gateway = ScriptedGateway()
    async with running(gateway) as api:
        assert (await api.ask("GET", "/v1/models", headers={"authorization": f"bearer {KEY}"})).status == 200
        other = {"authorization": "Bearer another-secret"}
        assert (await api.ask("GET", "/v1/models", headers=other)).status == 401
        gateway.keys.replace([ApiKey("other", fingerprint("another-secret"))])
        assert (await api.ask("GET", "/v1/models", headers=other)).status == 200
        gateway.keys.replace([])
        assert (await api.ask("GET", "/v1/models", headers=other)).status == 401


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/metrics"])
async def test_probes_need_no_key_on_loopback(path: str) -> None:
    async with running() as api:
        assert (await api.ask("GET", path, key=False)).status == 200


async def test_no_auth_asks_for_none() -> None:
    gateway = ScriptedGateway()
    gateway.keys = Keyring(required=False)
    async with running(gateway) as api:
        assert (await api.ask("POST", CHAT, chat(), key=False)).status == 200
        assert (await api.ask("POST", CHAT, chat(), {"host": "evil.example"}, key=False)).status == 421


async def test_a_key_has_its_rate() -> None:
    gateway = ScriptedGateway()
    gateway.keys.replace([ApiKey("slow", fingerprint("slow-secret"), KeyPolicy(rpm=2))])
    headers = {"authorization": "Bearer slow-secret"}
    async with running(gateway) as api:
        statuses = [(await api.ask("GET", "/v1/models", headers=headers)).status for _ in range(2)]
        reply = await api.ask("GET", "/v1/models", headers=headers)
        assert (await api.ask("GET", "/v1/models")).status == 200
    assert statuses == [200, 200]
    assert (reply.status, reply.error["code"], reply.error["type"]) == (429, "rate_limit_exceeded", "requests")
    assert 1 <= int(reply.headers["retry-after"]) <= 30


def test_a_rate_comes_back_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, key = Gate(Keyring([]), Metrics("0"), AllowedOrigins()), ApiKey("slow", fingerprint("x"), KeyPolicy(rpm=60))

    def wait(now: float, key: ApiKey = key) -> float | None:
        monkeypatch.setattr(trio, "current_time", lambda: now)
        try:
            gate._check_rate(key)
        except ApiError as refused:
            return refused.retry_after
        return 0.0

    assert [wait(100.0) for _ in range(60)] == [0.0] * 60
    assert wait(100.0) == pytest.approx(1.0)
    assert wait(101.0) == 0.0
    assert wait(101.0, ApiKey("slow", fingerprint("x"), KeyPolicy(rpm=120))) == 0.0
    assert [wait(1e6) for _ in range(61)][-1] == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
async def test_only_json_is_taken(kind: str) -> None:
    async with running() as api:
        reply = await api.ask("POST", CHAT, chat(), {"content-type": kind})
    assert (reply.status, reply.error["code"]) == (415, "unsupported_media_type")
    assert not api.dispatch.specs


async def test_json_with_a_charset_is_json_and_packed_json_is_not() -> None:
    async with running() as api:
        assert (await api.ask("POST", CHAT, chat(), {"content-type": "Application/JSON; charset=utf-8"})).status == 200
        assert (await api.ask("POST", CHAT, chat(), {"content-encoding": "gzip"})).status == 415


async def test_a_body_has_one_length() -> None:
    async with running() as api:
        wire = await api.wire()
        both = wire.request("POST", CHAT, b"{}", {"transfer-encoding": "chunked"})
        await wire.send(both)
        reply = await wire.reply()
        assert (reply.status, reply.error["code"]) == (400, "invalid_request")
        assert await wire.at_end()
        wire = await api.wire()
        await wire.send(wire.request("POST", CHAT, None, {"content-type": "application/json"}))
        reply = await wire.reply()
        assert (reply.status, reply.error["code"]) == (411, "length_required")
        wire = await api.wire()
        twice = wire.request("POST", CHAT, b"{}").replace(b"\r\n\r\n", b"\r\ncontent-length: 3\r\n\r\n")
        await wire.send(twice)
        assert (await wire.reply()).status == 400
    assert not api.dispatch.specs


async def test_a_chunked_body_is_a_body() -> None:
    body = json.dumps(chat()).encode()
    async with running() as api:
        wire = await api.wire()
        head = wire.request("POST", CHAT, None, {"content-type": "application/json", "transfer-encoding": "chunked"})
        await wire.send(head)
        for piece in (body[:10], body[10:]):
            await wire.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await trio.sleep(0.01)
        await wire.send(b"0\r\n\r\n")
        assert (await wire.reply()).status == 200
    assert api.dispatch.specs[0].body == body


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("POST", "/v1/audio/speech", 404, "unknown_url"),
        ("GET", "/", 404, "unknown_url"),
        ("GET", "/v1//models", 404, "unknown_url"),
        ("GET", "/v1/models/", 404, "unknown_url"),
        ("GET", "//evil.example/v1/models", 404, "unknown_url"),
        ("GET", "http://evil.example/v1/models", 404, "unknown_url"),
        ("GET", "/static/x", 404, "unknown_url"),
        ("GET", "/v1/../livez", 404, "unknown_url"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("PUT", "/v1/jobs/x", 405, "method_not_allowed"),
        ("BREW", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/unknown", 404, "model_not_found"),
    ],
)
async def test_everything_else_is_an_error_in_the_same_form(method: str, path: str, status: int, code: str) -> None:
    async with running() as api:
        reply = await api.ask(method, path, b"{}" if method == "POST" else None)
    assert (reply.status, reply.error["code"]) == (status, code)
    assert reply.headers["x-should-retry"] == "false"
    if status == 405:
        assert reply.headers["allow"]


async def test_nothing_can_be_smuggled_into_a_header() -> None:
    async with running() as api:
        wire = await api.wire()
        await wire.send(wire.request("GET", "/v1/models", headers={"x-request-id": "a", "x-client-request-id": "b\tc"}))
        reply = await wire.reply()
    assert reply.headers["x-request-id"].startswith("req_")


async def test_what_was_refused_is_counted_by_reason() -> None:
    async with running() as api:
        await api.ask("GET", "/v1/models", key=False)
        await api.ask("GET", "/v1/models", headers={"host": "evil.example"})
        text = api.gateway.metrics.expose().decode()
    assert 'p2pnode_http_refused_total{reason="invalid_api_key"} 1.0' in text
    assert 'p2pnode_http_refused_total{reason="misdirected_request"} 1.0' in text
