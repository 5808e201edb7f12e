"""What one observer has learned of its peers from its own jobs, and its effect on the view that ranking reads.

Only this node's observations count: no other node's word changes anything here.  Not here: the ranking itself
(``routing``), the attempts (``jobs``), storage (the driver).
"""

from __future__ import annotations

from protocol.ids import PeerId
from protocol.membership.peer_view import PeerView
from protocol.reputation.observation import Observation
from protocol.reputation.outcomes import Outcome


class Experience:
    """The observations of one node."""

    def __init__(self, view: PeerView) -> None:
        self._view = view

    def attempted(self, peer: PeerId) -> None:
        """A job of ours begins at a peer."""
        self._view.add_inflight(peer, +1)

    def observed(self, seen: Observation) -> None:
        """A job of ours ended there."""
        self._view.add_inflight(seen.peer, -1)
        if seen.outcome is Outcome.COMPLETED:
            self._view.observe_success(seen.peer)
        if seen.outcome is Outcome.UNREACHABLE:
            self._view.observe_unreachable(seen.peer)
