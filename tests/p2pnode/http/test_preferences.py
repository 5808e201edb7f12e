"""The preferences of a caller: they become a query, are not forwarded, and a key is their ceiling."""

from __future__ import annotations

import json

import pytest

from p2pnode.state.keys import ApiKey, KeyPolicy, fingerprint
from tests.p2pnode.http.scripted import CHAT, ScriptedGateway, chat, running


async def test_preferences_become_a_query_and_are_not_forwarded() -> None:
    wishes = {"order": ["ada"], "ignore": ["bob"], "sort": "price", "max_price": {"completion": 2}, "zdr": True}
    wishes |= {"quantizations": ["fp8"], "allow_fallbacks": False, "require_parameters": True}
    headers = {"x-deadline-ms": "5000", "x-slo-ttft-ms": "200", "x-p2pnode-zone": "trusted", "x-p2pnode-session": "s1"}
    async with running() as api:
        reply = await api.ask("POST", CHAT, chat(provider=wishes, tools=[{"type": "function"}], seed=1), headers)
        await api.ask("POST", CHAT, chat(), {"x-slo-tpot-ms": "20"})
    assert reply.status == 200
    spec, other = api.dispatch.specs
    assert json.loads(spec.body) == chat(tools=[{"type": "function"}], seed=1)
    query = spec.query
    assert (query.order, query.only, query.ignore, query.sort) == (("ada",), ("ada",), ("bob",), "price")
    assert (query.max_price, query.quantizations, query.zone) == (2.0, ("fp8",), "trusted")
    assert query.capabilities == {"tools"}
    assert spec.deadline is not None
    assert other.deadline is None
    assert other.query.sort == "throughput"


async def test_without_a_word_the_zone_is_the_operators_choice() -> None:
    gateway = ScriptedGateway()
    gateway.zone = "trusted"
    async with running(gateway) as api:
        for headers in ({}, {"x-p2pnode-zone": "anyone"}, {"x-p2pnode-zone": "local"}):
            assert (await api.ask("POST", CHAT, chat(), headers)).status == 200
    assert [spec.query.zone for spec in api.dispatch.specs] == ["trusted", "anyone", "local"]


async def test_a_key_is_the_ceiling_of_the_zone() -> None:
    gateway = ScriptedGateway()
    secret = "sk-p2pnode-guest-0123456789"
    gateway.keys.replace([ApiKey("guest", fingerprint(secret), KeyPolicy(zone="mine"))])
    async with running(gateway) as api:
        for wanted in ("anyone", "local", ""):
            headers = {"authorization": f"Bearer {secret}", "x-p2pnode-zone": wanted}
            assert (await api.ask("POST", CHAT, chat(), headers)).status == 200
    assert [spec.query.zone for spec in api.dispatch.specs] == ["mine", "local", "mine"]
    assert {spec.client for spec in api.dispatch.specs} == {"guest"}


@pytest.mark.parametrize(
    ("headers", "param"),
    [
        ({"x-deadline-ms": "0"}, "x-deadline-ms"),
        ({"x-deadline-ms": "soon"}, "x-deadline-ms"),
        ({"x-slo-ttft-ms": "-5"}, "x-slo-ttft-ms"),
        ({"x-p2pnode-zone": "moon"}, "x-p2pnode-zone"),
    ],
)
async def test_what_is_wrong_with_a_wish_is_named(headers: dict[str, str], param: str) -> None:
    async with running() as api:
        reply = await api.ask("POST", CHAT, chat(), headers)
    assert (reply.status, reply.error["param"]) == (400, param)
