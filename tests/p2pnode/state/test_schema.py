"""The schema of ``node.db``: a file of each earlier version is brought up to date, and keeps what it holds."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from p2pnode.state.keys import ApiKey, KeyPolicy
from p2pnode.state.ledger import Ledger
from p2pnode.state.schema import SCHEMA_VERSION, bring_up

PEER = bytes(range(32))

#: The database of p2pnode 0.1.0, as that version made and filled it.
OF_0_1_0 = """
create table meta (name text primary key, value integer not null) without rowid;
create table peers (peer blob primary key, addrs blob not null, last_ok real not null) without rowid;
create table keys (
    name text primary key, sha256 blob not null unique, policy blob not null, created real not null
) without rowid;
create table marks (
    author blob not null, kind integer not null, inc integer not null, seq integer not null, wall real not null,
    primary key (author, kind)
) without rowid;
insert into meta values ('inc', 1764600123);
insert into peers values (
    x'000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f',
    cast('["/ip4/203.0.113.7/tcp/4411"]' as blob), 1764600000.0
);
insert into keys values (
    'laptop', x'1f1e1d1c1b1a191817161514131211100f0e0d0c0b0a09080706050403020100',
    cast('{"zone":"mine","rpm":6}' as blob), 1764500000.0
);
insert into marks values (
    x'000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f', 1, 1764600000, 7, 1765200000.0
);
pragma user_version = 1;
"""


def version(path: Path) -> int:
    with sqlite3.connect(path) as other:
        (found,) = other.execute("pragma user_version").fetchone()
    other.close()
    return int(found)


def test_a_database_of_0_1_0_is_migrated_and_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    with sqlite3.connect(path) as old:
        old.executescript(OF_0_1_0)
    old.close()
    for _ in range(2):
        ledger = Ledger(path, wall=lambda: 1000.0)
        assert ledger.set_aside is None
        assert ledger.problem == ""
        assert ledger.peers() == [(PEER, ("/ip4/203.0.113.7/tcp/4411",), 1764600000.0)]
        assert ledger.keys() == [ApiKey("laptop", PEER[::-1], KeyPolicy("mine", 6), 1764500000.0)]
        assert ledger.marks() == {(PEER, 1): (1764600000, 7, 1765200000.0)}
        ledger.close()
        assert version(path) == SCHEMA_VERSION == 2
    ledger = Ledger(path, wall=lambda: 1000.0)
    assert ledger.next_incarnation() == 1764600124
    ledger.close()


def test_a_step_that_was_cut_off_is_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    Ledger(path).close()
    with sqlite3.connect(path) as other:
        other.execute("drop table corrections")
        other.execute("pragma user_version = 1")
    other.close()
    ledger = Ledger(path)
    assert ledger.set_aside is None
    ledger.close()
    assert version(path) == SCHEMA_VERSION


@pytest.mark.parametrize("found", [-1, SCHEMA_VERSION + 1])
def test_another_version_is_refused(found: int) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute(f"pragma user_version = {found}")
    with pytest.raises(sqlite3.DatabaseError, match=f"version {found}"):
        bring_up(connection)
    connection.close()


def test_tables_without_their_columns_are_damage() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    bring_up(connection)
    connection.execute("alter table peers rename column addrs to addr")
    with pytest.raises(sqlite3.DatabaseError, match="addrs"):
        bring_up(connection)
    connection.close()
