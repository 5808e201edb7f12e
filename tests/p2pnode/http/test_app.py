"""The API as a whole: which paths need a key however they are written, and what does not travel with a job."""

from __future__ import annotations

import socket

import pytest
import trio

from p2pnode.http.app import create_app
from p2pnode.jobs.records import JobRecord
from p2pnode.state.keys import ApiKey, Keyring, fingerprint
from tests.p2pnode.http.scripted import AUTH, CHAT, HOST, KEY, ScriptedGateway, Wire, chat, running, said

# --- paths: what needs a key needs it however it is written ----------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/livez/../v1/models",
        "/livez%2f..%2fv1%2fmodels",
        "/livez%00/v1/models",
        "/livez;/v1/models",
        "/livez/",
        "/livez/v1/models",
        "//livez",
        "/LIVEZ",
        "/./livez",
        "/metrics%20",
        "/v1/models?/livez",
        "/v1/models#/livez",
        "/v1%2fmodels",
        "/%76%31/models",
    ],
)
async def test_only_the_four_probes_are_open(path: str) -> None:
    async with running() as api:
        for method in ("GET", "POST", "OPTIONS"):
            reply, _ = await said(api, f"{method} {path} HTTP/1.1\r\n{HOST}content-length: 0\r\n\r\n")
            assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")


def outside_address() -> str:
    """An address of this machine that is not loopback; empty without any.  Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        return str(sock.getsockname()[0])


async def test_probes_need_a_key_from_elsewhere() -> None:
    address = outside_address()
    if not address or address.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    async with running(host="0.0.0.0") as api:
        for path in ("/livez", "/readyz", "/health", "/metrics"):
            for auth, status in (("", 401), (AUTH, 200)):
                wire = Wire(await trio.open_tcp_stream(address, api.port), api.port)
                api.wires.append(wire)
                await wire.send(f"GET {path} HTTP/1.1\r\nhost: {address}:{api.port}\r\n{auth}\r\n")
                assert (await wire.reply()).status == status


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
async def test_ipv6_is_asked_by_its_address() -> None:
    async with running(host="::1") as api:
        for host, status in ((f"[::1]:{api.port}", 200), (f"localhost:{api.port}", 200), (f"[::2]:{api.port}", 421)):
            wire = Wire(await trio.open_tcp_stream("::1", api.port), api.port)
            api.wires.append(wire)
            await wire.send(f"GET /v1/models HTTP/1.1\r\nhost: {host}\r\n{AUTH}\r\n")
            assert (await wire.reply()).status == status


@pytest.mark.parametrize("name", ["%00", "%ff%fe", "%0d%0aset-cookie:%20x", "%1b[2J", "x" * 4000, "..%2f..%2fnode.key"])
@pytest.mark.parametrize("path", ["/v1/models/", "/v1/jobs/", "/v1/p2p/peers/", "/"])
async def test_odd_names_are_unknown_and_never_a_header(path: str, name: str) -> None:
    async with running() as api:
        reply = await api.ask("GET", path + name)
    assert reply.status == 404
    assert reply.error["code"]
    assert not {"set-cookie", "location"} & reply.headers.keys()
    assert reply.error["message"].isprintable()


# --- what does not travel, and what cannot be done -------------------------------------------------------------------


async def test_nothing_of_the_head_travels_with_the_job() -> None:
    secrets = {"cookie": "session=biscuit", "x-forwarded-for": "198.51.100.7", "proxy-authorization": "Basic tea"}
    secrets |= {"x-p2pnode-session": "granny", "traceparent": "00-scone", "referer": "http://bun.example/"}
    async with running() as api:
        reply = await api.ask("POST", CHAT, chat(), secrets)
        assert reply.status == 200
    (spec,) = api.dispatch.specs
    for value in (KEY, "biscuit", "198.51.100.7", "tea", "granny", "scone", "bun.example"):
        assert value not in repr(spec)


def test_nothing_can_be_changed_over_http_but_a_job_be_cancelled() -> None:
    app = create_app(ScriptedGateway())
    rules = {(rule.rule, method) for rule in app.url_map.iter_rules() for method in rule.methods or ()}
    reading = {"GET", "HEAD", "OPTIONS"}
    assert {(path, method) for path, method in rules if method not in reading} == {("/v1/jobs/<name>", "DELETE")}
    models = {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"}
    assert set(app._direct) == models | {"/v1/p2p/route"}


async def test_a_key_sees_and_cancels_its_own_jobs_and_the_first_key_all() -> None:
    gateway = ScriptedGateway()
    gateway.keys.replace([ApiKey("guest", fingerprint("a-guest-secret"))])
    for name, client in (("req_1", "guest"), ("req_2", "default")):
        record = JobRecord(id=name, job=name, model="m", path=CHAT, stream=False, created=1.0, client=client)
        gateway.jobs.records[name] = record
    guest = {"authorization": "Bearer a-guest-secret"}
    async with running(gateway) as api:
        assert [job["id"] for job in (await api.ask("GET", "/v1/jobs", headers=guest)).json["data"]] == ["req_1"]
        assert [job["id"] for job in (await api.ask("GET", "/v1/jobs")).json["data"]] == ["req_1", "req_2"]
        for method in ("GET", "DELETE"):
            foreign = await api.ask(method, "/v1/jobs/req_2", headers=guest)
            assert (foreign.status, foreign.error["code"]) == (404, "job_not_found")
        assert gateway.jobs.cancelled == []
        assert (await api.ask("DELETE", "/v1/jobs/req_1", headers=guest)).status == 200
        assert (await api.ask("DELETE", "/v1/jobs/req_2")).status == 200
        gateway.keys = Keyring(required=False)
    assert gateway.jobs.cancelled == ["req_1", "req_2"]


async def test_without_keys_all_jobs_are_everybodys() -> None:
    gateway = ScriptedGateway()
    gateway.keys = Keyring(required=False)
    gateway.jobs.records["req_1"] = JobRecord(id="req_1", job="ab", model="m", path=CHAT, stream=False, created=1.0)
    async with running(gateway) as api:
        assert (await api.ask("GET", "/v1/jobs/req_1", key=False)).status == 200


async def test_no_answer_may_be_read_by_pages_or_kept_as_something_else() -> None:
    async with running() as api:
        for method, path, body in (("GET", "/v1/models", None), ("POST", CHAT, chat()), ("GET", "/livez", None)):
            headers = (await api.ask(method, path, body)).headers
            assert headers["content-type"].startswith("application/json")
            assert not [name for name in headers if name.startswith("access-control-")]
            assert "server" not in headers
