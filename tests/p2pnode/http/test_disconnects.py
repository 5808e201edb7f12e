"""The defect of quart-trio 0.12 under hypercorn's own server, and its cure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import Response
from quart_trio import QuartTrio

from p2pnode.http.disconnects import delay_disconnect

ASK = b"GET /%b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
App = Callable[..., Awaitable[None]]


def small_app() -> QuartTrio:
    app = QuartTrio(__name__)

    @app.get("/whole")
    async def whole() -> str:
        return "hello"

    @app.get("/stream")
    async def stream() -> Response:
        async def pieces() -> Any:
            for _ in range(3):
                yield b"data: x\n\n"
                await trio.lowlevel.checkpoint()

        return Response(pieces(), content_type="text/event-stream")

    return app


async def closed(app: App, path: bytes, times: int) -> int:
    """How many of so many connections the server closed by itself."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    count = 0
    async with trio.open_nursery() as nursery:
        start = partial(serve, app, config, shutdown_trigger=trio.sleep_forever)
        (address,) = await nursery.start(start)
        for _ in range(times):
            async with await trio.open_tcp_stream("127.0.0.1", int(address.rsplit(":", 1)[1])) as stream:
                await stream.send_all(ASK % path)
                with trio.move_on_after(1):
                    while await stream.receive_some():
                        pass
                    count += 1
        nursery.cancel_scope.cancel()
    return count


@pytest.mark.parametrize("path", [b"whole", b"stream"])
async def test_connection_close_is_honoured_with_the_wrapper(path: bytes) -> None:
    assert await closed(delay_disconnect(small_app()), path, 20) == 20


@pytest.mark.slow
async def test_the_defect_is_still_there_without_it() -> None:
    """When this fails, quart-trio was mended, and ``disconnects`` can go."""
    assert await closed(small_app(), b"whole", 1) == 0


async def test_only_the_last_disconnect_is_held_back() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def reader() -> None:
            seen.append((await receive())["type"])

        seen.append((await receive())["type"])
        await send({"type": "http.response.start"})
        async with trio.open_nursery() as nursery:
            await send({"type": "http.response.body", "more_body": False})
            nursery.start_soon(reader)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        seen.append(message["type"])

    await delay_disconnect(app)({"type": "http"}, receive, send)
    assert seen == ["http.disconnect", "http.response.start", "http.response.body"]


async def test_other_scopes_are_passed_on() -> None:
    seen: list[Any] = []

    async def app(*arguments: Any) -> None:
        seen.append(arguments)

    await delay_disconnect(app)({"type": "lifespan"}, 1, 2)
    assert seen == [({"type": "lifespan"}, 1, 2)]
