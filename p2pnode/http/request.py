"""One HTTP request: its head, its body, its client, and the methods that answer it.

It is thinner than Quart's, because the streaming paths pay each microsecond once per token.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

from p2pnode.http.asgi import Receive, Scope, Send
from p2pnode.http.body import MOST_BYTES, too_big
from p2pnode.http.connection import Connection
from p2pnode.http.errors import JSON, ApiError, Headers
from p2pnode.http.request_id import new_request_id
from p2pnode.state.keys import ApiKey

#: Seconds for a whole body (DESIGN 2.7).
BODY_S: Final = 10.0


class Request:
    """``headers`` has lower-case names; if a name was sent twice, the last value counts."""

    __slots__ = (
        "_receive",
        "_send",
        "begun",
        "client",
        "connection",
        "extra",
        "headers",
        "id",
        "key",
        "method",
        "path",
        "scope",
        "server",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.server: tuple[str, int] | None = scope["server"]
        self.client: str = (scope["client"] or ("",))[0]
        self.connection: Connection | None = scope.get("state", {}).get("connection")
        self.id = new_request_id()
        #: The key that the client used; None where none is required.
        self.key: ApiKey | None = None
        #: Headers that every answer to this request carries.
        self.extra: Headers = []
        #: Whether the head of the answer was sent.
        self.begun = False
        self._receive = receive
        self._send = send

    async def body(self) -> bytes:
        """The whole body; raises ``ApiError`` if it is too long or too slow."""
        message = await self._receive()
        first = message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(first)
        pieces, length = [first], len(first)
        with self._waiting(), trio.move_on_after(BODY_S) as slow:
            while message.get("more_body", False):
                message = await self._receive()
                pieces.append(message.get("body", b""))
                length += len(pieces[-1])
                if length > MOST_BYTES:
                    raise too_big()
        if slow.cancelled_caught:
            raise ApiError(
                408,
                "request_timeout",
                f"The body took longer than {BODY_S:.0f} s to arrive: send it again.",
                retry_after=1.0,
                close=True,
            )
        return b"".join(pieces)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Mark the connection: while it waits for the rest of a body, a full server may close it."""
        if self.connection is None:
            yield
            return
        self.connection.uploading = True
        try:
            yield
        finally:
            self.connection.uploading = False

    # --- answering -------------------------------------------------------------------------------------------------

    async def answer(
        self, body: bytes, *, status: int = 200, kind: bytes = JSON, headers: Headers | None = None
    ) -> None:
        """A whole answer, in one write."""
        length = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
        await self.begin(status, length + (headers or []))
        await self.end(body)

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error."""
        await self.answer(error.encoded(), status=error.status, headers=error.headers())

    async def begin(self, status: int, headers: Headers) -> None:
        """The head; it waits for the first piece, so that both leave together."""
        self.begun = True
        if self.connection is not None:
            self.connection.cork()
        headers.append((b"x-request-id", self.id.encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": headers + self.extra})

    async def piece(self, data: bytes) -> None:
        """A part of the body, sent at once."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        if self.connection is not None:
            await self.connection.flush()

    async def end(self, data: bytes = b"") -> None:
        """The last part of the body, together with its end marker."""
        if self.connection is not None:
            self.connection.cork()
        await self._send({"type": "http.response.body", "body": data, "more_body": False})
        if self.connection is not None:
            await self.connection.flush()

    def drop(self) -> None:
        """Cut the answer off, after an error that its form cannot carry."""
        if self.connection is not None:
            self.connection.drop()
