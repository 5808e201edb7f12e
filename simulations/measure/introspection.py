"""Looks inside the machines of a node, at what they show nobody: sizes and levels, for checks that must not trust them.

It reads private names on purpose, and is the only module that does.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from protocol.node import Node
from protocol.perf.batch_engine import BatchEngine


class EngineState(NamedTuple):
    """An engine from inside.  ``could_start``: the first of the queue has a slot and memory, and still waits."""

    jobs: int
    kv_used: float
    kv_pinned: float
    kv_total: float
    could_start: bool
    wake: float


def engine_state(engine: BatchEngine, now: float) -> EngineState:
    """What the engine holds at this moment."""
    own = engine._own_bytes(engine._clock.count(now))
    pinned, total = engine._kv.pinned_bytes, engine._models.kv_bytes
    first = next((job for job in engine._queue if not job.gone), None)
    could_start = False
    if first is not None and engine.running < engine.slots:
        token = first.lane.timing.kv_bytes
        blocks = engine._kv.unpinned(first.keys) * token * engine._block_tokens
        need = first.held_bytes(first.made, engine._block_tokens, engine._exact) + blocks
        could_start = not engine._admitted or own + pinned + need + engine._growth + token * first.sequences <= total
    return EngineState(
        len(engine._jobs), own + pinned, pinned, total if total < inf else inf, could_start, engine._wake
    )


def node_sizes(node: Node) -> dict[str, int]:
    """How much a node holds that others could make grow."""
    lists = (len(link.lacks) for link in node.gossip._links.values())
    return {
        "view": len(node.view),
        "links": len(node.overlay.linked),
        "marks": len(node.gossip._marks),
        "lacks": max(lists, default=0),
        "shelf_keys": len(node.dht.records),
        "shelf_statements": node.dht.records.statements,
    }
