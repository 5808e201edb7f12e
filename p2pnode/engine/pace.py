"""How fast a GPU runs a model: seconds per step of a batch, prompt tokens per second.

A thin view of ``protocol.predict`` for the mock engine, with a scale that makes everything faster for benches.
Who calls it: ``mock``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from p2pnode.engine.base import ModelSpec
from protocol.adverts import Gpu

#: Fallbacks of a model that says nothing of itself: parameters in 10^9, bytes per parameter.
_PARAMS_B: Final = 8.0
_BYTES: Final = 2.0
_KV_BYTES: Final = 131072.0
_LAYERS: Final = 32


@dataclass(frozen=True, slots=True)
class Pace:
    """Timing of one model on one machine; ``scale`` 0 makes everything take no time."""

    gpu: Gpu
    model: ModelSpec
    scale: float = 1.0

    def step_s(self, batch: int, context_tokens: int) -> float:
        """Seconds until every running job has its next token (root of squares of compute and memory time)."""
        params = (self.model.params_b or _PARAMS_B) * 1e9
        flops = max(self.gpu.bf16_tflops, self.gpu.fp16_tflops, 1.0) * 1e12 * self.gpu.count
        bandwidth = max(self.gpu.bandwidth_gb_s, 1.0) * 1e9 * self.gpu.count
        compute = 2 * params * batch / (0.64 * flops)
        memory = (_BYTES * params / 0.70 + _KV_BYTES * context_tokens / 0.51) / bandwidth
        return self.scale * (math.hypot(compute, memory) + _LAYERS * 32e-6 + 126e-6 + batch * 4.4e-6)

    def prefill_s(self, tokens: int) -> float:
        """Seconds to read a prompt."""
        flops = max(self.gpu.bf16_tflops, self.gpu.fp16_tflops, 1.0) * 1e12 * self.gpu.count
        return self.scale * (0.016 + tokens * 2 * (self.model.params_b or _PARAMS_B) * 1e9 / (0.45 * flops))
