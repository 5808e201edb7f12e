"""The capacity is what the engine machine really finishes, and what a fleet can do for the mix that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import msgspec
import numpy as np
import pytest

from protocol.perf.batch_engine import BatchEngine
from protocol.perf.gpu_catalog import find_gpu, shape_of
from protocol.perf.model_timing import ModelTiming
from protocol.perf.sequences import Finished, WakeAt, Work
from simulations.scenario import EngineModel, Hardware, Lengths, Model, Models, Scenario, Topology, Workload
from simulations.sim.capacity import Capacity, _split, capacity, capacity_per_s, seconds_per_job, too_much, usual_jobs
from simulations.sim.machines import machine
from simulations.workload.popularity import shares
from simulations.workload.workload import Arrival, arrivals

EIGHT = Model(name="llama-3.1-8b-instruct")
UNIFORM = Topology(nodes=40, latency="uniform")


def scenario(*models: Model, nodes: int = 40, sigma: float = 0.0, **rest: object) -> Scenario:
    return Scenario(
        name="x",
        topology=msgspec.structs.replace(UNIFORM, nodes=nodes),
        models=Models(catalogue=models or (EIGHT,), **rest.pop("models", {})),  # type: ignore[arg-type]
        engine=EngineModel(efficiency_sigma=sigma),
        **rest,  # type: ignore[arg-type]
    )


def finished_per_s(gpu: str, slots: int, model: Model, jobs: Iterator[Arrival]) -> float:
    """What an engine finishes that always has as many jobs waiting as running."""
    engine = BatchEngine(
        {model.name: ModelTiming(find_gpu(gpu), shape_of(model.name))}, slots=slots, prefix_reuse=False
    )
    now, wake, live, number = 0.0, 0.0, 0, 0
    done: list[float] = []
    while True:
        while live < 2 * slots:
            job = next(jobs, None)
            if job is None:
                warm = len(done) // 5
                return (len(done) - 1 - warm) / (done[-1] - done[warm])
            number, live = number + 1, live + 1
            effects = engine.submit(Work(number, model.name, job.prompt_tokens, job.output_tokens), now)
            wake = next((effect.at for effect in reversed(effects) if isinstance(effect, WakeAt)), wake)
        now = wake
        for effect in engine.timer(now):
            if isinstance(effect, WakeAt):
                wake = effect.at
            elif isinstance(effect, Finished):
                done.append(now)
                live -= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gpu", "slots", "name", "within"),
    [
        ("rtx 4090", 16, "llama-3.1-8b-instruct", 0.07),
        ("h100", 64, "llama-3.1-8b-instruct", 0.07),
        ("rtx 3060", 8, "llama-3.2-1b", 0.07),
        ("rtx 4090", 64, "llama-3.1-8b-instruct", 0.12),  # short of memory
        ("h100", 1, "llama-3.1-8b-instruct", 0.07),
    ],
)
def test_a_machine_finishes_what_is_said(gpu: str, slots: int, name: str, within: float) -> None:
    model = Model(name=name)
    given = scenario(model, duration_s=1000.0)
    said = 1 / seconds_per_job(find_gpu(gpu), slots, model, usual_jobs(given, 1))
    measured = finished_per_s(gpu, slots, model, islice(arrivals(given, 1, 2.0), 2000))
    assert said == pytest.approx(measured, rel=within)


def test_a_fleet_does_as_much_as_its_machines() -> None:
    one, ten = (capacity(scenario(nodes=nodes), 1) for nodes in (1, 10))
    assert ten.total_per_s == pytest.approx(10 * one.total_per_s)
    assert one.total_per_s == pytest.approx(one.balanced_per_s)
    assert one.by_model == (pytest.approx(one.balanced_per_s),)


def test_the_hidden_efficiency_counts() -> None:
    given = scenario(sigma=0.3)
    even = capacity_per_s(scenario(), 1)
    fleet = sum(machine(given, 1, index).efficiency for index in range(40)) / 40
    assert capacity_per_s(given, 1) == pytest.approx(even * fleet)


def test_the_scarcest_model_ends_it() -> None:
    given = scenario(Model(name="a-8b"), Model(name="b-8b"), models={"zipf": 0.0})
    found = capacity(given, 1)
    assert found.balanced_per_s == pytest.approx(min(rate / 0.5 for rate in found.by_model))
    assert found.balanced_per_s <= found.total_per_s
    lonely = scenario(Model(name="a-8b", popularity=1.0), Model(name="b-8b", popularity=99.0), nodes=2)
    # Half of the machines for 99 % of the jobs: 1 / 0.99 of one machine.
    assert capacity_per_s(lonely, 1) == pytest.approx(capacity(lonely, 1).total_per_s / 2 / 0.99, rel=0.01)


def test_a_model_without_a_machine_leaves_nothing() -> None:
    given = scenario(EIGHT, Model(name="llama-3.1-405b"))
    assert capacity_per_s(given, 1) == 0.0
    assert capacity(given, 1).total_per_s > 0


def test_nobody_can_do_nothing() -> None:
    given = scenario(models={"without_engine": 1.0})
    assert capacity(given, 1) == Capacity(0.0, 0.0, (0.0,))


def test_the_fleet_is_made_for_what_is_asked() -> None:
    catalogue = tuple(Model(name=name) for name in ("llama-3.1-8b", "llama-3.2-1b", "llama-3.2-3b", "qwen2.5-7b"))
    given = Scenario(
        name="x",
        hardware=(
            Hardware(gpu="rtx 4090", share=0.6),
            Hardware(gpu="rtx 3060", share=0.3),
            Hardware(gpu="h100", share=0.1),
        ),
        models=Models(catalogue=catalogue),
        topology=msgspec.structs.replace(UNIFORM, nodes=300),
    )
    found = capacity(given, 1)
    assert found.balanced_per_s > 0.5 * found.total_per_s


def test_machines_with_several_models_are_split_where_it_is_needed() -> None:
    # One kind has both models, the other only the first: the best is that the first kind does the second model alone.
    speeds, machines, asked = np.array([[1.0, 1.0], [1.0, 0.0]]), np.array([10.0, 10.0]), np.array([0.5, 0.5])
    split = _split(speeds, machines, asked)
    supplied = (split * speeds * machines[:, None]).sum(axis=0)
    assert supplied / asked == pytest.approx([20, 20], rel=0.02)
    assert split.sum(axis=1) == pytest.approx([1, 1])
    even = _split(np.array([[2.0, 1.0]]), np.array([6.0]), np.array([0.5, 0.5]))
    assert even[0] == pytest.approx([1 / 3, 2 / 3], rel=0.02)


def test_the_usual_jobs_are_those_of_the_workload() -> None:
    short = usual_jobs(scenario(workload=Workload(output=Lengths(median=100, sigma=0.0))), 1)
    assert short.output == 100
    assert short.context == pytest.approx(sum(short.prompts) / len(short.prompts) + 50, rel=1e-9)
    code = usual_jobs(scenario(workload=Workload(kind="trace", trace="azure-code"), duration_s=3000.0), 1)
    assert np.median(code.prompts) == pytest.approx(1469, rel=0.1)
    assert code.output == pytest.approx(28, rel=0.15)
    silent = usual_jobs(scenario(workload=Workload(kind="none")), 1)
    assert silent.prompts == (1,)


def test_longer_jobs_are_fewer() -> None:
    usual = usual_jobs(scenario(), 1)
    gpu = find_gpu("rtx 4090")
    base = seconds_per_job(gpu, 16, EIGHT, usual)
    assert seconds_per_job(gpu, 16, EIGHT, replace(usual, output=2 * usual.output)) > 1.5 * base
    assert seconds_per_job(gpu, 8, EIGHT, usual) > 1.3 * base
    assert seconds_per_job(gpu, 16, EIGHT, usual, other_bytes=5e9) > base


def test_what_the_fleet_cannot_do_is_said() -> None:
    able = scenario(nodes=10, workload=Workload(rate_per_s=1.0))
    most = capacity_per_s(able, 1)
    large, small = Model(name="llama-3.1-405b-instruct", params_b=405.0), Model(name="qwen2.5-3b")

    def said(given: Scenario, **workload: object) -> list[str]:
        changed = msgspec.structs.replace(given.workload, **workload)
        return list(too_much(msgspec.structs.replace(given, workload=changed), 1))

    assert said(able) == said(able, utilisation=1.0) == said(able, kind="none", rate_per_s=1e9) == []
    (load,) = said(able, rate_per_s=2 * most)
    assert (
        load
        == f"{2 * most:.3g} jobs/s are more than the {most:.3g} that the fleet can finish: its queues grow to the end"
    )
    assert said(able, utilisation=1.5)[0].startswith(f"{1.5 * most:.3g} jobs/s are more")
    nowhere = scenario(EIGHT, large, nodes=10)
    assert said(nowhere) == ["no machine can hold llama-3.1-405b-instruct: its jobs fail"]
    assert said(nowhere, utilisation=0.5)[1].endswith("workload.utilisation is a share of nothing")
    (few,) = said(scenario(EIGHT, small, nodes=1))
    assert few.startswith("no node has qwen2.5-3b, though some could hold it")


def test_popularity_adds_up() -> None:
    assert sum(shares(Models())) == pytest.approx(1.0)
