"""A damaged ``node.db``: whatever bytes it has, the home opens and the machines start with what is left."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from p2pnode.state.home import open_home
from p2pnode.state.keys import ApiKey, KeyPolicy, fingerprint
from p2pnode.state.ledger import Ledger
from p2pnode.state.paths import Paths, find_paths
from protocol.ids import PeerId, peer_text
from protocol.node import Node
from protocol.settings import NodeSettings

PEERS = [PeerId(bytes([number]) * 32) for number in range(1, 40)]
WALL = 1_800_000_000.0


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A home with a row in every table."""
    paths = find_paths(tmp_path / "home")
    with open_home(paths, lambda: WALL) as home:
        fill(home.ledger)
    return paths


def fill(ledger: Ledger) -> None:
    addrs = [(peer, (f"/ip4/203.0.113.7/tcp/4411/p2p/{peer_text(peer)}",), WALL) for peer in PEERS]
    ledger.remember_peers(addrs)
    ledger.save_marks({(peer, 1): (int(WALL), 7, WALL + 60.0) for peer in PEERS})
    for name in ("laptop", "guests"):
        ledger.add_key(ApiKey(name, fingerprint(name), KeyPolicy("mine", 6)))


def starts(paths: Paths) -> Ledger:
    """Open the home and start a node with what was found; returns the ledger, closed."""
    with open_home(paths, lambda: WALL) as home:
        home.ledger.keys()
        Node(home.signer, NodeSettings(), random.Random(1), home.inc, (), home.snapshot).start(0.0, WALL)
        assert int(WALL) <= home.inc < 1 << 41
        assert home.ledger.problem == ""
        return home.ledger


def damage(paths: Paths, content: bytes) -> None:
    for extra in paths.home.glob("node.db*"):
        extra.unlink()
    paths.database.write_bytes(content)


@pytest.mark.slow
def test_a_flipped_byte_anywhere_stops_no_start(paths: Paths) -> None:
    good, rng = paths.database.read_bytes(), random.Random(7)
    for start in range(0, len(good), 96):
        content = bytearray(good)
        content[min(start + rng.randrange(96), len(good) - 1)] ^= rng.randrange(1, 256)
        damage(paths, bytes(content))
        starts(paths)


@pytest.mark.slow
def test_truncation_anywhere_stops_no_start(paths: Paths) -> None:
    good, rng = paths.database.read_bytes(), random.Random(8)
    for length in [0, 1, 15, 16, 99, 100, 4095, 4096, *(rng.randrange(len(good)) for _ in range(40))]:
        damage(paths, good[:length])
        starts(paths)


@pytest.mark.parametrize("where", ["front", "middle", "end", "all", "log"])
def test_two_thousand_random_bytes_stop_no_start(paths: Paths, where: str) -> None:
    good, noise = paths.database.read_bytes(), random.Random(9).randbytes(2000)
    middle = len(good) // 2
    content = {
        "front": noise + good[2000:],
        "middle": good[:middle] + noise + good[middle + 2000 :],
        "end": good[:-2000] + noise,
        "all": noise,
        "log": good,
    }[where]
    damage(paths, content)
    if where == "log":
        for suffix in ("-wal", "-shm"):
            paths.database.with_name(f"node.db{suffix}").write_bytes(noise)
    ledger = starts(paths)
    if where == "log":
        assert ledger.set_aside is None
    if where in ("front", "all"):
        assert ledger.set_aside is not None
        assert ledger.set_aside.read_bytes() == content


@pytest.mark.parametrize(
    "statement",
    [
        "update peers set addrs = x'5b226162'",
        "update peers set addrs = 'text'",
        "update peers set addrs = x'5b2280225d'",
        "update peers set last_ok = 'never'",
        "update peers set last_ok = -1e400",
        "update peers set peer = x'00' where rowid_is = 1",
        "update meta set value = 'x'",
        "update meta set value = 9223372036854775807",
        "update meta set value = -3",
        "update keys set policy = x'7b7d7d'",
        "update keys set policy = x'7b227a6f6e65223a22616c6c227d'",
        "update keys set created = 'x'",
        "update marks set inc = -1",
        "update marks set seq = 'x', wall = 1e300",
        "update keys set name = cast(x'ff' || name as text)",
        "drop table marks",
        "alter table peers rename column addrs to addr",
        "pragma user_version = 0",
        "pragma user_version = -5",
    ],
)
def test_a_row_that_makes_no_sense_is_skipped(paths: Paths, statement: str) -> None:
    with sqlite3.connect(paths.database) as other:
        if "rowid_is" in statement:
            other.execute("update peers set peer = x'00' where peer = (select min(peer) from peers)")
        else:
            other.execute(statement)
    other.close()
    starts(paths)


def test_one_damaged_row_costs_one_row(paths: Paths) -> None:
    with sqlite3.connect(paths.database) as other:
        other.execute("update peers set addrs = x'00' where peer = (select min(peer) from peers)")
        other.execute("update keys set policy = x'00' where name = 'laptop'")
    other.close()
    with open_home(paths, lambda: WALL) as home:
        assert len(home.snapshot.known) == len(PEERS) - 1
        stored = home.ledger.keys()
        assert [key.name for key in stored] == ["guests"], "a key without rights opens nothing"
        assert home.ledger.set_aside is None


def test_damage_while_the_node_runs_stops_no_write_and_no_read(paths: Paths) -> None:
    with open_home(paths, lambda: WALL) as home:
        ledger = home.ledger
        with sqlite3.connect(paths.database) as other:
            other.execute("drop table keys")
            other.execute("drop table peers")
        other.close()
        assert ledger.keys() == []
        assert not ledger.remember_peers([(PEERS[0], ("/x",), WALL)])
        assert "restart, and it is set aside" in ledger.problem
