"""Shows the models on offer in OpenAI's form, for ``/v1/models``.

Not here: the catalog itself (``protocol.routing.catalog``) and HTTP.
"""

from __future__ import annotations

from p2pnode.json_types import JsonObject
from protocol.routing.catalog import ModelSummary


def listed(summary: ModelSummary) -> JsonObject:
    """One model: the fields that OpenAI's clients read, and ours."""
    return {
        "id": summary.name,
        "object": "model",
        "created": 0,
        "owned_by": "p2pnode",
        "p2pnode": {
            "peers": summary.peers,
            "warm": summary.warm,
            "sleeping": summary.sleeping,
            "on_disk": summary.on_disk,
            "context_length": summary.context_length,
            "quantization": ", ".join(summary.quantizations),
            "capabilities": list(summary.capabilities),
            "price_in": summary.price_in,
            "price_out": summary.price_out,
            "fingerprint": summary.fingerprints[0].hex(),
            "fingerprints": [fingerprint.hex() for fingerprint in summary.fingerprints],
            "simulated": summary.simulated,
            "expected_wait_s": round(summary.expected_wait_s, 3),
        },
    }
