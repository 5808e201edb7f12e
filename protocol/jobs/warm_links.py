"""Warm links: the pool that keeps them, and the loads that travel over them, both ways, as one part of a node.

A peer is in the ``pool`` because this node sends it jobs and wants its load; it is told the load by ``teller`` because
it sends jobs here.  Many are both, over one link.

Not here: the choice of the links (``routing.link_pool``), who is told what (``fresh_load``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from protocol.effects import Effect, Hangup, TimerKey
from protocol.events import Routed
from protocol.ids import PeerId
from protocol.jobs.fresh_load import LoadTeller
from protocol.membership.overlay import Overlay
from protocol.membership.peer_view import PeerView
from protocol.rng import Rng
from protocol.routing.link_pool import LinkPool
from protocol.settings import NodeSettings
from protocol.statements.adverts import Load
from protocol.wire.features import FRESH_LOAD
from protocol.wire.messages import FreshLoad, Full, Watch


class WarmLinks:
    """The warm links of one node; ``overlay`` knows the links that stand and those to neighbours."""

    def __init__(self, me: PeerId, settings: NodeSettings, view: PeerView, rng: Rng, overlay: Overlay) -> None:
        self._view = view
        self._once_s = settings.gossip.load_period_s
        self._overlay = overlay
        self.pool = LinkPool(me, settings.pool, settings.connections.connections, view, rng, overlay.linked)
        self.teller = LoadTeller(settings.pool)

    def __contains__(self, peer: PeerId) -> bool:
        """Whether the link to ``peer`` stays open while it is idle."""
        return peer in self.pool or peer in self.teller

    def sizes(self) -> dict[str, int]:
        """The sizes of the tables that others could make grow."""
        return {**self.pool.sizes(), "watchers": len(self.teller)}

    def stats(self) -> dict[str, int]:
        """Levels and a counter, for metrics."""
        return {"warm_links": len(self.pool), "watchers": len(self.teller), "loads_told": self.teller.told}

    def link_up(self, peer: PeerId, features: tuple[str, ...], now: float) -> list[Effect]:
        """A link stands."""
        return self.pool.link_up(peer, now, tells=FRESH_LOAD in features)

    def link_down(self, peer: PeerId, now: float) -> list[Effect]:
        """A link is gone."""
        self.teller.forget(peer)
        return self.pool.link_down(peer, now)

    def routed(self, event: Routed, now: float) -> list[Effect]:
        """The peers for a job were ranked here."""
        return self.pool.routed(event, now)

    def report(self, load: Load, jobs: Mapping[PeerId, int], now: float) -> list[Effect]:
        """This node's own load, and how many of its jobs are of which peer."""
        return self.teller.report(load, jobs, now)

    def on_message(self, peer: PeerId, message: Watch | FreshLoad | Full, now: float) -> list[Effect]:
        """Handle a message of a peer with a link."""
        if isinstance(message, FreshLoad):
            # Each change of the load if the pool keeps the link, else this one load, with the answer to a job.
            until = math.inf if peer in self.pool else now + self._once_s
            self._view.put_fresh(peer, message, now, until)
            return []
        if isinstance(message, Watch):
            return self.teller.watch(peer, message, now)
        effects = self.pool.full(peer, now)
        record = self._view.get(peer)
        if effects and record is not None and record.outbound and not (peer in self or self._overlay.is_standing(peer)):
            effects.append(Hangup(peer, "it has no room for jobs of ours"))
        return effects

    def timer(self, key: TimerKey, now: float) -> list[Effect]:
        """Handle an expired timer of the pool or the teller."""
        return self.pool.timer(now) if key[0] == "pool" else self.teller.timer(now)
