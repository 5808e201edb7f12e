"""The policies of an entry: those of the daemon, and baselines that only a simulator can have.

``omniscient`` reads the true state of every engine without delay, including the jobs on their way to it.  It takes the
least predicted time to the first token.  No real node can be better informed, so it is the ceiling.  ``round-robin``
and ``power-of-two-live`` are the policies of central gateways, the latter with true counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from protocol.ids import PeerId
from protocol.perf.cost_model import REQUEST_S
from protocol.reputation.experience import Experience
from protocol.routing.policies import POLICIES, SORTS
from protocol.routing.ranking import Candidate, JobQuery, Ranking
from simulations.rng_streams import rng_stream
from simulations.sim.entry import Choose, by_policy, offered
from simulations.sim.host import Host
from simulations.sim.network import HANDSHAKE_TRIPS, Network
from simulations.sim.node import SimNode

#: The peers that a baseline asks, best first; empty if no machine that lives has the model.
Order = Callable[[Host, JobQuery], tuple[PeerId, ...]]
#: How many are offered to the cascade.
_ASKED: Final = 8


class _Offering:
    """The machines that have a model, as they are: found once, filtered by who lives when asked."""

    def __init__(self, peers: Sequence[SimNode]) -> None:
        self._peers = peers
        self._count = -1
        self._by_model: dict[str, list[SimNode]] = {}

    def of(self, model: str) -> list[SimNode]:
        peers = self._peers
        if len(peers) != self._count:
            self._count = len(peers)
            self._by_model.clear()
            for peer in peers:
                for offer in peer.machine.offers if peer.worker is not None else ():
                    self._by_model.setdefault(offer.name, []).append(peer)
        return [peer for peer in self._by_model.get(model, ()) if peer.up]


def chooser(policy: str, network: Network, peers: Sequence[SimNode], seed: int) -> Choose:
    """The way of that name; raises ``ValueError``, which names those that exist."""
    if policy in POLICIES or policy in SORTS:
        return by_policy(policy)
    if policy not in BASELINES:
        raise ValueError(f"no policy {policy!r}; choose one of {', '.join((*POLICIES, *BASELINES))}")
    order = BASELINES[policy](network, peers, seed)

    def choose(peer: Host, query: JobQuery, _explain: bool, _experience: Experience | None) -> Ranking:
        candidates = tuple(Candidate(chosen, 0.0, (), True, None) for chosen in order(peer, query))
        return Ranking(query, policy, candidates, (), offered(peer, query.model))

    return choose


def _omniscient(network: Network, peers: Sequence[SimNode], _seed: int) -> Order:
    offering = _Offering(peers)
    one_way_s = network.latencies.one_way_s

    def choose(peer: Host, query: JobQuery) -> tuple[PeerId, ...]:
        scored = []
        for other in offering.of(query.model):
            worker = other.worker
            if worker is None or worker.broken or not other.honest:
                continue
            trip = 0.0 if other is peer else 2 * one_way_s(peer.index, other.index)
            if other is not peer and other.peer_id not in peer.links:
                trip *= 1 + HANDSHAKE_TRIPS
            scored.append((trip + worker.true_wait_s(query) + REQUEST_S, other.index, other.peer_id))
        scored.sort()
        return tuple(peer_id for _, _, peer_id in scored[:_ASKED])

    return choose


def _round_robin(_network: Network, peers: Sequence[SimNode], _seed: int) -> Order:
    offering = _Offering(peers)
    turns: dict[tuple[int, str], int] = {}

    def choose(peer: Host, query: JobQuery) -> tuple[PeerId, ...]:
        peers = offering.of(query.model)
        if not peers:
            return ()
        key = (peer.index, query.model)
        turn = turns.get(key, peer.index)  # every entry begins elsewhere
        turns[key] = turn + 1
        return tuple(peers[(turn + step) % len(peers)].peer_id for step in range(min(_ASKED, len(peers))))

    return choose


def _power_of_two(_network: Network, peers: Sequence[SimNode], seed: int) -> Order:
    offering = _Offering(peers)
    rng = rng_stream(seed, "power-of-two")

    def choose(_peer: Host, query: JobQuery) -> tuple[PeerId, ...]:
        peers = offering.of(query.model)
        drawn = rng.sample(peers, min(_ASKED, len(peers)))
        first = sorted(drawn[:2], key=_true_jobs)
        return tuple(other.peer_id for other in (*first, *drawn[2:]))

    return choose


def _true_jobs(peer: SimNode) -> float:
    worker = peer.worker
    assert worker is not None, "only workers offer models"
    return (worker.running + worker.waiting) / max(1, peer.machine.slots)


#: The policies that the daemon does not have.
BASELINES: Final[dict[str, Callable[[Network, Sequence[SimNode], int], Order]]] = {
    "omniscient": _omniscient,
    "power-of-two-live": _power_of_two,
    "round-robin": _round_robin,
}
