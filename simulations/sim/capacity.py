"""How many jobs per second the fleet can finish; ``utilisation`` is a share of that rate.

Theory of operation
===================

A machine whose slots are full (or its KV cache, if that is full earlier) reads the prompts of its jobs one after the
other and gives each of the ``b`` jobs that are read a token per step::

    seconds of the machine per job = prefill(prompt) + output / b * step(b, b context)
    b                              = min(slots - jobs that are not read yet, room in the KV cache / context)
    jobs that are not read yet     = (16 ms + prefill(prompt)) / seconds of the machine per job

with the means of the scenario's own jobs, of which some are drawn.  ``context`` is what a job holds at a random moment,
at which the long ones are met more often.  Nothing is taken to be in a cache: reuse of prefixes makes the same
utilisation easier.  The hidden efficiency counts: this is what the machines do, not what they say.  Held against the
engine machine with a queue that is never empty, it is within 7 %, and 10 to 20 % above it where memory is short.

``total_per_s`` lets every machine work at full speed on its own models, regardless of the demand.  ``balanced_per_s``
splits the jobs between models by popularity, and a scheduler that knows everything spreads them.  It is the largest
rate at which no model gets more jobs than its machines can do; the first model to run out of machines sets it.
``capacity_per_s`` is the latter: at ``utilisation = 0.5`` every model has at least half of its machines to spare, and
at 1 one model has nothing left.  With the former, a rare model with few machines could be overloaded at 0.5, and the
scenario would ask a different question.  Only resident models count, and only popularity before the shift.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np

from protocol.perf.cost_model import REQUEST_S, Rates, added_s, kv_tokens, prefill_s, rates, step_s
from protocol.perf.gpu_catalog import ModelShape, bytes_per_weight, shape_of
from protocol.statements.adverts import Gpu
from simulations.scenario import Model, Scenario
from simulations.sim.machines import Machine, machine, unserved
from simulations.workload.arrivals import Floats
from simulations.workload.popularity import shares
from simulations.workload.workload import arrivals

#: Jobs drawn for the means.
SAMPLE: Final = 2000
#: Rounds in which machines with several models are split between them; 1 % is reached in about 100.
_ROUNDS: Final = 200
#: Rounds until the number of jobs that are read stands still.
_SETTLING: Final = 5


@dataclass(frozen=True, slots=True)
class Capacity:
    """Jobs per second; ``by_model`` has the rate of each model in ``balanced_per_s``, in catalogue order."""

    total_per_s: float
    balanced_per_s: float
    by_model: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Usual:
    """The jobs of a scenario: prompts of some, the mean answer, and the context held by one that is being answered."""

    prompts: tuple[int, ...]
    output: float
    context: float


def capacity_per_s(scenario: Scenario, seed: int) -> float:
    """Jobs per second of the scenario's mix that its nodes can finish; 0 if a model has no machine."""
    return capacity(scenario, seed).balanced_per_s


def offered_per_s(scenario: Scenario, seed: int) -> float:
    """Jobs per second that the scenario asks for; 0 for none, and for a trace at its own rate."""
    workload = scenario.workload
    if workload.kind == "none":
        return 0.0
    if workload.utilisation is None:
        return workload.rate_per_s
    return workload.utilisation * capacity_per_s(scenario, seed) if workload.utilisation else 0.0


def too_much(scenario: Scenario, seed: int) -> Iterator[str]:
    """Warnings: models that no node serves, and load above the capacity.  Raises ``UnknownHardware``."""
    if scenario.workload.kind == "none":
        return
    models = scenario.models
    asked = [model.name for model, share in zip(models.catalogue, shares(models), strict=True) if share > 0]
    nowhere = [name for name in unserved(scenario) if name in asked]
    for name in nowhere:
        yield f"no machine can hold {name}: its jobs fail"
    fleet = [machine(scenario, seed, index) for index in range(scenario.topology.nodes)]
    held = {offer.name for one in fleet for offer in one.offers}
    for name in asked:
        if name not in held and name not in nowhere:
            yield f"no node has {name}, though some could hold it: its jobs fail; more nodes, or models.warm, would do"
    share, most = scenario.workload.utilisation, capacity_per_s(scenario, seed)
    rate = scenario.workload.rate_per_s if share is None else share * most
    if share and not most:
        yield "a model that is asked for is resident nowhere, so workload.utilisation is a share of nothing"
    elif 0 < most < rate:
        yield f"{rate:.3g} jobs/s are more than the {most:.3g} that the fleet can finish: its queues grow to the end"


def capacity(scenario: Scenario, seed: int) -> Capacity:
    """Both figures; see the module's docstring."""
    usual = usual_jobs(scenario, seed)
    groups = _groups(scenario, seed, usual)
    asked = np.array(shares(scenario.models))
    if not groups:
        return Capacity(0.0, 0.0, (0.0,) * len(asked))
    speeds = np.array(list(groups))
    machines = np.array(list(groups.values()))
    split = _split(speeds, machines, asked)
    by_model = (split * speeds * machines[:, None]).sum(axis=0)
    wanted = np.where(speeds > 0, asked, 0.0)
    seconds = np.divide(wanted, speeds, out=np.zeros_like(speeds), where=speeds > 0).sum(axis=1)
    per_machine = np.divide(wanted.sum(axis=1), seconds, out=np.zeros(len(seconds)), where=seconds > 0)
    balanced = float((by_model[asked > 0] / asked[asked > 0]).min())
    return Capacity(float(per_machine @ machines), balanced, tuple(by_model.tolist()))


def usual_jobs(scenario: Scenario, seed: int) -> Usual:
    """The jobs of the scenario at a rate that gives enough of them."""
    rate = SAMPLE / scenario.duration_s
    jobs = list(islice(arrivals(scenario, seed, rate), SAMPLE))
    if not jobs:
        return Usual((1,), 1.0, 1.5)
    tokens = sum(job.output_tokens for job in jobs)
    held = sum(job.output_tokens * (job.prompt_tokens + job.output_tokens / 2) for job in jobs)
    return Usual(tuple(job.prompt_tokens for job in jobs), tokens / len(jobs), held / tokens)


def _groups(scenario: Scenario, seed: int, usual: Usual) -> dict[tuple[float, ...], float]:
    """Machines that are alike: jobs per second of each model at efficiency 1, and the sum of the efficiencies."""
    groups: dict[tuple[float, ...], float] = {}
    timing = _UsualTiming(scenario.models.catalogue, usual)
    for index in range(scenario.topology.nodes):
        one = machine(scenario, seed, index)
        speeds = timing.speeds(one)
        if any(speeds):
            groups[speeds] = groups.get(speeds, 0.0) + one.efficiency
    return groups


class _UsualTiming:
    """Jobs per second of machines; those that are alike are reckoned once."""

    def __init__(self, catalogue: tuple[Model, ...], usual: Usual) -> None:
        self._places = {model.name: place for place, model in enumerate(catalogue)}
        self._catalogue = catalogue
        self._usual = usual
        self._known: dict[tuple[str, int, int, tuple[str, ...]], tuple[float, ...]] = {}

    def speeds(self, one: Machine) -> tuple[float, ...]:
        """One number per model of the catalogue, 0 for those that are not resident."""
        if one.gpu is None:
            return (0.0,) * len(self._catalogue)
        names = tuple(offer.name for offer in one.resident)
        key = (one.gpu.model, one.gpu.count, one.slots, names)
        if key not in self._known:
            per_s = [0.0] * len(self._catalogue)
            here = [self._catalogue[self._places[name]] for name in names]
            for model in here:
                others = sum(_weights(other) for other in here) - _weights(model)
                per_s[self._places[model.name]] = 1 / seconds_per_job(one.gpu, one.slots, model, self._usual, others)
            self._known[key] = tuple(per_s)
        return self._known[key]


def seconds_per_job(gpu: Gpu, slots: int, model: Model, usual: Usual, other_bytes: float = 0.0) -> float:
    """Seconds of a full machine for one job; ``other_bytes`` is the memory that other models take."""
    label = model.quantization or model.name
    shape = shape_of(model.name, model.params_b)
    speed = rates(gpu, shape, label)
    room = kv_tokens(gpu, shape, label)
    most = float("inf") if room is None else max(1.0, (room - other_bytes / shape.kv_bytes) / usual.context)
    batch, seconds = min(slots, most), 0.0
    reading = _reading_s(shape, speed, usual.prompts, shared=batch > 1)
    for _ in range(_SETTLING):
        step = step_s(shape, speed, batch, batch * usual.context)
        seconds = reading + usual.output / batch * step
        batch = max(1.0, min(slots - (REQUEST_S + reading) / seconds, most))
    return seconds


def _reading_s(shape: ModelShape, speed: Rates[float], prompts: tuple[int, ...], *, shared: bool) -> float:
    """Seconds for a prompt; ``shared`` with the steps of other jobs."""
    read_s = added_s if shared else prefill_s
    return sum(read_s(shape, speed, float(tokens)) for tokens in prompts) / len(prompts)


def _weights(model: Model) -> float:
    return shape_of(model.name, model.params_b).params * bytes_per_weight(model.quantization or model.name)


def _split(speeds: Floats, machines: Floats, asked: Floats) -> Floats:
    """How machines with several models share their time: shifted, round by round, to the model that has least.

    The result is within about 1 % of the best split.
    """
    needed = np.divide(asked, speeds, out=np.zeros_like(speeds), where=speeds > 0)
    split: Floats = needed / np.maximum(needed.sum(axis=1, keepdims=True), 1e-300)
    best, best_split = -1.0, split
    for _ in range(_ROUNDS):
        supplied = (split * speeds * machines[:, None]).sum(axis=0)
        plenty = np.divide(supplied, asked, out=np.ones_like(asked), where=asked > 0)
        worst = float(plenty[asked > 0].min())
        if worst > best:
            best, best_split = worst, split
        weight = split * np.where(plenty > 0, np.maximum(plenty, 1e-300), 1.0) ** -0.5
        split = weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-300)
    return best_split
