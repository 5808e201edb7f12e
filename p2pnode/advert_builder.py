"""Builds this node's advert and load from its configuration, engine and hardware.

When they are published is decided elsewhere (``protocol/gossip/publisher.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from p2pnode import __version__
from p2pnode.config import Config
from p2pnode.hardware.probe import GpuReading, Survey
from protocol import PROTOCOL_VERSION
from protocol.jobs.load import with_queue
from protocol.perf.gpu_catalog import find_gpu
from protocol.statements.adverts import MAX_ADDRS, MAX_GPUS, MAX_MODELS, Advert, Gpu, Load, Status

if TYPE_CHECKING:
    from p2pnode.engine.base import Engine


@dataclass(frozen=True)
class NodeSpecs:
    """The hardware that the probes have found so far."""

    survey: Survey = field(default_factory=lambda: Survey(runtime="none"))
    readings: tuple[GpuReading, ...] = ()


def advert_of(config: Config, engine: Engine | None, machine: NodeSpecs, addrs: Iterable[str]) -> Advert:
    """The slow statement.  The advert of a simulated engine names its simulated GPU only."""
    simulated = engine is not None and engine.simulated
    gpus = engine.gpus() if engine is not None else ()
    if not gpus and not simulated:
        gpus = described(machine.survey.gpus)
    return Advert(
        protocol=PROTOCOL_VERSION,
        name=config.node.name,
        region=config.node.region,
        owner=config.node.owner,
        runtime="simulated" if simulated else machine.survey.runtime,
        driver="" if simulated else machine.survey.driver[:64],
        gpus=gpus[:MAX_GPUS],
        models=engine.offers()[:MAX_MODELS] if engine is not None else (),
        addrs=tuple(addrs)[:MAX_ADDRS],
        engine=engine.name if engine is not None else "none",
        version=__version__,
    )


def load_of(engine: Engine | None, machine: NodeSpecs, *, draining: bool, running: int = 0, queued: int = 0) -> Load:
    """The fast statement: the engine's own figures, completed with those of the driver.

    ``running`` jobs have a slot of the engine, whose own count may be older; ``queued`` jobs wait for one.
    """
    load = engine.load() if engine is not None else Load()
    if running > load.running:
        load = msgspec.structs.replace(load, running=running)
    load = with_queue(load, queued)
    readings = machine.readings
    if readings and not (engine is not None and engine.simulated):
        load = msgspec.structs.replace(
            load,
            free_vram_mib=load.free_vram_mib or sum(reading.free_mib for reading in readings),
            gpu_percent=max(reading.gpu_percent for reading in readings),
            temperature_c=max(reading.temperature_c for reading in readings),
            throttled=any(reading.throttled for reading in readings),
            clock_percent=min(reading.clock_percent for reading in readings),
        )
    return msgspec.structs.replace(load, status=int(Status.DRAINING)) if draining else load


def described(readings: Iterable[GpuReading]) -> tuple[Gpu, ...]:
    """Group equal cards, and complete them from the table of known GPUs (no driver reports the FLOPS)."""
    kinds = Counter(_at_rest(reading) for reading in readings)
    return tuple(_gpu(reading, count) for reading, count in kinds.items())


def _at_rest(reading: GpuReading) -> GpuReading:
    """The reading without the figures that differ between two equal cards."""
    return replace(reading, free_mib=0, gpu_percent=0, temperature_c=0, throttled=False, clock_percent=100)


def _gpu(reading: GpuReading, count: int) -> Gpu:
    known = find_gpu(reading.model, reading.vram_mib) or Gpu(reading.model)
    return msgspec.structs.replace(
        known,
        model=reading.model[:128],
        count=count,
        vram_mib=reading.vram_mib or known.vram_mib,
        bandwidth_gb_s=known.bandwidth_gb_s or reading.bandwidth_gb_s,
        compute_capability=reading.compute_capability or known.compute_capability,
        pcie_gb_s=reading.pcie_gb_s,
    )
