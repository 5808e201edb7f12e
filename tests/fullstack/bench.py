"""Many daemons in virtual time, measured: speed, gossip and jobs.  See ``figures`` for what is measured."""

from __future__ import annotations

import functools
import logging
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import structlog
import trio

from tests.fullstack.client import Heard, streamed
from tests.fullstack.daemons import MODEL, Daemons, Member, daemons, repeatable
from tests.fullstack.figures import Arrival, Change, Figures, Run, arrivals, body_of, changes
from tests.fullstack.virtualnet import VirtualNet

#: Where homes are made: memory, if this machine has a place for that.
MEMORY = Path("/dev/shm")


def measure(run: Run) -> dict[str, Any]:
    """The figures of one run in virtual time."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None, prefix="p2pnode-") as folder:
        return repeatable(functools.partial(_measured, run, Path(folder)), run.seed)


async def _measured(run: Run, folder: Path) -> dict[str, Any]:
    net, figures, began = VirtualNet(run.one_way_s), Figures(run), time.process_time()
    flags = {"mock_gpu": run.gpu}
    async with daemons(0, folder, net=net, seed=run.seed, profile=run.profile) as all_of_them:
        for _ in range(run.nodes):
            await all_of_them.add(**flags)
            await trio.sleep(run.stagger_s)
        figures.more["settle_s"] = await all_of_them.settle(600)
        await trio.sleep(run.warm_s)
        figures.more["start_cpu_s"] = time.process_time() - began
        await _window(run, all_of_them, figures)
        figures.more["faults"] = sum(member.daemon.swarm.faults for member in all_of_them.members)
        figures.more["links_per_node"] = sum(len(m.daemon.swarm.links()) for m in all_of_them.members) / run.nodes
    return figures.shown()


async def _window(run: Run, all_of_them: Daemons, figures: Figures) -> None:
    net, members = all_of_them.net, all_of_them.members
    sent, gossip, segments = sum(net.bytes_out.values()), _gossip(members), sum(net.segments.values())
    links, began = _links(members), time.process_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_changes, run, members, figures)
        nursery.start_soon(_ask, run, all_of_them, figures)
        await trio.sleep(run.time_s)
        figures.cpu_s = time.process_time() - began
        figures.bytes_all = sum(net.bytes_out.values()) - sent
        figures.gossip_bytes = _gossip(members) - gossip
        figures.link_bytes = sum(size - links[key] for key, size in _links(members).items() if key in links)
        figures.load_age_s = [age for member in members for age in _ages(member)]
        figures.more["segments_per_s"] = (sum(net.segments.values()) - segments) / run.time_s


def _gossip(members: list[Member]) -> int:
    return sum(member.daemon.machine.stats()["bytes_out"] for member in members)


def _ages(member: Member) -> list[float]:
    """How old what it knows of each other node's load is."""
    now, records = trio.current_time(), member.daemon.swarm.view.records()
    return [now - record.load_at for record in records if record.load is not None and not record.is_self]


def _links(members: list[Member]) -> dict[tuple[int, str], int]:
    """Bytes sent on each link by each end of it."""
    return {
        (member.number, f"{link['peer']}{link['outbound']}"): link["bytes_out"]
        for member in members
        for link in member.daemon.swarm.links()
    }


async def _changes(run: Run, members: list[Member], figures: Figures) -> None:
    """A node states a changed advert every now and then."""
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number, change in enumerate(changes(run)):
            await trio.sleep_until(began + change.at)
            nursery.start_soon(_one_change, members, change, f"change {number}", began + change.until, figures)


async def _one_change(members: list[Member], change: Change, mark: str, until: float, figures: Figures) -> None:
    """One of them; the others' views say when they got it."""
    author, at = members[change.author], trio.current_time()
    own = author.daemon.swarm.view.get(author.peer)
    author.daemon.swarm.advertise(msgspec.structs.replace(own.advert, owner=mark))
    await trio.sleep_until(until)
    delays = [_held(other, author, mark) - at for other in members if other is not author]
    figures.changes.append((change.author, delays))


def _held(member: Member, author: Member, mark: str) -> float:
    record = member.daemon.swarm.view.get(author.peer)
    held = record is not None and record.advert is not None and record.advert.owner == mark
    return record.advert_at if held else float("inf")


async def _ask(run: Run, all_of_them: Daemons, figures: Figures) -> None:
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for arrival in arrivals(run):
            await trio.sleep_until(began + arrival.at)
            nursery.start_soon(_one, run, all_of_them, arrival, figures)


async def _one(run: Run, all_of_them: Daemons, arrival: Arrival, figures: Figures) -> None:
    entry = all_of_them.members[arrival.entry]
    note(run, await streamed(all_of_them.net, entry, body_of(run, arrival.number, MODEL)), figures)


def note(run: Run, heard: Heard, figures: Figures) -> None:
    """Count one answer."""
    if heard.error is not None or heard.pieces != run.output_tokens:
        figures.failed += 1
        return
    figures.ttft_s.append(heard.ttft_s)
    figures.whole_s.append(heard.ended - heard.began)
    figures.served_locally += heard.route == "local"
    figures.more["prompt_tokens_counted"] = heard.usage.get("prompt_tokens")
