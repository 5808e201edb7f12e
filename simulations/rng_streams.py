"""Random streams made from the seed: one per purpose, and one per node where nodes draw independently.

A new purpose therefore does not shift the draws of the others.  A few purposes share one stream among all nodes: jitter
and loss of the network (``network``), the targets of a fault, arrivals.  There an extra message or job shifts all later
draws.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np


def _number(seed: int, purpose: str, index: int) -> int:
    text = f"{seed}/{purpose}/{index}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:16], "big")


def rng_stream(seed: int, purpose: str, index: int = 0) -> random.Random:
    """The random stream of one node for one purpose."""
    return random.Random(_number(seed, purpose, index))


def numpy_rng_stream(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """The same for many draws at once."""
    return np.random.Generator(np.random.PCG64(_number(seed, purpose, index)))
