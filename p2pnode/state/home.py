"""Opens the home directory of a node, its lock, identity and ledger, and saves peers and marks while the node runs.

A problem with the files raises ``CannotStart`` with the command that fixes it.  The formats are in the other modules.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import trio

from p2pnode.lifecycle import CannotStart
from p2pnode.logs import SECRETS
from p2pnode.state.keys import KeyProblem, load_node_key, lock_home, prepare_home
from p2pnode.state.ledger import Ledger
from p2pnode.state.paths import Paths
from protocol.ids import PeerId
from protocol.node import Node, NodeSnapshot
from protocol.statements.keys import Ed25519Signer

#: Seconds between writes of the peer cache and the marks (guess: after a crash a node learns the rest in seconds).
KEEP_EVERY_S: Final = 30.0
#: Seconds the last write may take at the end.
LAST_WRITE_S: Final = 3.0


@dataclass(frozen=True)
class Home:
    """The state that outlives the process."""

    paths: Paths
    seed: bytes
    signer: Ed25519Signer
    ledger: Ledger
    #: The incarnation, higher at each start: it orders this node's statements over restarts.
    inc: int
    #: What the last life left behind.
    snapshot: NodeSnapshot


@contextmanager
def open_home(paths: Paths, wall: Callable[[], float] = time.time, *, threads: bool = True) -> Iterator[Home]:
    """Open and lock it for one daemon; raises ``CannotStart``."""
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
            NodeSnapshot(
                tuple((PeerId(peer), addrs) for peer, addrs, _ in ledger.peers()),
                {(PeerId(author), kind): mark for (author, kind), mark in ledger.marks().items()},
            ),
        )
    finally:
        with suppress(OSError):
            paths.daemon.unlink()
        ledger.close()
        os.close(lock)


async def keep_memory(home: Home, machine: Node, wall: Callable[[], float] = time.time) -> None:
    """Save the addresses of live peers and the marks, every ``KEEP_EVERY_S`` and once more at the end."""
    try:
        while True:
            await trio.sleep(KEEP_EVERY_S)
            await _remember(home, machine, wall())
    finally:
        with trio.CancelScope(deadline=trio.current_time() + LAST_WRITE_S, shield=True), suppress(sqlite3.Error):
            await _remember(home, machine, wall())


async def _remember(home: Home, machine: Node, wall: float) -> None:
    snapshot = machine.snapshot()
    peers = [(bytes(peer), addrs, wall) for peer, addrs in snapshot.known]
    await home.ledger.ask(Ledger.remember_peers, peers)
    marks = {(bytes(author), kind): mark for (author, kind), mark in snapshot.marks.items()}
    await home.ledger.ask(Ledger.save_marks, marks, wall)
