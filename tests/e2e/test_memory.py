"""What a node remembers over its end: real processes, a damaged database, SIGKILL."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pnode.cli.processes import Fleet, NodeProcess, until

pytestmark = pytest.mark.slow

#: Seconds for what takes a second or two on an idle machine.
PATIENCE_S = 30.0
#: Seconds of evidence that may be lost on an idle machine, and as many again for a busy one: the writes may be late.
LOST_S = 2 * 5.0


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path) as nodes:
        yield nodes


def alone(fleet: Fleet) -> NodeProcess:
    return fleet.node("ada", "--engine", "mock").wait_ready()


def sql(home: Path, *statements: tuple[str, tuple[object, ...]]) -> None:
    with sqlite3.connect(home / "node.db") as other:
        for statement, values in statements:
            other.execute(statement, values)
    other.close()


def test_a_node_starts_with_any_addresses_keys_and_bytes_in_its_database(fleet: Fleet) -> None:
    node = alone(fleet)
    peer_id = node.peer_id
    assert node.stop() == 0
    addresses = (
        b'["/ip4/203.0.113.7/tcp/4411", "/ip4/999.1.1.1/tcp/1", "no address", "", "/p2p/x", "\\u0000"]',
        b'["/i',
    )
    rows = [("insert into peers values (?, ?, ?)", (bytes([n + 1]) * 32, raw, 1.0)) for n, raw in enumerate(addresses)]
    key = ("insert into keys values (?, ?, ?, ?)", ("bad", bytes(32), b'{"zone":"everybody"}', 1.0))
    sql(node.home, *rows, key)
    node = alone(fleet)
    assert node.peer_id == peer_id
    assert node.api.get("/v1/p2p/status")["ready"]
    sql(node.home, ("update keys set policy = ?", (b"\xff",)))  # while it runs
    assert node.stop() == 0

    database = node.home / "node.db"
    content = bytearray(database.read_bytes())
    content[1000:3000] = random.Random(5).randbytes(2000)
    for extra in node.home.glob("node.db*"):
        extra.unlink()
    database.write_bytes(content)
    node = alone(fleet)
    assert node.peer_id == peer_id
    (problem,) = [each["what"] for each in node.api.get("/v1/p2p/status")["problems"]]
    assert "damaged and put aside" in problem
    (aside,) = node.home.glob("node.db.corrupt-*")
    assert aside.read_bytes() == content
    assert node.stop() == 0


def evidence_of(gateway: NodeProcess, worker: NodeProcess) -> dict[str, object]:
    """What the gateway has seen of a worker."""
    peers = {peer["id"]: peer for peer in gateway.api.get("/v1/p2p/peers")["data"]}
    found: dict[str, object] = (peers.get(worker.peer_id) or {}).get("evidence") or {}
    return found


def test_a_killed_node_has_lost_at_most_the_last_seconds_of_its_evidence(fleet: Fleet) -> None:
    seed = fleet.bootstrap().wait_ready()
    worker = fleet.node("ada", "--bootstrap", seed.address, "--engine", "mock").wait_ready()
    flags = ("gateway", "--bootstrap", seed.address, "--engine", "none")
    gateway = fleet.node(*flags).wait_ready()
    model = worker.ready["models"][0]
    until(lambda: gateway.api.get("/v1/models")["data"], "the model is found", PATIENCE_S)
    body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
    ends: list[float] = []
    while not ends or ends[-1] < ends[0] + 3 * LOST_S:
        gateway.api.post("/v1/chat/completions", body)
        ends.append(time.monotonic())
    assert evidence_of(gateway, worker)["completed"] == len(ends)
    killed = time.monotonic()
    gateway.kill()
    kept = sum(end < killed - LOST_S for end in ends)

    gateway = fleet.node(*flags).wait_ready()
    until(lambda: evidence_of(gateway, worker), "it meets the worker again", PATIENCE_S)
    seen = evidence_of(gateway, worker)
    assert kept <= seen["completed"] <= len(ends)  # type: ignore[operator]
    assert seen["words"] == f"{seen['completed']} of {seen['completed']} complete"
    before = seen["completed"]
    gateway.api.post("/v1/chat/completions", body)
    assert gateway.stop() == 0

    gateway = fleet.node(*flags).wait_ready()
    until(lambda: evidence_of(gateway, worker), "it meets the worker once more", PATIENCE_S)
    assert evidence_of(gateway, worker)["completed"] == before + 1, "a clean end loses nothing"  # type: ignore[operator]
