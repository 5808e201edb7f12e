"""The home of a running node, opened: its lock, its identity, its memory.  And the task that keeps the memory fresh.

What is wrong with the files raises ``CannotStart`` with the command that mends it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from p2pnode.lifecycle import CannotStart
from p2pnode.logs import SECRETS
from p2pnode.state.keys import KeyProblem, load_node_key, lock_home, prepare_home
from p2pnode.state.ledger import Ledger
from p2pnode.state.paths import Paths
from protocol.ids import PeerId
from protocol.statements.keys import Ed25519Signer

if TYPE_CHECKING:
    from p2pnode.swarm.swarm import Swarm
    from protocol.node import Node

#: Seconds between writes of the peer cache and the marks (guess: what is lost in a crash is learned again in seconds).
KEEP_EVERY_S: Final = 30.0
#: Seconds the last write may take at the end.
LAST_WRITE_S: Final = 3.0
#: Addresses of peers handed to a starting node, the freshest first (guess: eight links are wanted).
KNOWN_PEERS: Final = 64


@dataclass(frozen=True)
class Home:
    """Everything that outlives the process."""

    paths: Paths
    seed: bytes
    signer: Ed25519Signer
    ledger: Ledger
    #: Higher than at every start before: orders this node's statements over restarts.
    inc: int
    known: tuple[tuple[PeerId, tuple[str, ...]], ...]
    marks: Mapping[tuple[PeerId, int], tuple[int, int, float]]


@contextmanager
def open_home(paths: Paths, wall: Callable[[], float] = time.time, *, threads: bool = True) -> Iterator[Home]:
    """Open it for one daemon; raises ``CannotStart``."""
    try:
        prepare_home(paths.home)
        lock = lock_home(paths.lock)
        seed = load_node_key(paths.node_key)
    except KeyProblem as error:
        raise CannotStart(str(error)) from None
    SECRETS.add(seed)
    ledger = Ledger(paths.database, wall, threads=threads)
    try:
        yield Home(
            paths,
            seed,
            Ed25519Signer(seed),
            ledger,
            ledger.next_incarnation(),
            tuple((PeerId(peer), addrs) for peer, addrs, _ in ledger.peers()[:KNOWN_PEERS]),
            {(PeerId(author), kind): mark for (author, kind), mark in ledger.marks().items()},
        )
    finally:
        with suppress(OSError):
            paths.daemon.unlink()
        ledger.close()
        os.close(lock)


async def keep_memory(home: Home, swarm: Swarm, machine: Node, wall: Callable[[], float] = time.time) -> None:
    """Write the addresses of those who are alive, and the marks, every now and then and once more at the end."""
    try:
        while True:
            await trio.sleep(KEEP_EVERY_S)
            await _remember(home, swarm, machine, wall())
    finally:
        with trio.CancelScope(deadline=trio.current_time() + LAST_WRITE_S, shield=True), suppress(sqlite3.Error):
            await _remember(home, swarm, machine, wall())


async def _remember(home: Home, swarm: Swarm, machine: Node, wall: float) -> None:
    peers = [
        (bytes(record.peer), tuple(record.advert.addrs), wall)
        for record in swarm.view.records()
        if not record.is_self and record.state == "alive" and record.advert is not None and record.advert.addrs
    ]
    await home.ledger.ask(Ledger.remember_peers, peers)
    marks = {(bytes(author), kind): mark for (author, kind), mark in machine.export_marks().items()}
    await home.ledger.ask(Ledger.save_marks, marks, wall)
