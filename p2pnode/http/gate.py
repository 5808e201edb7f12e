"""The checks that every request passes first: framing, Host, Origin, key, rate, type and length.

The gate compares raw bytes of the scope, never a rebuilt URL, and refuses by default.  It does not read the body of a
:class:`Request`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import trio

from p2pnode.config import is_loopback
from p2pnode.http.body import MOST_BYTES, too_big
from p2pnode.http.errors import ApiError, Headers
from p2pnode.http.http1 import head_error
from p2pnode.http.request import Request
from p2pnode.metrics import Metrics
from p2pnode.state.keys import ApiKey, Keyring
from protocol.token_bucket import TokenBucket

#: Bytes of a request's head (DESIGN 2.7).
MOST_HEAD_BYTES: Final = 16 * 1024
#: These need no key on loopback.
OPEN_PATHS: Final = frozenset({"/livez", "/readyz", "/health", "/metrics"})
#: Names of this machine that the API always accepts.
OWN_NAMES: Final = (b"127.0.0.1", b"localhost", b"[::1]")
#: Seconds that a browser may cache the answer to a preflight.
PREFLIGHT_S: Final = 600
#: Accepted ``Host`` headers in the cache (guess: a client has one or two).
MOST_HOSTS: Final = 256


@dataclass(frozen=True, slots=True)
class AllowedOrigins:
    """The host names and the web pages that may use the API, besides its own."""

    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


class Gate:
    """Checks a request; every ``check`` raises ``ApiError``."""

    def __init__(self, keys: Keyring, metrics: Metrics, allowed: AllowedOrigins) -> None:
        self._keys = keys
        self._metrics = metrics
        self._named = frozenset(name.lower().encode() for name in allowed.hosts)
        self._origins = frozenset(origin.lower().rstrip("/").encode() for origin in allowed.origins)
        self._hosts: set[tuple[bytes, tuple[str, int] | None]] = set()
        self._rates: dict[str, TokenBucket] = {}

    def admit(self, request: Request) -> None:
        """Check everything but the body.  Refusals are counted by reason."""
        try:
            self._check_framing(request)
            self._check_host(request)
            self._check_origin(request)
            if not (request.method == "OPTIONS" and request.extra):  # browsers ask without a key
                self._check_key(request)
        except ApiError as error:
            self._metrics.refused.labels(error.code or str(error.status)).inc()
            raise

    def _check_framing(self, request: Request) -> None:
        headers, scope = request.headers, request.scope
        # The parser bounds a head only while it is incomplete; one that arrives whole passes at any size.
        size = len(scope["raw_path"]) + len(scope["query_string"])
        if size + sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > MOST_HEAD_BYTES:
            raise head_error(431)
        if b"transfer-encoding" in headers and b"content-length" in headers:
            raise ApiError(
                400,
                "invalid_request",
                "Content-Length and Transfer-Encoding contradict each other: send only one.",
                close=True,
            )

    # --- Host and Origin -------------------------------------------------------------------------------------------

    def _check_host(self, request: Request) -> None:
        host = request.headers.get(b"host", b"")
        known = (host, request.server)
        if known in self._hosts:
            return
        if not self._is_ours(host.lower(), request.server):
            raise ApiError(
                421,
                "misdirected_request",
                "This node does not go by that name. Use 127.0.0.1 or localhost, or add the name to http.hosts.",
            )
        if len(self._hosts) >= MOST_HOSTS:
            self._hosts.clear()
        self._hosts.add(known)

    def _is_ours(self, host: bytes, server: tuple[str, int] | None) -> bool:
        name, colon, port = host.rpartition(b":")
        if not colon or host.endswith(b"]"):
            name, port = host, b"80"
        if name in self._named:
            return True  # behind a proxy, Host carries the proxy's port
        if server is None or port != b"%d" % server[1]:
            return False
        # DNS rebinding needs a name, so an address is safe.
        own = server[0].removeprefix("::ffff:")
        return name in OWN_NAMES or name == (f"[{own}]" if ":" in own else own).encode()

    def _check_origin(self, request: Request) -> None:
        """Refuse pages of other sites, including requests that a browser sends without a preflight."""
        headers = request.headers
        origin = headers.get(b"origin")
        if origin is not None:
            if origin.lower() in self._origins:
                request.extra = _cors(origin)
                return
            # Our own pages are allowed: Host was checked before.
            if origin.lower() != b"http://" + headers.get(b"host", b"").lower():
                raise ApiError(
                    403, "not_allowed", "Pages of this origin may not use the API: add it to http.origins to allow it."
                )
        elif headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            raise ApiError(403, "not_allowed", "Pages of other sites may not use the API: add theirs to http.origins.")

    # --- keys ------------------------------------------------------------------------------------------------------

    def _check_key(self, request: Request) -> None:
        if not self._keys.required or (request.path in OPEN_PATHS and is_loopback(request.client)):
            return
        scheme, _, secret = request.headers.get(b"authorization", b"").partition(b" ")
        key = self._keys.find(secret.strip()) if scheme.lower() == b"bearer" else None
        if key is None:
            problem = "The API key is wrong." if secret else "There is no API key."
            raise ApiError(
                401,
                "invalid_api_key",
                f"{problem} Send 'Authorization: Bearer <key>'; the first key is in the file api-key of the node's "
                "home, further ones come from: p2pnode keys new NAME",
                headers=[(b"www-authenticate", b"Bearer")],
            )
        request.key = key
        if key.policy.rpm:
            self._check_rate(key)

    def _check_rate(self, key: ApiKey) -> None:
        now, rpm = trio.current_time(), key.policy.rpm
        rate = self._rates.get(key.name)
        if rate is None or rate.capacity != rpm:
            rate = self._rates[key.name] = TokenBucket(rpm / 60, rpm, now)  # a minute's worth at once
        if not rate.spend(1, now):
            wait = (1 - rate.level(now)) / rate.rate
            raise ApiError(
                429,
                "rate_limit_exceeded",
                f"The key {key.name!r} may make {rpm} requests per minute: wait {wait:.0f} s.",
                retry_after=wait,
            )

    # --- browsers --------------------------------------------------------------------------------------------------

    def preflight(self, request: Request) -> Headers:
        """The answer to a browser's preflight; only allowed pages get this far."""
        return [
            *request.extra,
            (b"access-control-allow-methods", b"GET, POST, DELETE"),
            (b"access-control-allow-headers", request.headers.get(b"access-control-request-headers", b"*")),
            (b"access-control-max-age", b"%d" % PREFLIGHT_S),
        ]


def _cors(origin: bytes) -> Headers:
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", b"*"),
        (b"vary", b"origin"),
    ]


def check_content(request: Request) -> None:
    """Check type, coding and length in the head of a request with a JSON body; raises ``ApiError``."""
    headers = request.headers
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise ApiError(415, "unsupported_media_type", "Send the body as Content-Type: application/json.", close=True)
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise ApiError(415, "unsupported_media_type", "Send the body as it is, without Content-Encoding.", close=True)
    length = headers.get(b"content-length")
    if length is None and b"transfer-encoding" not in headers:
        raise ApiError(411, "length_required", "Send the length of the body: Content-Length.", close=True)
    if length is not None and int(length) > MOST_BYTES:
        raise too_big()
