"""Models, status, peers, jobs, the cluster, the explained route, and the probes."""

from __future__ import annotations

from typing import Any

import pytest

from p2pnode.jobs.records import AttemptRecord, JobRecord
from protocol.ids import peer_text, short
from tests.p2pnode.http.scripted import OTHER, PEER, ScriptedGateway, chat, running


async def test_models_and_their_ids_with_slashes() -> None:
    async with running() as api:
        listing = (await api.ask("GET", "/v1/models")).json
        assert [model["id"] for model in listing["data"]] == ["m", "org/model:8b"]
        for path in ("/v1/models/org/model:8b", "/v1/models/org%2Fmodel%3A8b"):
            assert (await api.ask("GET", path)).json["id"] == "org/model:8b"
        missing = await api.ask("GET", "/v1/models/org/model:9b")
    assert (missing.status, missing.error["param"]) == (404, "model")
    assert "org/model:8b" in missing.error["message"]


async def test_status_and_peers() -> None:
    async with running() as api:
        assert (await api.ask("GET", "/v1/p2p/status")).json == api.gateway.status()
        assert (await api.ask("GET", "/v1/p2p/peers")).json == {"object": "list", "data": api.gateway.peers()}
        for name in (peer_text(PEER), short(PEER), "ada"):
            assert (await api.ask("GET", f"/v1/p2p/peers/{name}")).json["name"] == "ada"
        reply = await api.ask("GET", "/v1/p2p/peers/nobody")
    assert (reply.status, reply.error["code"]) == (404, "peer_not_found")


async def test_jobs_can_be_looked_at_and_cancelled() -> None:
    gateway = ScriptedGateway()
    attempt = AttemptRecord(peer_text(PEER), 1.0, "completed", ms=12.5)
    gateway.jobs.records["req_1"] = JobRecord(
        id="req_1", job="ab", model="m", path="/v1/completions", stream=False, created=1.0, attempts=[attempt]
    )
    async with running(gateway) as api:
        listing = (await api.ask("GET", "/v1/jobs")).json["data"]
        one = (await api.ask("GET", "/v1/jobs/req_1")).json
        assert listing == [one]
        assert (one["object"], one["state"], one["attempts"][0]["ms"]) == ("job", "pending", 12.5)
        assert (await api.ask("DELETE", "/v1/jobs/req_1")).status == 200
        assert gateway.jobs.cancelled == ["req_1"]
        for method in ("GET", "DELETE"):
            reply = await api.ask(method, "/v1/jobs/req_2")
            assert (reply.status, reply.error["code"]) == (404, "job_not_found")


async def test_attempts_are_counted_by_outcome() -> None:
    gateway = ScriptedGateway()
    attempts = [AttemptRecord("a", 1.0, "busy", "queue_full"), AttemptRecord("b", 1.0, "completed")]
    record = JobRecord(id="r", job="ab", model="m", path="", stream=False, created=1.0, attempts=attempts)
    gateway.jobs.get = lambda _: record  # type: ignore[method-assign]
    async with running(gateway) as api:
        await api.ask("POST", "/v1/chat/completions", chat())
        text = (await api.ask("GET", "/metrics")).body.decode()
    assert 'p2pnode_attempts_total{outcome="busy",reason="queue_full"} 1.0' in text
    assert 'p2pnode_attempts_total{outcome="completed",reason=""} 1.0' in text
    assert 'p2pnode_cascades_total{depth="2"} 1.0' in text


async def test_the_route_is_explained_and_not_taken() -> None:
    async with running() as api:
        reply = await api.ask("POST", "/v1/p2p/route", chat(provider={"sort": "price"}), {"x-p2pnode-zone": "mine"})
        refused = await api.ask("POST", "/v1/p2p/route", {"model": "m"})
    route: dict[str, Any] = reply.json
    assert (route["model"], route["policy"], route["order"]) == ("m", "neuralgrid", [peer_text(PEER), peer_text(OTHER)])
    candidate, later = route["candidates"]
    assert (candidate["short"], candidate["name"], candidate["rtt_ms"]) == (short(PEER), "ada", 2.0)
    assert candidate["terms"] == [
        {"name": "vram", "value": 24.0, "unit": "GiB", "source": "declared", "age_s": 1.5, "contribution": 7.2}
    ]
    assert (candidate["odds"], candidate["needs"], candidate["link"]) == (0.75, [], "self")
    assert (later["odds"], later["needs"], later["link"]) == (0.0, ["the model loaded"], "new")
    assert (route["drawn"], route["temperature"], route["best_of"]) == (True, 0.3, 0)
    assert route["runner_up"] == {
        "peer": peer_text(OTHER),
        "short": short(OTHER),
        "name": "",
        "ahead": {"peer": peer_text(PEER), "short": short(PEER), "name": "ada"},
        "gap": 0.5,
        "unit": "s",
        "needs": ["the model loaded"],
        "by": "score",
    }
    assert route["excluded"][0]["reason"] == "context"
    assert (api.dispatch.queries[0].sort, api.dispatch.queries[0].zone) == ("price", "mine")
    assert not api.dispatch.specs
    assert refused.error["param"] == "messages"


async def test_without_fallbacks_only_the_first_choice_is_asked() -> None:
    async with running() as api:
        await api.ask("POST", "/v1/chat/completions", chat(provider={"allow_fallbacks": False}))
    assert api.dispatch.specs[0].query.only == (peer_text(PEER),)


async def test_the_cluster_is_those_who_are_there() -> None:
    async with running() as api:
        cluster = (await api.ask("GET", "/cluster/status")).json
    assert [node["name"] for node in cluster["nodes"]] == ["ada"]
    assert cluster["capacity"] == {
        "nodes": 1,
        "gpus": 2,
        "vram_total_mib": 48000,
        "vram_free_mib": 24000,
        "slots": 8,
    }
    assert cluster["load"] == {"running": 1, "waiting": 2, "tokens_s": 50}
    assert [model["id"] for model in cluster["models"]] == ["m", "org/model:8b"]


@pytest.mark.parametrize("path", ["/readyz", "/health"])
async def test_readiness_has_reasons(path: str) -> None:
    gateway = ScriptedGateway()
    async with running(gateway) as api:
        assert (await api.ask("GET", path, key=False)).json == {"ready": True, "reasons": []}
        gateway.reasons = ["no model is offered"]
        reply = await api.ask("GET", path, key=False)
        assert (reply.status, reply.json["reasons"]) == (503, ["no model is offered"])
        assert (await api.ask("GET", "/livez", key=False)).status == 200


async def test_numbers_are_for_prometheus() -> None:
    async with running() as api:
        reply = await api.ask("GET", "/metrics", key=False)
    assert reply.headers["content-type"].startswith("text/plain")
    assert b'p2pnode_build_info{version="test"} 1.0' in reply.body


async def test_a_defect_of_ours_is_a_clear_500() -> None:
    gateway = ScriptedGateway()

    def broken(*_: object) -> Any:
        raise RuntimeError("secret detail")

    gateway.status = broken  # type: ignore[method-assign]
    gateway.dispatch.scripts["m"] = broken
    async with running(gateway) as api:
        for reply in (
            await api.ask("GET", "/v1/p2p/status"),
            await api.ask("POST", "/v1/chat/completions", chat()),
        ):
            assert (reply.status, reply.error["code"]) == (500, "internal_error")
            assert "secret" not in reply.body.decode()
        assert (await api.ask("GET", "/v1/models")).status == 200
