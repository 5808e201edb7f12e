"""The end of the server: it always comes, waits for what runs, and takes nothing new."""

from __future__ import annotations

import json
import socket

import pytest
import trio

from p2pnode.http import server
from p2pnode.http.server import ApiAddressProblem, listen
from tests.p2pnode.http.scripted import CHAT, CHUNK, HANG, SOON, ScriptedGateway, chat, running, streaming


@pytest.mark.slow
async def test_the_end_waits_for_what_runs_and_takes_nothing_new() -> None:
    gateway = ScriptedGateway()
    gateway.dispatch.scripts["brief"] = lambda _: [[CHUNK], 0.3, [CHUNK]]
    async with running(gateway) as api:
        idle = await api.wire()
        await idle.ask("GET", "/v1/models")
        wire = await api.wire()
        await wire.send(wire.request("POST", CHAT, json.dumps(chat("brief", stream=True)).encode()))
        await wire.until(b"\n\n")
        api.stop.set()
        await trio.sleep(0.05)
        assert await idle.at_end()
        with pytest.raises(OSError, match="all attempts to connect"):
            await api.wire()
        assert not api.ended.is_set()
        assert (await wire.until(b"data: [DONE]\n\n")).startswith(b"\r\n")
        with trio.fail_after(2):
            assert b"0\r\n\r\n" in wire.data or await wire.more()
            await api.ended.wait()


async def test_the_end_does_not_wait_longer_than_it_may() -> None:
    gateway = ScriptedGateway()
    gateway.dispatch.scripts["slow"] = lambda _: [[CHUNK], HANG]
    async with running(gateway, drain_s=SOON) as api:
        await streaming(api)
        api.stop.set()
        with trio.fail_after(2):
            await api.ended.wait()


async def test_an_api_without_clients_ends_at_once() -> None:
    async with running(drain_s=60) as api:
        await api.ask("GET", "/v1/models")
        api.stop.set()
        with trio.fail_after(1):
            await api.ended.wait()


async def test_an_address_that_cannot_be_used_is_one_clear_line() -> None:
    async with running() as api:
        with pytest.raises(ApiAddressProblem, match=f"another program listens on 127.0.0.1:{api.port}.*--api"):
            await listen("127.0.0.1", api.port)
    with pytest.raises(ApiAddressProblem, match="--api"):
        await listen("192.0.2.1", 0)
    with pytest.raises(ApiAddressProblem, match="no address of this machine"):
        await listen("no such host", 0)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux only")
async def test_connections_inherit_the_patience_of_the_kernel() -> None:
    sock = await listen("127.0.0.1", 0)
    with sock:
        client = await trio.open_tcp_stream(*sock.getsockname())
        async with client:
            accepted, _ = await sock.accept()
            with accepted:
                timeout = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert timeout == server.USER_TIMEOUT_MS
