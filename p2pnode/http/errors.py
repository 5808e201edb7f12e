"""The errors of the API: OpenAI's body, a message that says what to do, and whether a retry can help.

OpenAI's clients retry twice on their own unless a header forbids it.  So every error carries either
``x-should-retry: false`` or ``retry-after``.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from p2pnode.jobs.records import JobFailed
from p2pnode.json_types import JsonObject

_TYPES: Final = {429: "requests"}
JSON: Final = b"application/json"
Headers = list[tuple[bytes, bytes]]


class ApiError(Exception):
    """The request ends with this status and body.

    ``code`` is one of the codes in README.md beside this file, ``param`` names the field at fault, ``retry_after`` is
    in seconds (None: a retry cannot help), ``close`` ends the connection after the answer, ``headers`` are added.
    """

    def __init__(
        self,
        status: int,
        code: str | None,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        kind: str = "",
        close: bool = False,
        headers: Headers | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.kind = kind or _TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
        self.close = close
        self.extra = headers or []

    def body(self) -> JsonObject:
        """``{"error": {…}}`` as the OpenAI clients expect it."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def encoded(self) -> bytes:
        return msgspec.json.encode(self.body())

    def headers(self) -> Headers:
        """The headers that say whether a retry can help."""
        if self.retry_after is None:
            headers = [(b"x-should-retry", b"false")]
        else:
            # The header has whole seconds.  Clients do not retry at all above 120 s.
            headers = [(b"retry-after", b"%d" % max(1, min(120, math.ceil(self.retry_after))))]
        if self.close:
            headers.append((b"connection", b"close"))
        return headers + self.extra


def of_job(failed: JobFailed) -> ApiError:
    """The failure of a job, as an answer."""
    retry_after = failed.retry_after
    if retry_after is None and failed.should_retry:
        retry_after = 1.0
    if failed.should_retry is False:
        retry_after = None
    return ApiError(
        failed.status,
        failed.code or None,
        failed.message,
        param=failed.param or None,
        retry_after=retry_after,
        kind=failed.type or "",
    )


def _shown(path: str) -> str:
    """A path in a message: short, and without control characters."""
    return path[:200].encode("unicode_escape").decode()


def unknown_url(method: str, path: str) -> ApiError:
    """404 for a path that is not in the interface."""
    return ApiError(
        404, "unknown_url", f"Unknown request URL: {method} {_shown(path)}. The API is below /v1, e.g. GET /v1/models."
    )


def wrong_method(method: str, path: str, allowed: tuple[str, ...]) -> ApiError:
    """405: the path exists, but not with this method."""
    names = ", ".join(allowed)
    return ApiError(
        405,
        "method_not_allowed",
        f"{_shown(path)} does not take {method[:16]}; it takes {names}.",
        headers=[(b"allow", names.encode())],
    )


def bad_parameter(param: str | None, message: str) -> ApiError:
    """400 for a field of the request."""
    return ApiError(400, "invalid_parameter", message, param=param)
