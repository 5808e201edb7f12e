"""How fast the simulator goes: empty events, and a thousand nodes with a thousand jobs a second, per CPU second."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import msgspec

from simulations.event_loop import EventLoop
from simulations.experiment.loading import find, load
from simulations.run import Run
from tests.bench.row import Row

#: Empty events that are measured, and how many wait at any time.
EVENTS, WAITING = 1_000_000, 1000
#: Virtual seconds that pass before the measured ones, while a thousand nodes make their links, and those that count.
SETTLE_S, COUNT_S = 8.0, 8.0


def simulate(_: Path) -> list[Row]:
    """Both rows."""
    return [_empty_events(), _a_thousand_nodes()]


def _empty_events() -> Row:
    loop = EventLoop()

    def again() -> None:
        loop.at(loop.now + 1.0, again)

    for number in range(WAITING):
        loop.at(number / WAITING, again)
    began = time.process_time()
    loop.run(EVENTS / WAITING)
    rate = loop.events / (time.process_time() - began)
    return Row("empty events of the simulator", "≥ 500,000/s", f"{rate:,.0f}/s", rate >= 500_000, "per CPU second")


def _a_thousand_nodes() -> Row:
    (path,) = find("e14-scale")
    ((_, scenario),) = load(path).points
    world = Run(msgspec.structs.replace(scenario, duration_s=SETTLE_S + COUNT_S), scenario.seeds[0])
    world.prepare()
    gc.collect()
    gc.freeze()
    gc.disable()  # as a run does
    world.loop.run(SETTLE_S)
    began, events = time.process_time(), world.loop.events
    world.loop.run(SETTLE_S + COUNT_S)
    seconds = time.process_time() - began
    gc.enable()
    gc.unfreeze()
    how = f"{(world.loop.events - events) / seconds:,.0f} events/s; standing links, settled views (e14-scale)"
    rate = COUNT_S / seconds
    return Row("1,000 nodes, 1,000 jobs/s simulated", "≥ 8 virtual s/CPU s", f"{rate:.2f}", rate >= 8, how)
