"""Links to other nodes; only this folder opens sockets between peers.

``net`` is the interface (a byte stream to an authenticated peer).  ``libp2p`` implements it on py-libp2p, with
workarounds in ``libp2p_workarounds``, ``yamux`` and ``tcp_listener``, and dials by ``proposal``.  ``peerlink`` drives
the multiplexer of ``protocol.wire.mux`` over one such stream, and ``swarm`` drives ``protocol.node`` over all of them.
"""

from __future__ import annotations

from typing import Final

#: The note in the log at an exception that means a defect.
DEFECT: Final = "a defect of p2pnode; please report this"
