"""The same run with real processes on loopback, in real time: what the virtual figures are held against.

All nodes but one are ``p2pnode run`` processes; the last is a daemon inside this process, so that its advert can be
changed at will (``Run.authors`` has to be ``last``).  When the others got a change is read from the age that they give
it.  Who calls it: ``__main__``.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
import trio

from p2pnode import node
from p2pnode.cli.processes import LOOPBACK, Child, Fleet
from p2pnode.config import load_config
from p2pnode.home import open_home
from p2pnode.paths import Paths
from p2pnode.surroundings import Surroundings
from protocol.ids import peer_text
from tests.fullstack.bench import note
from tests.fullstack.client import get, streamed
from tests.fullstack.daemons import MODEL
from tests.fullstack.figures import Arrival, Figures, Run, arrivals, body_of, changes

#: Seconds in which everybody has to see everybody.
SETTLE_S: Final = 120.0
#: Where nobody is: who has nobody to ask is told to ask there, so that it does not ask the public list.
NOBODY: Final = "/ip4/127.0.0.1/tcp/1"


@dataclass(frozen=True)
class Spot:
    """The API of one node."""

    api_port: int
    host: str = "127.0.0.1"


def measure(run: Run) -> dict[str, Any]:
    """The figures of one run in real time."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with Fleet() as fleet:
        return trio.run(_measured, run, fleet)


async def _measured(run: Run, fleet: Fleet) -> dict[str, Any]:
    figures, began = Figures(run), trio.current_time()
    children = await _others(run, fleet)
    figures.more["stagger_s"] = (trio.current_time() - began) / max(1, len(children))
    first = children[0].ready["listen"][0] if children else NOBODY
    given = {"listen": LOOPBACK, "api": "127.0.0.1:0", "no_auth": True, "engine": "mock", "mock_gpu": run.gpu}
    given |= {"profile": run.profile, "name": f"node{run.nodes}", "bootstrap": (first,)}
    with open_home(Paths(fleet.home / "last")) as home:
        daemon = await node.build(load_config(None, given, {}), home, Surroundings(announce=lambda *_, **__: None))
        async with trio.open_nursery() as nursery:
            facts = await nursery.start(_live, daemon)
            spots = [*(_spot(child.ready) for child in children), _spot(facts)]
            with trio.fail_after(SETTLE_S):
                for spot in spots:
                    while (await get(None, spot, "/v1/p2p/status"))["peers"]["alive"] < run.nodes - 1:  # noqa: ASYNC110
                        await trio.sleep(0.5)
            await trio.sleep(run.warm_s)
            await _window(run, daemon, spots, children, figures)
            nursery.cancel_scope.cancel()
    return figures.shown()


async def _live(daemon: node.Daemon, *, task_status: trio.TaskStatus[Any]) -> None:
    await node.live(daemon, task_status=task_status)


async def _others(run: Run, fleet: Fleet) -> list[Child]:
    """All nodes but the last, one after the other as each is ready, bootstrapped from the first."""
    flags = ("--engine", "mock", "--mock-gpu", run.gpu, "--profile", run.profile, "--no-auth")
    children: list[Child] = []

    def start(number: int) -> Child:
        first = children[0].ready["listen"][0] if children else NOBODY
        return fleet.node(f"node{number}", *flags, "--bootstrap", first).wait_ready(60.0)

    for number in range(1, run.nodes):
        children.append(await trio.to_thread.run_sync(start, number))
    return children


def _spot(facts: dict[str, Any]) -> Spot:
    return Spot(int(str(facts["api"]).removesuffix("/v1").rsplit(":", 1)[1]))


async def _window(run: Run, daemon: node.Daemon, spots: list[Spot], children: list[Child], figures: Figures) -> None:
    before, cpu = await _counts(spots), _cpu_s(children)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_change, run, daemon, spots[:-1], figures)
        for arrival in arrivals(run):
            await trio.sleep_until(began + arrival.at)
            nursery.start_soon(_one, run, spots, arrival, figures)
        await trio.sleep_until(began + run.time_s)
        after, used = await _counts(spots), _cpu_s(children) - cpu
    took = trio.current_time() - began
    figures.gossip_bytes = sum(late["gossip"] - early["gossip"] for early, late in zip(before, after, strict=True))
    stood = [late[key] - early[key] for early, late in zip(before, after, strict=True) for key in late if key in early]
    figures.link_bytes = sum(stood) - figures.gossip_bytes
    figures.bytes_all = figures.link_bytes
    for spot in spots:
        peers = (await get(None, spot, "/v1/p2p/peers"))["data"]
        figures.load_age_s += [peer["load_age_s"] for peer in peers if peer["load"] and not peer["self"]]
    figures.more["window_s"] = took
    figures.more["cpu_share_per_node"] = used / took / max(1, len(children))
    figures.more["cores"] = os.cpu_count()


async def _counts(spots: list[Spot]) -> list[dict[str, int]]:
    """Bytes of gossip, and on each link, that each node has sent."""
    found = []
    for spot in spots:
        status = await get(None, spot, "/v1/p2p/status")
        links = {f"{link['peer']}{link['outbound']}": link["bytes_out"] for link in status["links"]}
        found.append({"gossip": status["gossip"]["bytes_out"], **links})
    return found


def _cpu_s(children: list[Child]) -> float:
    if sys.platform != "linux":
        return 0.0
    total = 0
    for child in children:
        fields = Path(f"/proc/{child.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


async def _change(run: Run, daemon: node.Daemon, others: list[Spot], figures: Figures) -> None:
    """State a changed advert every now and then; shortly before the next ask everybody for its age."""
    began, name = trio.current_time(), peer_text(daemon.swarm.me)
    for number, (after, place) in enumerate(changes(run)):
        assert place == run.nodes - 1, "only the last node can be told to change"
        await trio.sleep_until(began + after)
        own = daemon.swarm.view.get(daemon.swarm.me)
        at, mark, delays = trio.current_time(), f"change {number}", []
        daemon.swarm.advertise(msgspec.structs.replace(own.advert, owner=mark))
        await trio.sleep_until(began + (number + 0.8) * run.change_s)
        for spot in others:
            peer = await get(None, spot, f"/v1/p2p/peers/{name}")
            age, held = peer["advert_age_s"], peer["owner"] == mark
            delays.append(max(0.0, trio.current_time() - age - at) if held else float("inf"))
        figures.changes.append(delays)


async def _one(run: Run, spots: list[Spot], arrival: Arrival, figures: Figures) -> None:
    note(run, await streamed(None, spots[arrival.entry], body_of(run, arrival.number, MODEL)), figures)
