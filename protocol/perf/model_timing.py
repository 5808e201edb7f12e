"""The speed of one model on one simulated machine: the formulas of ``cost_model`` with precomputed constants.

``cost_model`` predicts any peer from its claims; a ``ModelTiming`` is the real speed of a simulated machine.  Its
``efficiency`` is in no statement, so that no prediction is perfect.  The constants are computed once, because an
engine uses them at each change of its batch.
"""

from __future__ import annotations

from math import sqrt

from protocol.perf.cost_model import (
    CHUNK_TOKENS,
    JOB_S,
    LAYER_S,
    MEMORY_SHARE,
    REQUEST_S,
    STEP_S,
    Rates,
    added_s,
    backlog_token_s,
    cold_s,
    prefill_s,
    rates,
    touched_share,
)
from protocol.perf.gpu_catalog import MIB, ModelShape, bytes_per_weight
from protocol.statements.adverts import Gpu


def chunks_of(tokens: int) -> int:
    """Steps until a prompt is processed."""
    return -(-tokens // CHUNK_TOKENS)


class ModelTiming:
    """Timing of one model on one machine; with ``scale`` 0 all times are 0.

    ``efficiency`` is a hidden factor of the GPU's speed.
    """

    __slots__ = (
        *("efficiency", "gpu", "quantization", "scale", "shape"),
        *("kv_bytes", "memory_bytes", "request_s", "weights"),
        *("_kv_s", "_rates", "_rows", "_slower"),
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
        #: Memory for an engine, bytes; infinite if its size is not known.
        self.memory_bytes = gpu.vram_mib * gpu.count * MIB * MEMORY_SHARE or float("inf")
        #: Seconds before the engine sees a request; requests do not delay each other.
        self.request_s = scale * REQUEST_S
        self._slower = scale / efficiency
        self._rates: Rates[float] = rates(gpu, shape, quantization)
        self._kv_s = self._slower * self._rates.kv_s
        #: By batch size: compute time squared, time to read the weights, overhead.
        self._rows: list[tuple[float, float, float]] = []

    def step(self, sequences: int, context_tokens: float) -> tuple[float, float]:
        """Seconds until each of ``sequences`` has its next token, and the seconds that one token of context adds."""
        rows = self._rows
        while len(rows) <= sequences:
            rows.append(self._row(len(rows)))
        compute2, weights_s, overhead_s = rows[sequences]
        memory_s = weights_s + self._kv_s * context_tokens
        both_s = sqrt(compute2 + memory_s * memory_s)
        return both_s + overhead_s, (self._kv_s * memory_s / both_s if both_s else 0.0)

    def _row(self, sequences: int) -> tuple[float, float, float]:
        overhead_s = self._slower * (self.shape.layers * LAYER_S + STEP_S + JOB_S * sequences)
        weights_s = self._slower * self._rates.weights_s * touched_share(self.shape, float(sequences))
        return (self._slower * self._rates.token_s * sequences) ** 2, weights_s, overhead_s

    def read_s(self, tokens: int) -> float:
        """Seconds of the GPU to process ``tokens`` tokens of a prompt."""
        return self._slower * prefill_s(self.shape, self._rates, float(tokens))

    def chunk_s(self, tokens: int, shared: bool) -> float:
        """Seconds of a chunk of such a prompt; ``shared``: beyond the step that a batch of this model has anyway."""
        seconds = (added_s if shared else prefill_s)(self.shape, self._rates, float(tokens))
        return self._slower * seconds / chunks_of(tokens)

    def backlog_s(self, tokens: int) -> float:
        """Seconds of the GPU to process ``tokens`` tokens of several prompts."""
        return self._slower * backlog_token_s(self.shape, self._rates) * tokens

    def load_s(self, state: int) -> float:
        """Seconds until the model is resident; ``efficiency`` does not apply to disks and buses."""
        return self.scale * cold_s(state, self.weights, self.gpu.pcie_gb_s)
