"""The state that is left of an ended daemon: the data on its disk, and the data that the figures still need.

A fifth of a large network may be gone for most of a run.  Keeping the full state of gone nodes would take as much
memory per node as a live one.
"""

from __future__ import annotations

from array import array
from collections.abc import ItemsView, Iterator, Mapping

from protocol.membership.overlay import MAX_KNOWN
from protocol.node import Node, NodeSnapshot
from protocol.rng import Rng
from protocol.statements.envelope import Key
from protocol.statements.keys import Signer
from protocol.statements.versions import MarkTable


def saved(snapshot: NodeSnapshot) -> NodeSnapshot:
    """The same as on a disk."""
    return NodeSnapshot(snapshot.known[:MAX_KNOWN], SavedMarks(snapshot.marks))


class SavedMarks(Mapping[Key, tuple[int, int, float]]):
    """A table of marks as on a disk: it takes a sixth of the table's memory and is read as a whole."""

    __slots__ = ("_incs", "_keys", "_seqs", "_untils")

    def __init__(self, table: MarkTable) -> None:
        self._keys = tuple(table)
        self._incs = array("Q", [inc for inc, _, _ in table.values()])
        self._seqs = array("I", [seq for _, seq, _ in table.values()])
        self._untils = array("d", [until for _, _, until in table.values()])

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def __getitem__(self, key: Key) -> tuple[int, int, float]:
        return dict(self.items())[key]

    def items(self) -> ItemsView[Key, tuple[int, int, float]]:
        values = zip(self._incs, self._seqs, self._untils, strict=True)
        return dict(zip(self._keys, values, strict=True)).items()


def emptied(node: Node, signer: Signer, rng: Rng) -> Node:
    """A node that never began, with the counts of one that has ended."""
    empty = Node(signer, node.settings, rng, node.gossip.publisher.inc, ())
    empty.gossip.counts = node.gossip.counts
    return empty
