"""Reads a model server's load from its Prometheus text.

The three gauges that every model server must have, and their names per engine, come from the Gateway API inference
extension (proposal 003, "model server protocol").  Not here: our own metrics (``p2pnode/metrics.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_RUNNING: Final = ("vllm:num_requests_running", "sglang:num_running_reqs", "llamacpp:requests_processing")
_WAITING: Final = ("vllm:num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred")
_KV: Final = ("vllm:kv_cache_usage_perc", "sglang:token_usage", "llamacpp:kv_cache_usage_ratio")
_GENERATED: Final = (
    "vllm:generation_tokens_total",
    "sglang:generation_tokens_total",
    "llamacpp:tokens_predicted_total",
)
_KNOWN: Final = frozenset((*_RUNNING, *_WAITING, *_KV, *_GENERATED))


@dataclass(frozen=True, slots=True)
class Gauges:
    """Requests running and waiting, share of the KV cache in use (0 to 1), tokens generated since the start."""

    running: int
    waiting: int
    kv: float
    generated: float


def read(text: bytes) -> Gauges | None:
    """The gauges, summed over data-parallel engines; ``None`` if the text does not come from a model server."""
    sums: dict[str, float] = {}
    for line in text.decode("utf-8", "replace").splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name not in _KNOWN:
            continue
        try:
            value = float(line.rpartition("}")[2].split()[0 if "}" in line else 1])
        except (ValueError, IndexError):
            continue
        sums[name] = max(sums.get(name, 0.0), value) if name in _KV else sums.get(name, 0.0) + value

    def one(names: tuple[str, ...]) -> float | None:
        return next((sums[name] for name in names if name in sums), None)

    running = one(_RUNNING)
    if running is None:
        return None
    return Gauges(int(running), int(one(_WAITING) or 0), min(1.0, one(_KV) or 0.0), one(_GENERATED) or 0.0)
