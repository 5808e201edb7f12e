"""The AMD probe: parses ``rocm-smi --json``, if the tool is installed, into the form of the NVIDIA probe.

It uses documented fields only, and leaves a field out that a release of the tool renamed.  It was not tried on a real
card: the tests use recorded output.
"""

from __future__ import annotations

import json
import re

from p2pnode.hardware.cpu import MIB
from p2pnode.json_types import JsonObject

COMMAND = (
    "rocm-smi",
    "--showproductname",
    "--showmeminfo",
    "vram",
    "--showuse",
    "--showtemp",
    "--showdriverversion",
    "--json",
)


def reading(text: str) -> JsonObject:
    """Parse the output of ``rocm-smi``; raises ``ValueError`` if it has no JSON."""
    # Some releases print warnings before the document.
    start = text.find("{")
    if start < 0:
        raise ValueError("rocm-smi printed no JSON")
    document = json.loads(text[start:])
    cards = [value for name, value in sorted(document.items()) if name.startswith("card") and isinstance(value, dict)]
    driver = str(document.get("system", {}).get("Driver version", ""))
    return {"driver": driver, "gpus": [_gpu(card) for card in cards]}


def _gpu(card: JsonObject) -> JsonObject:
    total = _number(card, r"VRAM Total Memory \(B\)")
    used = _number(card, r"VRAM Total Used Memory \(B\)")
    name = next((str(card[key]) for key in ("Card Series", "Card series", "Card SKU") if card.get(key)), "AMD GPU")
    return {
        "model": name,
        "vram_mib": int(total) // MIB,
        "free_mib": int(max(0.0, total - used)) // MIB,
        "gpu_percent": min(100, int(_number(card, r"GPU use \(%\)"))),
        "temperature_c": int(_number(card, r"Temperature \(Sensor (junction|edge)\) \(C\)")),
        "throttled": False,
        "clock_percent": 100,
    }


def _number(card: JsonObject, pattern: str) -> float:
    for name, value in card.items():
        if re.fullmatch(pattern, name):
            try:
                return float(value)
            except (TypeError, ValueError):
                return 0.0
    return 0.0
