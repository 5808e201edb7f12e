"""hypercorn's HTTP/1.1 with changes: errors in OpenAI's form, no upgrades, and reading goes on during an answer.

It handles bytes and events only.  Sockets and time belong to ``connection``.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, cast

import h11
import trio
from hypercorn.events import RawData
from hypercorn.protocol.events import Request as RequestEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream

from p2pnode.http.asgi import Message
from p2pnode.http.errors import JSON, ApiError
from p2pnode.http.request_id import new_request_id

#: Pieces of a body that may wait for the app; then the client has to wait.
BODY_PIECES: Final = 4


_HEAD_ERRORS: Final = {
    400: ("invalid_request", "This is not HTTP/1.1 as it should be: {detail}."),
    408: ("request_timeout", "The request's headers took longer than 5 s to arrive."),
    431: ("headers_too_large", "The request's headers are longer than 16 KiB."),
    501: ("invalid_request", "This transfer encoding is not supported: send a Content-Length."),
}


def head_error(status: int, detail: str = "") -> ApiError:
    """The error of a head that did not become a request."""
    code, message = _HEAD_ERRORS.get(status, _HEAD_ERRORS[400])
    retry_after = 1.0 if status == 408 else None
    return ApiError(status, code, message.format(detail=detail or "bad request"), retry_after=retry_after, close=True)


class Paused(Exception):
    """The protocol holds bytes of a further request until the answer under way is complete."""


class _PauseInstead:
    """Replaces the event on which hypercorn waits for that end, because it would not notice a client that leaves."""

    async def clear(self) -> None:
        pass

    async def set(self) -> None:
        pass

    async def wait(self) -> None:
        raise Paused


class Http1(H11Protocol):
    """hypercorn's HTTP/1.1, without upgrades to WebSocket and HTTP/2, and with our error bodies."""

    def __init__(self, *wiring: Any) -> None:  # hypercorn's nine arguments, untouched
        super().__init__(*wiring)
        self.can_read = cast(Any, _PauseInstead())

    def answers(self) -> bool:
        """Whether a request has arrived completely and its answer is not complete yet."""
        return self.stream is not None and self.connection.their_state is not h11.SEND_BODY

    async def feed(self, data: bytes) -> None:
        """Take bytes, or without any continue with the buffered ones; raises ``Paused``."""
        if data:
            await self.handle(RawData(data))
        else:  # h11 reads empty data as the end of the stream
            await self._handle_events()

    async def _check_protocol(self, event: h11.Request) -> None:
        """No ``Upgrade``: HTTP allows a server to ignore it."""

    async def _create_stream(self, request: h11.Request) -> None:
        self.stream = HTTPStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            False,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        await self.stream.handle(
            RequestEvent(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii"),
                raw_path=request.target,
                state=self.connection_state,
            )
        )

    async def _send_error_response(self, status_code: int) -> None:
        await self.refuse(head_error(status_code))

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error before, or instead of, a complete request."""
        body = error.encoded()
        headers = [
            (b"content-type", JSON),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", new_request_id().encode()),
            *error.headers(),
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=error.status, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class Inbox:
    """The messages for the app: a bounded queue that accepts and drops everything once the app has ended."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._news = trio.Event()
        self._room = trio.Event()
        self._closed = False

    async def put(self, message: Message) -> None:
        """Wait for room, unless the app has ended."""
        while len(self._messages) >= BODY_PIECES and not self._closed and message["type"] == "http.request":
            self._room = trio.Event()
            await self._room.wait()
        if not self._closed:
            self._messages.append(message)
            self._news.set()

    async def get(self) -> Message:
        """The next message; without a checkpoint if one has arrived."""
        while not self._messages:
            self._news = trio.Event()
            await self._news.wait()
        message = self._messages.popleft()
        self._room.set()
        return message

    def close(self) -> None:
        """The app has ended."""
        self._closed = True
        self._messages.clear()
        self._room.set()
