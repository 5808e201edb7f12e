"""The nodes of one run, the network between them, and their shared parts: event loop, job log, seeds.

Not here: the phases of a run and the jobs that arrive (``simulations.run``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from protocol.ids import PeerId
from simulations.event_loop import EventLoop
from simulations.rng_streams import rng_stream
from simulations.scenario import Scenario
from simulations.sim.baselines import chooser
from simulations.sim.cpu_costs import load_costs
from simulations.sim.entry import SimEntry
from simulations.sim.job_log import JobLog
from simulations.sim.machines import machine
from simulations.sim.network import Network
from simulations.sim.node import SimNode
from simulations.sim.topology import latencies
from simulations.sim.worker import Worker

#: The class of the node at an index, and the class of the worker on a node.
NodeClass = Callable[[Scenario, int, int], type[SimNode]]
WorkerClass = Callable[[SimNode], type[Worker]]
#: The first byte of the first address that a node gets.
_FIRST_NET: Final = 20


class Cluster:
    """See the module's docstring."""

    def __init__(self, scenario: Scenario, seed: int, node_class: NodeClass, worker_class: WorkerClass) -> None:
        self.scenario = scenario
        self.seed = seed
        self.loop = EventLoop()
        topology = scenario.topology
        self.job_log = JobLog(self.loop, (scenario.warmup_s, scenario.duration_s - scenario.quiet_s))
        self.costs = load_costs()
        self.network = Network(self.loop, latencies(topology, seed), seed, loss=topology.loss, drop=topology.drop)
        #: All nodes; and without the further identities that some machines make up.
        self.peers: list[SimNode] = []
        self.machines: list[SimNode] = []
        self.by_peer: dict[PeerId, SimNode] = {}
        self.workers: dict[PeerId, Worker] = {}
        #: The side of a partition that a node is on, -1 for a bridge; None without a partition.
        self.side_of: Callable[[SimNode], int] | None = None
        self._node_class = node_class
        self._worker_class = worker_class
        self._choose = chooser(scenario.routing.policy, self.network, self.peers, seed)
        for index in range(topology.nodes):
            self.add(index)
        self.seeds = tuple((peer.peer_id, (peer.addr,)) for peer in self.peers[: topology.seeds])

    def add(self, index: int, address: str = "", of: SimNode | None = None) -> SimNode:
        """One more machine, not yet running; it depends on seed and index only.

        Or, with ``of``, one more identity of a machine that is there.
        """
        scenario = self.scenario
        key = hashlib.sha256(f"{self.seed}/key/{index}".encode()).digest()
        made = machine(scenario, self.seed, index) if of is None else of.machine
        peer = (self._node_class(scenario, self.seed, index) if of is None else type(of))(
            index,
            key,
            address or address_of(index, scenario.topology.per_group),
            made,
            scenario.node,
            self.network,
            self.costs,
            self.job_log,
            self.seed,
        )
        peer.wall_error = rng_stream(self.seed, "clock", index).gauss(0.0, scenario.topology.clock_skew_s)
        self.peers.append(peer)
        if of is None:
            self.machines.append(peer)
        self.network.by_addr[peer.addr] = peer
        self.network.by_peer[peer.peer_id] = self.by_peer[peer.peer_id] = peer
        self.job_log.by_peer_id[peer.peer_id] = peer
        peer.entry = SimEntry(peer, self._choose, self.workers)
        if made.serves:
            peer.worker = self.workers[peer.peer_id] = self._worker_class(peer)(peer, scenario.engine)
        return peer

    def start(self, peer: SimNode) -> None:
        """Its daemon starts, knowing the seeds."""
        if not peer.up:
            peer.start(tuple(seed for seed in self.seeds if seed[0] != peer.peer_id))

    @property
    def alive(self) -> list[SimNode]:
        """The nodes whose daemon runs."""
        return [peer for peer in self.peers if peer.up]


def address_of(index: int, per_group: int) -> str:
    """A public address; every ``per_group`` nodes share a /24."""
    group = index // per_group
    return f"{_FIRST_NET + (group >> 16)}.{group >> 8 & 255}.{group & 255}.{1 + index % per_group}"
