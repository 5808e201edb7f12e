"""A caller of a daemon's API over the virtual network: HTTP/1.1 by h11, answers as they come, with their times.

It does what a program on the same machine would: connects to the loopback of the host it stands on.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import h11
import trio

from tests.fullstack.daemons import MODEL
from tests.fullstack.virtualnet import VirtualNet

CHAT = "/v1/chat/completions"


class Reply:
    """An answer under way.  Nothing is read that was not asked for."""

    def __init__(self, stream: trio.SocketStream, parser: h11.Connection) -> None:
        self.stream = stream
        self.status = 0
        self.headers: dict[str, str] = {}
        self._parser = parser
        self._text = b""
        self._waiting: list[dict[str, Any]] = []

    async def _event(self) -> Any:
        while (event := self._parser.next_event()) is h11.NEED_DATA:
            self._parser.receive_data(await self.stream.receive_some(16 * 1024))
        return event

    async def head(self) -> None:
        event = await self._event()
        self.status = event.status_code
        self.headers = {name.decode(): value.decode() for name, value in event.headers}

    async def body(self) -> bytes:
        """All of it; raises ``h11.RemoteProtocolError`` if it breaks off."""
        whole = b""
        while not isinstance(event := await self._event(), h11.EndOfMessage):
            whole += bytes(event.data)
        return whole

    async def event(self) -> dict[str, Any] | None:
        """The next server-sent event, as JSON; None at the end."""
        while not self._waiting:
            event = await self._event()
            if isinstance(event, h11.EndOfMessage):
                return None
            self._text += bytes(event.data)
            *whole, self._text = self._text.split(b"\n\n")
            for text in whole:
                lines = [line[6:] for line in text.split(b"\n") if line.startswith(b"data: ")]
                self._waiting += [json.loads(line) for line in lines if line != b"[DONE]"]
        return self._waiting.pop(0)


@dataclass
class Heard:
    """What one streamed request brought; times are virtual seconds."""

    began: float
    status: int = 0
    served_by: str = ""
    first: float = float("nan")
    ended: float = float("nan")
    pieces: int = 0
    error: dict[str, Any] | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    attempts: int = 0
    route: str = ""

    @property
    def ttft_s(self) -> float:
        return self.first - self.began


def chat(tokens: int, words: int = 20, *, stream: bool = True, model: str = MODEL, user: str = "") -> dict[str, Any]:
    """A request whose prompt has about so many tokens."""
    text = " ".join([f"{user}please"] + ["word"] * (words - 1))
    body: dict[str, Any] = {"model": model, "stream": stream, "max_tokens": tokens, "ignore_eos": True}
    body["messages"] = [{"role": "user", "content": text}]
    return body


class Place(Protocol):
    """Where a daemon's API is: a member, or a process on this machine."""

    @property
    def host(self) -> str: ...

    @property
    def api_port(self) -> int: ...


@asynccontextmanager
async def request(
    net: VirtualNet | None, member: Place, path: str = CHAT, body: dict[str, Any] | None = None, **headers: str
) -> AsyncIterator[Reply]:
    """Ask; leaving the block hangs up."""
    with net.at(member.host) if net is not None else nullcontext():
        stream = await trio.open_tcp_stream("127.0.0.1", member.api_port)
    async with stream:
        parser = h11.Connection(h11.CLIENT)
        content = json.dumps(body).encode() if body is not None else b""
        lines = {"host": f"127.0.0.1:{member.api_port}", "content-length": str(len(content)), **headers}
        lines |= {"content-type": "application/json"} if body is not None else {}
        head = parser.send(
            h11.Request(method="POST" if body is not None else "GET", target=path, headers=list(lines.items()))
        )
        data = parser.send(h11.Data(data=content)) if content else b""
        await stream.send_all((head or b"") + (data or b"") + (parser.send(h11.EndOfMessage()) or b""))
        reply = Reply(stream, parser)
        await reply.head()
        yield reply


async def get(net: VirtualNet | None, member: Place, path: str) -> Any:
    """A whole JSON answer."""
    async with request(net, member, path) as reply:
        return json.loads(await reply.body())


async def streamed(net: VirtualNet | None, member: Place, body: dict[str, Any], **headers: str) -> Heard:
    """Ask for a stream and read it to its end."""
    heard = Heard(trio.current_time())
    async with request(net, member, body=body, **headers) as reply:
        heard.status = reply.status
        heard.served_by = reply.headers.get("x-p2pnode-peer", "")
        heard.route = reply.headers.get("x-p2pnode-route", "")
        heard.attempts = int(reply.headers.get("x-p2pnode-attempts", 0))
        if reply.status != 200:
            heard.error = json.loads(await reply.body()).get("error")
            heard.ended = trio.current_time()
            return heard
        while event := await reply.event():
            if "error" in event:
                heard.error = event["error"]
            elif any(choice["delta"].get("content") for choice in event.get("choices", ())):
                if not heard.pieces:
                    heard.first = trio.current_time()
                heard.pieces += 1
            heard.usage = event.get("usage") or heard.usage
    heard.ended = trio.current_time()
    return heard
