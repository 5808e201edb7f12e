"""The services of the machine that a node uses, in one value, so that tests can replace them.

The defaults are the real ones.  Under virtual time (``tests/fullstack``) the wall clock is virtual, random numbers
repeat, and a node waits for no thread or child process, because the virtual clock would jump meanwhile.
Not here: sockets, which trio's own socket factory replaces.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from p2pnode.hardware.probe import Survey, survey
from p2pnode.ready_line import announce


@dataclass(frozen=True, slots=True)
class Environment:
    """See the module's docstring."""

    #: Unix seconds.
    wall: Callable[[], float] = time.time
    #: Makes a random number generator for each machine that needs one.
    rng: Callable[[], random.Random] = random.Random
    #: Asks the drivers for the hardware.
    survey: Callable[[], Awaitable[Survey]] = survey
    #: Writes the ready line.
    announce: Callable[..., None] = announce
    #: Environment variables that choose and configure the engine.
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    #: Whether threads access the disk.
    threads: bool = True
