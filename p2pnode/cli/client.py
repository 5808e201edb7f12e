"""A small client of the local API for the verbs: JSON in and out, and server-sent events line by line.

It uses the standard library only, so that ``p2pnode status`` starts in a few milliseconds.  Not here: retries, which
the daemon's cascade makes, and asynchronous code, because a verb does one thing at a time and ctrl-C must end it.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from p2pnode.cli.exits import NO_DAEMON, Exit
from p2pnode.json_types import JsonObject

#: Seconds to connect and to wait for the next bytes of an ordinary answer (guess: the API answers in milliseconds).
TIMEOUT_S = 10.0
#: Longest silence in a streamed answer, seconds: four keep-alive comments, which come every 15 s.
STREAM_TIMEOUT_S = 60.0
#: Seconds an answer that is not streamed may take: the daemon's own limit of a job (``total_s``), and some reserve.
ANSWER_TIMEOUT_S = 620.0


class ApiError(Exception):
    """The daemon answered with an error.  ``message`` is its text, which says what to do."""

    def __init__(self, status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


@dataclass
class Stream:
    """A streamed answer: its headers, and its events as decoded JSON.  It is complete only if ``done`` is set."""

    headers: dict[str, str]
    response: http.client.HTTPResponse
    comments: list[str] = field(default_factory=list)
    done: bool = False

    def __iter__(self) -> Iterator[JsonObject]:
        for raw in self.response:
            line = raw.rstrip(b"\r\n")
            if line.startswith(b":"):
                self.comments.append(line[1:].strip().decode(errors="replace"))
            elif line.startswith(b"data:"):
                text = line[5:].strip()
                if text == b"[DONE]":
                    self.done = True
                    return
                event = json.loads(text)
                if isinstance(event, dict) and "error" in event:
                    raise _error(self.response.status, event, self.headers)
                yield event
        message = "the answer ended too early: ask again, or read the daemon's log"
        raise ApiError(502, "stream_cut", message, self.headers)


@dataclass(frozen=True)
class Api:
    """The local API of one daemon: ``base`` is its URL without ``/v1``."""

    base: str
    key: str | None = None
    where: str = ""

    def get(self, path: str) -> Any:
        """The decoded answer to a GET; raises ``ApiError``, or ``Exit(3)`` if no daemon answers."""
        return self._whole("GET", path, None, TIMEOUT_S)[0]

    def text(self, path: str) -> str:
        """The answer to a GET as text."""
        connection = self._connection(TIMEOUT_S)
        try:
            return _read(connection, "GET", path, None, self._headers())[1].decode()
        except OSError as error:
            raise self._no_daemon(error) from None
        finally:
            connection.close()

    def post(self, path: str, body: object, timeout_s: float = ANSWER_TIMEOUT_S) -> tuple[Any, dict[str, str]]:
        """The decoded answer to a POST and its headers."""
        return self._whole("POST", path, body, timeout_s)

    def delete(self, path: str) -> Any:
        """The decoded answer to a DELETE."""
        return self._whole("DELETE", path, None, TIMEOUT_S)[0]

    @contextmanager
    def stream(self, path: str, body: object, timeout_s: float = STREAM_TIMEOUT_S) -> Iterator[Stream]:
        """POST and read server-sent events; leaving the block closes the connection, which cancels the job."""
        connection = self._connection(timeout_s)
        try:
            connection.request("POST", path, json.dumps(body).encode(), self._headers())
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            if response.status >= 400:
                raise _error(response.status, _decoded(response.read()), headers)
            yield Stream(headers, response)
        except ConnectionRefusedError as error:
            raise self._no_daemon(error) from None
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(502, "stream_cut", f"the connection to the daemon broke: {error}") from None
        finally:
            connection.close()

    def _whole(self, method: str, path: str, body: object, timeout_s: float) -> tuple[Any, dict[str, str]]:
        connection = self._connection(timeout_s)
        try:
            data = None if body is None else json.dumps(body).encode()
            headers, raw = _read(connection, method, path, data, self._headers())
            return _decoded(raw), headers
        except (OSError, http.client.HTTPException) as error:
            raise self._no_daemon(error) from None
        finally:
            connection.close()

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        parts = urlsplit(self.base)
        return http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=timeout_s)

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        return headers

    def _no_daemon(self, error: BaseException) -> Exit:
        where = f" ({self.where})" if self.where else ""
        return Exit(NO_DAEMON, f"no p2pnode daemon answers at {self.base}{where}: {error}. Start one with: p2pnode run")


def _read(
    connection: http.client.HTTPConnection, method: str, path: str, data: bytes | None, headers: dict[str, str]
) -> tuple[dict[str, str], bytes]:
    connection.request(method, path, data, headers)
    response = connection.getresponse()
    raw = response.read()
    got = {name.lower(): value for name, value in response.getheaders()}
    if response.status >= 400:
        raise _error(response.status, _decoded(raw), got)
    return got, raw


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return {"error": {"message": raw.decode(errors="replace")[:300], "code": None}}


def _error(status: int, body: object, headers: Mapping[str, str]) -> ApiError:
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return ApiError(status, None, f"the daemon answered {status} without saying why", headers)
    return ApiError(status, error.get("code"), str(error.get("message") or f"status {status}"), headers)
