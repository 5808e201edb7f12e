"""Maps the errors of model servers to one vocabulary: a status, a code and a line for the caller.

Servers differ: vLLM sends the status as ``code``, FastAPI sends ``detail``.
"""

from __future__ import annotations

from typing import Final

import msgspec

from p2pnode.engine.base import EngineFailed
from p2pnode.json_types import JsonObject

#: Longest message that reaches the caller, characters.
MOST_MESSAGE: Final = 500
#: Parts of messages about a prompt that is too long (vLLM 0.32, SGLang, llama.cpp, OpenAI).
_TOO_LONG: Final = ("context length", "context_length", "max_model_len", "context size", "maximum context")
_CODES: Final = {404: "model_not_found", 408: "deadline_exceeded", 413: "request_too_large"}


def from_answer(status: int, body: bytes) -> EngineFailed:
    """The failure that an HTTP answer with a status of 400 or more means."""
    error = _error(body)
    message = str(error.get("message") or error.get("detail") or f"the engine answered {status}")[:MOST_MESSAGE]
    param = error.get("param")
    if status in (401, 403):
        return EngineFailed(502, "engine_refused", "the engine refused this node's key; correct the engine key")
    if status in (429, 503):
        return EngineFailed(503, "engine_busy", message)
    if status >= 500:
        return EngineFailed(502, "engine_failed", message)
    code = error.get("code")
    if any(words in message.lower() for words in _TOO_LONG):
        code = "context_length_exceeded"
    elif not isinstance(code, str) or code.isdigit():
        code = _CODES.get(status, "invalid_parameter")
    return EngineFailed(400 if status == 422 else status, code, message, param if isinstance(param, str) else "")


def from_event(data: bytes) -> EngineFailed | None:
    """The failure inside an event of a stream, if there is one."""
    if not data.startswith((b'{"error"', b'{ "error"', b'{"object":"error"', b'{"object": "error"')):
        return None
    error = _error(data)
    code = error.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return from_answer(status, data)


def _error(body: bytes) -> JsonObject:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    if not isinstance(value, dict):
        return {}
    inner = value.get("error")
    if isinstance(inner, str):
        return {"message": inner}
    return inner if isinstance(inner, dict) else value
