"""A fake model server over real sockets: each test scripts what it answers, and sees what was asked and hung up on."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import h11
import trio

MODELS = {"object": "list", "data": [{"id": "m", "object": "model", "max_model_len": 512}]}
METRICS = b"""# HELP vllm:num_requests_running x
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:generation_tokens_total{engine="0",model_name="m"} 100.0
"""


def sse(*events: dict[str, Any] | str) -> bytes:
    texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return b"".join(b"data: " + text.encode() + b"\n\n" for text in texts)


@dataclass
class Exchange:
    """One request and the means to answer it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    http: h11.Connection
    stream: trio.SocketStream

    async def send(self, event: h11.Event) -> None:
        await self.stream.send_all(self.http.send(event) or b"")

    async def head(self, status: int = 200, kind: str = "text/event-stream", *, close: bool = False) -> None:
        headers = [("content-type", kind), ("transfer-encoding", "chunked")]
        await self.send(h11.Response(status_code=status, headers=headers + [("connection", "close")] * close))

    async def write(self, data: bytes) -> None:
        await self.send(h11.Data(data=data))

    async def answer(self, value: Any, status: int = 200) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
        await self.send(h11.Response(status_code=status, headers=headers))
        await self.write(body)
        await self.send(h11.EndOfMessage())


@dataclass
class ModelServer:
    """``script`` answers what is posted; the rest has defaults that a test may change."""

    script: Callable[[Exchange], Awaitable[None]] | None = None
    models: Any = field(default_factory=lambda: dict(MODELS))
    metrics: bytes | None = METRICS
    url: str = ""
    connections: int = 0
    posted: list[Exchange] = field(default_factory=list)
    asked: trio.Event = field(default_factory=trio.Event)
    hung_up: trio.Event = field(default_factory=trio.Event)

    async def connection(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        http = h11.Connection(h11.SERVER)
        try:
            while await self._one(http, stream):
                http.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError):
            self.hung_up.set()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                await stream.aclose()

    async def _one(self, http: h11.Connection, stream: trio.SocketStream) -> bool:
        exchange, body = None, b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await stream.receive_some(65536))
            elif isinstance(event, h11.Request):
                headers = {bytes(k).decode(): bytes(v).decode() for k, v in event.headers}
                exchange = Exchange(event.method.decode(), event.target.decode(), headers, b"", http, stream)
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        assert exchange is not None
        exchange.body = body
        await self._answer(exchange)
        return http.our_state is h11.DONE

    async def _answer(self, exchange: Exchange) -> None:
        if exchange.path == "/v1/models":
            await exchange.answer(self.models)
        elif exchange.path == "/metrics" and self.metrics is not None:
            await exchange.answer(self.metrics)
        elif exchange.method == "POST" and self.script is not None:
            self.posted.append(exchange)
            self.asked.set()
            await self.script(exchange)
        else:
            await exchange.answer({"detail": "Not Found"}, 404)


@asynccontextmanager
async def serving(server: ModelServer, port: int = 0) -> Any:
    """Serve until the block ends; ``server.url`` is where."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        server.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.start_soon(trio.serve_listeners, server.connection, listeners)
        yield server
        nursery.cancel_scope.cancel()
