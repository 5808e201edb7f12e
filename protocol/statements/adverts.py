"""The content of statements: ``Advert`` (slow: hardware, models, addresses), ``Load`` (small, fast), ``Provider``.

They travel in an ``envelope`` as msgpack arrays.  Fields are only ever appended.  A reader of an older version skips
unknown fields, and relays them, because it relays the sealed bytes and not the decoded value.
All of it is a *claim* of its author; only type and range are checked.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from protocol.ids import ModelId

#: Bounds of one advert (DESIGN 3.1: 64 models, at most 4 addresses).
MAX_MODELS: Final = 64
MAX_ADDRS: Final = 4
MAX_GPUS: Final = 16
MAX_CAPABILITIES: Final = 16

Label = Annotated[str, Meta(max_length=64)]
Name = Annotated[str, Meta(max_length=128)]
Count = Annotated[int, Meta(ge=0, le=1 << 31)]
Amount = Annotated[float, Meta(ge=0, le=1e12)]


class ModelState(IntEnum):
    """How far a model is from answering."""

    ON_DISK = 0
    SLEEPING = 1
    RESIDENT = 2


class Status(IntEnum):
    """Whether a node takes jobs.  ``BUSY`` means that new ones wait; ``LEFT`` is the last statement of a node."""

    ONLINE = 0
    BUSY = 1
    DRAINING = 2
    LEFT = 3


class Gpu(msgspec.Struct, frozen=True, array_like=True):
    """One kind of accelerator in a node.  TFLOPS are dense peaks; 0 means unknown or not supported."""

    model: Name
    count: Annotated[int, Meta(ge=1, le=1024)] = 1
    vram_mib: Count = 0
    bandwidth_gb_s: Amount = 0.0
    fp16_tflops: Amount = 0.0
    bf16_tflops: Amount = 0.0
    fp8_tflops: Amount = 0.0
    int8_tops: Amount = 0.0
    fp4_tflops: Amount = 0.0
    compute_capability: Amount = 0.0
    pcie_gb_s: Amount = 0.0


class ModelOffer(msgspec.Struct, frozen=True, array_like=True):
    """One model that a node can serve.  Prices are USD per million tokens, ``context`` is tokens."""

    name: Name
    fingerprint: Annotated[bytes, Meta(min_length=16, max_length=16)]
    state: Annotated[int, Meta(ge=0, le=2)] = int(ModelState.RESIDENT)
    context: Count = 0
    quantization: Label = ""
    capabilities: Annotated[tuple[Label, ...], Meta(max_length=MAX_CAPABILITIES)] = ()
    price_in: Amount = 0.0
    price_out: Amount = 0.0
    vram_mib: Count = 0
    params_b: Amount = 0.0

    @property
    def warm(self) -> bool:
        return self.state == ModelState.RESIDENT


class Advert(msgspec.Struct, frozen=True, array_like=True):
    """The slow statement of a node.  ``runtime`` is ``cuda``, ``rocm``, ``cpu``, ``simulated`` or ``none``."""

    protocol: Annotated[int, Meta(ge=1, le=65535)]
    name: Label = ""
    region: Label = ""
    owner: Label = ""
    runtime: Label = "none"
    driver: Label = ""
    gpus: Annotated[tuple[Gpu, ...], Meta(max_length=MAX_GPUS)] = ()
    models: Annotated[tuple[ModelOffer, ...], Meta(max_length=MAX_MODELS)] = ()
    addrs: Annotated[tuple[Name, ...], Meta(max_length=MAX_ADDRS)] = ()
    engine: Label = "none"
    version: Label = ""

    @property
    def vram_mib(self) -> int:
        """Total over all GPUs, MiB."""
        return sum(gpu.vram_mib * gpu.count for gpu in self.gpus)

    def offer(self, model: str) -> ModelOffer | None:
        """The offer of that name, if any."""
        return next((offer for offer in self.models if offer.name == model), None)


class Load(msgspec.Struct, frozen=True, array_like=True):
    """The fast statement of a node: the current state of its engine and GPU."""

    status: Annotated[int, Meta(ge=0, le=3)] = int(Status.ONLINE)
    free_vram_mib: Count = 0
    running: Count = 0
    waiting: Count = 0
    slots: Count = 0
    kv_permille: Annotated[int, Meta(ge=0, le=1000)] = 0
    queued_prefill_tokens: Count = 0
    tokens_s: Count = 0
    gpu_percent: Annotated[int, Meta(ge=0, le=100)] = 0
    temperature_c: Annotated[int, Meta(ge=0, le=255)] = 0
    throttled: bool = False
    clock_percent: Annotated[int, Meta(ge=0, le=200)] = 100


class Provider(msgspec.Struct, frozen=True, array_like=True):
    """A node's statement that it serves a model; the DHT stores it under the model's fingerprint."""

    model: Annotated[bytes, Meta(min_length=16, max_length=16)]
    addrs: Annotated[tuple[Name, ...], Meta(max_length=MAX_ADDRS)] = ()


def offers(advert: Advert) -> dict[ModelId, ModelOffer]:
    """The models of an advert by fingerprint."""
    return {ModelId(offer.fingerprint): offer for offer in advert.models}
