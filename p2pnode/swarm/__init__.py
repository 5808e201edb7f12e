"""Links to other nodes: the one place where sockets between peers are opened.

``net`` is the seam (a byte stream to a proven peer), ``libp2p`` its implementation on py-libp2p with everything that
has to be contained in ``containment``, ``yamux`` and ``accept_gateway``; ``peerlink`` drives the multiplexer of
``protocol.wire.mux`` over one such stream; ``swarm`` drives ``protocol.node`` over all of them.
"""

from __future__ import annotations

from typing import Final

#: What the log says of an exception that should not be possible.
DEFECT: Final = "a defect of p2pnode; please report this"
