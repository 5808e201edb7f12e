"""The same run with real processes on loopback, in real time: what the virtual figures are held against.

Every node is a process that does what ``p2pnode run`` does, can be told to change its advert, and writes down when it
got the changes of others (``told``).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from p2pnode.cli.processes import Fleet, NodeProcess
from tests.fullstack import observed_daemon
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
    children = await _started(run, fleet)
    figures.more["stagger_s"] = (trio.current_time() - began) / len(children)
    spots = [_spot(child.ready) for child in children]
    with trio.fail_after(SETTLE_S):
        for spot in spots:
            while (await get(None, spot, "/v1/p2p/status"))["peers"]["alive"] < run.nodes - 1:  # noqa: ASYNC110
                await trio.sleep(0.5)
    await trio.sleep(run.warm_s)
    await _window(run, children, spots, figures)
    return figures.shown()


async def _started(run: Run, fleet: Fleet) -> list[NodeProcess]:
    """All nodes, one after the other as each is ready, bootstrapped from the first."""
    flags = ("--engine", "mock", "--mock-gpu", run.gpu, "--profile", run.profile, "--no-auth")
    children: list[NodeProcess] = []

    def start(number: int) -> NodeProcess:
        first = children[0].ready["listen"][0] if children else NOBODY
        return fleet.node(_name(number), *flags, "--bootstrap", first, program=observed_daemon.PROGRAM).wait_ready(60.0)

    for number in range(run.nodes):
        children.append(await trio.to_thread.run_sync(start, number))
    return children


def _name(place: int) -> str:
    return f"node{place + 1}"


def _spot(facts: dict[str, Any]) -> Spot:
    return Spot(int(str(facts["api"]).removesuffix("/v1").rsplit(":", 1)[1]))


async def _window(run: Run, children: list[NodeProcess], spots: list[Spot], figures: Figures) -> None:
    before, cpu, busy = await _counts(spots), _cpu_s(children), _busy_s()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_tell, run, children)
        for arrival in arrivals(run):
            await trio.sleep_until(began + arrival.at)
            nursery.start_soon(_one, run, spots, arrival, figures)
        await trio.sleep_until(began + run.time_s)
        after, used, busy = await _counts(spots), _cpu_s(children) - cpu, _busy_s() - busy
    figures.gossip_bytes = sum(late["gossip"] - early["gossip"] for early, late in zip(before, after, strict=True))
    stood = [late[key] - early[key] for early, late in zip(before, after, strict=True) for key in late if key in early]
    figures.link_bytes = sum(stood) - figures.gossip_bytes
    figures.bytes_all = figures.link_bytes
    await trio.sleep(observed_daemon.LOOK_S)
    figures.changes = _spread(run, children)
    for spot in spots:
        peers = (await get(None, spot, "/v1/p2p/peers"))["data"]
        figures.load_age_s += [peer["load_age_s"] for peer in peers if peer["load"] and not peer["self"]]
    figures.more["cpu_share_per_node"] = used / run.time_s / len(children)
    figures.more["busy_with_others"] = (busy - used) / run.time_s
    figures.more["cores"] = os.cpu_count()


async def _counts(spots: list[Spot]) -> list[dict[str, int]]:
    """Bytes of gossip, and on each link, that each node has sent."""
    found = []
    for spot in spots:
        status = await get(None, spot, "/v1/p2p/status")
        links = {f"{link['peer']}{link['outbound']}": link["bytes_out"] for link in status["links"]}
        found.append({"gossip": status["gossip"]["bytes_out"], **links})
    return found


def _busy_s() -> float:
    """Seconds of processor time that all of this machine has used."""
    if sys.platform != "linux":
        return 0.0
    user, nice, system, _idle, _wait, interrupts, soft, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")


def _cpu_s(children: list[NodeProcess]) -> float:
    if sys.platform != "linux":
        return 0.0
    total = 0
    for child in children:
        fields = Path(f"/proc/{child.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


async def _tell(run: Run, children: list[NodeProcess]) -> None:
    """Have a node state a changed advert every now and then."""
    began = trio.current_time()
    for change in changes(run):
        await trio.sleep_until(began + change.at)
        children[change.author].process.send_signal(signal.SIGUSR1)


def _spread(run: Run, children: list[NodeProcess]) -> list[tuple[int, list[float]]]:
    """When everybody got the changes, as they wrote it down."""
    held, times, found = [observed_daemon.changes_of(child.home) for child in children], Counter[int](), []
    for change in changes(run):
        times[change.author] += 1
        owner = observed_daemon.owner_of(_name(change.author), times[change.author])
        delays = [each.get(owner, float("inf")) - held[change.author][owner] for each in held]
        found.append((change.author, delays[: change.author] + delays[change.author + 1 :]))
    return found


async def _one(run: Run, spots: list[Spot], arrival: Arrival, figures: Figures) -> None:
    note(run, await streamed(None, spots[arrival.entry], body_of(run, arrival.number, MODEL)), figures)
