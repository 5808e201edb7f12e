"""The database of a node (SQLite): addresses of peers, API keys, high-water marks and its incarnation.

One thread at a time uses the database.  A failing disk does not stop the node: it continues in memory and sets
``problem``.  A database that cannot be read is set aside, and a new one is created.  Prompts and answers are never
stored.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

import msgspec
import structlog
import trio

from p2pnode.state.keys import ApiKey, KeyPolicy
from protocol.statements.versions import next_incarnation

P = ParamSpec("P")
T = TypeVar("T")

SCHEMA_VERSION: Final = 1
#: Peers in the address cache (guess: a few hundred suffice to find a network again).
MOST_PEERS: Final = 1024
#: Marks in the database: twice the bound of a running node; beyond it the ones that expire first are dropped.
MOST_MARKS: Final = 1 << 17
#: Seconds to wait for another process (``p2pnode keys``) that locks the database.
BUSY_S: Final = 5.0

_SCHEMA: Final = """
create table if not exists meta (name text primary key, value integer not null) without rowid;
create table if not exists peers (peer blob primary key, addrs blob not null, last_ok real not null) without rowid;
create table if not exists keys (
    name text primary key, sha256 blob not null unique, policy blob not null, created real not null
) without rowid;
create table if not exists marks (
    author blob not null, kind integer not null, inc integer not null, seq integer not null, wall real not null,
    primary key (author, kind)
) without rowid;
"""

#: A mark: ``(author, kind)`` to ``(inc, seq, wall)``; ``wall`` is its expiry in Unix seconds.
Marks = Mapping[tuple[bytes, int], tuple[int, int, float]]

_log = structlog.get_logger("p2pnode.state.ledger")


class Ledger:
    """An open database.  Every method blocks; :meth:`ask` runs one in the writer thread."""

    def __init__(self, path: Path, wall: Callable[[], float] = time.time, *, threads: bool = True) -> None:
        self.path = path
        #: One line about a problem with the disk, empty if there is none.
        self.problem = ""
        #: The new name of an unreadable database.
        self.set_aside: Path | None = None
        self._wall = wall
        self._threads = threads
        self._limiter = trio.CapacityLimiter(1)
        self._connection = self._opened()

    # --- opening ---------------------------------------------------------------------------------------------------

    def _opened(self) -> sqlite3.Connection:
        try:
            return self._connected(self.path)
        except (sqlite3.DatabaseError, OSError) as error:
            if _out_of_room(error):
                return self._in_memory(error)
            self._put_aside(error)
        try:
            return self._connected(self.path)
        except (sqlite3.DatabaseError, OSError) as error:
            return self._in_memory(error)

    def _connected(self, path: Path | str) -> sqlite3.Connection:
        if isinstance(path, Path):
            # SQLite would apply the umask; its other files (-wal, -shm) get the mode of this one.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("pragma journal_mode = wal")
            # FULL: a commit is on the disk when it returns, which the incarnation needs.  Commits are rare.
            connection.execute("pragma synchronous = full")
            if connection.execute("pragma quick_check").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("quick_check failed")
            found = connection.execute("pragma user_version").fetchone()[0]
            if found > SCHEMA_VERSION:
                raise sqlite3.DatabaseError(f"made by a newer p2pnode (version {found})")
            connection.executescript(f"begin; {_SCHEMA} pragma user_version = {SCHEMA_VERSION}; commit;")
        except BaseException:
            connection.close()
            raise
        return connection

    def _put_aside(self, error: Exception) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(self._wall()))
        self.set_aside = self.path.with_name(f"{self.path.name}.corrupt-{stamp}")
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                self.path.with_name(self.path.name + suffix).rename(f"{self.set_aside}{suffix}")
        _log.warning(
            "database_set_aside",
            reason=str(error),
            moved_to=str(self.set_aside),
            note="API keys other than the first are lost: make them again with p2pnode keys new",
        )

    def _in_memory(self, error: Exception) -> sqlite3.Connection:
        self._complain(error)
        return self._connected(":memory:")

    def _complain(self, error: Exception) -> None:
        if not self.problem:
            self.problem = (
                f"{self.path} cannot be written ({error}): free some disk space or correct its rights, and restart"
            )
            _log.warning("database_not_written", reason=str(error), path=str(self.path))

    def close(self) -> None:
        """Close the database; every later call raises ``sqlite3.ProgrammingError``."""
        self._connection.close()

    # --- asking ----------------------------------------------------------------------------------------------------

    async def ask(self, method: Callable[Concatenate[Ledger, P], T], *arguments: P.args, **options: P.kwargs) -> T:
        """``await ledger.ask(Ledger.keys)``: run a method in a thread, one at a time, or here without ``threads``."""
        if not self._threads:
            await trio.lowlevel.checkpoint()
            return method(self, *arguments, **options)
        answer: T = await trio.to_thread.run_sync(lambda: method(self, *arguments, **options), limiter=self._limiter)
        return answer

    def _write(self, statements: Iterable[tuple[str, Iterable[tuple[object, ...]]]]) -> bool:
        """Write all of it in one transaction; False if the disk fails."""
        connection = self._connection
        try:
            connection.execute("begin immediate")
            for sql, rows in statements:
                connection.executemany(sql, rows)
            connection.execute("commit")
        except sqlite3.IntegrityError:
            connection.execute("rollback")
            raise
        except sqlite3.OperationalError as error:
            with contextlib.suppress(sqlite3.OperationalError):
                connection.execute("rollback")
            self._complain(error)
            return False
        self.problem = ""
        return True

    # --- the incarnation -------------------------------------------------------------------------------------------

    def next_incarnation(self) -> int:
        """A number higher than all before it, stored on the disk before it is returned.

        It is at least the Unix time, so that statements do not look old after the loss of the database.
        """
        row = self._connection.execute("select value from meta where name = 'inc'").fetchone()
        inc = next_incarnation(row[0] if row else 0, self._wall())
        self._write([("insert or replace into meta values ('inc', ?)", [(inc,)])])
        return inc

    # --- addresses of peers ----------------------------------------------------------------------------------------

    def peers(self) -> list[tuple[bytes, tuple[str, ...], float]]:
        """``(peer, addrs, last_ok)``, the latest first; ``last_ok`` is in Unix seconds."""
        rows = self._connection.execute("select peer, addrs, last_ok from peers order by last_ok desc")
        return [(peer, msgspec.json.decode(addrs, type=tuple[str, ...]), last_ok) for peer, addrs, last_ok in rows]

    def remember_peers(self, peers: Iterable[tuple[bytes, tuple[str, ...], float]]) -> bool:
        """Add or renew working addresses; the oldest beyond :data:`MOST_PEERS` are dropped."""
        rows = [(peer, msgspec.json.encode(addrs), last_ok) for peer, addrs, last_ok in peers]
        drop = "delete from peers where peer in (select peer from peers order by last_ok desc limit -1 offset ?)"
        return self._write([("insert or replace into peers values (?, ?, ?)", rows), (drop, [(MOST_PEERS,)])])

    # --- API keys --------------------------------------------------------------------------------------------------

    def keys(self) -> list[ApiKey]:
        """Every stored key, by name."""
        rows = self._connection.execute("select name, sha256, policy, created from keys order by name")
        return [ApiKey(n, digest, msgspec.json.decode(p, type=KeyPolicy), made) for n, digest, p, made in rows]

    def add_key(self, key: ApiKey) -> None:
        """Store a key; raises ``ValueError`` if the name exists, ``OSError`` if the disk fails."""
        row = (key.name, key.sha256, msgspec.json.encode(key.policy), key.created or self._wall())
        try:
            stored = self._write([("insert into keys values (?, ?, ?, ?)", [row])])
        except sqlite3.IntegrityError:
            raise ValueError(f"a key named {key.name!r} already exists") from None
        if not stored:
            raise OSError(self.problem)

    def remove_key(self, name: str) -> bool:
        """Delete a key; False if no key has that name."""
        there = self._connection.execute("select 1 from keys where name = ?", (name,)).fetchone() is not None
        if there and not self._write([("delete from keys where name = ?", [(name,)])]):
            raise OSError(self.problem)
        return there

    def version(self) -> int:
        """A number that changes when another process has written, so that the keys must be read again."""
        return int(self._connection.execute("pragma data_version").fetchone()[0])

    def stamp(self) -> tuple[int, int] | None:
        """A value that changes with each write, within the resolution of the disk's clock.

        Unlike :meth:`version` it needs no lock and no thread.  Writes go to the ``-wal`` file, if the disk allows one.
        """
        for path in (f"{self.path}-wal", self.path):
            with contextlib.suppress(OSError):
                found = os.stat(path)
                return found.st_mtime_ns, found.st_size
        return None

    # --- high-water marks ------------------------------------------------------------------------------------------

    def marks(self) -> dict[tuple[bytes, int], tuple[int, int, float]]:
        """The high-water mark of each author and kind."""
        rows = self._connection.execute("select author, kind, inc, seq, wall from marks")
        return {(author, kind): (inc, seq, wall) for author, kind, inc, seq, wall in rows}

    def save_marks(self, marks: Marks, forget_before: float = 0.0) -> bool:
        """Raise marks, and drop those that expired before ``forget_before`` (Unix seconds); no mark is lowered."""
        rows = [(author, kind, *mark) for (author, kind), mark in marks.items()]
        raise_mark = (
            "insert into marks values (?, ?, ?, ?, ?) on conflict (author, kind) do update set inc = excluded.inc, "
            "seq = excluded.seq, wall = excluded.wall where (excluded.inc, excluded.seq) >= (marks.inc, marks.seq)"
        )
        surplus = "delete from marks where wall < (select wall from marks order by wall desc limit 1 offset ?)"
        drop = "delete from marks where wall < ?"
        return self._write([(raise_mark, rows), (drop, [(forget_before,)]), (surplus, [(MOST_MARKS - 1,)])])


def _out_of_room(error: Exception) -> bool:
    """Whether the disk caused the error (full, read-only, no rights), and not its content."""
    if isinstance(error, OSError):
        return True
    words = ("disk is full", "readonly", "unable to open", "disk I/O error", "locked")
    return isinstance(error, sqlite3.OperationalError) and any(word in str(error) for word in words)
