"""How much of a claim counts: no more than the fastest known card, and no more than the named card has.

Anyone can claim anything.  So each figure has a *ceiling*.  A figure above it counts as the ceiling, which leaves room
for an overclocked card and for one that is newer than the table.  A figure above ``ABSURD`` times the ceiling is no
mistake: the statement is shown, and no job goes there.

============================ ===================================================================================
claim                        ceiling
============================ ===================================================================================
a card of the table          its own figures, times ``OVERCLOCKED``; its memory twice, as rebuilt cards have
any other card               the highest figure of the table
GPUs                         ``MOST_PER_KIND`` of one kind, ``MOST_GPUS`` in all
prices, contexts, loads      the bounds below; nothing is clamped, because a worse figure harms its author only
============================ ===================================================================================

Not here: what a peer has been observed to do (``reputation``), and the types and hard bounds of a statement, which its
decoder checks (``statements.adverts``).
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Final

import msgspec

from protocol.perf.gpu_catalog import all_gpus, find_gpu
from protocol.statements.adverts import Advert, Gpu, Load

#: How far a card may exceed its entry in the table (guess: factory overclocking reaches 10 %).
OVERCLOCKED: Final = 1.15
#: How much more memory rebuilt cards have than those of the table (guess: the usual trade doubles it).
REBUILT: Final = 2
#: Beyond this multiple of its ceiling a claim is not a mistake (guess: a generation of cards brings 1.5 x or less).
ABSURD: Final = 1.5
#: GPUs of one kind, and in all, that count (guess: a machine with more serves a model with eight of them).
MOST_PER_KIND: Final = 8
MOST_GPUS: Final = 16
#: Bus rates: that of PCIe 6.0 x16, GB/s.
MOST_PCIE_GB_S: Final = 128.0
#: Compute capabilities beyond the table's (guess: two generations).
MOST_CAPABILITY: Final = 20.0
#: USD per million tokens (guess: a hundred times the dearest published price).
MOST_PRICE: Final = 10_000.0
#: Tokens (guess: the longest published context has 10 million).
MOST_CONTEXT: Final = 1 << 24
#: Parameters, 10^9, and memory of one model, MiB (guess: ten times the largest published ones).
MOST_PARAMS_B: Final = 20_000.0
MOST_MODEL_MIB: Final = 1 << 25
#: Slots of a node, and jobs that run or wait there (guess: engines take up to 1,024 sequences).
MOST_SLOTS: Final = 4096
MOST_JOBS: Final = 1 << 16
#: Prompt tokens that wait, and tokens per second (guess: a thousand long prompts; ten times the fastest node).
MOST_QUEUED_TOKENS: Final = 1 << 28
MOST_TOKENS_S: Final = 1_000_000
#: Adverts whose judgement is remembered (guess: as many as a view has peers).
_REMEMBERED: Final = 4096

#: Figures of a card with a ceiling: their names in ``Gpu`` and for people.
_FIGURES: Final = {
    "bandwidth_gb_s": "GB/s",
    "fp16_tflops": "TFLOPS in fp16",
    "bf16_tflops": "TFLOPS in bf16",
    "fp8_tflops": "TFLOPS in fp8",
    "int8_tops": "TOPS in int8",
    "fp4_tflops": "TFLOPS in fp4",
}


@cache
def _fastest() -> dict[str, float]:
    """The highest figure of the table for each claim about one card."""
    known = all_gpus()
    most = {name: max(float(getattr(gpu, name)) for gpu in known) for name in (*_FIGURES, "vram_mib")}
    return most | {"pcie_gb_s": MOST_PCIE_GB_S, "compute_capability": MOST_CAPABILITY}


def _ceilings(gpu: Gpu) -> dict[str, float]:
    """The ceiling of each figure of a claimed card."""
    most, known = _fastest(), find_gpu(gpu.model, gpu.vram_mib)
    if known is None:
        return most
    fp16 = known.fp16_tflops or known.bf16_tflops
    # Where the table has no figure, the narrower type is as much faster as it is narrower.
    own = {
        "bandwidth_gb_s": known.bandwidth_gb_s,
        "fp16_tflops": fp16,
        "bf16_tflops": known.bf16_tflops or fp16,
        "fp8_tflops": known.fp8_tflops or 2 * fp16,
        "int8_tops": known.int8_tops or 2 * fp16,
        "fp4_tflops": known.fp4_tflops or 4 * fp16,
    }
    own = {name: figure * OVERCLOCKED for name, figure in own.items()}
    return {**most, **own, "vram_mib": float(REBUILT * known.vram_mib)}


@lru_cache(_REMEMBERED)
def believed(gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """The claimed GPUs as far as they count; an entry beyond ``MOST_GPUS`` is left out."""
    left, counted = MOST_GPUS, []
    for gpu in gpus:
        count = min(gpu.count, MOST_PER_KIND, left)
        if count:
            left -= count
            counted.append(_believed(gpu, count))
    return tuple(counted)


def _believed(gpu: Gpu, count: int) -> Gpu:
    excess = {name: most for name, most in _ceilings(gpu).items() if getattr(gpu, name) > most}
    if "vram_mib" in excess:
        excess["vram_mib"] = int(excess["vram_mib"])
    return msgspec.structs.replace(gpu, count=count, **excess) if excess or count != gpu.count else gpu


@lru_cache(_REMEMBERED)
def absurd_advert(advert: Advert) -> str:
    """The first claim of an advert that cannot be true, in words; empty if there is none."""
    if (count := sum(gpu.count for gpu in advert.gpus)) > ABSURD * MOST_GPUS:
        return f"claims {count} GPUs; up to {MOST_GPUS} count"
    for gpu in advert.gpus:
        for name, most in _ceilings(gpu).items():
            if (value := getattr(gpu, name)) > ABSURD * most:
                unit = _FIGURES.get(name, name.replace("_", " "))
                return f"claims {value:,.6g} {unit} for each {gpu.model!r}; {most:,.6g} count"
    for offer in advert.models:
        for value, bound, unit in (
            (offer.price_in, MOST_PRICE, "USD per million tokens of a prompt"),
            (offer.price_out, MOST_PRICE, "USD per million tokens"),
            (offer.context, MOST_CONTEXT, "tokens of context"),
            (offer.params_b, MOST_PARAMS_B, "billion parameters"),
            (offer.vram_mib, MOST_MODEL_MIB, "MiB"),
        ):
            if value > bound:
                return f"claims {value:,.6g} {unit} for {offer.name!r}; up to {bound:,.6g} are plausible"
    return ""


def absurd_load(load: Load) -> str:
    """The first figure of a load that cannot be true, in words; empty if there is none."""
    if (
        load.slots <= MOST_SLOTS
        and load.running <= MOST_JOBS
        and load.waiting <= MOST_JOBS
        and load.queued_prefill_tokens <= MOST_QUEUED_TOKENS
        and load.tokens_s <= MOST_TOKENS_S
    ):  # practically always, and asked for every load of every peer
        return ""
    for value, most, unit in (
        (load.slots, MOST_SLOTS, "slots"),
        (load.running, MOST_JOBS, "running jobs"),
        (load.waiting, MOST_JOBS, "waiting jobs"),
        (load.queued_prefill_tokens, MOST_QUEUED_TOKENS, "queued prompt tokens"),
    ):
        if value > most:
            return f"claims {value:,} {unit}; up to {most:,} are plausible"
    return f"claims {load.tokens_s:,} tokens per second; up to {MOST_TOKENS_S:,} are plausible"
