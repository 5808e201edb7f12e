"""Formats server-sent events as bytes.  Nothing here waits or sends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from p2pnode.http.errors import ApiError

CONTENT_TYPE: Final = b"text/event-stream; charset=utf-8"
DONE: Final = b"data: [DONE]\n\n"
#: A comment: clients ignore it, and proxies see that the stream is alive.
KEEP_ALIVE: Final = b": keep-alive\n\n"
#: Seconds of silence after which the comment is sent (half of what llama.cpp does; proxies cut at 60 s).
KEEP_ALIVE_S: Final = 15.0


def events(texts: Sequence[bytes]) -> bytes:
    """One event for each JSON text, all in one piece of bytes."""
    return b"data: " + b"\n\ndata: ".join(texts) + b"\n\n"


def error(failure: ApiError) -> bytes:
    """An error after the head was sent, as the last event of its stream."""
    return events([failure.encoded()])
