"""Published facts of GPUs and models: look-up by name in the tables of ``tables/``.

Names may have the forms that people and drivers write (``4090``, ``NVIDIA A100-SXM4-80GB``).  A model without an entry
gets a shape guessed from the size in its name, so that every prediction has a starting point.
Not here: times (``cost_model``).
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Final

from protocol.statements.adverts import Gpu, ModelOffer

MIB: Final = 1 << 20
#: Names in the caches, which need a bound because peers choose the names (guess).
_NAMES_REMEMBERED: Final = 4096

# --- accelerators ----------------------------------------------------------------------------------------------------

#: Words in a driver's name that do not identify the card.
_BRANDS: Final = frozenset(
    (
        *("nvidia", "amd", "geforce", "radeon", "tesla", "instinct", "rtx", "gtx", "rx"),
        *("graphics", "gpu", "generation", "edition", "workstation", "server", "oam"),
    )
)
#: Words of laptop cards, which are slower than desktop cards of the same number; such a card counts as unknown.
_LAPTOP: Final = frozenset(("laptop", "mobile", "max-q", "maxq"))
_FORM_FACTOR: Final = re.compile(r"pcie|sxm\d*|nvl|hbm\d+e?|gddr\d+x?")
_MEMORY: Final = re.compile(r"(\d+)gb")


@dataclass(frozen=True, slots=True)
class _Entry:
    identity: frozenset[str]
    form: frozenset[str]
    gpu: Gpu


def _words(name: str) -> list[str]:
    spaced = re.sub(r"(rtx|gtx|rx)(?=\d)", r"\1 ", name.lower())
    spaced = re.sub(r"(?<=\d)(ti|super)(?![a-z]*\d)", r" \1", spaced)
    spaced = re.sub(r"ti(?=super)", "ti ", spaced)
    return re.sub(r"(\d) gb\b", r"\1gb", re.sub(r"[\s_/(),]+|-(?!q\b)", " ", spaced)).split()


def _identity(words: list[str]) -> frozenset[str]:
    return frozenset(
        word
        for word in words
        if word not in _BRANDS and not _FORM_FACTOR.fullmatch(word) and not _MEMORY.fullmatch(word)
    )


def _form(words: list[str]) -> frozenset[str]:
    return frozenset(word for word in words if _FORM_FACTOR.fullmatch(word))


def _rows(table: str) -> list[dict[str, str]]:
    text = resources.files("protocol").joinpath("tables", table).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _number(text: str) -> float:
    try:
        return float(text or 0)
    except ValueError:  # the compute capability of AMD is a name
        return 0.0


@cache
def _accelerators() -> tuple[_Entry, ...]:
    entries = []
    for row in _rows("accelerators.csv"):
        words = _words(row["name"])
        gpu = Gpu(
            model=row["name"],
            vram_mib=round(_number(row["vram_gb"]) * 1024),
            bandwidth_gb_s=_number(row["bandwidth_gb_s"]),
            fp16_tflops=_number(row["fp16_dense_tflops"]),
            bf16_tflops=_number(row["bf16_dense_tflops"]),
            fp8_tflops=_number(row["fp8_dense_tflops"]),
            int8_tops=_number(row["int8_dense_tops"]),
            fp4_tflops=_number(row["fp4_dense_tflops"]),
            compute_capability=_number(row["compute_capability"]),
        )
        entries.append(_Entry(_identity(words), _form([*words, row["memory_type"].lower()]), gpu))
    return tuple(entries)


def gpu_names() -> tuple[str, ...]:
    """The names of all accelerators in the table."""
    return tuple(entry.gpu.model for entry in _accelerators())


@cache
def all_gpus() -> tuple[Gpu, ...]:
    """The accelerators of the table, one of each."""
    return tuple(entry.gpu for entry in _accelerators())


@lru_cache(maxsize=_NAMES_REMEMBERED)
def find_gpu(name: str, vram_mib: int = 0) -> Gpu | None:
    """The accelerator that ``name`` means, or None.

    Form factor, type of memory, and memory size (in the name or in ``vram_mib``) distinguish variants of one card.
    Without them it is the first variant in the table, which is the slowest.
    """
    words = _words(name)
    if not _LAPTOP.isdisjoint(words):
        return None
    identity, form = _identity(words), _form(words)
    sizes = [int(match[1]) * 1024 for word in words if (match := _MEMORY.fullmatch(word))]
    size = sizes[0] if sizes else vram_mib
    same = [entry for entry in _accelerators() if entry.identity == identity]
    if not same:
        return None
    return min(same, key=lambda entry: (abs(entry.gpu.vram_mib - size) if size else 0, -len(entry.form & form))).gpu


# --- models ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The facts of a model for predictions.  ``params`` are counts, ``kv_bytes`` is bytes per token of context.

    ``known`` is False if the shape was guessed from the name, ``sized`` is False if even the size was guessed.
    """

    name: str
    params: float
    active_params: float
    layers: int
    hidden: int
    kv_bytes: float
    experts: int = 0
    experts_per_token: int = 0
    context: int = 0
    known: bool = True
    sized: bool = True

    @property
    def is_mixture(self) -> bool:
        """Whether a token uses only some of the experts."""
        return 0 < self.experts_per_token < self.experts


#: Parameters of a model without a size, in 10^9 (guess: a popular size).
_DEFAULT_PARAMS_B: Final = 8.0
#: Largest accepted size in a name, 10^9 parameters (guess).
_MOST_PARAMS_B: Final = 10_000.0
_SIZE: Final = re.compile(r"(?<![a-z0-9.])(?:(\d{1,3})x)?(\d{1,5}(?:\.\d{1,3})?)([bm])(?![a-z0-9])")
_ACTIVE: Final = re.compile(r"(?<![a-z0-9])a(\d{1,4}(?:\.\d{1,3})?)b(?![a-z0-9])")
#: Share of a mixture's parameters that its experts hold, and experts used per token (guess: as in Mixtral).
_EXPERTS_SHARE: Final = 0.965
_EXPERTS_USED: Final = 2
#: Layers of a dense model of ``p`` x 10^9 parameters: 16 p^0.38 (fits Llama 3: 16, 32, 80 at 1, 8, 70).
_LAYERS: Final = (16.0, 0.38)
#: KV bytes per token and layer: 8 heads of 128, keys and values, fp16 (grouped-query attention as in Llama 3).
_KV_BYTES_PER_LAYER: Final = 8 * 128 * 2 * 2


@cache
def _models() -> dict[str, ModelShape]:
    return {
        row["model"]: ModelShape(
            name=row["model"],
            params=float(row["params_total_b"]) * 1e9,
            active_params=float(row["params_active_b"]) * 1e9,
            layers=int(row["layers"]),
            hidden=int(row["hidden"]),
            kv_bytes=float(row["kv_bytes_per_token_fp16"]),
            experts=int(row["experts"]),
            experts_per_token=int(row["experts_per_token"]),
            context=int(row["max_positions"]),
        )
        for row in _rows("models.csv")
    }


def model_names() -> tuple[str, ...]:
    """Every model of the table."""
    return tuple(_models())


def _stem(name: str) -> str:
    """``meta-llama/Meta-Llama-3.1-8B-Instruct-AWQ`` → ``llama-3.1-8b``: the part that variants of a model share."""
    stem = re.sub(r"[\s_:]+", "-", name.lower().rpartition("/")[2]).removeprefix("meta-")
    return re.sub(r"-(instruct|chat|base|it|hf|awq|gptq|fp8|dynamic|int[48]|bf16|fp16|v0\.\d|\d{4})(?=-|$)", "", stem)


@cache
def _stems() -> dict[str, ModelShape]:
    return {_stem(name): shape for name, shape in _models().items()}


@lru_cache(maxsize=_NAMES_REMEMBERED)
def shape_of(name: str, params_b: float = 0.0) -> ModelShape:
    """The shape of a model: from the table, else guessed from ``params_b`` (10^9) or from the size in its name."""
    known = _models().get(name.lower()) or _stems().get(_stem(name))
    if known is not None:
        return known
    lowered = re.sub(r"[\s_:/]+", "-", name.lower())
    total, experts = _size_in(lowered)
    if params_b > 0:
        total, experts = params_b, 0
    sized = total > 0
    total = min(total or _DEFAULT_PARAMS_B, _MOST_PARAMS_B)
    active = total
    if experts:
        active = total * (1 - _EXPERTS_SHARE + _EXPERTS_SHARE * _EXPERTS_USED / experts)
    elif match := _ACTIVE.search(lowered):
        active = min(total, float(match[1]) or total)
    layers = max(1, round(_LAYERS[0] * total ** _LAYERS[1]))
    return ModelShape(
        name=name,
        params=total * 1e9,
        active_params=active * 1e9,
        layers=layers,
        hidden=max(64, round((total * 1e9 / (12 * layers)) ** 0.5)),
        kv_bytes=float(layers * _KV_BYTES_PER_LAYER),
        experts=experts,
        experts_per_token=_EXPERTS_USED if experts else 0,
        known=False,
        sized=sized,
    )


def _size_in(name: str) -> tuple[float, int]:
    """Parameters in 10^9 and experts in a name (``8x7b``, ``0.6b``, ``270m``); 0 if it has none."""
    match = _SIZE.search(name)
    if match is None:
        return 0.0, 0
    size = float(match[2]) * (1e-3 if match[3] == "m" else 1.0)
    experts = int(match[1] or 0)
    if experts <= _EXPERTS_USED:
        return size * max(1, experts), 0
    # The experts share their attention layers, so 8 x 7 is 46.7 and not 56 (Mixtral).
    return size * experts * 0.834, experts


# --- quantization ----------------------------------------------------------------------------------------------------

#: Bits per weight by patterns in the label; the first match counts.
_BITS: Final = (
    (re.compile(r"fp4|mxfp4|nvfp4|nf4|int4|w4|awq|gptq|marlin|(^|[^a-z0-9])i?q4|4bit|4-bit"), 4.0),
    (re.compile(r"(^|[^a-z0-9])i?q[23]"), 3.0),
    (re.compile(r"(^|[^a-z0-9])q5"), 5.0),
    (re.compile(r"(^|[^a-z0-9])q6"), 6.0),
    (re.compile(r"fp8|int8|w8|(^|[^a-z0-9])q8|8bit|8-bit|bitsandbytes"), 8.0),
    (re.compile(r"fp32|f32|float32"), 32.0),
)
#: Least NVIDIA compute capability by patterns in the label; the first match counts.  Below it no engine has kernels
#: (vLLM's table of supported hardware: Turing runs fp8 and fp4 weight-only; bfloat16 needs Ampere).
_LEAST_CAPABILITY: Final = (
    (re.compile(r"awq|marlin|fp8|fp4|w8a8|w4a16"), 7.5),
    (re.compile(r"(^|[^a-z0-9])(bf16|bfloat16)"), 8.0),
)
#: Scales and zero points of weights quantized in groups (measured on the public AWQ and GPTQ builds: 4 to 8 %).
_QUANTIZED_OVERHEAD: Final = 1.06
#: Memory that an engine needs to start, relative to the weights: activations, a small KV cache (guess).
_START_OVERHEAD: Final = 1.2


@lru_cache(maxsize=_NAMES_REMEMBERED)
def bits_per_weight(quantization: str) -> float:
    """4 for ``awq``, 8 for ``fp8``, 16 for unknown labels and for no quantization."""
    lowered = quantization.lower()
    return next((bits for pattern, bits in _BITS if pattern.search(lowered)), 16.0)


@lru_cache(maxsize=_NAMES_REMEMBERED)
def least_capability(quantization: str) -> float:
    """The least NVIDIA compute capability that runs weights of this label; 0 if any does."""
    lowered = quantization.lower()
    return next((least for pattern, least in _LEAST_CAPABILITY if pattern.search(lowered)), 0.0)


def can_run(gpu: Gpu, quantization: str) -> bool:
    """Whether a GPU has kernels for this quantization; True for a GPU of unknown capability."""
    return not gpu.compute_capability or gpu.compute_capability >= least_capability(quantization)


def bytes_per_weight(quantization: str) -> float:
    """Bytes of one parameter in memory, scales included."""
    bits = bits_per_weight(quantization)
    return bits / 8 * (_QUANTIZED_OVERHEAD if bits < 16 else 1.0)


def weight_bytes(offer: ModelOffer) -> float:
    """Size of an offered model's weights, bytes; guessed if the offer does not say."""
    return shape_of(offer.name, offer.params_b).params * bytes_per_weight(offer.quantization or offer.name)


def need_mib(offer: ModelOffer) -> float:
    """GPU memory that an offered model needs, MiB: as declared, else estimated from its size; 0 if unknown."""
    if offer.vram_mib:
        return float(offer.vram_mib)
    if not shape_of(offer.name, offer.params_b).sized:
        return 0.0
    return weight_bytes(offer) * _START_OVERHEAD / MIB
