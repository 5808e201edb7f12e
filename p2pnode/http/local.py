"""The operator's endpoints: status, peers, jobs, the cluster, and the explanation of a route.

They return the objects that the verbs print with ``--json``; fields are only ever added.  They change no setting; the
only action is to cancel a job.  The node's first key sees all jobs, every other key its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast

import msgspec
from quart import Blueprint, Response, request

from p2pnode.http.errors import ApiError
from p2pnode.http.gateway import Gateway
from p2pnode.http.health import answer
from p2pnode.http.openai import ENDPOINTS, read_query
from p2pnode.http.request import Request
from p2pnode.jobs.records import JobRecord
from p2pnode.json_types import JsonObject
from p2pnode.state.keys import FIRST_KEY, ApiKey
from protocol.ids import PeerId, peer_text, short
from protocol.routing.ranking import Candidate, Excluded, Ranking

#: Jobs in one answer of ``/v1/jobs``, the newest first (guess: what fits on a few screens).
MOST_JOBS: Final = 200
#: The field of a request's ASGI scope with the ``ApiKey`` that it used.
KEY: Final = "p2pnode.key"


def local_routes(gateway: Gateway) -> Blueprint:
    """The endpoints that answer from memory."""
    routes = Blueprint("local", __name__)

    @routes.get("/v1/p2p/status")
    async def status() -> Response:
        return answer(gateway.status())

    @routes.get("/v1/p2p/peers")
    async def peers() -> Response:
        return answer(listed(gateway.peers()))

    @routes.get("/v1/p2p/peers/<name>")
    async def peer(name: str) -> Response:
        found = [one for one in gateway.peers() if name in (one["id"], one["short"], one["name"])]
        if len(found) != 1:
            problem = "There is no such peer" if not found else f"{len(found)} peers have that name"
            raise ApiError(404, "peer_not_found", f"{problem}: {name[:80]!r}. GET /v1/p2p/peers lists them by id.")
        return answer(found[0])

    @routes.get("/v1/jobs")
    async def jobs() -> Response:
        records = [record for record in gateway.jobs.recent() if _may_see(record)][:MOST_JOBS]
        return answer(listed([shown_job(record) for record in records]))

    @routes.get("/v1/jobs/<name>")
    async def job(name: str) -> Response:
        return answer(shown_job(_job(gateway, name)))

    @routes.delete("/v1/jobs/<name>")
    async def cancel(name: str) -> Response:
        _job(gateway, name)
        gateway.jobs.cancel(name)
        return answer(shown_job(_job(gateway, name)))

    @routes.get("/cluster/status")
    async def cluster() -> Response:
        return answer(cluster_of(gateway.peers(), gateway.models()))

    return routes


def _job(gateway: Gateway, name: str) -> JobRecord:
    record = gateway.jobs.get(name)
    if record is None or not _may_see(record):
        raise ApiError(
            404,
            "job_not_found",
            f"There is no job {name[:80]!r}: records are kept for an hour. GET /v1/jobs lists them.",
        )
    return record


def _may_see(record: JobRecord) -> bool:
    """Whether the job is the caller's own, or the caller holds the node's first key, or the API needs no key."""
    key = cast(ApiKey | None, request.scope.get(KEY))
    return key is None or key.name in (FIRST_KEY, record.client)


def listed(items: list[JsonObject]) -> JsonObject:
    """OpenAI's form of a list."""
    return {"object": "list", "data": items}


def shown_job(record: JobRecord) -> JsonObject:
    """A job as the API shows it."""
    shown: JsonObject = msgspec.to_builtins(record, enc_hook=_text)
    return {"object": "job", **shown}


def _text(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else str(value)


def cluster_of(peers: Iterable[JsonObject], models: list[JsonObject]) -> JsonObject:
    """The network as this node sees it: its nodes and models, their capacity and load."""
    present = [peer for peer in peers if peer["state"] not in ("dead", "left")]
    cards = [gpu for peer in present for gpu in peer["gpus"]]
    loads = [peer["load"] for peer in present if peer.get("load")]
    return {
        "object": "cluster",
        "nodes": present,
        "models": models,
        "capacity": {
            "nodes": len(present),
            "gpus": sum(gpu["count"] for gpu in cards),
            "vram_total_mib": sum(peer.get("vram_total_mib") or 0 for peer in present),
            "vram_free_mib": sum(peer.get("vram_free_mib") or 0 for peer in present),
            "slots": sum(load["slots"] for load in loads),
        },
        "load": {name: sum(load[name] for load in loads) for name in ("running", "waiting", "tokens_s")},
    }


#: The objects of ``/v1/p2p/peers`` by peer id.
Known = dict[str, JsonObject]


class Route:
    """``POST /v1/p2p/route``: explains the decision on a request without carrying it out."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, request: Request) -> None:
        _, _, query = await read_query(request, ENDPOINTS[0], self._gateway.zone)
        ranking = self._gateway.dispatch.explain(query)
        await request.answer(msgspec.json.encode(shown_ranking(ranking, self._gateway.peers()), enc_hook=_text))


def shown_ranking(ranking: Ranking, peers: Iterable[JsonObject]) -> JsonObject:
    """A ranking as the API shows it; ``order`` is the one that a request would get now."""
    known = {peer["id"]: peer for peer in peers}
    return {
        "object": "route",
        "model": ranking.query.model,
        "policy": ranking.policy,
        "query": msgspec.to_builtins(ranking.query, enc_hook=_text),
        "candidates": [_candidate(candidate, known) for candidate in ranking.candidates],
        "excluded": [_excluded(excluded, known) for excluded in ranking.excluded],
        "order": [peer_text(candidate.peer) for candidate in ranking.candidates],
        "drawn": ranking.drawn,
        "temperature": ranking.temperature,
        "best_of": ranking.best_of,
        "runner_up": _runner_up(ranking, known),
    }


def _runner_up(ranking: Ranking, known: Known) -> JsonObject | None:
    found = ranking.runner_up
    if found is None:
        return None
    return {
        **_identity(ranking.candidates[found.place].peer, known),
        "ahead": _identity(ranking.candidates[found.ahead].peer, known),
        "gap": found.gap,
        "unit": found.unit,
        "needs": list(found.needs),
        "by": "first token" if found.contested else "score",
    }


def _identity(peer: PeerId, known: Known) -> JsonObject:
    text = peer_text(peer)
    return {"peer": text, "short": short(peer), "name": known.get(text, {}).get("name", "")}


def _candidate(candidate: Candidate, known: Known) -> JsonObject:
    peer = known.get(peer_text(candidate.peer), {})
    return {
        **_identity(candidate.peer, known),
        "score": candidate.score,
        "warm": candidate.warm,
        "rtt_ms": None if candidate.rtt_s is None else round(candidate.rtt_s * 1000, 3),
        "terms": [msgspec.to_builtins(term) for term in candidate.terms],
        "odds": candidate.odds,
        "needs": list(candidate.needs),
        "evidence": peer.get("evidence"),
        "link": "self" if peer.get("self") else "standing" if candidate.linked else "new",
    }


def _excluded(excluded: Excluded, known: Known) -> JsonObject:
    return {**_identity(excluded.peer, known), "reason": excluded.reason, "detail": excluded.detail}
