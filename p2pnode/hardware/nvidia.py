"""The NVIDIA probe: ``python -m p2pnode.hardware.nvidia`` prints one JSON line per reading and ends.

It runs as a child of the node, because NVML calls can hang for minutes when the driver fails (a GPU fell off the bus,
a reset is in progress) and a thread inside a driver cannot be interrupted.  With ``--every S`` it repeats until its
stdin closes, so it cannot outlive the node.
"""

from __future__ import annotations

import json
import select
import sys
from types import ModuleType
from typing import Any

from p2pnode.hardware.cpu import MIB
from p2pnode.json_types import JsonObject

#: Bits of nvmlDeviceGetCurrentClocksEventReasons that mean the card is slowed for power or heat, not for idling
#: (nvml.h: SwPowerCap 0x4, HwSlowdown 0x8, SwThermalSlowdown 0x20, HwThermalSlowdown 0x40, HwPowerBrake 0x80).
SLOWED = 0x4 | 0x8 | 0x20 | 0x40 | 0x80
#: GB/s per lane and direction of PCIe generations 1 to 6, after line coding (PCI-SIG).
_LANE_GB_S = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.969, 5: 3.938, 6: 7.563}


def reading(nvml: ModuleType) -> JsonObject:
    """Driver version, and identity and state of each GPU.  A figure that the driver does not report is 0."""
    gpus = []
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        gpus.append(_identity(nvml, handle) | _state(nvml, handle))
    return {"driver": _text(nvml.nvmlSystemGetDriverVersion()), "gpus": gpus}


def _identity(nvml: ModuleType, handle: object) -> JsonObject:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = _ask(nvml, "nvmlDeviceGetCudaComputeCapability", handle) or (0, 0)
    lanes = _ask(nvml, "nvmlDeviceGetMaxPcieLinkWidth", handle) or 0
    generation = _ask(nvml, "nvmlDeviceGetMaxPcieLinkGeneration", handle) or 0
    width_bits = _ask(nvml, "nvmlDeviceGetMemoryBusWidth", handle) or 0
    clock_mhz = _ask(nvml, "nvmlDeviceGetMaxClockInfo", handle, 2) or 0  # 2 is NVML_CLOCK_MEM
    return {
        "model": _text(nvml.nvmlDeviceGetName(handle)),
        "vram_mib": memory.total // MIB,
        "compute_capability": major + minor / 10,
        "pcie_gb_s": round(lanes * _LANE_GB_S.get(generation, 0.0), 1),
        # Double data rate over the whole bus, as deviceQuery computes it.
        "bandwidth_gb_s": round(2 * clock_mhz * 1e6 * width_bits / 8 / 1e9, 1),
    }


def _state(nvml: ModuleType, handle: object) -> JsonObject:
    used = _ask(nvml, "nvmlDeviceGetUtilizationRates", handle)
    reasons = _ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle) or 0
    clock = _ask(nvml, "nvmlDeviceGetClockInfo", handle, 1) or 0  # 1 is NVML_CLOCK_SM
    most = _ask(nvml, "nvmlDeviceGetMaxClockInfo", handle, 1) or 0
    return {
        "free_mib": nvml.nvmlDeviceGetMemoryInfo(handle).free // MIB,
        "gpu_percent": used.gpu if used else 0,
        "temperature_c": _ask(nvml, "nvmlDeviceGetTemperature", handle, 0) or 0,
        "throttled": bool(reasons & SLOWED),
        "clock_percent": round(100 * clock / most) if most else 100,
    }


def _ask(nvml: ModuleType, name: str, *arguments: object) -> Any:
    """One figure, or None if the card, the driver or the container does not report it."""
    try:
        return getattr(nvml, name)(*arguments)
    except (nvml.NVMLError, AttributeError):
        return None


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def main(every_s: float = 0.0) -> int:
    """Print readings; print ``{"problem": …}`` and return 1 if no driver answers."""
    try:
        import pynvml  # noqa: PLC0415

        pynvml.nvmlInit()
    except Exception as error:
        print(json.dumps({"problem": f"no NVIDIA driver: {error}"}), flush=True)  # noqa: T201
        return 1
    while True:
        print(json.dumps(reading(pynvml)), flush=True)  # noqa: T201
        if not every_s or select.select([sys.stdin], [], [], every_s)[0]:
            return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[2]) if sys.argv[1:2] == ["--every"] else 0.0))
