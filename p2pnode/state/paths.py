"""The paths of a node's files: one home directory with key, database, configuration and logs.

Not here: reading, writing, or the modes of the files (``keys``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs

#: The variable that names the home; ``--home`` wins over it.
HOME_VARIABLE: Final = "P2PNODE_HOME"


@dataclass(frozen=True, slots=True)
class Paths:
    """The files of the node whose home is ``home``."""

    home: Path

    @property
    def config(self) -> Path:
        return self.home / "config.toml"

    @property
    def node_key(self) -> Path:
        return self.home / "node.key"

    @property
    def api_key(self) -> Path:
        return self.home / "api-key"

    @property
    def database(self) -> Path:
        return self.home / "node.db"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def daemon(self) -> Path:
        """The facts of a running daemon: its addresses and its process id."""
        return self.home / "daemon.json"

    @property
    def lock(self) -> Path:
        """Locked while a daemon runs, because two daemons must not share an identity."""
        return self.home / "lock"


def find_paths(home: str | Path | None = None, environ: Mapping[str, str] = os.environ) -> Paths:
    """The given home, else ``P2PNODE_HOME``, else this platform's directory for application data."""
    chosen = home or environ.get(HOME_VARIABLE)
    if chosen:
        return Paths(Path(chosen).expanduser().absolute())
    return Paths(platformdirs.user_data_path("p2pnode", appauthor=False))
