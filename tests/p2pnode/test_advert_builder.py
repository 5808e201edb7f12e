"""What a node says of itself: adverts and loads made of what the engine and the drivers report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from p2pnode.advert_builder import NodeSpecs, advert_of, described, load_of
from p2pnode.config import load_config
from p2pnode.hardware.probe import GpuReading, Survey
from protocol.statements.adverts import Gpu, Load, ModelOffer, Status

ADDRESS = "/ip4/203.0.113.7/tcp/4411"


def config(**flags: Any) -> Any:
    return load_config(None, flags, {})


class FakeEngine:
    """An engine with one model; ``simulated`` as told."""

    name = "fake"
    state = "ready"
    problem = ""

    def __init__(self, simulated: bool, gpus: tuple[Gpu, ...] = ()) -> None:
        self.simulated = simulated
        self._gpus = gpus

    def offers(self) -> tuple[ModelOffer, ...]:
        return (ModelOffer("m", b"\0" * 16),)

    def gpus(self) -> tuple[Gpu, ...]:
        return self._gpus

    def load(self) -> Load:
        return Load(running=2, free_vram_mib=7 if self.simulated else 0)


CARD = GpuReading("NVIDIA H100 PCIe", 81559, 60000, 9.0, 63.0, 2039.0, 70, 83, True, 75)


MACHINE = NodeSpecs(Survey("cuda", "580.1", (CARD, replace(CARD, free_mib=1))), (CARD, replace(CARD, temperature_c=90)))


def test_an_advert_says_what_is_there() -> None:
    advert = advert_of(config(name="ada", region="eu"), FakeEngine(False), MACHINE, [ADDRESS] * 9)
    assert (advert.name, advert.region, advert.engine, advert.runtime, advert.driver) == (
        "ada",
        "eu",
        "fake",
        "cuda",
        "580.1",
    )
    assert len(advert.gpus) == 1
    assert (advert.gpus[0].count, advert.gpus[0].vram_mib, advert.gpus[0].bandwidth_gb_s) == (2, 81559, 2000.0)
    assert len(advert.addrs) == 4
    assert [offer.name for offer in advert.models] == ["m"]


def test_a_simulated_engine_speaks_of_its_simulated_gpu_and_of_nothing_else() -> None:
    simulated = Gpu("RTX 4090", vram_mib=24564)
    advert = advert_of(config(), FakeEngine(True, (simulated,)), MACHINE, [])
    assert advert.gpus == (simulated,)
    assert advert.runtime == "simulated"
    assert advert.driver == ""
    load = load_of(FakeEngine(True), MACHINE, draining=False)
    assert (load.temperature_c, load.free_vram_mib) == (0, 7)


def test_a_load_joins_engine_and_driver() -> None:
    load = load_of(FakeEngine(False), MACHINE, draining=False)
    assert (load.running, load.free_vram_mib, load.gpu_percent, load.temperature_c) == (2, 120000, 70, 90)
    assert load.throttled
    assert load.clock_percent == 75
    assert load.status == Status.ONLINE
    assert load_of(None, NodeSpecs(), draining=True).status == Status.DRAINING
    full = load_of(FakeEngine(False), MACHINE, draining=False, queued=3)
    assert (full.running, full.waiting, full.status) == (2, load.waiting + 3, Status.BUSY)


def test_different_cards_are_different_entries() -> None:
    cards = described([CARD, replace(CARD, model="NVIDIA L4", vram_mib=23034), replace(CARD, gpu_percent=0)])
    assert [(card.model, card.count) for card in cards] == [("NVIDIA H100 PCIe", 2), ("NVIDIA L4", 1)]
