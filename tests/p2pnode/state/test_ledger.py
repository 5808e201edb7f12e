"""What survives a restart, and that a bad disk does not stop a node."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from p2pnode.state import ledger as module
from p2pnode.state.keys import ApiKey, KeyPolicy, fingerprint
from p2pnode.state.ledger import Ledger

A, B = bytes(32), bytes([1]) * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    opened = Ledger(path, wall=lambda: 1000.0)
    yield opened
    opened.close()


def reopened(ledger: Ledger, wall: float = 1000.0) -> Ledger:
    ledger.close()
    ledger.__init__(ledger.path, wall=lambda: wall)  # type: ignore[misc]
    return ledger


def test_the_incarnation_rises_with_every_start_and_with_the_clock(ledger: Ledger) -> None:
    assert ledger.next_incarnation() == 1000
    assert reopened(ledger).next_incarnation() == 1001
    assert reopened(ledger, 5000.0).next_incarnation() == 5000
    assert reopened(ledger, 10.0).next_incarnation() == 5001


def test_the_incarnation_is_on_the_disk_before_it_is_used(ledger: Ledger, path: Path) -> None:
    inc = ledger.next_incarnation()
    with sqlite3.connect(path) as other:
        assert other.execute("select value from meta where name = 'inc'").fetchone() == (inc,)
        assert other.execute("pragma journal_mode").fetchone() == ("wal",)
    other.close()
    assert ledger._connection.execute("pragma synchronous").fetchone() == (2,)  # FULL: a commit was synced
    ledger.write([], sync=False)
    assert ledger._connection.execute("pragma synchronous").fetchone() == (1,)


def test_addresses_come_back_the_latest_first(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ledger.peers() == []
    ledger.remember_peers([(A, ("/ip4/1.2.3.4/tcp/1",), 10.0), (B, ("/x", "/y"), 20.0)])
    ledger.remember_peers([(A, ("/z",), 30.0)])
    assert reopened(ledger).peers() == [(A, ("/z",), 30.0), (B, ("/x", "/y"), 20.0)]
    monkeypatch.setattr(module, "MOST_PEERS", 1)
    ledger.remember_peers([(B, ("/w",), 40.0)])
    assert ledger.peers() == [(B, ("/w",), 40.0)]


def test_keys_are_kept_as_hashes_only(ledger: Ledger, path: Path) -> None:
    ledger.add_key(ApiKey("laptop", fingerprint("sk-secret"), KeyPolicy("mine", 6)))
    with pytest.raises(ValueError, match="a key named 'laptop' already exists"):
        ledger.add_key(ApiKey("laptop", fingerprint("sk-other")))
    (key,) = reopened(ledger).keys()
    assert (key.name, key.policy, key.created) == ("laptop", KeyPolicy("mine", 6), 1000.0)
    ledger.close()
    assert all(b"sk-secret" not in file.read_bytes() for file in path.parent.iterdir())
    reopened(ledger)
    assert ledger.remove_key("laptop")
    assert not ledger.remove_key("laptop")
    assert ledger.keys() == []


def test_names_are_data(ledger: Ledger) -> None:
    name = "'; drop table keys; --"
    ledger.add_key(ApiKey(name, fingerprint("x")))
    (key,) = ledger.keys()
    assert key.name == name
    assert ledger.remove_key(name)


def test_another_process_is_noticed(ledger: Ledger, path: Path) -> None:
    before, stamp = ledger.version(), ledger.stamp()
    assert ledger.stamp() == stamp
    other = Ledger(path)
    other.add_key(ApiKey("new", fingerprint("x")))
    other.close()
    assert ledger.version() != before
    assert ledger.stamp() != stamp
    (key,) = ledger.keys()
    assert key.name == "new"


def test_marks_rise_and_are_forgotten(ledger: Ledger) -> None:
    ledger.save_marks({(A, 1): (5, 7, 100.0), (B, 2): (1, 1, 50.0)})
    ledger.save_marks({(A, 1): (5, 6, 200.0)})
    assert ledger.marks() == {(A, 1): (5, 7, 100.0), (B, 2): (1, 1, 50.0)}
    ledger.save_marks({(A, 1): (6, 0, 200.0)}, forget_before=60.0)
    assert reopened(ledger).marks() == {(A, 1): (6, 0, 200.0)}


def test_marks_are_bounded(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_MARKS", 3)
    ledger.save_marks({(bytes([number]) * 32, 1): (1, 1, float(number)) for number in range(10)})
    assert sorted(until for _, _, until in ledger.marks().values()) == [7.0, 8.0, 9.0]


def test_the_database_is_for_us_alone(ledger: Ledger, path: Path) -> None:
    ledger.next_incarnation()
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


@pytest.mark.parametrize("damage", ["text", "zeros", "middle", "newer"])
def test_what_cannot_be_read_is_set_aside(damage: str, path: Path) -> None:
    ledger = Ledger(path, wall=lambda: 1000.0)
    ledger.remember_peers([(bytes([n]) * 32, ("/x" * 500,), 1.0) for n in range(50)])
    ledger.close()
    if damage == "text":
        path.write_text("this is not a database, and long enough to be noticed " * 10)
    elif damage == "zeros":
        path.write_bytes(b"\1" * 8192)
    elif damage == "middle":
        data = bytearray(path.read_bytes())
        data[4096 : len(data) - 4096] = b"\xff" * (len(data) - 8192)
        path.write_bytes(data)
    else:
        with sqlite3.connect(path) as other:
            other.execute("pragma user_version = 99")
        other.close()
    before = path.read_bytes()
    ledger = Ledger(path, wall=lambda: 1000.0)
    assert ledger.set_aside == path.with_name("node.db.corrupt-19700101T001640")
    assert ledger.set_aside.read_bytes() == before
    assert ledger.peers() == []
    assert ledger.next_incarnation() == 1000
    assert ledger.problem == ""
    ledger.close()


def test_where_there_is_no_file_there_is_no_stamp(ledger: Ledger) -> None:
    ledger.path = ledger.path / "nowhere"
    assert ledger.stamp() is None


def test_a_full_disk_does_not_stop_anything(ledger: Ledger) -> None:
    connection = ledger._connection
    connection.execute("pragma max_page_count = 12")
    wide = [(bytes([n]) * 32, ("/x" * 4000,), 1.0) for n in range(50)]
    assert not ledger.remember_peers(wide)
    assert "disk is full" in ledger.problem
    assert "free some disk space" in ledger.problem
    with pytest.raises(OSError, match="free some disk space"):
        ledger.add_key(ApiKey("key" * 20_000, fingerprint("x")))
    connection.execute("pragma max_page_count = 10000")
    assert ledger.remember_peers(wide)
    assert ledger.problem == ""


def test_a_disk_that_takes_nothing_at_the_start_is_survived(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "missing" / "node.db", wall=lambda: 1000.0)
    assert ledger.problem
    assert ledger.next_incarnation() == 1000
    ledger.remember_peers([(A, ("/x",), 1.0)])
    assert len(ledger.peers()) == 1
    assert "free some disk space" in ledger.problem, "what is written to memory is not kept"
    ledger.close()


def test_a_disk_that_takes_nothing_is_told_once_a_minute(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wall, told = [1000.0], []
    monkeypatch.setattr(module._log, "warning", lambda event, **_: told.append((event, wall[0])))
    ledger = Ledger(path, wall=lambda: wall[0])
    ledger._connection.execute("pragma max_page_count = 12")
    wide = [(bytes([n]) * 32, ("/x" * 4000,), 1.0) for n in range(50)]
    for wall[0] in range(1000, 1180, 5):
        assert not ledger.remember_peers(wide)
    ledger.close()
    assert told == [("database_not_written", 1000), ("database_not_written", 1060), ("database_not_written", 1120)]


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_bytes(b"")
    path.symlink_to(target)
    ledger = Ledger(path)
    ledger.next_incarnation()
    ledger.close()
    assert target.read_bytes() == b""


async def test_one_thread_at_a_time_touches_the_database(ledger: Ledger) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(ledger.ask, Ledger.remember_peers, [(bytes([number]) * 32, ("/x",), float(number))])
    assert len(await ledger.ask(Ledger.peers)) == 20
    assert await ledger.ask(Ledger.next_incarnation) == 1000
