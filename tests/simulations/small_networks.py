"""Tiny simulated networks, small enough to know by hand what has to come out.

``bare`` makes machines without a daemon on a real network.  ``world`` makes a whole network in which nothing happens by
itself: no jobs arrive, no delay has jitter, and no processor takes time unless a test asks for it.  ``Caller`` brings
jobs to an entry; the job log keeps what became of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from protocol.ids import PeerId
from protocol.routing.ranking import Candidate, Ranking
from protocol.settings import NodeSettings
from simulations.event_loop import EventLoop
from simulations.run import Run
from simulations.scenario import EngineModel, Hardware, Lengths, Measure, Model, Models, Scenario, Topology, Workload
from simulations.sim.cpu_costs import Costs, load_costs
from simulations.sim.endpoint import SimLink
from simulations.sim.entry import SimEntry
from simulations.sim.job_log import JobLog, JobNote
from simulations.sim.jobs import Job, SimAttempt, Truth
from simulations.sim.machines import Machine
from simulations.sim.network import Network
from simulations.sim.node import SimNode
from simulations.sim.topology import Uniform

MODEL = "llama-3.1-8b-instruct"
#: One-way seconds between any two nodes.
DELAY_S = 0.02
#: Processors that take no time.
FREE = Costs(**dict.fromkeys(Costs.__struct_fields__, 0.0))
MEASURED = load_costs()


class BareMachine(SimNode):
    """A machine without a daemon: it notes what reaches it, and when."""

    def boot(self) -> None:
        self.life += 1
        self.up, self.vanished, self.cpu_until = True, False, self.loop.now
        self.notes: list[tuple[float, Any]] = []

    def rng(self, *, silently: bool) -> None:
        self.up, self.vanished = False, silently
        for link in list(self.links.values()):
            if silently:
                self.network.block(link)
            else:
                self.network.break_link(link, "reset")
        self.links.clear()

    def hear(self, what: Any) -> None:
        self.notes.append((self.loop.now, what))

    def received(self, peer: PeerId, message: Any, size: int = 0) -> None:
        self.hear((peer, message))

    def link_up(self, link: SimLink, addrs: tuple[str, ...]) -> None:
        self.hear("up")

    def link_down(self, link: SimLink, other: SimNode, reason: str) -> None:
        self.hear(f"down: {reason}")

    def round_trip(self, peer: PeerId, seconds: float) -> None:
        self.hear(("trip", seconds))

    def heard(self, what: Any) -> list[float]:
        """When it heard this."""
        return [at for at, said in self.notes if said == what]


def bare(
    count: int = 2,
    *,
    jitter: float = 0.0,
    loss: float = 0.0,
    drop: float = 0.0,
    delay_s: float = DELAY_S,
    bytes_s: float = 1e6,
    seed: int = 1,
    settings: NodeSettings | None = None,
) -> tuple[Network, list[BareMachine]]:
    """Machines that run and have no links yet."""
    loop = EventLoop()
    network = Network(loop, Uniform(delay_s, jitter), seed, loss=loss, drop=drop)
    job_log = JobLog(loop, (0.0, 1e9))
    hardware = Machine(None, 0, (), 1.0, bytes_s, bytes_s, "everywhere")
    peers = []
    for index in range(count):
        key, address = bytes([index + 1]) * 32, f"20.0.{index}.1"
        peer = BareMachine(index, key, address, hardware, settings or NodeSettings(), network, FREE, job_log, seed)
        network.by_addr[peer.addr] = network.by_peer[peer.peer_id] = peer
        peer.boot()
        peers.append(peer)
    return network, peers


def linked(network: Network, a: SimNode, b: SimNode) -> SimLink:
    """A link that ``a`` has dialled; the time that takes has passed, and nobody remembers it."""
    network.dial(a, b.peer_id, (b.addr,), lambda link, reason: None)
    while b.peer_id not in a.links:
        network.loop.run(network.loop.now + network.latencies.one_way_s(a.index, b.index) / 2)
    for peer in (a, b):
        if isinstance(peer, BareMachine):
            peer.notes.clear()
    return a.links[b.peer_id]


def scenario(nodes: int = 2, **changes: Any) -> Scenario:
    """A quiet network of equal machines, one model, all links standing from the start."""
    base = Scenario(
        name="tiny",
        duration_s=300.0,
        warmup_s=0.0,
        topology=Topology(
            nodes=nodes, latency="uniform", latency_s=DELAY_S, jitter=0.0, join_s=0.0, settled=True, clock_skew_s=0.0
        ),
        hardware=(Hardware(gpu="rtx 4090", slots=4),),
        models=Models(catalogue=(Model(name=MODEL),)),
        engine=EngineModel(efficiency_sigma=0.0),
        workload=Workload(kind="none"),
        measure=Measure(invariants_every_s=1.0),
    )
    return msgspec.structs.replace(base, **changes)


def busy(nodes: int = 12, rate_per_s: float = 6.0, duration_s: float = 30.0, **changes: Any) -> Scenario:
    """The same with short jobs that come by themselves, measured from 5 s on."""
    short = Lengths(median=100.0, sigma=0.5, most=400)
    jobs = Workload(rate_per_s=rate_per_s, prompt=Lengths(median=300.0, sigma=0.5, most=2000), output=short)
    return scenario(nodes, **({"duration_s": duration_s, "warmup_s": 5.0, "workload": jobs} | changes))


def world(given: Scenario, *, costs: Costs = FREE, seed: int = 1, until: float = 2.0) -> Run:
    """A world that has run for a moment, so that links stand and everybody knows everybody."""
    made = Run(given, seed)
    for peer in made.peers:
        peer.costs = costs
    made.prepare()
    made.loop.run(until)
    return made


def ordered(peer: SimNode, *workers: SimNode) -> SimEntry:
    """Let the node ask these workers, in this order, for every job."""
    order = tuple(Candidate(worker.peer_id, 0.0, (), True, None) for worker in workers)
    workers = {each.peer_id: each.worker for each in (peer, *workers) if each.worker is not None}
    peer.entry = SimEntry(peer, lambda _peer, query, *_: Ranking(query, "ordered", order), workers)
    return peer.entry


class Caller:
    """Brings jobs to a node, numbered from 1."""

    def __init__(self, made: Run, at: SimNode) -> None:
        self.world = made
        self.at = at
        self.notes: list[JobNote] = []

    def ask(
        self,
        *,
        model: str = MODEL,
        prompt: int = 300,
        output: int = 50,
        most: int = 400,
        streamed: bool = True,
        blocks: tuple[int, ...] = (),
    ) -> JobNote:
        """One job, now."""
        job_log = self.world.job_log
        job = Job(job_log.submitted + 1, model, prompt, most, streamed, blocks, 0, self.world.loop.now)
        assert self.at.entry is not None
        job_log.arrived(self.at, job, output)
        self.notes.append(job_log.open[job.number])
        self.at.entry.arrives(job, Truth(output))
        return self.notes[-1]

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.world.loop.run(self.world.loop.now + seconds)


def engine_times(peer: SimNode, prompt: int) -> tuple[float, float]:
    """Seconds that an idle engine needs until the first token, which comes with the prompt, and for the next one."""
    assert peer.worker is not None
    timing = peer.worker.timings[MODEL]
    return timing.request_s + timing.read_s(prompt), timing.step(1, float(prompt))[0]


def attempt_of(made: Run, worker: SimNode) -> SimAttempt:
    """The only attempt that a worker has."""
    assert worker.worker is not None
    (attempt,) = worker.worker.tasks()
    assert attempt.entry in made.peers
    return attempt


def outcomes(made: Run) -> dict[str, int]:
    """How the attempts went."""
    return dict(made.job_log.outcomes)


def indices(peers: Sequence[SimNode]) -> list[int]:
    return [peer.index for peer in peers]
