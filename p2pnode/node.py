"""The composition root of the daemon: it builds all parts, connects them, and runs them in one nursery.

It decides nothing and knows no protocol.  Read it beside DESIGN.md, section 1.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import structlog
import trio

from p2pnode import __version__
from p2pnode.advert_builder import NodeSpecs, advert_of, load_of
from p2pnode.config import Config, is_loopback, reached_here
from p2pnode.engine.base import Engine
from p2pnode.engine.selection import NoSuchEngine, choose_engine
from p2pnode.environment import Environment
from p2pnode.hardware.probe import GpuReading, watch
from p2pnode.http.app import create_app
from p2pnode.http.gate import AllowedOrigins
from p2pnode.http.server import ApiAddressProblem, Limits, serve
from p2pnode.jobs.dispatch import Dispatch
from p2pnode.jobs.engine_slots import EngineSlots
from p2pnode.jobs.records import JobBook
from p2pnode.jobs.worker import Worker
from p2pnode.json_types import JsonObject
from p2pnode.lifecycle import Stopping, WrongFlag, starting, watch_parent, watch_signals
from p2pnode.logs import SECRETS
from p2pnode.metrics import Metrics
from p2pnode.seeds import check_listen, grouped, listed_seeds
from p2pnode.state.evidence import EvidenceWriter, load
from p2pnode.state.home import Home, keep_memory, open_home
from p2pnode.state.keys import KeyProblem, Keyring, load_api_key
from p2pnode.state.ledger import Ledger
from p2pnode.state.paths import Paths
from p2pnode.status_view import StatusView
from p2pnode.swarm.net import NetError
from p2pnode.swarm.swarm import Swarm
from p2pnode.swarm.wakeup import AutoResetEvent
from protocol.ids import peer_from_text, peer_text
from protocol.jobs.load import LOAD_EVERY_S
from protocol.node import Node

if TYPE_CHECKING:
    from p2pnode.swarm.libp2p import Libp2pNet

log = structlog.get_logger("p2pnode.node")

#: Turns of the polling loop, of ``LOAD_EVERY_S`` each, between checks whether the file of the key table changed (1 s;
#: ``p2pnode keys`` changes it from another process), and between unconditional reads of the table (30 s).
KEYS_TURNS: Final = 2
KEYS_ANYWAY_TURNS: Final = 60
#: Turns between checks of this node's own addresses, which change with its network (10 s).
ADDRS_TURNS: Final = 20
#: Turns between checks for problems (3 s; guess: enough time for a first link and for the engine to answer).
PROBLEMS_TURNS: Final = 6
#: Seconds between checks whether the last job has ended, when stopping.
IDLE_EVERY_S: Final = 0.05


@dataclass
class Daemon:
    """All parts of a node, and the state that changes while it runs."""

    config: Config
    home: Home
    engine: Engine | None
    machine: Node
    swarm: Swarm
    worker: Worker
    dispatch: Dispatch
    book: JobBook
    keys: Keyring
    status_view: StatusView
    evidence: EvidenceWriter
    around: Environment = field(default_factory=Environment)
    stopping: Stopping = field(default_factory=Stopping)
    api_ended: trio.Event = field(default_factory=trio.Event)
    hardware: NodeSpecs = field(default_factory=NodeSpecs)

    def advertise(self) -> None:
        """Publish a new advert."""
        self.swarm.advertise(advert_of(self.config, self.engine, self.hardware, self.swarm.addrs))

    def report_load(self) -> None:
        """Pass the current load to the gossip machine."""
        slots, draining = self.worker.slots, self.stopping.asked.is_set()
        if slots is None:
            self.swarm.report_load(load_of(self.engine, self.hardware, draining=draining))
            return
        running, queued = slots.running, slots.waiting
        load = load_of(self.engine, self.hardware, draining=draining, running=running, queued=queued)
        self.swarm.report_load(load, slots.jobs_of_peers())


@dataclass
class Polled:
    """The results of the last poll: own addresses, file and version of the keys, problems by their fix."""

    addrs: tuple[str, ...]
    keys: object = None
    version: int | None = None
    problems: frozenset[str] = frozenset()


async def run_node(
    config: Config, paths: Paths, *, task_status: trio.TaskStatus[JsonObject] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a node until it is asked to stop; ``started`` gets the facts of the ready line.

    Raises:
      CannotStart: one line that says what to do.
    """
    with open_home(paths) as home:
        daemon = await build(config, home)
        async with trio.open_nursery() as nursery:
            await nursery.start(watch_signals, daemon.stopping)
            nursery.start_soon(watch_parent, daemon.stopping)
            await live(daemon, task_status=task_status)
            nursery.cancel_scope.cancel()


async def live(daemon: Daemon, *, task_status: trio.TaskStatus[JsonObject] = trio.TASK_STATUS_IGNORED) -> None:
    """Run a node that was built, until ``daemon.stopping`` is set; see :func:`run_node`."""
    async with trio.open_nursery() as nursery:
        with starting(NetError, ApiAddressProblem):
            await nursery.start(daemon.swarm.run)
            port = await nursery.start(_serve_api, daemon)
        if daemon.engine is not None:
            await nursery.start(daemon.engine.run)
            nursery.start_soon(_follow_engine, daemon)
        daemon.advertise()
        nursery.start_soon(_survey_hardware, daemon)
        nursery.start_soon(_poll, daemon, nursery)
        nursery.start_soon(keep_memory, daemon.home, daemon.machine, daemon.around.wall)
        nursery.start_soon(daemon.evidence.run)
        facts = _announce_ready(daemon, port)
        task_status.started(facts)
        await _shut_down(daemon)
        daemon.stopping.settled = True
        nursery.cancel_scope.cancel()


def _engine(config: Config, home: Home, around: Environment) -> Engine | None:
    try:
        return choose_engine(config, home.paths.logs, around.environ)
    except NoSuchEngine as error:
        raise WrongFlag(str(error)) from None


async def build(config: Config, home: Home, around: Environment | None = None) -> Daemon:
    """Make all parts and connect them; nothing runs yet."""
    around = around or Environment()
    with starting(ValueError, KeyProblem, NetError):
        check_listen(config.network.listen)
        seeds = grouped(config.network.bootstrap or listed_seeds())
        engine = _engine(config, home, around)
        keys = Keyring(home.ledger.keys(), required=not config.http.no_auth)
        secret = load_api_key(home.paths.api_key)
        net = await _net(config, home)
    SECRETS.add(secret)
    keys.admit_first(secret)
    settings = config.settings
    machine = Node(home.signer, settings, around.rng(), home.inc, seeds, home.snapshot)
    # This node's own jobs and those of guests wait in one queue.
    slots = EngineSlots(engine, settings.admission) if engine is not None else None
    worker = Worker(engine, home.signer, settings, slots, machine.warm.teller.load_for)
    swarm = Swarm(
        net,
        machine,
        settings,
        config.network.name,
        worker.on_job,
        wall=around.wall,
        agent=f"p2pnode/{__version__}",
        seeds=[address for _, addrs in seeds for address in addrs],
    )
    book = JobBook(wall=around.wall)
    trusted = frozenset(peer_from_text(text) for text in config.routing.trusted)
    metrics = Metrics(__version__)
    dispatch = Dispatch(
        *(swarm, engine, config.node.policy, settings, around.rng(), book, slots),
        trusted=trusted,
        decided=metrics.dispatch.observe,
    )
    status_view = StatusView(config, home, engine, machine, swarm, dispatch, book, keys, metrics)
    experience, now = dispatch.entry_state.experience, trio.current_time()
    experience.restore(load(home.ledger, now, around.wall()), now)
    evidence = EvidenceWriter(home.ledger, experience, around.wall)
    daemon = Daemon(config, home, engine, machine, swarm, worker, dispatch, book, keys, status_view, evidence, around)
    if slots is not None:
        slots.changed = daemon.report_load
    return daemon


async def _net(config: Config, home: Home) -> Libp2pNet:
    """Import libp2p, which takes half a second, in a thread, so that signals are handled meanwhile."""

    def load() -> type[Libp2pNet]:
        from p2pnode.swarm.libp2p import Libp2pNet  # noqa: PLC0415

        return Libp2pNet

    loaded = "p2pnode.swarm.libp2p" in sys.modules
    net: type[Libp2pNet] = load() if loaded else await trio.to_thread.run_sync(load)
    return net(home.seed, config.network.listen, limits=config.settings.connections)


async def _serve_api(daemon: Daemon, *, task_status: trio.TaskStatus[int]) -> None:
    host, port = daemon.config.api_address
    http = daemon.config.http
    limits = Limits(http.connections, http.connections_per_address, http.drain_s)
    try:
        app = create_app(daemon.status_view, AllowedOrigins(http.hosts, http.origins))
        watching = daemon.status_view.metrics.connections.set
        await serve(app, host, port, stop=daemon.stopping.asked, limits=limits, watch=watching, task_status=task_status)
    finally:
        daemon.api_ended.set()


def _announce_ready(daemon: Daemon, port: int) -> JsonObject:
    """Write the ready line; scripts may use the API from now on."""
    config, home, engine = daemon.config, daemon.home, daemon.engine
    host = config.api_address[0]
    here = reached_here(host)
    shown = f"[{here}]" if ":" in here else here
    daemon.status_view.api = f"http://{shown}:{port}/v1"
    facts = {
        "peer_id": peer_text(home.signer.peer_id),
        "listen": list(daemon.swarm.addrs),
        "api": daemon.status_view.api,
        "dashboard": None,  # reserved
        "key_file": None if config.http.no_auth else str(home.paths.api_key),
        "engine": engine.name if engine is not None else "none",
        "models": [offer.name for offer in engine.offers()] if engine is not None else [],
    }
    if not is_loopback(host):
        log.warning("api_exposed", host=host, note="any machine that reaches this port and has a key can use this node")
    if config.routing.zone == "anyone":
        note = 'strangers may serve, and read, requests of this node; routing.zone = "trusted" in config.toml limits it'
        log.info("open_network", zone="anyone", note=note)
    daemon.around.announce(
        facts,
        as_json=config.log.format == "json" or (config.log.format == "auto" and not sys.stdout.isatty()),
        ready_file=config.http.ready_file,
        daemon_file=home.paths.daemon,
    )
    return facts


async def _shut_down(daemon: Daemon) -> None:
    """Wait for the request to stop; then admit no job, tell the peers, and let running jobs finish."""
    await daemon.stopping.asked.wait()
    log.info("stopping", guests_jobs=daemon.worker.running, note="once more (ctrl-C) to stop now")
    daemon.status_view.draining = True
    daemon.worker.drain()
    daemon.dispatch.drain()
    daemon.report_load()
    await daemon.swarm.leave()
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + daemon.config.http.drain_s
        nursery.start_soon(_cancel_when, daemon.stopping.now, nursery.cancel_scope)
        await daemon.api_ended.wait()
        while daemon.worker.running:  # noqa: ASYNC110 - for a moment, once in a life
            await trio.sleep(IDLE_EVERY_S)
        nursery.cancel_scope.cancel()
    log.info("stopped")


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


# --- changes at run time -----------------------------------------------------------------------------------------


async def _follow_engine(daemon: Daemon) -> None:
    """Publish an advert whenever the engine's models or state change."""
    assert daemon.engine is not None
    seen = None
    while True:
        seen = await daemon.engine.wait_changed(seen)
        daemon.advertise()
        log.info("engine", state=daemon.engine.state, problem=daemon.engine.problem or None)


async def _survey_hardware(daemon: Daemon) -> None:
    """Ask the drivers once, with a time limit and after the API is up; then watch the cards."""
    found = await daemon.around.survey()
    daemon.hardware = replace(daemon.hardware, survey=found)
    daemon.status_view.hardware = daemon.hardware
    daemon.advertise()
    if found.runtime == "cuda":

        def note(readings: tuple[GpuReading, ...]) -> None:
            daemon.hardware = replace(daemon.hardware, readings=readings)

        await watch(note)


async def _poll(daemon: Daemon, nursery: trio.Nursery) -> None:
    """Poll state that sends no change notification.  One timer, because wakeups dominate the cost of an idle node."""
    seen, pause = Polled(daemon.swarm.addrs), AutoResetEvent()
    for turn in itertools.count():
        daemon.report_load()
        daemon.status_view.sample()
        daemon.evidence.look(trio.current_time())
        if turn % KEYS_TURNS == 0:
            # Two changes within one tick of the disk's clock look like one, so the table is also read unconditionally.
            version = (turn // KEYS_ANYWAY_TURNS, daemon.home.ledger.stamp())
            if version != seen.keys:
                seen.keys = version
                nursery.start_soon(_read_keys, daemon, seen)
        if turn % ADDRS_TURNS == 0 and daemon.swarm.addrs != seen.addrs:
            seen.addrs = daemon.swarm.addrs
            daemon.advertise()
        if turn and turn % PROBLEMS_TURNS == 0:
            _log_problems(daemon, seen)
        await pause.wait_until(trio.current_time() + LOAD_EVERY_S)  # it is never set: this sleep costs less than trio's


def _log_problems(daemon: Daemon, seen: Polled) -> None:
    """Log each problem of ``p2pnode status`` once, when it begins."""
    found = {problem["fix"]: problem["what"] for problem in daemon.status_view.problems()}
    for fix in found.keys() - seen.problems:
        log.warning("problem", what=found[fix], fix=fix)
    seen.problems = frozenset(found)


async def _read_keys(daemon: Daemon, seen: Polled) -> None:
    """Read the key table, so that changes by ``p2pnode keys`` take effect without a restart."""
    ledger = daemon.home.ledger
    version = await ledger.ask(Ledger.version)
    if version != seen.version:
        seen.version = version
        daemon.keys.replace(await ledger.ask(Ledger.keys))
