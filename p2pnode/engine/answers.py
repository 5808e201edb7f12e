"""Formats the mock engine's answers as OpenAI JSON, whole and in chunks.

Each job has one ``Writer``.  It encodes the head that all chunks share once, so a token costs one join of bytes.
Not here: errors (``p2pnode/http``) and the choice of tokens (``mock_text``).
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Final

import msgspec

from p2pnode.engine.base import CHAT
from p2pnode.engine.mock_text import Choice
from p2pnode.json_types import JsonObject

FINGERPRINT: Final = "p2pnode-mock"

_encode: Final = msgspec.json.Encoder().encode


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class Writer:
    """Chunks and the whole answer of one chat or text completion."""

    def __init__(
        self, path: str, answer_id: str, created: int, model: str, *, null_usage: bool = False, logprobs: bool = False
    ) -> None:
        self._chat = path == CHAT
        self._head = {
            "id": ("chatcmpl-" if self._chat else "cmpl-") + answer_id,
            "object": "",
            "created": created,
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }
        self._call_id = "call_" + answer_id[:24]
        self._logprobs = logprobs
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        self._chunk_head = _encode(self._head | {"object": kind})[:-1]
        # With include_usage every chunk but the last says null (OpenAI's reference, "stream_options").
        self._chunk_tail = b',"usage":null}' if null_usage else b"}"
        self._quoted: dict[str, bytes] = {}

    def _chunk(self, choice: bytes) -> bytes:
        return b'%b,"choices":[%b]%b' % (self._chunk_head, choice, self._chunk_tail)

    def first(self, index: int, choice: Choice) -> bytes | None:
        """The chunk before the first token: the role, and the function's name of a tool call."""
        if not self._chat:
            return None
        delta: JsonObject = {"role": "assistant", "content": "" if not choice.function else None}
        if choice.function:
            function = {"name": choice.function, "arguments": ""}
            delta["tool_calls"] = [{"index": 0, "id": self._call_id, "type": "function", "function": function}]
        return self._chunk(_encode({"index": index, "delta": delta, "logprobs": None, "finish_reason": None}))

    def token(self, index: int, choice: Choice, token: str) -> bytes:
        """The chunk of one token."""
        quoted = self._quoted.get(token)
        if quoted is None:
            quoted = self._quoted[token] = _encode(token)
        if self._logprobs:
            return self._chunk(self._choice_with_logprobs(index, token))
        if not self._chat:
            return self._chunk(b'{"index":%d,"text":%b,"logprobs":null,"finish_reason":null}' % (index, quoted))
        delta = b'"content":%b'
        if choice.function:
            delta = b'"tool_calls":[{"index":0,"function":{"arguments":%b}}]'
        shape = b'{"index":%d,"delta":{%b},"logprobs":null,"finish_reason":null}'
        return self._chunk(shape % (index, delta % quoted))

    def _choice_with_logprobs(self, index: int, token: str) -> bytes:
        if self._chat:
            choice = {
                "index": index,
                "delta": {"content": token},
                "logprobs": logprobs((token,)),
                "finish_reason": None,
            }
        else:
            choice = {"index": index, "text": token, "logprobs": text_logprobs((token,)), "finish_reason": None}
        return _encode(choice)

    def last(self, index: int, choice: Choice) -> bytes:
        """The chunk with the finish reason."""
        if self._chat:
            shape = b'{"index":%d,"delta":{},"logprobs":null,"finish_reason":"%b"}'
        else:
            shape = b'{"index":%d,"text":"","logprobs":null,"finish_reason":"%b"}'
        return self._chunk(shape % (index, choice.finish.encode()))

    def totals(self, prompt: int, completion: int) -> bytes:
        """The chunk that ends a stream with ``include_usage``."""
        return b'%b,"choices":[],"usage":%b}' % (self._chunk_head, _encode(usage(prompt, completion)))

    def whole(self, choices: Sequence[Choice], prompt: int) -> bytes:
        """The answer in one piece."""
        completion = sum(len(choice.tokens) for choice in choices)
        return _encode(
            self._head
            | {
                "object": "chat.completion" if self._chat else "text_completion",
                "choices": [self._whole_choice(index, choice) for index, choice in enumerate(choices)],
                "usage": usage(prompt, completion),
            }
        )

    def _whole_choice(self, index: int, choice: Choice) -> JsonObject:
        text = "".join(choice.tokens)
        fields: JsonObject = {"index": index, "finish_reason": choice.finish, "logprobs": None}
        if not self._chat:
            return fields | {"text": text, "logprobs": text_logprobs(choice.tokens) if self._logprobs else None}
        message: JsonObject = {"role": "assistant", "content": text, "refusal": None}
        if choice.function:
            function = {"name": choice.function, "arguments": text}
            message |= {
                "content": None,
                "tool_calls": [{"id": self._call_id, "type": "function", "function": function}],
            }
        return fields | {"message": message, "logprobs": logprobs(choice.tokens) if self._logprobs else None}


def logprobs(tokens: Sequence[str]) -> JsonObject:
    """Made-up values in the right form: every token has probability 1."""
    return {
        "content": [
            {"token": token, "logprob": 0.0, "bytes": list(token.encode()), "top_logprobs": []} for token in tokens
        ],
        "refusal": None,
    }


def text_logprobs(tokens: Sequence[str]) -> JsonObject:
    """The older form, for text completions."""
    offsets = [0]
    for token in tokens:
        offsets.append(offsets[-1] + len(token))
    return {"tokens": list(tokens), "token_logprobs": [0.0] * len(tokens), "top_logprobs": None} | {
        "text_offset": offsets[:-1]
    }


def embeddings(model: str, vectors: Sequence[tuple[list[float], int]], encoding: str) -> bytes:
    """The answer of ``/v1/embeddings``; ``base64`` is little-endian float32, as in OpenAI's API."""
    data = []
    for index, (vector, _) in enumerate(vectors):
        value: object = vector
        if encoding == "base64":
            value = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": value})
    tokens = sum(count for _, count in vectors)
    totals = {"prompt_tokens": tokens, "total_tokens": tokens}
    return _encode({"object": "list", "data": data, "model": model, "usage": totals})


class ResponseWriter:
    """Events and the whole answer of the stateless part of ``/v1/responses``; events carry their name in ``type``."""

    def __init__(self, answer_id: str, created: int, model: str) -> None:
        self._head = {"id": "resp_" + answer_id, "object": "response", "created_at": created, "model": model}
        self._item = "msg_" + answer_id
        self._sequence = -1

    def _event(self, kind: str, **fields: object) -> bytes:
        self._sequence += 1
        return _encode({"type": kind, "sequence_number": self._sequence} | fields)

    def first(self) -> list[bytes]:
        item = {"type": "message", "id": self._item, "role": "assistant", "status": "in_progress", "content": []}
        part = {"type": "output_text", "text": "", "annotations": []}
        return [
            self._event("response.created", response=self._body("", "in_progress", 0, 0) | {"output": []}),
            self._event("response.output_item.added", output_index=0, item=item),
            self._event("response.content_part.added", output_index=0, content_index=0, item_id=self._item, part=part),
        ]

    def token(self, token: str) -> bytes:
        where = {"output_index": 0, "content_index": 0, "item_id": self._item}
        return self._event("response.output_text.delta", delta=token, **where)

    def last(self, choice: Choice, prompt: int) -> list[bytes]:
        text = "".join(choice.tokens)
        status = "incomplete" if choice.finish == "length" else "completed"
        body = self._body(text, status, prompt, len(choice.tokens))
        where = {"output_index": 0, "content_index": 0, "item_id": self._item}
        part = {"type": "output_text", "text": text, "annotations": []}
        return [
            self._event("response.output_text.done", text=text, **where),
            self._event("response.content_part.done", part=part, **where),
            self._event("response.output_item.done", output_index=0, item=body["output"][0]),
            self._event("response." + status, response=body),
        ]

    def whole(self, choice: Choice, prompt: int) -> bytes:
        status = "incomplete" if choice.finish == "length" else "completed"
        return _encode(self._body("".join(choice.tokens), status, prompt, len(choice.tokens)))

    def _body(self, text: str, status: str, prompt: int, completion: int) -> JsonObject:
        part = {"type": "output_text", "text": text, "annotations": []}
        item = {"type": "message", "id": self._item, "role": "assistant", "status": status, "content": [part]}
        totals = {"input_tokens": prompt, "output_tokens": completion, "total_tokens": prompt + completion}
        details = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return self._head | {
            "status": status,
            "incomplete_details": details,
            "output": [item],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": totals,
        }
