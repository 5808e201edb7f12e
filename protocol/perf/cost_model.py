"""Predicts the time of a model on a GPU: seconds to the first token, and seconds per token.

Theory of operation
===================

A step computes and reads memory, with partial overlap: it takes the root of the sum of squares of both times
(against 20,091 measured layer times on A40, A100 and H100: 9 % mean error, the larger of the two alone 12 %, peak
figures of the data sheet 42 %).  ::

    step      = sqrt((2 A b / (Ec F))^2 + ((W_b / Ew + K c / Ek) / M)^2) + 32 us L + 126 us + 4.4 us b
    prefill/s = Ep F / (2 A);                      beyond 8,192 tokens 2 L h n^2 / (Ep F) seconds more
    TTFT      = 16 ms + wait for room in the KV cache + (queued + prompt - cached tokens) / prefill
    ITL       = step
    wait      = (c + n - room) / c of the duration of a job, o ITL: jobs with the surplus context have to end first

``A`` active parameters, ``b`` jobs in the batch, ``c`` tokens of their context, ``F`` dense peak in the type of the
computation, ``W_b`` bytes of weights that a batch reads (all of them, except in a mixture of experts), ``K`` KV bytes
per token, ``M`` bytes per second of memory, ``L`` layers, ``h`` width, ``n`` tokens of a prompt, ``o`` tokens of an
answer.  Several GPUs count as one with their sum.  :func:`step_s` and :func:`prefill_s` take numbers or numpy columns.

Not here: the network, and measurements of a peer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

from protocol.arrays import FloatArray
from protocol.perf.gpu_catalog import MIB, ModelShape, bits_per_weight, bytes_per_weight
from protocol.statements.adverts import Gpu, ModelState

#: Achieved share of the peak, fitted on the layer times of vidur (compute, weights); BLIS (KV, whole prefill).
COMPUTE_SHARE: Final = 0.64
WEIGHTS_SHARE: Final = 0.70
KV_SHARE: Final = 0.51
PREFILL_SHARE: Final = 0.45
#: Overheads per layer, step and job, and of a request, seconds (BLIS, trained on vLLM).
LAYER_S: Final = 32e-6
STEP_S: Final = 126e-6
JOB_S: Final = 4.4e-6
REQUEST_S: Final = 16e-3
#: Attention adds to the time of prompts beyond this many tokens.
LONG_PROMPT: Final = 8192
#: Share of the memory that an engine uses (vLLM's default).
MEMORY_SHARE: Final = 0.9
#: A machine that reports no speed (guess: a desktop CPU): dense TFLOPS, GB/s.
UNKNOWN_TFLOPS: Final = 1.0
UNKNOWN_GB_S: Final = 40.0
#: Waking a sleeping model: PCIe 4.0 x16 in practice (guess), and the constant part of vLLM's sleep mode.
PCIE_BYTES_S: Final = 25e9
WAKE_S: Final = 0.3
#: Loading a model: a usual NVMe disk (guess), start of an engine (published: 10 to 30 s for small models).
DISK_BYTES_S: Final = 2e9
START_S: Final = 15.0
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


def step_s(
    shape: ModelShape, *, flops: Numbers, bytes_s: Numbers, weights: Numbers, batch: Numbers, context: Numbers
) -> Numbers:
    """Seconds until each of ``batch`` jobs, with ``context`` tokens in all, has its next token.

    ``weights`` is the size of all weights in bytes.
    """
    compute = 2 * shape.active_params * batch / (COMPUTE_SHARE * flops)
    touched = weights * touched_share(shape, batch) if shape.is_mixture else weights
    memory = (touched / WEIGHTS_SHARE + shape.kv_bytes * context / KV_SHARE) / bytes_s
    total: Numbers = (compute**2 + memory**2) ** 0.5 + (shape.layers * LAYER_S + STEP_S + JOB_S * batch)
    return total


def prefill_s(shape: ModelShape, flops: Numbers, tokens: float) -> Numbers:
    """Seconds to process ``tokens`` tokens of one prompt."""
    work = 2 * shape.active_params * tokens
    if tokens > LONG_PROMPT:
        work += 2 * shape.layers * shape.hidden * tokens**2
    seconds: Numbers = work / (PREFILL_SHARE * flops)
    return seconds


def backlog_s(shape: ModelShape, flops: Numbers, queued_tokens: Numbers) -> Numbers:
    """Seconds until ``queued_tokens`` tokens of other prompts are processed."""
    seconds: Numbers = 2 * shape.active_params * queued_tokens / (PREFILL_SHARE * flops)
    return seconds


def cold_s(state: int, weights: Numbers) -> Numbers:
    """Seconds until a model in ``state`` is resident; ``weights`` is its size in bytes."""
    if state == ModelState.RESIDENT:
        return weights * 0
    if state == ModelState.SLEEPING:
        return weights / PCIE_BYTES_S + WAKE_S
    return weights / DISK_BYTES_S + START_S


def touched_share(shape: ModelShape, batch: Numbers) -> Numbers:
    """The share of the weights that a batch reads; in a mixture, the experts that at least one of its tokens chose."""
    if not shape.is_mixture:
        return batch * 0 + 1
    idle = 1 - shape.experts_per_token / shape.experts
    experts = (shape.params - shape.active_params) / idle
    share: Numbers = 1 - experts * idle**batch / shape.params
    return share


def peak_flops(gpu: Gpu, quantization: str = "") -> float:
    """Dense peak, FLOP/s, of all GPUs of an entry, in the type in which this quantization computes."""
    bits, label = bits_per_weight(quantization), quantization.lower()
    tflops = max(gpu.bf16_tflops, gpu.fp16_tflops)
    if bits == 8 and "fp8" in label and (gpu.compute_capability >= _FP8_FROM or not gpu.compute_capability):
        tflops = max(tflops, gpu.fp8_tflops)
    elif "fp4" in label and gpu.compute_capability >= _FP4_FROM:
        tflops = max(tflops, gpu.fp4_tflops)
    return max(LEAST_TFLOPS, tflops or UNKNOWN_TFLOPS) * 1e12 * gpu.count


def memory_bytes_s(gpu: Gpu) -> float:
    """Memory bandwidth, bytes per second, of all GPUs of an entry."""
    return max(LEAST_GB_S, gpu.bandwidth_gb_s or UNKNOWN_GB_S) * 1e9 * gpu.count


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
    flops, bytes_s = peak_flops(gpu, quantization), memory_bytes_s(gpu)
    itl = step_s(
        shape,
        flops=flops,
        bytes_s=bytes_s,
        weights=shape.params * bytes_per_weight(quantization),
        batch=float(max(1, batch)),
        context=float(context + prompt_tokens),
    )
    ttft = REQUEST_S + prefill_s(shape, flops, float(max(0, prompt_tokens - cached_tokens)))
    ttft += backlog_s(shape, flops, float(queued_tokens))
    room = kv_tokens(gpu, shape, quantization)
    if room is not None and context + prompt_tokens > room and context:
        ttft += min(1.0, (context + prompt_tokens - room) / context) * answer_tokens * itl
    return Prediction(ttft, itl)
