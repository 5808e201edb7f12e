"""Machines: their own dice, the shares of the scenario, models that fit, and a catalogue that is whole."""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np
import pytest

from protocol.ids import model_id
from protocol.perf.gpu_catalog import need_mib
from protocol.statements.adverts import ModelState
from simulations.experiment.loading import load, shipped
from simulations.scenario import EngineModel, ExactMachine, Hardware, Model, Models, Scenario, Topology, Uplink
from simulations.sim.machines import Machine, UnknownHardware, machine, unserved
from simulations.workload.popularity import shares

SMALL, MIDDLE, LARGE = "llama-3.2-1b", "llama-3.1-8b-instruct", "llama-3.1-70b-instruct-awq"
CATALOGUE = (Model(name=MIDDLE), Model(name=SMALL), Model(name=LARGE, quantization="awq"), Model(name="qwen2.5-3b"))
HARDWARE = (
    Hardware(gpu="rtx 4090", share=0.5),
    Hardware(gpu="rtx 3060", share=0.4, slots=8),
    Hardware(gpu="h100", share=0.1, slots=64),
)


def scenario(nodes: int = 100, **models: object) -> Scenario:
    return Scenario(
        name="x",
        topology=Topology(nodes=nodes, latency="uniform"),
        hardware=HARDWARE,
        models=Models(**{"catalogue": CATALOGUE, **models}),  # type: ignore[arg-type]
    )


def fleet(given: Scenario, seed: int = 1) -> list[Machine]:
    return [machine(given, seed, index) for index in range(given.topology.nodes)]


def test_a_machine_is_decided_by_the_seed_and_its_number() -> None:
    assert fleet(scenario(10)) == fleet(scenario(50))[:10]
    assert fleet(scenario(10)) != fleet(scenario(10), seed=2)


@pytest.mark.parametrize("nodes", [40, 200])
def test_hardware_comes_by_share(nodes: int) -> None:
    later = [machine(scenario(), 3, index) for index in range(len(CATALOGUE), len(CATALOGUE) + nodes)]
    found = Counter(one.gpu.model for one in later if one.gpu)
    assert [found[name] / nodes for name in ("RTX 4090", "RTX 3060 12GB", "H100 PCIe 80GB")] == pytest.approx(
        [0.5, 0.4, 0.1], abs=2.5 / nodes
    )
    assert {one.slots for one in later if one.gpu and one.gpu.model.startswith("H100")} == {64}


@pytest.mark.parametrize("seed", range(5))
def test_as_many_nodes_as_models_serve_them_all(seed: int) -> None:
    first = [machine(scenario(without_engine=0.9), seed, index) for index in range(len(CATALOGUE))]
    assert [one.resident[0].name for one in first] == [model.name for model in CATALOGUE]


def test_what_is_resident_fits_and_what_is_stored_fits_alone() -> None:
    for one in fleet(scenario(200, warm=3, on_disk=2)):
        assert one.gpu is not None
        assert sum(need_mib(offer) for offer in one.resident) <= one.gpu.vram_mib
        assert all(need_mib(offer) <= one.gpu.vram_mib for offer in one.offers)
        names = [offer.name for offer in one.offers]
        assert len(names) == len(set(names)) <= 5
        assert one.offers[: len(one.resident)] == one.resident


def test_stored_models_say_that_they_are_on_disk() -> None:
    states = Counter(offer.state for one in fleet(scenario(60, warm=1, on_disk=1)) for offer in one.offers)
    assert states == {ModelState.RESIDENT: 60, ModelState.ON_DISK: 60}


def test_more_of_the_fleet_has_what_is_asked_for_more() -> None:
    models = tuple(Model(name=f"m{number}-8b") for number in range(6))
    given = Scenario(name="x", models=Models(catalogue=models, zipf=1.0), topology=Topology(nodes=600))
    found = Counter(one.resident[0].name for one in fleet(given))
    wanted = shares(given.models)
    assert [found[model.name] / 600 for model in models] == pytest.approx(wanted, abs=0.01)


def test_an_offer_is_what_a_daemon_would_say() -> None:
    large = next(offer for one in fleet(scenario(20)) for offer in one.offers if offer.name == LARGE)
    assert large.fingerprint == model_id(LARGE, "", "awq", "", 32768)
    assert (large.context, large.quantization, large.capabilities) == (32768, "awq", ("chat",))
    assert 0 < large.price_in < large.price_out < 10


def test_nodes_without_an_engine_offer_nothing() -> None:
    found = fleet(scenario(500, without_engine=0.3))
    bare = [one for one in found if one.gpu is None]
    assert len(bare) / 500 == pytest.approx(0.3, abs=0.06)
    assert all(not one.offers and not one.slots for one in bare)
    assert not any(one.gpu for one in fleet(scenario(20, without_engine=1.0)))


def test_the_hidden_efficiency_is_log_normal() -> None:
    given = Scenario(name="x", engine=EngineModel(efficiency_sigma=0.15))
    logs = np.log([machine(given, 1, index).efficiency for index in range(1000)])
    assert (logs.mean(), logs.std()) == pytest.approx((0.0, 0.15), abs=0.015)
    even = Scenario(name="x", engine=EngineModel(efficiency_sigma=0.0))
    assert machine(even, 1, 5).efficiency == 1.0


def test_links_come_by_share_and_in_bytes() -> None:
    links = (Uplink(share=0.75, up_mbit=8, down_mbit=80), Uplink(share=0.25, up_mbit=800, down_mbit=800))
    given = Scenario(name="x", topology=Topology(nodes=400, uplinks=links))
    found = Counter((one.up_bytes_s, one.down_bytes_s) for one in fleet(given))
    assert set(found) == {(1e6, 1e7), (1e8, 1e8)}
    assert found[1e6, 1e7] / 400 == pytest.approx(0.75, abs=0.07)


def test_several_gpus_count_as_one_of_their_sum() -> None:
    given = Scenario(
        name="x", hardware=(Hardware(gpu="rtx 3090", count=4),), models=Models(catalogue=(Model(name=LARGE),))
    )
    one = machine(given, 1, 0)
    assert one.gpu is not None
    assert one.gpu.count == 4
    assert [offer.name for offer in one.offers] == [LARGE]


def exact(*machines: ExactMachine, **models: object) -> Scenario:
    nodes = Topology(nodes=sum(one.count for one in machines), latency="uniform")
    return msgspec.structs.replace(scenario(**models), machine=machines, topology=nodes)


def test_an_exact_fleet_is_the_list_in_its_order() -> None:
    given = exact(ExactMachine(), ExactMachine(gpu="rtx 4090"), ExactMachine(gpu="rtx 3060", count=2, gpus=2, slots=8))
    for seed in range(3):
        found = [(one.gpu and (one.gpu.model, one.gpu.count), one.slots) for one in fleet(given, seed)]
        assert found == [(None, 0), (("RTX 4090", 1), 16), *[(("RTX 3060 12GB", 2), 8)] * 2]
    assert machine(given, 1, 0).offers == ()
    newcomer = machine(given, 1, 5)
    assert newcomer.gpu is not None
    assert newcomer.gpu.model == "RTX 4090", "from the first on again"


@pytest.mark.parametrize("seed", range(5))
def test_in_an_exact_fleet_the_model_with_the_fewest_machines_chooses_first(seed: int) -> None:
    """The only one that can hold the large model comes last, and both others could hold each of the small ones."""
    given = exact(
        ExactMachine(gpu="rtx 3060", count=2), ExactMachine(gpu="h100"), catalogue=(CATALOGUE[1], *CATALOGUE[2:])
    )
    assert {one.resident[0].name for one in fleet(given, seed)} == {SMALL, LARGE, "qwen2.5-3b"}
    assert fleet(given, seed)[2].resident[0].name == LARGE


def test_an_exact_fleet_may_have_no_engine() -> None:
    given = exact(ExactMachine(count=3))
    assert [one.gpu for one in fleet(given)] == [None] * 3
    assert set(unserved(given)) == {model.name for model in CATALOGUE}


def test_the_shipped_exact_fleet_serves_its_models() -> None:
    (path,) = [path for path in shipped() if path.stem == "three-machines"]
    given = load(path).scenario
    assert [one.gpu.model if one.gpu else "" for one in fleet(given)] == ["RTX 4090", *["RTX 3060 12GB"] * 2, ""]
    assert unserved(given) == ()


def test_a_model_that_fits_nowhere_is_named() -> None:
    given = Scenario(name="x", hardware=(Hardware(gpu="rtx 3060"),), models=Models(catalogue=CATALOGUE))
    assert unserved(given) == (MIDDLE, LARGE)
    assert unserved(scenario()) == ()


def test_an_unknown_gpu_is_answered_with_the_known_ones() -> None:
    given = Scenario(name="x", hardware=(Hardware(gpu="rtx 9999"),))
    with pytest.raises(UnknownHardware, match=r"'rtx 9999'; there are .*RTX 4090") as error:
        machine(given, 1, 0)
    assert "RTX 4090" in error.value.allowed


def test_popularity_is_zipf_unless_it_is_said() -> None:
    catalogue = (Model(name="a"), Model(name="b"), Model(name="c", popularity=1.5), Model(name="d"))
    models = Models(catalogue=catalogue, zipf=1.0)
    whole = 1 + 1 / 2 + 1.5 + 1 / 4
    assert shares(models) == pytest.approx([1 / whole, 0.5 / whole, 1.5 / whole, 0.25 / whole])
    assert shares(models, turned=True) == pytest.approx([1.5 / whole, 0.25 / whole, 1 / whole, 0.5 / whole])
