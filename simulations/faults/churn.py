"""Churn: the session lengths of the nodes, the way they leave, and the state that they lose.

Theory of operation
===================

Every node has one random stream for its session lengths and one for its departures, so an extra node does not change
the fate of the others::

    up    its session is over      -> crash (``crash_share``; without a goodbye) or goodbye  -> down
    down  its time off is over     -> starts again; with ``amnesia``, of the crashed, without its state   -> up
    down  a fault holds it down    -> looks again after another time off

Sessions are exponential, Weibull (heavy tailed with a shape below 1), or bimodal: a share of the nodes is stable and
stays for ever, the others have exponential sessions.  The mean is ``mean_session_s`` in every case.  A node that joins
before ``from_s`` begins its first session then.  Newcomers are machines that were never there before; they stay as
long as other nodes.

Churn stops at ``until_s``, or when the quiet phase begins.  All absent nodes return at that moment, because the quiet
phase checks that the whole network converges.

Not here: accidental faults (``faults``).
"""

from __future__ import annotations

import math

from protocol.events import GOODBYE_S
from simulations.rng_streams import rng_stream
from simulations.scenario import Churn
from simulations.sim.cluster import Cluster
from simulations.sim.node import SimNode


def prepare(cluster: Cluster) -> None:
    """Schedule the comings and goings."""
    ChurnProcess(cluster).prepare()


def quiet_at(cluster: Cluster) -> float:
    """When the quiet phase begins; the end of the run if there is none."""
    return cluster.scenario.duration_s - cluster.scenario.quiet_s


class ChurnProcess:
    """See the module's docstring."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.loop = cluster.loop
        self.churn: Churn = cluster.scenario.churn
        end = quiet_at(cluster)
        self.until = min(end, self.churn.until_s) if self.churn.until_s else end
        self._away: dict[int, SimNode] = {}

    def prepare(self) -> None:
        """Schedule the first session of each node, and the newcomers."""
        churn = self.churn
        if churn.newcomers_per_s:
            self._next_newcomer(len(self.cluster.peers), churn.from_s)
        if churn.crowd_factor:
            self.loop.at(churn.crowd_at_s, self._crowd)
        if churn.model == "none":
            return
        for peer in self.cluster.peers:
            self._begin(peer)
        self.loop.at(self.until, self._all_back)

    # --- newcomers -----------------------------------------------------------------------------------------------

    def _next_newcomer(self, number: int, after: float) -> None:
        gap = rng_stream(self.cluster.seed, "newcomer", number).expovariate(self.churn.newcomers_per_s)
        if after + gap < self.until:
            self.loop.at(after + gap, self._newcomer, number, after + gap)

    def _newcomer(self, number: int, at: float) -> None:
        self._join()
        self._next_newcomer(number + 1, at)

    def _crowd(self) -> None:
        count = round(self.churn.crowd_factor * len(self.cluster.peers))
        for number in range(count):
            self.loop.at(self.loop.now + self.churn.crowd_over_s * number / count, self._join)

    def _join(self) -> None:
        peer = self.cluster.add(len(self.cluster.peers))
        self.cluster.start(peer)
        if self.churn.model != "none":
            self._begin(peer)

    # --- sessions ------------------------------------------------------------------------------------------------

    def _begin(self, peer: SimNode) -> None:
        if self.churn.spare_seeds and peer.index < self.cluster.scenario.topology.seeds:
            return
        rng = rng_stream(self.cluster.seed, "session", peer.index)
        if self.churn.model == "bimodal" and rng.random() < self.churn.stable:
            return
        start = max(self.churn.from_s, self.loop.now)
        self._stay(peer, start, 0)

    def _stay(self, peer: SimNode, start: float, number: int) -> None:
        end = start + self._session_s(peer, number)
        if end < self.until:
            self.loop.at(end, self._go, peer, number)

    def _session_s(self, peer: SimNode, number: int) -> float:
        rng, churn = rng_stream(self.cluster.seed, f"session-{number}", peer.index), self.churn
        if churn.model == "weibull":
            scale = churn.mean_session_s / math.gamma(1 + 1 / churn.shape)
            return rng.weibullvariate(scale, churn.shape)
        return rng.expovariate(1 / churn.mean_session_s)

    def _go(self, peer: SimNode, number: int) -> None:
        rng, churn = rng_stream(self.cluster.seed, f"way-{number}", peer.index), self.churn
        crashes, forgets = rng.random() < churn.crash_share, rng.random() < churn.amnesia
        off = rng.expovariate(1 / churn.mean_off_s)
        if crashes:
            peer.stop(silently=True, forgets=forgets)
        else:
            peer.leave()
        self._away[peer.index] = peer
        self.loop.at(self.loop.now + off, self._back, peer, number, off)

    def _back(self, peer: SimNode, number: int, off: float) -> None:
        if peer.index not in self._away:
            return  # it came back with all others
        if peer.held and self.loop.now + off < self.until:
            self.loop.at(self.loop.now + off, self._back, peer, number, off)
            return
        del self._away[peer.index]
        self._start(peer)
        self._stay(peer, self.loop.now, number + 1)

    def _all_back(self) -> None:
        for peer in self._away.values():
            self._start(peer)
        self._away.clear()

    def _start(self, peer: SimNode) -> None:
        if not peer.held:
            # A node that is saying goodbye has to end first.
            self.loop.at(self.loop.now + (GOODBYE_S if peer.up else 0.0), self.cluster.start, peer)
