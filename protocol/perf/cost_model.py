"""Predicts the time of a model on a GPU: seconds to the first token, and seconds per token.

Theory of operation
===================

A step computes and reads memory, with partial overlap: it takes the root of the sum of squares of both times.  A prompt
takes a step for each chunk.  If other jobs have steps anyway, it shares their weights and their overhead.  ::

    step(b, c) = sqrt((2 A b / (Ec F))^2 + ((W_b / Ew + K c / Ek) / M)^2) + 32 us L + 126 us + 4.4 us b
    prefill(n) = sqrt((2 (A n + L h n^2) / (Ec F))^2 + (k W_b / (Ew M))^2) + k (32 us L + 126 us)
    backlog(q) = q prefill(2,048) / 2,048, without attention
    TTFT       = 16 ms + wait for room in the KV cache + backlog(queued) + prefill(prompt - cached tokens)
    ITL        = step
    wait       = (c + n - room) / c of the duration of a job, o ITL: jobs with the surplus context have to end first

``A`` active parameters, ``b`` jobs in the batch, ``c`` tokens of their context, ``F`` dense peak in the type of the
computation times the clock, ``W_b`` bytes of weights that a batch reads (all of them, except in a mixture of experts),
``K`` KV bytes per token, ``M`` bytes per second of memory, ``L`` layers, ``h`` width, ``n`` tokens of a prompt, ``k``
chunks of 2,048 tokens (at least one), ``o`` tokens of an answer.  ``L h n^2`` is causal attention, which reads the
cache that it has just written.  :class:`Rates` holds the quotients that depend on the machine; the functions take
numbers or numpy columns.

*Several GPUs* that share a model count as their sum, less a tenth at each doubling.  Of cards of different kinds only
one kind counts, since an engine splits a model evenly.

*Against measurements*: 20,091 layer times on A40, A100 and H100 have a mean error of 8.2 %, and those of 1,024 tokens
and more 7.4 %; peak figures of the data sheet have 41.7 % and 38.1 %.  The fixed parts of the error of one machine and
model are what a learned correction removes.  ``tests/protocol/perf/test_cost_model_measured.py`` prints the table.

Not here: the network, and measurements of a peer.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2
from typing import Final, Generic, TypeVar

from protocol.arrays import FloatArray
from protocol.perf.gpu_catalog import MIB, ModelShape, bits_per_weight, bytes_per_weight
from protocol.statements.adverts import Gpu, ModelState

#: Achieved share of the peak, fitted on the layer times of vidur (compute, weights); BLIS (KV).
COMPUTE_SHARE: Final = 0.64
WEIGHTS_SHARE: Final = 0.70
KV_SHARE: Final = 0.51
#: Overheads per layer, step and job, and of a request, seconds (BLIS, trained on vLLM).
LAYER_S: Final = 32e-6
STEP_S: Final = 126e-6
JOB_S: Final = 4.4e-6
REQUEST_S: Final = 16e-3
#: Most prompt tokens in one step (the budget per step with which vLLM's tuning guide starts).
CHUNK_TOKENS: Final = 2048
#: What a doubling of the GPUs keeps of their sum.  The layer times of vidur lose 5 % per doubling, because kernels get
#: smaller; the rest stands for the all-reduce, which is not in them (guess: NVLink and PCIe between them).
DOUBLING_SHARE: Final = 0.90
#: Share of the memory that an engine uses (vLLM's default).
MEMORY_SHARE: Final = 0.9
#: A machine that reports no speed (guess: a desktop CPU): dense TFLOPS, GB/s.
UNKNOWN_TFLOPS: Final = 1.0
UNKNOWN_GB_S: Final = 40.0
#: Waking a sleeping model: PCIe 4.0 x16 in practice (guess), which is this share of the rate on paper, and the constant
#: part of vLLM's sleep mode.
PCIE_BYTES_S: Final = 25e9
PCIE_SHARE: Final = 0.8
WAKE_S: Final = 0.3
#: Loading a model: a usual NVMe disk (guess), start of an engine (published: 10 to 30 s for small models).
DISK_BYTES_S: Final = 2e9
START_S: Final = 15.0
#: Round trips of a dial (counted on the daemon's own stack by ``tests.fullstack``).
DIAL_TRIPS: Final = 3.0
#: Length of an answer without a limit (guess: the default of ``JobQuery``).
ANSWER_TOKENS: Final = 256
#: Least accepted speeds, so that no claim leads to a division by zero (guess): TFLOPS, GB/s.
LEAST_TFLOPS: Final = 1e-3
LEAST_GB_S: Final = 0.1
#: fp8 and fp4 in hardware from these compute capabilities on; before, such weights are computed as fp16.
_FP8_FROM: Final = 8.9
_FP4_FROM: Final = 10.0

Numbers = TypeVar("Numbers", float, FloatArray)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds to the first token, and seconds per token after it."""

    ttft_s: float
    itl_s: float

    def total_s(self, tokens: int) -> float:
        """Seconds to the last of ``tokens`` tokens."""
        return self.ttft_s + max(0, tokens - 1) * self.itl_s


@dataclass(frozen=True, slots=True)
class Rates(Generic[Numbers]):
    """How fast a machine runs a model, seconds: to compute a token of a step, to read all weights once, and to read one
    token of the KV cache."""

    token_s: Numbers
    weights_s: Numbers
    kv_s: Numbers


def rates(gpu: Gpu, shape: ModelShape, quantization: str = "") -> Rates[float]:
    """The rates of a model with these weights on all GPUs of an entry."""
    bytes_s = memory_bytes_s(gpu)
    return Rates(
        2 * shape.active_params / (COMPUTE_SHARE * peak_flops(gpu, quantization)),
        shape.params * bytes_per_weight(quantization) / (WEIGHTS_SHARE * bytes_s),
        shape.kv_bytes / (KV_SHARE * bytes_s),
    )


def step_s(shape: ModelShape, rates: Rates[Numbers], batch: Numbers, context: Numbers) -> Numbers:
    """Seconds until each of ``batch`` jobs, with ``context`` tokens in all, has its next token."""
    weights_s = rates.weights_s * touched_share(shape, batch) if shape.is_mixture else rates.weights_s
    memory_s = weights_s + rates.kv_s * context
    overhead_s = shape.layers * LAYER_S + STEP_S
    total: Numbers = ((rates.token_s * batch) ** 2 + memory_s**2) ** 0.5 + (overhead_s + JOB_S * batch)
    return total


def prefill_s(shape: ModelShape, rates: Rates[Numbers], tokens: float) -> Numbers:
    """Seconds to process ``tokens`` tokens of one prompt."""
    return _chunks_s(shape, rates, tokens, _attention(shape, tokens))


def added_s(shape: ModelShape, rates: Rates[Numbers], tokens: float) -> Numbers:
    """The same on top of steps that are done anyway: the prompt shares their weights and their overhead."""
    weights_s, overhead_s = _once_per_chunk(shape, rates, tokens)
    return prefill_s(shape, rates, tokens) - (weights_s + overhead_s)


def backlog_token_s(shape: ModelShape, rates: Rates[Numbers]) -> Numbers:
    """Seconds for which a token of other prompts delays a job: that of a whole chunk, shared by its tokens."""
    return _chunks_s(shape, rates, CHUNK_TOKENS, 1.0) / CHUNK_TOKENS


def _chunks_s(shape: ModelShape, rates: Rates[Numbers], tokens: float, attention: float) -> Numbers:
    weights_s, overhead_s = _once_per_chunk(shape, rates, tokens)
    total: Numbers = ((tokens * attention * rates.token_s) ** 2 + weights_s**2) ** 0.5 + overhead_s
    return total


def _once_per_chunk(shape: ModelShape, rates: Rates[Numbers], tokens: float) -> tuple[Numbers, float]:
    """Seconds to read the weights for each chunk, and the overhead of its step."""
    chunks = max(1.0, tokens / CHUNK_TOKENS)
    touched = touched_share(shape, min(float(tokens), CHUNK_TOKENS))
    return chunks * touched * rates.weights_s, chunks * (shape.layers * LAYER_S + STEP_S)


def _attention(shape: ModelShape, tokens: float) -> float:
    """How many times the work of its weights a prompt is."""
    return 1 + shape.layers * shape.hidden * tokens / max(1.0, shape.active_params)


def cold_s(state: int, weights: float, pcie_gb_s: float = 0.0) -> float:
    """Seconds until a model in ``state`` is resident.

    ``weights`` is its size in bytes, ``pcie_gb_s`` the rate of the bus on paper (0: unknown).
    """
    if state == ModelState.RESIDENT:
        return 0.0
    bus = max(LEAST_GB_S, pcie_gb_s) * 1e9 * PCIE_SHARE if pcie_gb_s else PCIE_BYTES_S
    if state == ModelState.SLEEPING:
        return weights / bus + WAKE_S
    return weights / min(bus, DISK_BYTES_S) + START_S


def touched_share(shape: ModelShape, batch: Numbers) -> Numbers:
    """The share of the weights that a batch reads; in a mixture, the experts that at least one of its tokens chose."""
    if not shape.is_mixture:
        return batch * 0 + 1
    idle = 1 - shape.experts_per_token / shape.experts
    experts = (shape.params - shape.active_params) / idle
    share: Numbers = 1 - experts * idle**batch / shape.params
    return share


def together(count: int) -> float:
    """So many times as fast as one are ``count`` GPUs that share a model."""
    return count * float(DOUBLING_SHARE ** log2(count))


def fastest(gpus: tuple[Gpu, ...]) -> Gpu:
    """The kind of GPUs of a machine that an engine would use: the one with the most memory bandwidth."""
    return max(gpus, key=memory_bytes_s, default=_UNKNOWN)


def peak_flops(gpu: Gpu, quantization: str = "") -> float:
    """Dense peak, FLOP/s, of all GPUs of an entry together, in the type in which this quantization computes."""
    bits, label = bits_per_weight(quantization), quantization.lower()
    tflops = max(gpu.bf16_tflops, gpu.fp16_tflops)
    if bits == 8 and "fp8" in label and (gpu.compute_capability >= _FP8_FROM or not gpu.compute_capability):
        tflops = max(tflops, gpu.fp8_tflops)
    elif "fp4" in label and gpu.compute_capability >= _FP4_FROM:
        tflops = max(tflops, gpu.fp4_tflops)
    return max(LEAST_TFLOPS, tflops or UNKNOWN_TFLOPS) * 1e12 * together(gpu.count)


def memory_bytes_s(gpu: Gpu) -> float:
    """Memory bandwidth, bytes per second, of all GPUs of an entry together."""
    return max(LEAST_GB_S, gpu.bandwidth_gb_s or UNKNOWN_GB_S) * 1e9 * together(gpu.count)


def kv_tokens(gpu: Gpu, shape: ModelShape, quantization: str = "") -> float | None:
    """Tokens of context that fit beside the weights; None if the memory is unknown."""
    if not gpu.vram_mib:
        return None
    room = gpu.vram_mib * gpu.count * MIB * MEMORY_SHARE - shape.params * bytes_per_weight(quantization)
    return max(0.0, room / shape.kv_bytes)


def predict(
    gpu: Gpu,
    shape: ModelShape,
    prompt_tokens: int,
    batch: int = 1,
    context: int = 0,
    *,
    quantization: str = "",
    queued_tokens: int = 0,
    cached_tokens: int = 0,
    answer_tokens: int = ANSWER_TOKENS,
) -> Prediction:
    """The prediction for one more job.

    ``batch`` includes it; ``context`` is the tokens of the other jobs, ``queued_tokens`` the prompt tokens before it,
    ``cached_tokens`` the cached part of its prompt, ``answer_tokens`` the usual length of an answer.
    The prediction never falls with more load.
    """
    speed = rates(gpu, shape, quantization)
    itl = step_s(shape, speed, float(max(1, batch)), float(context + prompt_tokens))
    ttft = REQUEST_S + prefill_s(shape, speed, float(max(0, prompt_tokens - cached_tokens)))
    ttft += backlog_token_s(shape, speed) * queued_tokens
    room = kv_tokens(gpu, shape, quantization)
    if room is not None and context + prompt_tokens > room and context:
        ttft += min(1.0, (context + prompt_tokens - room) / context) * answer_tokens * itl
    return Prediction(ttft, itl)


#: A machine that names no GPU.
_UNKNOWN: Final = Gpu("")
