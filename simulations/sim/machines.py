"""The machines of the nodes: GPU, access link, models, prices, and real speed.

Theory of operation
===================

A machine depends on the seed and its own number, not on the number of machines.  A two-dimensional low-discrepancy
sequence (Roberts' R2, shifted by the seed) assigns kinds of hardware and first models, instead of independent draws.
Every stretch of numbers holds the shares of the scenario nearly exactly, so a fleet of 30 does not lack its rarest
model by chance, while seeds still differ.  Then::

    first model    one of those that fit, by  popularity x bytes that a token reads / share of the fleet where it fits
    further ones   the same among those that fit beside it
    on disk        by popularity, among those that fit alone

Those weights give each model about as much of the fleet as it is asked for: a model that is ten times as large takes
ten times as long, and one that fits on a tenth of the machines has to be on more of them.

The first ``len(catalogue)`` machines make the catalogue whole: number ``i`` has an engine (unless no node has one) and
model ``i`` as its first, on a kind of hardware where it fits if there is one.  So every model that fits somewhere has
at least one server as soon as there are as many nodes as models.

An exact fleet (``[[machine]]``) lists the machines: node ``i`` has the ``i``-th.  The models that fit on the fewest of
them are placed first, so that every model has a server if that is possible.

Not here: the throughput of the machines (``capacity``), their batching (``batch_engine``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Final

import msgspec

from protocol.ids import model_id
from protocol.perf.gpu_catalog import bytes_per_weight, find_gpu, gpu_names, need_mib, shape_of
from protocol.statements.adverts import Gpu, ModelOffer, ModelState
from simulations.rng_streams import rng_stream
from simulations.scenario import ExactMachine, Hardware, Model, Models, Scenario, Topology, Uplink
from simulations.sim.topology import Latencies, latencies
from simulations.workload.popularity import shares

#: Steps of the R2 sequence: 1/g and 1/g^2 of g^3 = g + 1 (M. Roberts, "The unreasonable effectiveness of quasirandom
#: sequences").
_STEP_HARDWARE: Final = 0.754_877_666_246_693
_STEP_MODEL: Final = 0.569_840_290_998_053
#: USD per million tokens of an answer and 10^9 active parameters (guess: what public providers ask for 8 and 70), the
#: share of it that a token of a prompt costs, and the sigma between owners.
PRICE_OUT_PER_B: Final = 0.01
PRICE_IN_SHARE: Final = 0.5
PRICE_SIGMA: Final = 0.3
_MBIT: Final = 1e6 / 8


class UnknownHardware(ValueError):
    """The scenario names a GPU that the table does not have; ``allowed`` are those that it has."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.allowed = gpu_names()
        super().__init__(f"no GPU is called {name!r}; there are {', '.join(self.allowed)}")


@dataclass(frozen=True, slots=True)
class Machine:
    """One node's machine.  ``efficiency`` is the factor on its speed that no node is told; 1 is as predicted."""

    gpu: Gpu | None
    slots: int
    offers: tuple[ModelOffer, ...]
    efficiency: float
    up_bytes_s: float
    down_bytes_s: float
    region: str

    @property
    def serves(self) -> bool:
        """Whether it has something to run a model on, and a model."""
        return self.gpu is not None and bool(self.offers)

    @property
    def resident(self) -> tuple[ModelOffer, ...]:
        return tuple(offer for offer in self.offers if offer.warm)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of hardware and the first models it may have: places in the catalogue, and their weights."""

    gpu: Gpu
    slots: int
    share: float
    fits: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def vram_mib(self) -> int:
        return self.gpu.vram_mib * self.gpu.count


def machine(scenario: Scenario, seed: int, index: int) -> Machine:
    """The machine of node ``index``; raises ``UnknownHardware``."""
    rng = rng_stream(seed, "fleet", index)
    link = _uplink(scenario.topology.uplinks, rng.random())
    draw = rng.random()
    efficiency = rng.lognormvariate(0.0, scenario.engine.efficiency_sigma)
    price = rng.lognormvariate(0.0, PRICE_SIGMA)
    kind, brings = _exact(scenario, index) if scenario.machine else _by_share(scenario, seed, index, draw)
    return Machine(
        gpu=kind.gpu if kind else None,
        slots=kind.slots if kind else 0,
        offers=_offers(kind, scenario.models, brings, seed, index, price) if kind else (),
        efficiency=efficiency,
        up_bytes_s=link.up_mbit * _MBIT,
        down_bytes_s=link.down_mbit * _MBIT,
        region=_where(scenario.topology, seed).region(index),
    )


def bare_offer(model: Model, *, state: ModelState = ModelState.RESIDENT, price: float = 0.0) -> ModelOffer:
    """A node's claims about a model of the catalogue.  ``price`` is relative to the usual; 0 is for nothing."""
    active_b = shape_of(model.name, model.params_b).active_params / 1e9
    return ModelOffer(
        name=model.name,
        fingerprint=model_id(model.name, "", model.quantization, "", model.context),
        state=int(state),
        context=model.context,
        quantization=model.quantization,
        capabilities=("chat",),
        price_in=round(PRICE_OUT_PER_B * PRICE_IN_SHARE * active_b * price, 4),
        price_out=round(PRICE_OUT_PER_B * active_b * price, 4),
        params_b=model.params_b,
    )


def unserved(scenario: Scenario) -> tuple[str, ...]:
    """The models of the catalogue that fit on none of the hardware; raises ``UnknownHardware``."""
    kinds = _kinds(_hardware(scenario), scenario.models)
    return tuple(
        model.name
        for place, model in enumerate(scenario.models.catalogue)
        if not any(place in kind.fits for kind in kinds)
    )


def _hardware(scenario: Scenario) -> tuple[Hardware, ...]:
    """The kinds of machines by share: of an exact fleet those that have a GPU."""
    if not scenario.machine:
        return scenario.hardware
    with_gpu = [one for one in scenario.machine if one.gpu]
    return tuple(Hardware(gpu=one.gpu, share=one.count, count=one.gpus, slots=one.slots) for one in with_gpu)


def _by_share(scenario: Scenario, seed: int, index: int, draw: float) -> tuple[_Kind | None, int]:
    """The hardware (None: no engine) and the model that this node has to serve if it is one of the first."""
    models = scenario.models
    first = index < len(models.catalogue) and models.without_engine < 1
    if draw < models.without_engine and not first:
        return None, index
    return _pick_kind(_kinds(scenario.hardware, models), models, seed, index), index


def _exact(scenario: Scenario, index: int) -> tuple[_Kind | None, int]:
    """The same of an exact fleet."""
    fleet = _fleet(scenario.machine, _kinds(_hardware(scenario), scenario.models))
    brought = _brought(fleet, len(scenario.models.catalogue))
    return fleet[index % len(fleet)], brought.get(index, len(scenario.models.catalogue))


@lru_cache(maxsize=16)
def _fleet(machines: tuple[ExactMachine, ...], kinds: tuple[_Kind, ...]) -> tuple[_Kind | None, ...]:
    """The hardware of every node."""
    left = iter(kinds)
    of_each = [next(left) if one.gpu else None for one in machines]
    return tuple(kind for kind, one in zip(of_each, machines, strict=True) for _ in range(one.count))


@lru_cache(maxsize=16)
def _brought(fleet: tuple[_Kind | None, ...], models: int) -> dict[int, int]:
    """The model that a node has to serve, by node."""
    able = [
        [node for node, kind in enumerate(fleet) if kind is not None and place in kind.fits] for place in range(models)
    ]
    brought: dict[int, int] = {}
    for place in sorted(range(models), key=lambda place: len(able[place])):
        node = next((node for node in able[place] if node not in brought), None)
        if node is not None:
            brought[node] = place
    return brought


@lru_cache(maxsize=4)
def _where(topology: Topology, seed: int) -> Latencies:
    return latencies(topology, seed)


@lru_cache(maxsize=16)
def _kinds(hardware: tuple[Hardware, ...], models: Models) -> tuple[_Kind, ...]:
    whole = sum(kind.share for kind in hardware) or 1.0
    gpus = [_gpu(kind) for kind in hardware]
    needs = [need_mib(bare_offer(model)) for model in models.catalogue]
    fits = [[place for place, need in enumerate(needs) if need <= gpu.vram_mib * gpu.count] for gpu in gpus]
    roomy = [
        sum(kind.share for kind, here in zip(hardware, fits, strict=True) if place in here) / whole
        for place in range(len(needs))
    ]
    demand = [share * _bytes_read(model) for share, model in zip(shares(models), models.catalogue, strict=True)]
    return tuple(
        _Kind(gpu, kind.slots, kind.share / whole, tuple(here), tuple(demand[place] / roomy[place] for place in here))
        for kind, gpu, here in zip(hardware, gpus, fits, strict=True)
    )


def _gpu(kind: Hardware) -> Gpu:
    gpu = find_gpu(kind.gpu)
    if gpu is None:
        raise UnknownHardware(kind.gpu)
    return msgspec.structs.replace(gpu, count=kind.count)


def _bytes_read(model: Model) -> float:
    """Bytes of weights that one token reads: they determine the time of a job."""
    shape = shape_of(model.name, model.params_b)
    return shape.active_params * bytes_per_weight(model.quantization or model.name)


def _uplink(uplinks: tuple[Uplink, ...], draw: float) -> Uplink:
    if not uplinks:
        return Uplink()
    return uplinks[_place(draw, [link.share for link in uplinks])]


def _pick_kind(kinds: tuple[_Kind, ...], models: Models, seed: int, index: int) -> _Kind:
    """The kind of hardware of this machine: by share, but one where its model fits if it has to bring one."""
    candidates: Sequence[_Kind] = kinds
    if index < len(models.catalogue):
        candidates = [kind for kind in kinds if index in kind.fits] or kinds
    draw = (_turns(seed)[0] + index * _STEP_HARDWARE) % 1.0
    return candidates[_place(draw, [kind.share for kind in candidates])]


@lru_cache(maxsize=64)
def _turns(seed: int) -> tuple[float, float]:
    rng = rng_stream(seed, "fleet turns")
    return rng.random(), rng.random()


def _offers(kind: _Kind, models: Models, brings: int, seed: int, index: int, price: float) -> tuple[ModelOffer, ...]:
    """The models of a machine: resident ones first, and of these the one of the catalogue that it ``brings``."""
    catalogue = models.catalogue
    rng = rng_stream(seed, "models", index)
    resident: list[int] = []
    free = float(kind.vram_mib)
    while len(resident) < models.warm:
        left = [
            (place, weight)
            for place, weight in zip(kind.fits, kind.weights, strict=True)
            if place not in resident and need_mib(bare_offer(catalogue[place])) <= free
        ]
        if not left:
            break
        place = _next_model(left, resident, brings, seed, index, rng)
        resident.append(place)
        free -= need_mib(bare_offer(catalogue[place]))
    popular = shares(models)
    rest = [(place, popular[place]) for place in kind.fits if place not in resident]
    stored: list[int] = []
    while rest and len(stored) < models.on_disk:
        chosen = _place(rng.random(), [weight for _, weight in rest])
        stored.append(rest.pop(chosen)[0])
    return tuple(
        bare_offer(catalogue[place], state=state, price=price)
        for places, state in ((resident, ModelState.RESIDENT), (stored, ModelState.ON_DISK))
        for place in places
    )


def _next_model(
    left: list[tuple[int, float]], resident: list[int], brings: int, seed: int, index: int, rng: Random
) -> int:
    if resident:
        draw = rng.random()
    elif any(place == brings for place, _ in left):
        return brings  # one of the first machines, which make the catalogue whole
    else:
        draw = (_turns(seed)[1] + index * _STEP_MODEL) % 1.0
    return left[_place(draw, [weight for _, weight in left])][0]


def _place(draw: float, weights: Sequence[float]) -> int:
    """Which of the weights a draw in [0, 1) falls on."""
    rest = draw * sum(weights)
    for place, weight in enumerate(weights):
        rest -= weight
        if rest < 0:
            return place
    return len(weights) - 1
