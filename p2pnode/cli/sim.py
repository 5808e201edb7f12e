"""``p2pnode sim``: the network simulator, which knows nothing of the daemon and brings its own command.

Not here: anything.  Who calls it: ``app``, which imports this module, and with it the simulator, when the verb is used.
"""

from __future__ import annotations

from simulations.cli import command

__all__ = ["command"]
