"""How fast a card runs a model, by the same tables and formula that rank peers (``protocol.predict``), scaled.

Who calls it: ``batch``.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.adverts import Gpu
from protocol.hardware import ModelShape, bytes_per_weight
from protocol.predict import REQUEST_S, kv_tokens, memory_bytes_s, peak_flops, prefill_s, step_s


@dataclass(frozen=True, slots=True)
class Pace:
    """Timing of one model on one machine; ``scale`` 0 makes everything take no time."""

    gpu: Gpu
    shape: ModelShape
    quantization: str = ""
    scale: float = 1.0

    def step_s(self, batch: int, context_tokens: int) -> float:
        """Seconds until every running job has its next token."""
        return self.scale * step_s(
            self.shape,
            flops=peak_flops(self.gpu, self.quantization),
            bytes_s=memory_bytes_s(self.gpu),
            weights=self.shape.params * bytes_per_weight(self.quantization),
            batch=float(batch),
            context=float(context_tokens),
        )

    def prefill_s(self, tokens: int) -> float:
        """Seconds to read a prompt."""
        return self.scale * (REQUEST_S + prefill_s(self.shape, peak_flops(self.gpu, self.quantization), float(tokens)))

    @property
    def kv_tokens(self) -> float:
        """Tokens of context that fit beside the weights."""
        return kv_tokens(self.gpu, self.shape, self.quantization) or float("inf")
