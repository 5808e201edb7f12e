"""``p2pnode sim``: the network simulator, which knows nothing of the daemon and brings its own command."""

from __future__ import annotations

from simulations.cli import command

__all__ = ["command"]
