"""A load generator on raw sockets: seconds to the first token, requests and tokens a second."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Target:
    """Where to send chat completions."""

    base_url: str
    key: str
    model: str

    def request(self, stream: bool, max_tokens: int) -> bytes:
        body = json.dumps(
            {
                "model": self.model,
                "messages": [{"role": "user", "content": "Count to a hundred, slowly and with feeling."}],
                "stream": stream,
                "max_tokens": max_tokens,
            },
            separators=(",", ":"),
        ).encode()
        url = urlsplit(self.base_url)
        head = (
            f"POST {url.path}/chat/completions HTTP/1.1\r\nhost: {url.netloc}\r\nauthorization: Bearer {self.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        url = urlsplit(self.base_url)
        return await asyncio.open_connection(url.hostname, url.port)


async def read_head(reader: asyncio.StreamReader) -> tuple[int, int | None]:
    """Status and content length (None for a chunked body)."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return status, int(line[15:])
    return status, None


async def read_rest(reader: asyncio.StreamReader, length: int | None) -> bytes:
    if length is not None:
        return await reader.readexactly(length)
    data = b""
    while True:
        size = int((await reader.readuntil(b"\r\n")).strip() or b"0", 16)
        part = await reader.readexactly(size + 2)
        if size == 0:
            return data
        data += part[:-2]


async def first_token_times(target: Target, count: int) -> list[float]:
    """Seconds from request to the first ``data:`` line with content, one after the other on one connection."""
    reader, writer = await target.connect()
    request = target.request(stream=True, max_tokens=16)
    times = []
    for _ in range(count):
        started = time.perf_counter()
        writer.write(request)
        status, length = await read_head(reader)
        if length is None:
            size = int((await reader.readuntil(b"\r\n")).strip(), 16)
            await reader.readexactly(size + 2)
            times.append(time.perf_counter() - started)
            body = await read_rest(reader, None)
        else:
            body = await reader.readexactly(length)
            times.append(time.perf_counter() - started)
        if status != 200:
            raise RuntimeError(f"{target.base_url} answered {status}: {body[:300]!r}")
    writer.close()
    return times


async def requests_per_second(target: Target, connections: int, seconds: float) -> float:
    """Whole answers a second over ``connections`` keep-alive connections."""
    request = target.request(stream=False, max_tokens=16)
    done = 0
    stop = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal done
        reader, writer = await target.connect()
        while time.perf_counter() < stop:
            writer.write(request)
            status, length = await read_head(reader)
            body = await read_rest(reader, length)
            if status != 200:
                raise RuntimeError(f"{target.base_url} answered {status}: {body[:300]!r}")
            done += 1
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(connections)))
    return done / (time.perf_counter() - started)


async def tokens_per_second(target: Target, clients: int, max_tokens: int) -> float:
    """Tokens a second carried to ``clients`` concurrent streams, from the first request to the last ``[DONE]``."""
    request = target.request(stream=True, max_tokens=max_tokens)

    async def client() -> int:
        reader, writer = await target.connect()
        writer.write(request)
        status, _ = await read_head(reader)
        tokens, tail = 0, b""
        while b"[DONE]" not in tail:
            data = await reader.read(65536)
            if not data or status != 200:
                raise RuntimeError(f"the stream broke: {status} {(tail + data)[-300:]!r}")
            tokens += (tail[-10:] + data).count(b'"content":') - tail[-10:].count(b'"content":')
            tail = (tail + data)[-64:]
        writer.close()
        return tokens

    started = time.perf_counter()
    counts = await asyncio.gather(*(client() for _ in range(clients)))
    return sum(counts) / (time.perf_counter() - started)
