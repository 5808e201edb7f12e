"""The KV cache of one engine: which blocks of prompts it holds for whom, and which it still remembers.

Theory of operation
===================

A prompt begins with blocks that other prompts may begin with, too.  A block stands for itself *and all before it*, so
its key is a chain: key(i) = mix(key(i - 1), id of block i), which starts with the model.  A block that some job uses is
*pinned* and counted once however many use it; one that nobody uses any more is *idle*: it is remembered until its
memory is needed, the longest unused first, and of one prompt the last block first.  What a job holds alone (the rest
of its prompt, its answer) is no business of this class: whoever asks says how much memory is left.

Memory is counted in bytes, because models differ in what a token takes; all blocks of one model have one size.

Not here: when jobs get memory (``batch_engine``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

#: Idle blocks remembered where memory has no known bound (guess: 1 M tokens in blocks of 16).
MOST_IDLE: Final = 65_536

Keys = tuple[int, ...]


def _mix(parent: int, block: int) -> int:
    return hash((parent, block))  # of numbers only, so that it does not depend on the hash seed


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
        # The size of each, the longest unused first.
        self._idle: OrderedDict[int, float] = OrderedDict()

    def known(self, keys: Keys) -> int:
        """How many blocks at the start are held."""
        count = 0
        for key in keys:
            if key not in self._pins and key not in self._idle:
                break
            count += 1
        return count

    def unpinned(self, keys: Keys) -> int:
        """How many of the blocks would be pinned anew."""
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
        """A job is done with these blocks, of which it has written the first ``written``."""
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
        """Forget idle blocks until the rest fits into ``room`` bytes."""
        idle = self._idle
        while idle and (self.idle_bytes > room or len(idle) > MOST_IDLE):
            self.idle_bytes -= idle.popitem(last=False)[1]
