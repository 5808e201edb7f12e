"""How fast one model runs on one machine: the formulas of ``cost_model``, solved for as far as the machine decides.

``cost_model`` answers for any peer from what it claims; a ``ModelTiming`` is what one simulated machine really does.
It has an ``efficiency`` that no statement tells, so that no prediction is perfect, and its constants are computed once,
because an engine asks whenever its batch changes.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

from protocol.perf.cost_model import (
    COMPUTE_SHARE,
    JOB_S,
    KV_SHARE,
    LAYER_S,
    MEMORY_SHARE,
    REQUEST_S,
    STEP_S,
    WEIGHTS_SHARE,
    cold_s,
    memory_bytes_s,
    peak_flops,
    prefill_s,
    touched_share,
)
from protocol.perf.gpu_catalog import MIB, ModelShape, bytes_per_weight
from protocol.statements.adverts import Gpu

#: Most tokens of a prompt that one step reads (the share of vLLM's budget per step that its tuning guide starts from).
CHUNK_TOKENS: Final = 2048


class ModelTiming:
    """Timing of one model on one machine; ``scale`` 0 makes everything take no time.

    ``efficiency`` is a hidden factor on the speed of the GPU.
    """

    __slots__ = (
        *("efficiency", "gpu", "quantization", "scale", "shape"),
        *("kv_bytes", "memory_bytes", "request_s", "weights"),
        *("_compute_s", "_flops", "_kv_s", "_rows", "_slower", "_weights_s"),
    )

    def __init__(
        self, gpu: Gpu, shape: ModelShape, quantization: str = "", scale: float = 1.0, efficiency: float = 1.0
    ) -> None:
        self.gpu = gpu
        self.shape = shape
        self.quantization = quantization
        self.scale = scale
        self.efficiency = efficiency
        self.weights = shape.params * bytes_per_weight(quantization)
        self.kv_bytes = shape.kv_bytes
        #: What an engine may use of the memory, bytes; infinite if its size is not known.
        self.memory_bytes = gpu.vram_mib * gpu.count * MIB * MEMORY_SHARE or float("inf")
        #: Seconds that a request takes before it is seen by the engine; many at once do not hold each other up.
        self.request_s = scale * REQUEST_S
        self._flops = peak_flops(gpu, quantization)
        self._slower = scale / efficiency
        self._compute_s = self._slower * 2 * shape.active_params / (COMPUTE_SHARE * self._flops)
        self._weights_s = self._slower * self.weights / (WEIGHTS_SHARE * memory_bytes_s(gpu))
        self._kv_s = self._slower * shape.kv_bytes / (KV_SHARE * memory_bytes_s(gpu))
        #: By the size of the batch: compute squared, time to read the weights, overhead.
        self._rows: list[tuple[float, float, float]] = []

    def step(self, sequences: int, context_tokens: float) -> tuple[float, float]:
        """Seconds until every one of so many sequences has its next token, and how much a token of context adds."""
        rows = self._rows
        while len(rows) <= sequences:
            rows.append(self._row(len(rows)))
        compute2, weights_s, overhead_s = rows[sequences]
        memory_s = weights_s + self._kv_s * context_tokens
        both_s = sqrt(compute2 + memory_s * memory_s)
        return both_s + overhead_s, (self._kv_s * memory_s / both_s if both_s else 0.0)

    def _row(self, sequences: int) -> tuple[float, float, float]:
        overhead_s = self._slower * (self.shape.layers * LAYER_S + STEP_S + JOB_S * sequences)
        weights_s = self._weights_s * touched_share(self.shape, float(sequences))
        return (self._compute_s * sequences) ** 2, weights_s, overhead_s

    def read_s(self, tokens: int) -> float:
        """Seconds of the GPU that it takes to read so many tokens of a prompt."""
        return self._slower * prefill_s(self.shape, self._flops, float(tokens))

    def load_s(self, state: int) -> float:
        """Seconds until the model is resident; disks and buses have no hidden factor."""
        return self.scale * cold_s(state, self.weights)
