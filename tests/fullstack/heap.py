"""The same run on the simulator: a world of ``simulations`` with the nodes, the jobs and the network of a ``Run``.

Everything that the other layers take from the daemon is said here in the simulator's words: the mock engine's GPU,
model and slots, one bootstrap node, starts one after the other, one delay between any two, links without a limit, the
very same jobs at the very same entries.  Processors are free unless the run says otherwise: virtual time charges
nothing for computing either.
"""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec

from p2pnode.engine.mock import DEFAULT_SLOTS
from p2pnode.engine.mock_text import TOKENS_PER_MESSAGE
from p2pnode.engine.selection import MOCK_MODEL
from protocol.settings import PROFILES
from simulations.run import Run as SimRun
from simulations.scenario import EngineModel, Hardware, Measure, Model, Models, Scenario, Topology, Uplink, Workload
from simulations.sim.cpu_costs import Costs, load_costs
from simulations.sim.endpoint import SimLink
from simulations.sim.jobs import job_of
from simulations.sim.node import SimNode
from simulations.workload.workload import Arrival as Asked
from tests.fullstack.figures import Arrival, Change, Figures, Run, arrivals, changes

#: Nothing costs any processor time.
FREE: Final = Costs(**dict.fromkeys(Costs.__struct_fields__, 0.0))
#: Megabits per second at which no queue matters.
WIDE: Final = 1e6
#: Seconds within which everybody has seen everybody, and between two looks whether it is so.
SETTLE_S: Final = 600.0
LOOK_S: Final = 0.1


def scenario_of(run: Run) -> Scenario:
    """The run in the simulator's words; who asks for what, and when, is told to the world job by job."""
    model = Model(
        name=MOCK_MODEL.name,
        quantization=MOCK_MODEL.quantization,
        params_b=MOCK_MODEL.params_b,
        context=MOCK_MODEL.context,
    )
    return Scenario(
        name="layers",
        duration_s=1e9,
        warmup_s=0.0,
        profile=run.profile,  # type: ignore[arg-type]
        topology=Topology(
            nodes=run.nodes,
            seeds=1,
            latency="uniform",
            latency_s=run.one_way_s,
            jitter=0.0,
            uplinks=(Uplink(up_mbit=WIDE, down_mbit=WIDE),),
            join_s=run.nodes * run.stagger_s,
            clock_skew_s=0.0,
            per_group=1,
        ),
        hardware=(Hardware(gpu=run.gpu, slots=DEFAULT_SLOTS),),
        models=Models(catalogue=(model,)),
        engine=EngineModel(efficiency_sigma=0.0, prefix_reuse=False),
        workload=Workload(kind="none"),
        node=PROFILES[run.profile],
        measure=Measure(sample_s=1e6, invariants_every_s=0.0),
    )


def measure(run: Run) -> dict[str, Any]:
    """The figures of one run on the simulator's heap."""
    return _Heap(run).measured()


class _Heap:
    """One run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.world = SimRun(scenario_of(run), run.seed)
        self.loop = self.world.loop
        self.peers = self.world.peers
        costs = load_costs() if run.costs else FREE
        for peer in self.peers:
            peer.costs = costs
        self.figures = Figures(run)

    def measured(self) -> dict[str, Any]:
        run, figures = self.run, self.figures
        began = time.process_time()
        self.world.prepare()
        self.loop.run(run.nodes * run.stagger_s)
        figures.more["settle_s"] = self._settle()
        self.loop.run(self.loop.now + run.warm_s)
        figures.more["start_cpu_s"] = time.process_time() - began
        self._window()
        self._finish()
        figures.more["links_per_node"] = sum(len(peer.links) for peer in self.peers) / run.nodes
        figures.more["processors"] = "measured costs" if run.costs else "free"
        return figures.shown()

    def _settle(self) -> float:
        began = self.loop.now
        while any(_sees(peer) < self.run.nodes - 1 for peer in self.peers):
            if self.loop.now - began > SETTLE_S:
                raise TimeoutError("not everybody sees everybody")
            self.loop.run(self.loop.now + LOOK_S)
        return self.loop.now - began

    # --- the window ----------------------------------------------------------------------------------------------

    def _window(self) -> None:
        run, figures, loop, peers = self.run, self.figures, self.loop, self.peers
        start, cpu = loop.now, time.process_time()
        everything, gossip, links = _sum(peers, "bytes_up"), _gossip(peers), _links(peers)
        for number, arrival in enumerate(arrivals(run), 1):
            loop.at(start + arrival.at, self._ask, number, arrival)
        for number, change in enumerate(changes(run)):
            loop.at(start + change.at, self._change, change, f"change {number}", start + change.until)
        loop.run(start + run.time_s)
        figures.cpu_s = time.process_time() - cpu
        figures.bytes_all = _sum(peers, "bytes_up") - everything
        figures.gossip_bytes = _gossip(peers) - gossip
        figures.link_bytes = sum(size - links[key] for key, size in _links(peers).items() if key in links)
        figures.load_age_s = [age for peer in peers for age in self._ages(peer)]

    def _ages(self, peer: SimNode) -> list[float]:
        now, records = self.loop.now, peer.node.view.records()
        return [now - record.load_at for record in records if record.load is not None and not record.is_self]

    def _change(self, change: Change, mark: str, until: float) -> None:
        author = self.peers[change.author]
        assert author.advert is not None, "a node that has started has advertised"
        author.advertise(msgspec.structs.replace(author.advert, owner=mark))
        self.loop.at(until, self._count, change.author, mark, self.loop.now)

    def _count(self, place: int, mark: str, at: float) -> None:
        author = self.peers[place]
        delays = [_held(peer, author, mark) - at for peer in self.peers if peer is not author]
        self.figures.changes.append((place, delays))

    # --- jobs ----------------------------------------------------------------------------------------------------

    def _ask(self, number: int, arrival: Arrival) -> None:
        run, peer = self.run, self.peers[arrival.entry]
        assert peer.entry is not None, "every node is an entry"
        tokens = run.output_tokens
        asked = Asked(self.loop.now, 0.0, MOCK_MODEL.name, run.prompt_tokens + TOKENS_PER_MESSAGE, tokens, tokens)
        job, truth = job_of(number, asked)
        self.world.job_log.arrived(peer, job, tokens)
        peer.entry.arrives(job, truth)

    def _finish(self) -> None:
        """Jobs under way end; what they came to."""
        job_log, figures = self.world.job_log, self.figures
        until = self.loop.now + SETTLE_S
        while job_log.open and self.loop.now < until:
            self.loop.run(self.loop.now + 1.0)
        for note in job_log.measured:
            if note.end != "completed" or note.committed_at is None or note.ended_at is None:
                figures.failed += 1
                continue
            figures.ttft_s.append(note.committed_at - note.asked_at)
            figures.whole_s.append(note.ended_at - note.asked_at)
            figures.served_locally += note.worker == note.entry


def _sees(peer: SimNode) -> int:
    """Others that it holds for alive."""
    if not peer.up:
        return -1
    return sum(record.state == "alive" and not record.is_self for record in peer.node.view.records())


def _held(peer: SimNode, author: SimNode, mark: str) -> float:
    record = peer.node.view.get(author.peer_id)
    held = record is not None and record.advert is not None and record.advert.owner == mark
    return record.advert_at if held and record is not None else float("inf")


def _sum(peers: list[SimNode], name: str) -> int:
    return sum(getattr(peer, name) for peer in peers)


def _gossip(peers: list[SimNode]) -> int:
    return sum(int(peer.node.stats()["bytes_out"]) for peer in peers)


def _links(peers: list[SimNode]) -> dict[tuple[SimLink, int], int]:
    """Bytes sent on each link by each end of it."""
    return {(link, side): link.sent[side] for peer in peers for link in peer.links.values() for side in (0, 1)}
