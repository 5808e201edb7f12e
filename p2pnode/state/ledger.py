"""The database of a node (SQLite): addresses of peers, API keys, high-water marks and its incarnation.

One thread at a time uses the database.  A failing disk does not stop the node: it continues in memory and sets
``problem``.  A database that cannot be read is set aside, and a new one is created.  A row that makes no sense is
skipped: one changed byte costs one row, never a start.  Prompts and answers are never stored.

Not here: the tables and their versions (``schema``), the evidence about peers (``evidence``).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Concatenate, Final, ParamSpec, TypeVar

import msgspec
import structlog
import trio

from p2pnode.state.keys import ApiKey, KeyPolicy
from p2pnode.state.schema import bring_up
from protocol.statements.versions import next_incarnation

P = ParamSpec("P")
T = TypeVar("T")

#: Peers in the address cache (guess: a few hundred suffice to find a network again).
MOST_PEERS: Final = 1024
#: Marks in the database: twice the bound of a running node; beyond it the ones that expire first are dropped.
MOST_MARKS: Final = 1 << 17
#: Seconds to wait for another process (``p2pnode keys``) that locks the database.
BUSY_S: Final = 5.0
#: Seconds between two warnings that the disk takes nothing.
COMPLAIN_EVERY_S: Final = 60.0
#: An incarnation is the Unix time or a few more; a stored one above this is damage.
_MOST_INC: Final = 1 << 40
#: Primary result codes of SQLite for a disk that takes nothing, as opposed to a damaged file (www.sqlite.org/rescode).
_OUT_OF_ROOM: Final = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)

#: What a statement raises on a damaged file: SQLite's own error, or one whose text quotes bytes that are no UTF-8.
DAMAGE: Final = (sqlite3.DatabaseError, UnicodeDecodeError)

#: 32 bytes: the id of a peer, or a hash.
Id = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=1e12)]
Count = Annotated[int, msgspec.Meta(ge=0)]

#: A mark: ``(author, kind)`` to ``(inc, seq, wall)``; ``wall`` is its expiry in Unix seconds.
Marks = Mapping[tuple[bytes, int], tuple[int, int, float]]

_log = structlog.get_logger("p2pnode.state.ledger")


class Row(msgspec.Struct, frozen=True, array_like=True):
    """A row of a query, its columns in the order of the fields."""


class _Inc(Row, frozen=True):
    value: Count


class _Peer(Row, frozen=True):
    peer: Id
    addrs: bytes
    last_ok: Seconds


class _Key(Row, frozen=True):
    name: str
    sha256: Id
    policy: bytes
    created: Seconds


class _Mark(Row, frozen=True):
    author: Id
    kind: int
    inc: Count
    seq: Count
    wall: Seconds


class Ledger:
    """An open database.  Every method blocks; :meth:`ask` runs one in the writer thread."""

    def __init__(self, path: Path, wall: Callable[[], float] = time.time, *, threads: bool = True) -> None:
        self.path = path
        #: One line about a problem with the disk, empty if there is none.
        self.problem = ""
        #: The new name of an unreadable database.
        self.set_aside: Path | None = None
        self._wall = wall
        self._complained = -COMPLAIN_EVERY_S
        self._told: set[str] = set()
        self._on_disk = True
        self._threads = threads
        self._limiter = trio.CapacityLimiter(1)
        self._connection = self._opened()

    # --- opening ---------------------------------------------------------------------------------------------------

    def _opened(self) -> sqlite3.Connection:
        try:
            return self._connected(self.path)
        except (*DAMAGE, OSError) as error:
            if _out_of_room(error):
                return self._in_memory(error)
            self._put_aside(error)
        try:
            return self._connected(self.path)
        except (*DAMAGE, OSError) as error:
            return self._in_memory(error)

    def _connected(self, path: Path | str) -> sqlite3.Connection:
        if isinstance(path, Path):
            # SQLite would apply the umask; its other files (-wal, -shm) get the mode of this one.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("pragma journal_mode = wal")
            # Text that is no UTF-8 would fail the whole query; so it is one odd row.
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            bring_up(connection)
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
        self._on_disk = False
        return self._connected(":memory:")

    def _complain(self, error: Exception) -> None:
        if _out_of_room(error):
            mend = "free some disk space or correct its rights, and restart"
        else:
            mend = "it is damaged; restart, and it is set aside"
        self.problem = f"{self.path} cannot be used ({error}): {mend}"
        now = self._wall()
        if abs(now - self._complained) >= COMPLAIN_EVERY_S:
            self._complained = now
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

    def rows(self, sql: str, kind: type[T]) -> list[T]:
        """The rows of a query that have this type; none if the file is damaged."""
        rows: list[T] = []
        skipped = 0
        try:
            for row in self._connection.execute(sql):
                try:
                    rows.append(msgspec.convert(row, kind))
                except (msgspec.ValidationError, ValueError):
                    skipped += 1
        except DAMAGE as error:
            self._complain(error)
        self._skip(skipped, sql)
        return rows

    def _skip(self, rows: int, query: str) -> None:
        """Say once per query that damaged rows are ignored."""
        if rows and query not in self._told:
            self._told.add(query)
            _log.warning("database_rows_skipped", rows=rows, query=query, note="they are damaged and ignored")

    def write(self, statements: Iterable[tuple[str, Iterable[tuple[object, ...]]]], *, sync: bool = True) -> bool:
        """Write all of it in one transaction; False if the disk fails.

        ``sync``: it is on the disk when this returns.  Otherwise it survives the end of the process, but the last
        seconds may be lost with the power.
        """
        connection = self._connection
        try:
            connection.execute(f"pragma synchronous = {'full' if sync else 'normal'}")
            connection.execute("begin immediate")
            for sql, rows in statements:
                connection.executemany(sql, rows)
            connection.execute("commit")
        except sqlite3.IntegrityError:
            connection.execute("rollback")
            raise
        except DAMAGE as error:
            with contextlib.suppress(*DAMAGE):
                connection.execute("rollback")
            self._complain(error)
            return False
        if self._on_disk:
            self.problem = ""
        return True

    # --- the incarnation -------------------------------------------------------------------------------------------

    def next_incarnation(self) -> int:
        """A number higher than all before it, stored on the disk before it is returned.

        It is at least the Unix time, so that statements do not look old after the loss of the database.
        """
        rows = self.rows("select value from meta where name = 'inc'", _Inc)
        last = rows[0].value if rows and rows[0].value <= _MOST_INC else 0
        inc = next_incarnation(last, self._wall())
        self.write([("insert or replace into meta values ('inc', ?)", [(inc,)])])
        return inc

    # --- addresses of peers ----------------------------------------------------------------------------------------

    def peers(self) -> list[tuple[bytes, tuple[str, ...], float]]:
        """``(peer, addrs, last_ok)``, the latest first; ``last_ok`` is in Unix seconds."""
        query = "select peer, addrs, last_ok from peers order by last_ok desc"
        decoded = [(row, _decoded(row.addrs, tuple[str, ...])) for row in self.rows(query, _Peer)]
        self._skip(sum(addrs is None for _, addrs in decoded), query)
        return [(row.peer, addrs, row.last_ok) for row, addrs in decoded if addrs is not None]

    def remember_peers(self, peers: Iterable[tuple[bytes, tuple[str, ...], float]]) -> bool:
        """Add or renew working addresses; the oldest beyond :data:`MOST_PEERS` are dropped."""
        rows = [(peer, msgspec.json.encode(addrs), last_ok) for peer, addrs, last_ok in peers]
        drop = "delete from peers where peer in (select peer from peers order by last_ok desc limit -1 offset ?)"
        return self.write([("insert or replace into peers values (?, ?, ?)", rows), (drop, [(MOST_PEERS,)])])

    # --- API keys --------------------------------------------------------------------------------------------------

    def keys(self) -> list[ApiKey]:
        """Every stored key, by name; one whose policy is damaged opens nothing."""
        query = "select name, sha256, policy, created from keys order by name"
        decoded = [(row, _decoded(row.policy, KeyPolicy)) for row in self.rows(query, _Key)]
        self._skip(sum(policy is None for _, policy in decoded), query)
        return [ApiKey(row.name, row.sha256, policy, row.created) for row, policy in decoded if policy is not None]

    def add_key(self, key: ApiKey) -> None:
        """Store a key; raises ``ValueError`` if the name exists, ``OSError`` if the disk fails."""
        row = (key.name, key.sha256, msgspec.json.encode(key.policy), key.created or self._wall())
        try:
            stored = self.write([("insert into keys values (?, ?, ?, ?)", [row])])
        except sqlite3.IntegrityError:
            raise ValueError(f"a key named {key.name!r} already exists") from None
        if not stored:
            raise OSError(self.problem)

    def remove_key(self, name: str) -> bool:
        """Delete a key; False if no key has that name."""
        there = any(key.name == name for key in self.rows("select name, sha256, policy, created from keys", _Key))
        if there and not self.write([("delete from keys where name = ?", [(name,)])]):
            raise OSError(self.problem)
        return there

    def version(self) -> int:
        """A number that changes when another process has written, so that the keys must be read again."""
        try:
            return int(self._connection.execute("pragma data_version").fetchone()[0])
        except DAMAGE as error:
            self._complain(error)
            return -1

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
        rows = self.rows("select author, kind, inc, seq, wall from marks", _Mark)
        return {(row.author, row.kind): (row.inc, row.seq, row.wall) for row in rows}

    def save_marks(self, marks: Marks, forget_before: float = 0.0) -> bool:
        """Raise marks, and drop those that expired before ``forget_before`` (Unix seconds); no mark is lowered."""
        rows = [(author, kind, *mark) for (author, kind), mark in marks.items()]
        raise_mark = (
            "insert into marks values (?, ?, ?, ?, ?) on conflict (author, kind) do update set inc = excluded.inc, "
            "seq = excluded.seq, wall = excluded.wall where (excluded.inc, excluded.seq) >= (marks.inc, marks.seq)"
        )
        surplus = "delete from marks where wall < (select wall from marks order by wall desc limit 1 offset ?)"
        drop = "delete from marks where wall < ?"
        return self.write([(raise_mark, rows), (drop, [(forget_before,)]), (surplus, [(MOST_MARKS - 1,)])])


def _decoded(raw: bytes, kind: type[T]) -> T | None:
    """The JSON of a row; None if it is damaged."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, ValueError):
        return None


def _out_of_room(error: Exception) -> bool:
    """Whether the disk caused the error (full, read-only, no rights), and not its content."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return isinstance(error, OSError) or (code & 0xFF in _OUT_OF_ROOM and code != sqlite3.SQLITE_IOERR_SHORT_READ)
