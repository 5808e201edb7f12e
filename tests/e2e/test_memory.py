"""What a node remembers over its end: real processes, a damaged database, SIGKILL."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pnode.cli.processes import Fleet, NodeProcess

pytestmark = pytest.mark.slow


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
