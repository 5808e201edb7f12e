"""The messages and statements of version 0.1.0: the names of their fields in order, pinned.

A field is only ever appended, so this file never changes.  Not here: a node that speaks so (``tests.fullstack``).
"""

from __future__ import annotations

from typing import Final

import msgpack

from protocol.statements.adverts import Advert, Gpu, Load, ModelOffer, Provider

#: The fields of each message.
FIELDS: Final = {
    0: ("protocol", "network", "agent", "addrs", "observed"),
    16: ("wires",),
    17: ("buckets", "listed", "entries", "reply", "have"),
    18: ("peer", "inc", "seq"),
    20: ("query", "target", "values"),
    21: ("query", "contacts", "values"),
    22: ("target", "value"),
    32: ("job", "path", "model", "body_bytes", "stream", "usage", "prompt_tokens", "max_tokens", "deadline_ms"),
    34: ("job", "queue_position", "ttft_ms"),
    35: ("retry_ms", "running", "waiting"),
    36: ("status", "code", "message", "param", "final"),
    39: ("finish", "tokens_in", "tokens_out", "sha256", "message", "signature"),
}
#: Kinds whose payload is not a message: PING, PONG, CREDIT, RST, GOAWAY, BODY, DELTA, BEAT.
PLAIN: Final = frozenset({1, 2, 3, 4, 5, 33, 37, 38})
#: The fields of each statement and of what an advert consists of.
STATEMENTS: Final = {
    Advert: (
        *("protocol", "name", "region", "owner", "runtime", "driver", "gpus", "models", "addrs", "engine", "version"),
    ),
    Gpu: (
        *("model", "count", "vram_mib", "bandwidth_gb_s", "fp16_tflops", "bf16_tflops", "fp8_tflops", "int8_tops"),
        *("fp4_tflops", "compute_capability", "pcie_gb_s"),
    ),
    ModelOffer: (
        *("name", "fingerprint", "state", "context", "quantization", "capabilities", "price_in", "price_out"),
        *("vram_mib", "params_b"),
    ),
    Load: (
        *("status", "free_vram_mib", "running", "waiting", "slots", "kv_permille", "queued_prefill_tokens", "tokens_s"),
        *("gpu_percent", "temperature_c", "throttled", "clock_percent"),
    ),
    Provider: ("model", "addrs"),
}


def as_0_1_0(kind: int, payload: bytes) -> bytes | None:
    """The payload with the fields of 0.1.0; None for a kind that it passed over."""
    if kind in PLAIN:
        return payload
    if kind in FIELDS:
        array = msgpack.unpackb(payload, use_list=True)
        return msgpack.packb(array[: len(FIELDS[kind])])  # type: ignore[no-any-return]  # msgpack has no types
    if kind < 32:
        return None
    raise AssertionError(f"0.1.0 gets a job frame of kind {kind}, which it does not know")
