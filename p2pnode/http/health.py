"""Liveness, readiness and metrics, for supervisors, load balancers and Prometheus.

Not here: the metrics themselves (``p2pnode/metrics.py``) and what makes a node ready (``status_view``).
"""

from __future__ import annotations

import msgspec
from quart import Blueprint, Response

from p2pnode.http.gateway import Gateway
from p2pnode.metrics import CONTENT_TYPE
from protocol.membership.peer_view import STATES


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
        sample_gauges(gateway)
        return Response(gateway.metrics.expose(), content_type=CONTENT_TYPE)

    return routes


def sample_gauges(gateway: Gateway) -> None:
    """Set the gauges that are states, not counts.  They are read only when a scraper asks."""
    status, metrics = gateway.status(), gateway.metrics
    for state in STATES:
        metrics.peers.labels(state).set(status.get("peers", {}).get(state, 0))
    load = status.get("load") or {}
    metrics.jobs_running.set(load.get("running", 0))
    metrics.jobs_waiting.set(load.get("waiting", 0))


def answer(value: object, *, status: int = 200) -> Response:
    """``value`` as a JSON answer."""
    return Response(msgspec.json.encode(value), status=status, content_type="application/json")
