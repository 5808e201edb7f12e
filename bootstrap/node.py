"""The composition root of a bootstrap node: identity, ledger and swarm; no engine, no jobs, no HTTP API."""

from __future__ import annotations

import random
import sys

import structlog
import trio

from p2pnode import __version__
from p2pnode.advert_builder import NodeSpecs, advert_of, load_of
from p2pnode.config import Config
from p2pnode.json_types import JsonObject
from p2pnode.lifecycle import Stopping, starting, watch_parent, watch_signals
from p2pnode.ready_line import announce
from p2pnode.seeds import check_listen, grouped, listed_seeds
from p2pnode.state.home import keep_memory, open_home
from p2pnode.state.paths import Paths
from p2pnode.swarm.libp2p import Libp2pNet
from p2pnode.swarm.net import NetError
from p2pnode.swarm.peerlink import Channel
from p2pnode.swarm.swarm import Swarm
from protocol.ids import peer_text
from protocol.node import Node
from protocol.wire.messages import REFUSE, Refuse, encode

log = structlog.get_logger("bootstrap")


async def refuse_job(channel: Channel, frames: list[tuple[int, bytes]]) -> None:
    """Refuse every job: the advert of a bootstrap node offers no model."""
    del frames
    await channel.send(REFUSE, encode(Refuse(404, "model_not_found", "this is a bootstrap node: it runs no models")))


async def run_bootstrap(
    config: Config, paths: Paths, *, task_status: trio.TaskStatus[JsonObject] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a bootstrap node until it is asked to stop; raises ``CannotStart``."""
    stopping = Stopping()
    with open_home(paths) as home:
        with starting(ValueError, NetError):
            check_listen(config.network.listen)
            seeds = grouped(config.network.bootstrap or listed_seeds())
            net = Libp2pNet(home.seed, config.network.listen)
        machine = Node(home.signer, config.settings, random.Random(), home.inc, seeds, home.snapshot)
        agent = f"p2pnode-bootstrap/{__version__}"
        swarm = Swarm(net, machine, config.settings, config.network.name, refuse_job, agent=agent)
        async with trio.open_nursery() as nursery:
            await nursery.start(watch_signals, stopping)
            nursery.start_soon(watch_parent, stopping)
            with starting(NetError):
                await nursery.start(swarm.run)
            swarm.advertise(advert_of(config, None, NodeSpecs(), swarm.addrs))
            swarm.report_load(load_of(None, NodeSpecs(), draining=False))  # it never changes
            nursery.start_soon(keep_memory, home, machine)
            facts = {"peer_id": peer_text(home.signer.peer_id), "listen": list(swarm.addrs)}
            as_json = config.log.format == "json" or (config.log.format == "auto" and not sys.stdout.isatty())
            announce(facts, as_json=as_json, ready_file=config.http.ready_file, daemon_file=paths.daemon)
            task_status.started(facts)
            await stopping.asked.wait()
            await swarm.leave()
            stopping.settled = True
            nursery.cancel_scope.cancel()
