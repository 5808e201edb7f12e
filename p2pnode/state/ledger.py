"""What a node remembers over a restart: addresses of peers, API keys, high-water marks and its incarnation.  SQLite.

One thread at a time touches the database, and a failing disk never stops the node: it goes on from memory and says so
(``problem``).  A database that cannot be read is set aside and a new one is begun.  Prompts and answers are never here.
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

P = ParamSpec("P")
T = TypeVar("T")

SCHEMA_VERSION: Final = 1
#: Peers kept in the address cache (guess: a few hundred are plenty to find a network again).
MOST_PEERS: Final = 1024
#: Marks kept: twice what a running node has; of more those that would have been forgotten first go.
MOST_MARKS: Final = 1 << 17
#: Seconds to wait for another process (``p2pnode keys``) that holds the database.
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

#: A mark: ``(author, kind)`` to ``(inc, seq, wall)``; ``wall`` is until when it is kept, Unix seconds.
Marks = Mapping[tuple[bytes, int], tuple[int, int, float]]

_log = structlog.get_logger("p2pnode.state.ledger")


class Ledger:
    """An open database.  Every method blocks; :meth:`ask` runs one in the writer thread."""

    def __init__(self, path: Path, wall: Callable[[], float] = time.time, *, threads: bool = True) -> None:
        self.path = path
        #: One line on what is wrong with the disk, empty while all is well.
        self.problem = ""
        #: Where an unreadable database was put.
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
            # SQLite would make it with the umask; the files beside it (-wal, -shm) take over its mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("pragma journal_mode = wal")
            # FULL: a commit is on the disk when it returns, which the incarnation needs; commits here are rare.
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
            note="API keys other than the first are gone: make them again with p2pnode keys new",
        )

    def _in_memory(self, error: Exception) -> sqlite3.Connection:
        self._complain(error)
        return self._connected(":memory:")

    def _complain(self, error: Exception) -> None:
        if not self.problem:
            self.problem = (
                f"{self.path} cannot be written ({error}): free some disk space or mend its rights, and restart"
            )
            _log.warning("database_not_written", reason=str(error), path=str(self.path))

    def close(self) -> None:
        """Close the database; a call that comes later raises ``sqlite3.ProgrammingError``."""
        self._connection.close()

    # --- asking ----------------------------------------------------------------------------------------------------

    async def ask(self, method: Callable[Concatenate[Ledger, P], T], *arguments: P.args, **options: P.kwargs) -> T:
        """``await ledger.ask(Ledger.keys)``: run a method in a thread, one at a time (or here, if so it was opened)."""
        if not self._threads:
            await trio.lowlevel.checkpoint()
            return method(self, *arguments, **options)
        answer: T = await trio.to_thread.run_sync(lambda: method(self, *arguments, **options), limiter=self._limiter)
        return answer

    def _write(self, statements: Iterable[tuple[str, Iterable[tuple[object, ...]]]]) -> bool:
        """All of it or nothing; False if the disk would not take it."""
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
        """A number higher than ever before, on the disk before it is returned.

        It is also at least the Unix time, so that a lost database does not make this node's statements look old.
        """
        row = self._connection.execute("select value from meta where name = 'inc'").fetchone()
        inc = max((row[0] if row else 0) + 1, int(self._wall()))
        self._write([("insert or replace into meta values ('inc', ?)", [(inc,)])])
        return inc

    # --- addresses of peers ----------------------------------------------------------------------------------------

    def peers(self) -> list[tuple[bytes, tuple[str, ...], float]]:
        """``(peer, addrs, last_ok)``, the latest first; ``last_ok`` is Unix seconds."""
        rows = self._connection.execute("select peer, addrs, last_ok from peers order by last_ok desc")
        return [(peer, msgspec.json.decode(addrs, type=tuple[str, ...]), last_ok) for peer, addrs, last_ok in rows]

    def remember_peers(self, peers: Iterable[tuple[bytes, tuple[str, ...], float]]) -> bool:
        """Add or renew addresses that worked; the oldest beyond :data:`MOST_PEERS` are dropped."""
        rows = [(peer, msgspec.json.encode(addrs), last_ok) for peer, addrs, last_ok in peers]
        drop = "delete from peers where peer in (select peer from peers order by last_ok desc limit -1 offset ?)"
        return self._write([("insert or replace into peers values (?, ?, ?)", rows), (drop, [(MOST_PEERS,)])])

    # --- API keys --------------------------------------------------------------------------------------------------

    def keys(self) -> list[ApiKey]:
        """Every stored key, by name."""
        rows = self._connection.execute("select name, sha256, policy, created from keys order by name")
        return [ApiKey(n, digest, msgspec.json.decode(p, type=KeyPolicy), made) for n, digest, p, made in rows]

    def add_key(self, key: ApiKey) -> None:
        """Store a key; raises ``ValueError`` if the name is taken, ``OSError`` if the disk would not take it."""
        row = (key.name, key.sha256, msgspec.json.encode(key.policy), key.created or self._wall())
        try:
            stored = self._write([("insert into keys values (?, ?, ?, ?)", [row])])
        except sqlite3.IntegrityError:
            raise ValueError(f"there is a key named {key.name!r} already") from None
        if not stored:
            raise OSError(self.problem)

    def remove_key(self, name: str) -> bool:
        """Forget a key; False if there was none of that name."""
        there = self._connection.execute("select 1 from keys where name = ?", (name,)).fetchone() is not None
        if there and not self._write([("delete from keys where name = ?", [(name,)])]):
            raise OSError(self.problem)
        return there

    def version(self) -> int:
        """Changes whenever another process has written: a reason to read the keys again."""
        return int(self._connection.execute("pragma data_version").fetchone()[0])

    def stamp(self) -> tuple[int, int] | None:
        """Differs from before if anybody has written meanwhile, as far as the disk's clock can tell.

        Unlike :meth:`version` it needs no lock and no thread.  Writes go to the ``-wal``, if the disk can have one.
        """
        for path in (f"{self.path}-wal", self.path):
            with contextlib.suppress(OSError):
                found = os.stat(path)
                return found.st_mtime_ns, found.st_size
        return None

    # --- high-water marks ------------------------------------------------------------------------------------------

    def marks(self) -> dict[tuple[bytes, int], tuple[int, int, float]]:
        """What was seen of each author."""
        rows = self._connection.execute("select author, kind, inc, seq, wall from marks")
        return {(author, kind): (inc, seq, wall) for author, kind, inc, seq, wall in rows}

    def save_marks(self, marks: Marks, forget_before: float = 0.0) -> bool:
        """Raise marks, and drop those kept until before ``forget_before`` (Unix seconds); a mark never goes back."""
        rows = [(author, kind, *mark) for (author, kind), mark in marks.items()]
        raise_mark = (
            "insert into marks values (?, ?, ?, ?, ?) on conflict (author, kind) do update set inc = excluded.inc, "
            "seq = excluded.seq, wall = excluded.wall where (excluded.inc, excluded.seq) >= (marks.inc, marks.seq)"
        )
        crowded = "delete from marks where wall < (select wall from marks order by wall desc limit 1 offset ?)"
        drop = "delete from marks where wall < ?"
        return self._write([(raise_mark, rows), (drop, [(forget_before,)]), (crowded, [(MOST_MARKS - 1,)])])


def _out_of_room(error: Exception) -> bool:
    """Whether the disk is the trouble (full, read-only, no rights) and not what is on it."""
    if isinstance(error, OSError):
        return True
    words = ("disk is full", "readonly", "unable to open", "disk I/O error", "locked")
    return isinstance(error, sqlite3.OperationalError) and any(word in str(error) for word in words)
