"""The check of an answer of a peer, piece by piece, before any of it reaches the caller.

A stream must consist of events that are JSON objects of the shape that the endpoint promises, on one line, of a
plausible size and number.  An answer that is not streamed must be one such object.  The text itself may be anything.

Not here: the frames around the pieces, their order and hash (the driver), the pace (``deadlines``).
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from protocol.errors import BadFrame

#: Most bytes of one event where nothing in the request makes events long (guess: 4,000 tokens of plain text at once).
MOST_EVENT_BYTES: Final = 16 * 1024
#: Fields of a request that make events long: probabilities of each token, the prompt again, a whole call of a tool.
_LONG: Final = (b'"logprobs"', b'"echo"', b'"tools"', b'"functions"')
#: Events in a stream beside those with tokens (guess), and events for each token and choice.
MORE_EVENTS: Final = 64
EVENTS_PER_TOKEN: Final = 2

_CHAT: Final = "/v1/chat/completions"
_COMPLETIONS: Final = "/v1/completions"
_EMBEDDINGS: Final = "/v1/embeddings"


class _Object(msgspec.Struct):
    """Any JSON object."""


class _ChatChoice(msgspec.Struct):
    delta: _Object


class _ChatEvent(msgspec.Struct):
    choices: list[_ChatChoice]


class _TextChoice(msgspec.Struct):
    text: str


class _TextEvent(msgspec.Struct):
    choices: list[_TextChoice]


class _ResponseEvent(msgspec.Struct):
    type: Annotated[str, Meta(pattern=r"^[a-z0-9_.]{1,64}$")]


class _WholeChoice(msgspec.Struct):
    message: _Object


class _WholeChat(msgspec.Struct):
    choices: Annotated[list[_WholeChoice], Meta(min_length=1)]


class _WholeText(msgspec.Struct):
    choices: Annotated[list[_TextChoice], Meta(min_length=1)]


class _WholeEmbeddings(msgspec.Struct):
    data: Annotated[list[_Object], Meta(min_length=1)]


class _WholeResponse(msgspec.Struct):
    output: list[_Object]


class _Choices(msgspec.Struct):
    n: int | None = None
    best_of: int | None = None


#: By path; any other is that of responses.
_EVENTS: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    _CHAT: msgspec.json.Decoder(_ChatEvent),
    _COMPLETIONS: msgspec.json.Decoder(_TextEvent),
}
_RESPONSE_EVENT: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(_ResponseEvent)
_WHOLES: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    _CHAT: msgspec.json.Decoder(_WholeChat),
    _COMPLETIONS: msgspec.json.Decoder(_WholeText),
    _EMBEDDINGS: msgspec.json.Decoder(_WholeEmbeddings),
}
_WHOLE_RESPONSE: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(_WholeResponse)
_CHOICES: Final = msgspec.json.Decoder(_Choices)


class AnswerCheck:
    """See the module's docstring.  ``body`` is the request; ``max_tokens`` 0 if it sets no bound.

    Every method raises ``BadFrame`` for what an honest peer does not send.
    """

    def __init__(self, path: str, body: bytes, *, stream: bool, max_tokens: int, most_bytes: int) -> None:
        self._body = body
        self._stream = stream
        self._max_tokens = max_tokens
        self._most_bytes = most_bytes
        self._decode = (_EVENTS.get(path) or _RESPONSE_EVENT).decode
        self._decode_whole = (_WHOLES.get(path) or _WHOLE_RESPONSE).decode
        self._has_choices = path in _EVENTS
        self._chosen = False
        self._events = 0
        self._most_events: int | None = None
        self._received = 0
        self._whole: list[bytes] = []

    @property
    def begun(self) -> bool:
        """Whether a piece has come."""
        return self._received > 0

    def take(self, pieces: list[bytes]) -> bytes:
        """The next pieces; returns them joined."""
        joined = b"".join(pieces)
        self._received += len(joined)
        if self._stream:
            self._take_events(pieces, joined)
        elif self._received > self._most_bytes:
            raise BadFrame(f"an answer of more than {self._most_bytes} bytes")
        else:
            self._whole += pieces
        return joined

    def end(self) -> None:
        """The peer says that the answer is complete."""
        if self._stream:
            if self._has_choices and not self._chosen:
                raise BadFrame("a stream without any choice")
            return
        try:
            whole = b"".join(self._whole)
            whole.decode()  # the decoder does not notice invalid UTF-8 in fields that it skips
            self._decode_whole(whole)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadFrame(f"an answer that is not one of this endpoint: {error}") from error

    def _take_events(self, pieces: list[bytes], joined: bytes) -> None:
        if b"\n" in joined or b"\r" in joined:
            raise BadFrame("a line break inside an event")
        self._events += len(pieces)
        self._bound(pieces)
        decode = self._decode
        try:
            joined.decode()
            for piece in pieces:
                event = decode(piece)
                if not self._chosen and self._has_choices:
                    self._chosen = bool(event.choices)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadFrame(f"an event that is not one of this endpoint: {error}") from error

    def _bound(self, pieces: list[bytes]) -> None:
        """The size and the number of events.  The request is searched only where there is a doubt."""
        long = self._has_choices and max(map(len, pieces)) > MOST_EVENT_BYTES
        if long and not any(field in self._body for field in _LONG):
            raise BadFrame(f"an event of more than {MOST_EVENT_BYTES} bytes")
        if self._max_tokens and self._events > EVENTS_PER_TOKEN * self._max_tokens + MORE_EVENTS:
            if self._most_events is None:
                self._most_events = EVENTS_PER_TOKEN * self._max_tokens * self._choices() + MORE_EVENTS
            if self._events > self._most_events:
                raise BadFrame(f"{self._events} events for at most {self._max_tokens} tokens")

    def _choices(self) -> int:
        """How many answers the request asks for."""
        try:
            asked = _CHOICES.decode(self._body)
        except msgspec.DecodeError:
            return 1
        return max(1, asked.n or 1, asked.best_of or 1)
