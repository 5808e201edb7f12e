"""Is the process alive, can it serve, what are its numbers: for supervisors, balancers and Prometheus.

Who calls it: ``app``.
"""

from __future__ import annotations

import msgspec
from quart import Blueprint, Response

from p2pnode.http.gateway import Gateway
from p2pnode.metrics import CONTENT_TYPE


def health_routes(gateway: Gateway) -> Blueprint:
    """``/livez``, ``/readyz``, ``/health`` (the same, for vLLM's habits) and ``/metrics``."""
    routes = Blueprint("health", __name__)

    @routes.get("/livez")
    async def livez() -> Response:
        return answer({"status": "ok"})

    @routes.get("/readyz")
    @routes.get("/health")
    async def readyz() -> Response:
        ready, reasons = gateway.ready()
        return answer({"ready": ready, "reasons": reasons}, status=200 if ready else 503)

    @routes.get("/metrics")
    async def metrics() -> Response:
        return Response(gateway.metrics.expose(), content_type=CONTENT_TYPE)

    return routes


def answer(value: object, *, status: int = 200) -> Response:
    """``value`` as a JSON answer."""
    return Response(msgspec.json.encode(value), status=status, content_type="application/json")
