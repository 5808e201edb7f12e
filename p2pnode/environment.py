"""What a node takes from the machine it runs on, in one value, so that a test can give it another world.

The defaults are the real thing.  Under virtual time (``tests/fullstack``) the wall clock is the virtual one, nothing
waits for a thread or a child process (a clock that jumps when all tasks wait would jump meanwhile), and random numbers
repeat. Sockets are not here: trio's own socket factory replaces those.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from p2pnode.announce import announce
from p2pnode.hardware.probe import Survey, survey


@dataclass(frozen=True, slots=True)
class Environment:
    """See the module's docstring."""

    #: Unix seconds.
    wall: Callable[[], float] = time.time
    #: Where every machine that draws random numbers gets its own from.
    rng: Callable[[], random.Random] = random.Random
    #: Asks the drivers what is built in.
    survey: Callable[[], Awaitable[Survey]] = survey
    #: Says that the node is ready.
    announce: Callable[..., None] = announce
    #: Variables that the engine is chosen and set up by.
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    #: Whether the disk is waited for in a thread.
    threads: bool = True
