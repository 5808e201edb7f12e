"""Checks that the network converges again after all faults (I9), and measures the time until then.

A network has converged if three things hold.  Every live honest node knows nearly all others, as far as its view has
room.  Its knowledge is not older than two periods of the author.  The links between honest nodes form no islands.

The check runs every second from the begin of the quiet phase on, and less often while the network is converged.  The
network has to converge within ``measure.liveness_s`` and stay converged to the end of that time.  A lapse of a few
seconds does not count: a load goes to few nodes, and if a broken link loses one, the next one repairs the gap.  In very
large networks each check draws a new sample of the nodes.
"""

from __future__ import annotations

from typing import Any, Final

from protocol.membership.peer_record import PeerRecord
from protocol.statements.keys import ADVERT, LOAD
from simulations.measure.breach import Breach
from simulations.rng_streams import rng_stream
from simulations.sim.cluster import Cluster
from simulations.sim.node import SimNode

#: Share of the places in views that has to be filled (guess: one load in a thousand may be late).
SHARE: Final = 0.999
#: Viewers looked at; all, if there are no more.
VIEWERS: Final = 64
#: A statement may be this many periods of its author old, and so many seconds on its way.
PERIODS: Final = 2.0
WAY_S: Final = 10.0
#: Seconds between two looks, and once it is whole.
EVERY_S: Final = 1.0
WHOLE_EVERY_S: Final = 5.0
#: A lapse that is over after so many seconds does not count (two periods of a load in a small network).
LAPSE_S: Final = 10.0


class Convergence:
    """See the module's docstring."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        scenario = cluster.scenario
        self.start = scenario.duration_s - scenario.quiet_s
        self.due = self.start + scenario.measure.liveness_s
        #: Since when it has been whole, and since when it has not been so.
        self.healed_at: float | None = None
        self._lapsed_at: float | None = None
        self._rng = rng_stream(cluster.seed, "healing")

    def prepare(self) -> None:
        """Nothing is demanded without a quiet phase; files with one that is too short are refused (``validation``)."""
        if self.cluster.scenario.quiet_s and self.due <= self.cluster.scenario.duration_s:
            self.cluster.loop.at(self.start + EVERY_S, self._look)

    def metrics(self) -> dict[str, Any]:
        """How long it took."""
        return {} if self.healed_at is None else {"heal_s": round(self.healed_at - self.start, 3)}

    def _look(self) -> None:
        now = self.cluster.loop.now
        wrong = self.wrong()
        if not wrong:
            self.healed_at = now if self.healed_at is None else self.healed_at
            self._lapsed_at = None
        elif self._lapsed_at is None:  # not since the last look: a whole network is looked at less often
            self._lapsed_at = now
        elif now - self._lapsed_at > LAPSE_S:
            self.healed_at = None
        if self.healed_at is None and now >= self.due:
            raise Breach("I9", now, f"{now - self.start:.0f} s after the last fault {wrong}")
        if now < self.due:
            self.cluster.loop.at(min(self.due, now + (EVERY_S if wrong else WHOLE_EVERY_S)), self._look)

    def wrong(self) -> str:
        """The reason why the network has not converged, or an empty text."""
        alive = [peer for peer in self.cluster.alive if peer.honest]
        if len(alive) < 2:
            return ""
        islands = islands_of(alive)
        if islands > 1:
            return f"the links between honest nodes make {islands} islands"
        viewers = alive if len(alive) <= VIEWERS else self._rng.sample(alive, VIEWERS)
        room = min(len(alive) - 1, self.cluster.scenario.node.gossip.view_size)
        wanted, known, example = room * len(viewers), 0, ""
        for viewer in viewers:
            fresh = 0
            for other in alive:
                if other is not viewer:
                    why = self._why_not(viewer, other)
                    fresh += not why
                    example = example or (why and f"node {viewer.index} has of node {other.index} {why}")
            known += min(room, fresh)
        return "" if known >= SHARE * wanted else f"{known} of {wanted} places in views are filled: {example}"

    def _why_not(self, viewer: SimNode, other: SimNode) -> str:
        """The missing knowledge about ``other`` in the view, or an empty text."""
        record = viewer.node.view.get(other.peer_id)
        if record is None or record.advert_env is None:
            return "no advert"
        if record.state not in ("alive", "suspect"):
            return f"the belief that it is {record.state}"
        return _old(record, other, self.cluster.loop.now)


def _old(record: PeerRecord, author: SimNode, now: float) -> str:
    gossip = author.node.gossip
    wall = gossip.wall(now)
    for name, kind, envelope in (("advert", ADVERT, record.advert_env), ("load", LOAD, record.load_env)):
        own = gossip.own(kind)
        if envelope is None or own is None or envelope.version == own.version:
            continue
        age = wall - envelope.issued
        if age > PERIODS * gossip.period(kind) + WAY_S:
            return f"a {name} of {age:.0f} s"
    return ""


def islands_of(peers: list[SimNode]) -> int:
    """Into how many parts the links divide them."""
    left = {peer.index: peer for peer in peers}
    islands = 0
    while left:
        islands += 1
        _, first = left.popitem()
        border = [first]
        while border:
            peer = border.pop()
            for link in peer.links.values():
                other = link.other(peer)
                if link.whole and other.index in left:
                    border.append(left.pop(other.index))
    return islands
