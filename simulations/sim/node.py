"""One simulated machine with its whole daemon: starts and ends, the jobs at both ends, its advert and its load.

A machine that crashes and comes back is the same peer with a higher incarnation; timers and messages of an earlier life
do not reach it (``life``).  Only the data that the daemon would have on its disk survives.

Not here: driving the machines of ``protocol`` (``host``), a job at either end (``entry``, ``worker``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol import PROTOCOL_VERSION, __version__
from protocol.events import GOODBYE_S, Advertise, Leave, ReportLoad
from protocol.ids import PeerId
from protocol.jobs.load import LOAD_EVERY_S, is_news
from protocol.node import Node, NodeSnapshot
from protocol.settings import NodeSettings
from protocol.statements.adverts import Advert, Load
from protocol.statements.versions import next_incarnation
from simulations.rng_streams import rng_stream
from simulations.sim.cpu_costs import Costs
from simulations.sim.endpoint import Endpoint, SimLink
from simulations.sim.entry import SimEntry
from simulations.sim.host import Host
from simulations.sim.job_log import JobLog
from simulations.sim.machines import Machine
from simulations.sim.network import Network
from simulations.sim.saved_state import emptied, saved
from simulations.sim.worker import Worker

_NO_LOAD: Final = Load()


class SimNode(Host):
    """See the module's docstring."""

    def __init__(
        self,
        index: int,
        key: bytes,
        address: str,
        machine: Machine,
        settings: NodeSettings,
        network: Network,
        costs: Costs,
        job_log: JobLog,
        seed: int,
    ) -> None:
        super().__init__(index, key, address, machine, settings, network, costs, job_log, seed)
        self.entry: SimEntry | None = None
        self.worker: Worker | None = None
        #: Incarnation that this life speaks under (as the daemon: the clock's seconds, never one that was used).
        self.inc = 0
        #: How many faults keep it down.
        self.held = 0
        #: Until then it was frozen or slow, and may be behind.
        self.hindered_until = 0.0
        #: How many faults keep anything from being written to its disk.
        self.disk_full = 0
        self.advert: Advert | None = None
        self._load: Load | None = None
        #: The data that a crash leaves on the disk, and the last incarnation.
        self._kept = (NodeSnapshot(), 0)

    # --- lives ---------------------------------------------------------------------------------------------------

    def start(self, seeds: tuple[tuple[PeerId | None, tuple[str, ...]], ...]) -> None:
        """A daemon starts on this machine, for the first time or again."""
        self.life += 1
        self.up, self.vanished = True, False
        self.started_at = self.cpu_until = self.loop.now
        self.forget_peers()
        self.dial_from(seeds)
        restored, inc = self._kept
        self.inc = next_incarnation(inc, self.wall())
        rng = rng_stream(self.seed, f"node-{self.life}", self.index)
        self.node = Node(self.signer, self.settings, rng, self.inc, seeds, restored)
        self.perform(self.node.start(self.loop.now, self.wall()))
        self.advertise(self.make_advert())
        if self.worker is not None:
            self.worker.changed = self.load_changed
            self.worker.resume()
        self.loop.at(self.loop.now + rng.uniform(0.0, LOAD_EVERY_S), self._report, self.life)
        self.loop.at(self.loop.now + rng.uniform(0.0, self.settings.connections.idle_s), self._close_idle, self.life)

    def stop(self, *, silently: bool, forgets: bool = False) -> None:
        """The process ends; ``silently``: the machine with it, so no other node is told."""
        if not self.up:
            return
        self.save()
        if forgets:
            self._kept = (NodeSnapshot(), 0)
        self.node = emptied(self.node, self.signer, self.entry_rng)
        self.up, self.vanished = False, silently
        self.job_log.died_at[self.peer_id] = self.loop.now
        self._timers.clear()
        self._backlog.clear()
        self._dialling.clear()
        self._finding.clear()
        self._load = None
        for link in list(self.links.values()):
            if silently:
                self.network.block(link)
            else:
                reset_at = self.loop.now + self.network.delay_s(self, link.other(self))
                self.loop.at(reset_at, self.network.break_link, link, "reset")
        self.links.clear()
        if self.entry is not None:
            self.entry.crashed(saves=not self.disk_full, forgets=forgets)
        if self.worker is not None:
            self.worker.crashed()

    def save(self) -> None:
        """Write the persistent state to the disk, if the disk has room."""
        if not self.disk_full:
            self._kept = (saved(self.node.snapshot()), self.inc)

    def leave(self) -> None:
        """Say goodbye, then go."""
        if self.up:
            self.feed(Leave())
            self.loop.at(self.loop.now + GOODBYE_S, self._left, self.life)

    def _left(self, life: int) -> None:
        if life == self.life:
            self.stop(silently=False)

    def link_down(self, link: SimLink, other: Endpoint, reason: str) -> None:
        """A link broke, and with it the jobs on it."""
        super().link_down(link, other, reason)
        if self.entry is not None:
            self.entry.link_down(other)
        if self.worker is not None:
            self.worker.link_down(other)

    # --- this node's own statements --------------------------------------------------------------------------------

    def make_advert(self) -> Advert:
        """Hardware and models as they are now."""
        machine, worker = self.machine, self.worker
        offers = worker.offers() if worker is not None else ()
        gpus = (machine.gpu,) if machine.gpu is not None else ()
        return Advert(
            PROTOCOL_VERSION,
            f"node-{self.index}",
            machine.region,
            runtime="simulated" if gpus else "none",
            gpus=gpus,
            models=offers,
            addrs=self.addrs,
            engine="mock" if gpus else "none",
            version=__version__,
        )

    def advertise(self, advert: Advert) -> None:
        """State the advert, if it is news."""
        self.advert = advert
        self.feed(Advertise(advert))

    def _report(self, life: int) -> None:
        if life != self.life or not self.up:
            return
        load = self.make_load()
        if is_news(load, self._load):
            self._load = load
            self.run(self.feed, ReportLoad(load, self._jobs_of_peers()))
        self.loop.at(self.loop.now + LOAD_EVERY_S, self._report, life)

    def load_changed(self) -> None:
        """A job has come, begun or gone: those who route jobs here hear it before the next sample."""
        if self.up:
            self._load = self.make_load()
            self.feed(ReportLoad(self._load, self._jobs_of_peers()))

    def _jobs_of_peers(self) -> Mapping[PeerId, int]:
        return self.worker.jobs_of_peers() if self.worker is not None else {}

    def make_load(self) -> Load:
        """How busy this node is."""
        return self.worker.load() if self.worker is not None else _NO_LOAD

    def models_changed(self) -> None:
        """The engine has loaded or dropped a model: the advert says so."""
        self.advertise(self.make_advert())
