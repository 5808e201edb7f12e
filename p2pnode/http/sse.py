"""Server-sent events as bytes.  Nothing here waits; who calls it: ``openai`` and ``local``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from p2pnode.http.errors import ApiError

CONTENT_TYPE: Final = b"text/event-stream; charset=utf-8"
DONE: Final = b"data: [DONE]\n\n"
#: A comment: clients ignore it, proxies see a living stream.
KEEP_ALIVE: Final = b": keep-alive\n\n"
#: Seconds of silence after which the comment is sent (half of what llama.cpp does; proxies cut at 60 s).
KEEP_ALIVE_S: Final = 15.0


def events(texts: Sequence[bytes]) -> bytes:
    """One event for each JSON text, all in one piece of bytes."""
    return b"data: " + b"\n\ndata: ".join(texts) + b"\n\n"


def error(trouble: ApiError) -> bytes:
    """An error after the head was sent: the last event of its stream."""
    return events([trouble.encoded()])
