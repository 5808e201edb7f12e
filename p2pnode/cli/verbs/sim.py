"""``p2pnode sim``: the command of the network simulator, which is independent of the daemon."""

from __future__ import annotations

from simulations.cli import command

__all__ = ["command"]
