"""A node behind the API that does what a script says, and a raw client that sees every byte of the answer."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from p2pnode.http.app import create_app
from p2pnode.http.gate import AllowedOrigins
from p2pnode.http.server import Limits, serve
from p2pnode.jobs.records import JobFailed, JobRecord, JobSpec
from p2pnode.metrics import Metrics
from p2pnode.state.keys import Keyring
from protocol.ids import PeerId, peer_text, short
from protocol.routing.odds import RunnerUp
from protocol.routing.ranking import Candidate, Excluded, JobQuery, Ranking, Term

KEY = "sk-p2pnode-a-key-for-the-tests-0123456789"
CHAT = "/v1/chat/completions"
#: For what would take seconds with the real limits.
SOON = 0.2
#: Lines of a head that most requests need.
HOST = "host: 127.0.0.1:{port}\r\n"
AUTH = f"authorization: Bearer {KEY}\r\n"
PEER = PeerId(bytes(range(32)))
OTHER = PeerId(bytes(range(1, 33)))
CHUNK = b'{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"word "}}]}'
WHOLE = b'{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"word "}}]}'
HANG = "hang"
NONE_ALLOWED = AllowedOrigins()

#: One step of an answer: pieces, a pause in seconds, for ever, or a failure.
Step = list[bytes] | float | str | JobFailed


class ScriptedAnswer:
    """An answer that follows its script; a failure as the first step comes before anything is promised."""

    peer = PEER
    attempts = 2
    route = "direct"
    status = 200

    def __init__(self, steps: list[Step]) -> None:
        self._steps: Iterator[Step] = iter(steps)
        self.pulled = 0
        self._until = 0.0

    async def receive(self) -> list[bytes]:
        await trio.sleep_until(self._until)  # a pause goes on where it was when the caller gave up on it
        for step in self._steps:
            if isinstance(step, JobFailed):
                raise step
            if isinstance(step, list):
                self.pulled += 1
                return step
            self._until = trio.current_time() + (step if isinstance(step, float) else 3600)
            await trio.sleep_until(self._until)
        return []


class ScriptedDispatch:
    """Runs the script of the model that was asked for."""

    def __init__(self) -> None:
        self.scripts: dict[str, Callable[[JobSpec], list[Step]]] = {
            "m": lambda spec: [[CHUNK], [CHUNK, CHUNK]] if spec.stream else [[WHOLE[:20], WHOLE[20:]]],
            "org/model:8b": lambda _: [[WHOLE]],
            "slow": lambda _: [[CHUNK], HANG],
        }
        self.specs: list[JobSpec] = []
        self.answers: list[ScriptedAnswer] = []
        self.queries: list[JobQuery] = []
        self.running = 0
        self.left = trio.Event()

    @asynccontextmanager
    async def submit(self, spec: JobSpec) -> AsyncIterator[ScriptedAnswer]:
        self.specs.append(spec)
        script = self.scripts.get(spec.model)
        if script is None:
            raise JobFailed(404, "model_not_found", f"No peer offers {spec.model}.", param="model", should_retry=False)
        steps = script(spec)
        if steps and isinstance(steps[0], JobFailed):
            raise steps[0]
        answer = ScriptedAnswer(steps)
        self.answers.append(answer)
        self.running += 1
        try:
            yield answer
        finally:
            self.running -= 1
            self.left.set()

    def explain(self, query: JobQuery) -> Ranking:
        self.queries.append(query)
        term = Term("vram", 24.0, "GiB", "declared", 1.5, 7.2)
        other = PeerId(bytes(32))
        return Ranking(
            query,
            "neuralgrid",
            (
                Candidate(PEER, 7.5, (term,), True, 0.002, odds=0.75, linked=True),
                Candidate(OTHER, 7.0, (), False, None, odds=0.0, needs=("the model loaded",)),
            ),
            (Excluded(other, "context", "needs 9,000 tokens, has 8,192"),),
            drawn=True,
            temperature=0.3,
            runner_up=RunnerUp(1, 0, 0.5, "s", ("the model loaded",)),
        )


@dataclass
class ScriptedJobs:
    """A book with whatever the test wrote into it."""

    records: dict[str, JobRecord] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)

    def recent(self) -> list[JobRecord]:
        return list(self.records.values())

    def get(self, text: str) -> JobRecord | None:
        return self.records.get(text)

    def cancel(self, text: str) -> bool:
        self.cancelled.append(text)
        return text in self.records


class ScriptedGateway:
    """A node of which only the API is real."""

    def __init__(self) -> None:
        self.dispatch = ScriptedDispatch()
        self.jobs = ScriptedJobs()
        self.keys = Keyring()
        self.keys.admit_first(KEY)
        self.metrics = Metrics("test", process=False)
        self.reasons: list[str] = []
        self.zone = "anyone"

    def status(self) -> dict[str, Any]:
        return {"peer_id": peer_text(PEER), "ready": not self.reasons}

    def peers(self) -> list[dict[str, Any]]:
        one = {
            "id": peer_text(PEER),
            "short": short(PEER),
            "name": "ada",
            "self": True,
            "state": "alive",
            "gpus": [{"model": "RTX 4090", "count": 2}],
            "vram_total_mib": 48000,
            "vram_free_mib": 24000,
            "load": {"running": 1, "waiting": 2, "slots": 8, "tokens_s": 50},
        }
        gone = {**one, "id": "gone", "short": "gone", "name": "bob", "state": "left"}
        return [one, gone]

    def models(self) -> list[dict[str, Any]]:
        names = ("m", "org/model:8b")
        return [{"id": name, "object": "model", "created": 0, "owned_by": "p2pnode"} for name in names]

    def ready(self) -> tuple[bool, list[str]]:
        return not self.reasons, self.reasons


@dataclass
class Reply:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object; every field that OpenAI's clients read must be there."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        assert error["message"]
        assert error["code"] is None or isinstance(error["code"], str)
        assert self.headers["x-request-id"].startswith("req_")
        return error


class Wire:
    """A raw connection to the API."""

    def __init__(self, stream: trio.SocketStream, port: int) -> None:
        self.stream = stream
        self.port = port
        self.data = b""

    async def send(self, text: str | bytes) -> None:
        await self.stream.send_all(text.encode() if isinstance(text, str) else text)

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        key: bool = True,
    ) -> Reply:
        """Send one request and read its answer."""
        await self.send(self.request(method, path, body, headers, key=key))
        return await self.reply()

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        key: bool = True,
    ) -> bytes:
        """The bytes of a request; a header whose value is empty is left out."""
        all_headers = {"host": f"127.0.0.1:{self.port}"}
        if key:
            all_headers["authorization"] = f"Bearer {KEY}"
        if body is not None:
            all_headers |= {"content-type": "application/json", "content-length": str(len(body))}
        all_headers |= headers or {}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in all_headers.items() if value)]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")

    async def more(self) -> bool:
        """Read once; False at the end."""
        piece = await self.stream.receive_some(65536)
        self.data += piece
        return bool(piece)

    async def until(self, mark: bytes) -> bytes:
        """Everything up to and with ``mark``."""
        while mark not in self.data:
            if not await self.more():
                raise EOFError(self.data)
        head, found, self.data = self.data.partition(mark)
        return head + found

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers."""
        lines = (await self.until(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split(" ")[1]), {name.lower(): value for name, value in pairs}

    async def reply(self) -> Reply:
        """The next whole answer."""
        status, headers = await self.head()
        if "content-length" in headers:
            length = int(headers["content-length"])
            while len(self.data) < length:
                if not await self.more():
                    raise EOFError(self.data)
            body, self.data = self.data[:length], self.data[length:]
            return Reply(status, headers, body)
        body = b""
        while piece := await self.chunk():
            body += piece
        return Reply(status, headers, body)

    async def chunk(self) -> bytes:
        """One piece of a chunked body; empty at its end."""
        size = int(await self.until(b"\r\n"), 16)
        while len(self.data) < size + 2:
            if not await self.more():
                raise EOFError(self.data)
        piece, self.data = self.data[:size], self.data[size + 2 :]
        return piece

    async def at_end(self) -> bool:
        """Whether the server has closed and nothing is left to read."""
        try:
            return not self.data and not await self.more()
        except trio.BrokenResourceError:
            return True

    def abort(self) -> None:
        """Go away without a word (RST)."""
        linger = b"\1\0\0\0\0\0\0\0"
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.stream.socket.close()


@dataclass
class Api:
    """A running API."""

    gateway: ScriptedGateway
    port: int
    stop: trio.Event
    ended: trio.Event
    nursery: trio.Nursery
    wires: list[Wire] = field(default_factory=list)

    @property
    def dispatch(self) -> ScriptedDispatch:
        return self.gateway.dispatch

    async def wire(self) -> Wire:
        """A connection that is closed with the API."""
        wire = Wire(await trio.open_tcp_stream("127.0.0.1", self.port), self.port)
        self.wires.append(wire)
        return wire

    async def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, **more: Any
    ) -> Reply:
        """One request on a connection of its own; ``body`` is bytes or becomes JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        wire = await self.wire()
        async with wire.stream:
            return await wire.ask(method, path, data, headers, **more)


def chat(model: str = "m", **more: Any) -> dict[str, Any]:
    """The body of a chat."""
    return {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}


@asynccontextmanager
async def running(
    gateway: ScriptedGateway | None = None,
    *,
    allowed: AllowedOrigins = NONE_ALLOWED,
    host: str = "127.0.0.1",
    **limits: Any,
) -> AsyncIterator[Api]:
    """An API on a free port of loopback."""
    gateway = gateway or ScriptedGateway()
    stop, ended = trio.Event(), trio.Event()

    async def run(*, task_status: trio.TaskStatus[int]) -> None:
        try:
            app = create_app(gateway, allowed)
            await serve(app, host, 0, stop=stop, limits=Limits(**limits), task_status=task_status)
        finally:
            ended.set()

    async with trio.open_nursery() as nursery:
        port = await nursery.start(run)
        api = Api(gateway, port, stop, ended, nursery)
        try:
            yield api
        finally:
            for wire in api.wires:
                wire.stream.socket.close()
        nursery.cancel_scope.cancel()


async def said(api: Api, text: str) -> tuple[Reply, Wire]:
    """The answer to exactly these bytes."""
    wire = await api.wire()
    await wire.send(text.replace("{port}", str(api.port)).encode("latin-1"))
    with trio.fail_after(5):
        return await wire.reply(), wire


async def streaming(api: Api, wire: Wire | None = None) -> Wire:
    """A client in the middle of an answer that does not end."""
    wire = wire or await api.wire()
    await wire.send(wire.request("POST", CHAT, json.dumps(chat("slow", stream=True)).encode()))
    await wire.until(b"\n\n")
    return wire
