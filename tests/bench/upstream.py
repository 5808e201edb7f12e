"""A bare OpenAI-shaped server that costs next to nothing, so that what is measured is what stands in front of it.

``python -m tests.bench.upstream `` prints its port, then answers every POST with 16 tokens at once,
as a stream when asked for one, and GET /v1/models with its one model.
"""

from __future__ import annotations

import asyncio
import json

MODEL = "bench-model"
TOKENS = 16


def response(content_type: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": MODEL, "choices": [choice]}
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


USAGE = {"prompt_tokens": 8, "completion_tokens": TOKENS, "total_tokens": 8 + TOKENS}
MODELS = response(
    "application/json", json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()
)
WHOLE = response(
    "application/json",
    json.dumps(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": MODEL,
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "word " * TOKENS}, "finish_reason": "stop"}
            ],
            "usage": USAGE,
        }
    ).encode(),
)
STREAM = response(
    "text/event-stream",
    chunk({"role": "assistant", "content": ""})
    + chunk({"content": "word "}) * TOKENS
    + chunk({}, "stop")
    + b"data: "
    + json.dumps(
        {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": MODEL, "choices": [], "usage": USAGE}
    ).encode()
    + b"\n\ndata: [DONE]\n\n",
)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = 0
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    length = int(line[15:])
            body = await reader.readexactly(length) if length else b""
            if head.startswith(b"GET"):
                writer.write(MODELS)
            else:
                writer.write(STREAM if b'"stream":true' in body.replace(b" ", b"") else WHOLE)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
