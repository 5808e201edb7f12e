"""The API as one ASGI app: the gate, the paths that answer without Quart, and Quart for everything else.

It is a Quart app with its own entry point.  Every request passes ``gate`` first.  The endpoints that run a model then
answer directly; all others go through Quart's routing.  The answers themselves are made in the other modules.
"""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, cast

import structlog
from quart import Blueprint, Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from p2pnode.http.asgi import App, Message, Receive, Scope, Send
from p2pnode.http.disconnects import delay_disconnect
from p2pnode.http.errors import ApiError, unknown_url, wrong_method
from p2pnode.http.gate import AllowedOrigins, Gate
from p2pnode.http.gateway import Gateway
from p2pnode.http.health import answer, health_routes
from p2pnode.http.local import KEY, Route, listed, local_routes
from p2pnode.http.openai import ENDPOINTS, Completions
from p2pnode.http.request import Request

Direct = Callable[[Request], Awaitable[None]]

_NONE_ALLOWED: Final = AllowedOrigins()
_log = structlog.get_logger("p2pnode.http")


def create_app(gateway: Gateway, allowed: AllowedOrigins = _NONE_ALLOWED) -> Api:
    """The whole API of one node."""
    direct: dict[str, Direct] = {endpoint.path: Completions(gateway, endpoint) for endpoint in ENDPOINTS}
    direct["/v1/p2p/route"] = Route(gateway)
    app = Api(Gate(gateway.keys, gateway.metrics, allowed), direct)
    for routes in (model_routes(gateway), local_routes(gateway), health_routes(gateway)):
        app.register_blueprint(routes)
    return app


class Api(QuartTrio):
    """Quart behind the gate.  ``direct`` answers POSTs to exactly these paths; routes of Quart get no body."""

    def __init__(self, gate: Gate, direct: Mapping[str, Direct]) -> None:
        super().__init__(__name__, static_folder=None)
        self._gate = gate
        self._direct = direct
        self._bare = cast(App, super().__call__)
        self._quart = delay_disconnect(self._bare)
        # By default Quart ends an answer after 60 s and redirects a path with two slashes in a row.
        self.config["RESPONSE_TIMEOUT"] = None
        self.url_map.merge_slashes = False
        self.register_error_handler(ApiError, _api_error)
        self.register_error_handler(HTTPException, _http_error)
        self.register_error_handler(Exception, _defect)

    async def __call__(  # type: ignore[override]  # Quart declares hypercorn's unions, see asgi.py
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if scope["type"] != "http":
            await self._bare(scope, receive, send)
            return
        asked = Request(scope, receive, send)
        try:
            self._gate.admit(asked)
            if asked.method == "OPTIONS" and asked.extra:
                await asked.answer(b"", status=204, headers=self._gate.preflight(asked))
            elif not asked.path.startswith("/"):
                # ``GET http://other/…``: Quart would route by the path inside the URL, which the gate has not checked.
                raise unknown_url(asked.method, asked.path)
            elif (direct := self._direct.get(asked.path)) is not None:
                if asked.method != "POST":
                    raise wrong_method(asked.method, asked.path, ("POST",))
                await direct(asked)
            else:
                await self._through_quart(asked, receive, send)
        except ApiError as error:
            await (asked.refuse(error) if not asked.begun else self._cut(asked, error))
        except Exception as error:
            _log.exception("request_broken", request_id=asked.id, path=asked.path)
            await (asked.refuse(defect()) if not asked.begun else self._cut(asked, error))

    async def _cut(self, asked: Request, error: Exception) -> None:
        """Break the connection: the answer can neither continue nor carry an error, and must not look complete."""
        _log.warning("answer_cut", request_id=asked.id, reason=str(error))
        asked.drop()

    async def _through_quart(self, asked: Request, receive: Receive, send: Send) -> None:
        begun = False

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                asked.begun = True
                message["headers"] = [*message["headers"], (b"x-request-id", asked.id.encode()), *asked.extra]
            await send(message)

        async def without_body() -> Message:
            # No route of Quart takes a body.  Received data is dropped, so that a client cannot fill the memory.
            nonlocal begun
            if not begun:
                begun = True
                return {"type": "http.request", "body": b"", "more_body": False}
            while (message := await receive())["type"] != "http.disconnect":
                pass
            return message

        asked.scope[KEY] = asked.key
        await self._quart(asked.scope, without_body, with_id)


def model_routes(gateway: Gateway) -> Blueprint:
    """``/v1/models``: the union over the live network.  Ids may contain slashes."""
    routes = Blueprint("models", __name__)

    @routes.get("/v1/models")
    async def models() -> Response:
        return answer(listed(gateway.models()))

    @routes.get("/v1/models/<path:name>")
    async def model(name: str) -> Response:
        known = gateway.models()
        found = next((one for one in known if one["id"] == name), None)
        if found is None:
            raise model_not_found(name, [one["id"] for one in known])
        return answer(found)

    return routes


def model_not_found(name: str, known: list[str]) -> ApiError:
    """404, with similar names."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"Similar: {', '.join(near)}." if near else "GET /v1/models lists the models on offer."
    return ApiError(404, "model_not_found", f"No peer offers the model {name[:128]!r} now. {hint}", param="model")


def defect() -> ApiError:
    """500: a defect of this node."""
    return ApiError(500, "internal_error", "This node made a mistake; its log says more under this x-request-id.")


def _answered(error: ApiError) -> Response:
    response = answer(error.body(), status=error.status)
    for name, value in error.headers():
        response.headers.add(name.decode(), value.decode())
    return response


async def _api_error(error: ApiError) -> Response:
    return _answered(error)


async def _http_error(error: HTTPException) -> Response:
    if isinstance(error, MethodNotAllowed):
        allowed = tuple(sorted(set(error.valid_methods or ()) - {"OPTIONS"}))
        return _answered(wrong_method(request.method, request.path, allowed))
    if error.code == 404:
        return _answered(unknown_url(request.method, request.path))
    return _answered(ApiError(error.code or 500, None, error.description or error.name))


async def _defect(error: Exception) -> Response:
    _log.error("request_broken", path=request.path, exc_info=error)
    return _answered(defect())
