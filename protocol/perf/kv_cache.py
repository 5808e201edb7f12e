"""The prefix cache of one engine: the prompt blocks that jobs use, and idle blocks that a later prompt may reuse.

Theory of operation
===================

Different prompts may begin with equal blocks.  A block is identified by itself *and all blocks before it*, so its key
is a chain: key(i) = mix(key(i - 1), id of block i), starting with the model.  A block in use is *pinned* and counted
once, independently of the number of its jobs.  A block without a job is *idle*.  It stays cached until its memory is
needed; the least recently used block is evicted first, and of one prompt the last block.  Not here: memory that a job
does not share (the rest of its prompt, its answer); the caller passes the free memory.

Memory is counted in bytes, because the size of a token differs by model; all blocks of one model have one size.

Not here: when jobs get memory (``batch_engine``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

#: Most idle blocks if the memory is unbounded (guess: 1 M tokens in blocks of 16).
MOST_IDLE: Final = 65_536

Keys = tuple[int, ...]


def _mix(parent: int, block: int) -> int:
    return hash((parent, block))  # of integers only, so it does not depend on the hash seed


def chain(root: int, blocks: Iterable[int]) -> Keys:
    """Keys of a prompt's blocks; ``root`` is the number of the model."""
    return tuple(accumulate(blocks, _mix, initial=hash((root,))))[1:]


class KvCache:
    """See the module's docstring."""

    __slots__ = ("_idle", "_pins", "idle_bytes", "pinned_bytes")

    def __init__(self) -> None:
        self.pinned_bytes = 0.0
        self.idle_bytes = 0.0
        self._pins: dict[int, int] = {}
        # The size of each, the least recently used first.
        self._idle: OrderedDict[int, float] = OrderedDict()

    def known(self, keys: Keys) -> int:
        """The number of cached blocks at the start of a prompt."""
        count = 0
        for key in keys:
            if key not in self._pins and key not in self._idle:
                break
            count += 1
        return count

    def unpinned(self, keys: Keys) -> int:
        """The number of these blocks that no job uses."""
        return sum(key not in self._pins for key in keys)

    def pin(self, keys: Keys, size: float) -> None:
        """One more job uses these blocks, each of ``size`` bytes."""
        for key in keys:
            uses = self._pins.get(key, 0)
            self._pins[key] = uses + 1
            if not uses:
                self.pinned_bytes += size
                if self._idle.pop(key, None) is not None:
                    self.idle_bytes -= size

    def unpin(self, keys: Keys, size: float, written: int) -> None:
        """A job no longer uses these blocks, of which it has written the first ``written``."""
        for place in range(len(keys) - 1, -1, -1):
            key = keys[place]
            uses = self._pins[key] - 1
            if uses:
                self._pins[key] = uses
                continue
            del self._pins[key]
            self.pinned_bytes -= size
            if place < written:
                self._idle[key] = size
                self.idle_bytes += size

    def trim(self, room: float) -> None:
        """Evict idle blocks until the rest fits into ``room`` bytes."""
        idle = self._idle
        while idle and (self.idle_bytes > room or len(idle) > MOST_IDLE):
            self.idle_bytes -= idle.popitem(last=False)[1]
