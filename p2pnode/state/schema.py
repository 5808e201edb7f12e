"""The tables of ``node.db`` and the steps from one version to the next.

A step only adds, so a crash between two steps leaves a database that the next start brings up to date.  Not here: what
the rows mean (``ledger``, ``evidence``).
"""

from __future__ import annotations

import sqlite3
from typing import Final

#: ``_STEPS[n]`` makes version n + 1 of version n; 0 is an empty file, 1 is p2pnode 0.1.0.
_STEPS: Final = (
    """
create table if not exists meta (name text primary key, value integer not null) without rowid;
create table if not exists peers (peer blob primary key, addrs blob not null, last_ok real not null) without rowid;
create table if not exists keys (
    name text primary key, sha256 blob not null unique, policy blob not null, created real not null
) without rowid;
create table if not exists marks (
    author blob not null, kind integer not null, inc integer not null, seq integer not null, wall real not null,
    primary key (author, kind)
) without rowid;
""",
    """
create table if not exists evidence (
    peer blob not null, model text not null, dimension text not null,
    r real not null, s real not null, wall real not null,
    primary key (peer, model, dimension)
) without rowid;
create table if not exists corrections (
    peer blob not null, model text not null, phase text not null,
    mean real not null, variance real not null, count real not null, wall real not null,
    primary key (peer, model, phase)
) without rowid;
""",
)
SCHEMA_VERSION: Final = len(_STEPS)
#: All columns that the statements of this package use.
_READS: Final = (
    "select name, value from meta",
    "select peer, addrs, last_ok from peers",
    "select name, sha256, policy, created from keys",
    "select author, kind, inc, seq, wall from marks",
    "select peer, model, dimension, r, s, wall from evidence",
    "select peer, model, phase, mean, variance, count, wall from corrections",
)


def bring_up(connection: sqlite3.Connection) -> None:
    """Check the content, and bring the tables to :data:`SCHEMA_VERSION`.

    Raises ``sqlite3.DatabaseError`` for a damaged file and for one of a newer version.
    """
    if connection.execute("pragma quick_check").fetchone() != ("ok",):
        raise sqlite3.DatabaseError("quick_check failed")
    found = connection.execute("pragma user_version").fetchone()[0]
    if not 0 <= found <= SCHEMA_VERSION:
        raise sqlite3.DatabaseError(f"made by a newer p2pnode (version {found})")
    for version, step in enumerate(_STEPS[found:], found + 1):
        connection.executescript(f"begin; {step} pragma user_version = {version}; commit;")
    for read in _READS:
        # Every row is read: quick_check does not find every damage, and a start is the time to hear of it.
        for _ in connection.execute(read):
            pass
