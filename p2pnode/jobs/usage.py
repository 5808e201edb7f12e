"""Counts the tokens of an answer: it requests usage from the engine, and drops a usage event that the caller did not.

Bodies and events stay bytes: a substring search decides whether something must be decoded at all.
"""

from __future__ import annotations

from typing import Final

import msgspec

from p2pnode.engine.base import CHAT, COMPLETIONS

#: An answer without streaming up to this size is buffered to read its usage (embeddings are longer).
MOST_READ_BYTES: Final = 1024 * 1024
_REQUEST_USAGE: Final = b'"stream_options":{"include_usage":true}'
_MARKS: Final = (b'"usage":{', b'"usage": {')


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class _Response(msgspec.Struct):
    usage: _Usage | None = None


class _Piece(msgspec.Struct):
    usage: _Usage | None = None
    choices: list[msgspec.Raw] | None = None
    response: _Response | None = None


_PIECE: Final = msgspec.json.Decoder(_Piece)


def asking_for_usage(path: str, body: bytes) -> bytes:
    """Set ``stream_options.include_usage`` in the body of a stream; other endpoints always report usage."""
    if path not in (CHAT, COMPLETIONS):
        return body
    end = body.rfind(b"}")
    if end < 0:
        return body  # the engine reports the error
    if b'"stream_options"' in body:
        return _merged(body)
    comma = b"," if body[:end].rstrip()[-1:] != b"{" else b""
    return b"".join((body[:end], comma, _REQUEST_USAGE, body[end:]))


def _merged(body: bytes) -> bytes:
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        options: object = msgspec.json.decode(fields.get("stream_options", b"null"))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body
    if options is not None and not isinstance(options, dict):
        return body
    with_usage = msgspec.json.encode((options or {}) | {"include_usage": True})
    return msgspec.json.encode(fields | {"stream_options": msgspec.Raw(with_usage)})


class Tally:
    """Counts the tokens of one answer as it passes.  ``wanted``: the caller requested the usage event."""

    def __init__(self, path: str, stream: bool, wanted: bool) -> None:
        self._stream = stream
        self._drops = stream and not wanted and path in (CHAT, COMPLETIONS)
        self._whole: list[bytes] = []
        self._length = 0
        self._pieces = 0
        self._usage: _Usage | None = None

    def pass_on(self, pieces: list[bytes]) -> list[bytes]:
        """The pieces for the caller."""
        if not self._stream:
            self._length += sum(map(len, pieces))
            if self._length <= MOST_READ_BYTES:
                self._whole += pieces
            return pieces
        self._pieces += len(pieces)
        if not any(mark in piece for piece in pieces for mark in _MARKS):
            return pieces
        return [piece for piece in pieces if not self._note_usage(piece)]

    def _note_usage(self, piece: bytes) -> bool:
        """Read the usage in a piece; True if the piece has nothing else and the caller did not request it."""
        if not any(mark in piece for mark in _MARKS):
            return False
        try:
            read = _PIECE.decode(piece)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        usage = read.usage or (read.response.usage if read.response else None)
        self._usage = usage or self._usage
        return self._drops and read.usage is not None and read.choices == []

    def tokens(self) -> tuple[int, int]:
        """Tokens in and out: the engine's count, else the number of streamed pieces."""
        if self._usage is None and self._whole and self._length <= MOST_READ_BYTES:
            self._note_usage(b"".join(self._whole))
        usage = self._usage
        if usage is None:
            return 0, self._pieces
        return max(0, usage.prompt_tokens or usage.input_tokens), max(0, usage.completion_tokens or usage.output_tokens)
