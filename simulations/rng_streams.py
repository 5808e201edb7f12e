"""A die per purpose, and per node where each draws for itself, made from the seed: new purposes shift nobody's throws.

A few purposes have one die for all nodes: jitter and loss of the network (``network``), whom a fault hits, arrivals.
There a message or a job more shifts the throws that come after it.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np


def _number(seed: int, purpose: str, index: int) -> int:
    text = f"{seed}/{purpose}/{index}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:16], "big")


def rng_stream(seed: int, purpose: str, index: int = 0) -> random.Random:
    """The die of one node for one purpose."""
    return random.Random(_number(seed, purpose, index))


def numpy_rng_stream(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """The same for many draws at once."""
    return np.random.Generator(np.random.PCG64(_number(seed, purpose, index)))
