"""p2pnode: a daemon that turns independent GPUs into one OpenAI endpoint.

General layout
==============

``node`` is the composition root and opens the root nursery.  ``http`` is the API, ``jobs`` has the two sides of a job,
``swarm`` is the network, ``engine`` runs models, ``hardware`` finds GPUs, ``state`` keeps files, and ``cli`` has the
verbs.  All decisions are in the package ``protocol`` beside this one; all waiting is here.
"""

from __future__ import annotations

from pathlib import Path

import protocol

__version__ = "0.1.0"


def _check_sibling() -> None:
    """Refuse a foreign package ``protocol``: another distribution of that name would silently replace ours."""
    found = getattr(protocol, "__version__", None)
    where = Path(protocol.__file__ or ".").resolve().parent
    beside = where.parent == Path(__file__).resolve().parent.parent
    if found == __version__ and beside and hasattr(protocol, "PROTOCOL_VERSION"):
        return
    raise ImportError(
        f"the package 'protocol' in {where} (version {found or 'unknown'}) is not the one of p2pnode {__version__}: "
        "another distribution has taken the name. Repair it with: pip uninstall -y protocol && "
        "pip install --force-reinstall --no-deps p2pnode, or keep p2pnode apart with: uv tool install p2pnode"
    )


_check_sibling()
