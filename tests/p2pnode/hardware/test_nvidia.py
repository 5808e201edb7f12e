"""NVIDIA's driver, faked: what is read, and what a card does not give."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from p2pnode.hardware import cpu, nvidia
from p2pnode.hardware.probe import GpuReading


class NVMLError(Exception):
    """Stands for pynvml's."""


class FakeNvml:
    """One H100-like card; names in ``silent`` raise like a card that does not support the question."""

    NVMLError = NVMLError

    def __init__(self, silent: frozenset[str] = frozenset()) -> None:
        self.silent = silent

    def __getattribute__(self, name: str) -> Any:
        if name in object.__getattribute__(self, "silent"):
            raise NVMLError(name)
        return object.__getattribute__(self, name)

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlSystemGetDriverVersion(self) -> bytes:  # noqa: N802
        return b"580.1"

    def nvmlDeviceGetName(self, handle: int) -> bytes:  # noqa: N802
        return b"NVIDIA H100 PCIe"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(total=80 * 1024 * cpu.MIB, free=60 * 1024 * cpu.MIB)

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:  # noqa: N802
        return (9, 0)

    def nvmlDeviceGetMaxPcieLinkWidth(self, handle: int) -> int:  # noqa: N802
        return 16

    def nvmlDeviceGetMaxPcieLinkGeneration(self, handle: int) -> int:  # noqa: N802
        return 5

    def nvmlDeviceGetMemoryBusWidth(self, handle: int) -> int:  # noqa: N802
        return 5120

    def nvmlDeviceGetMaxClockInfo(self, handle: int, kind: int) -> int:  # noqa: N802
        return {1: 2000, 2: 1593}[kind]

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:  # noqa: N802
        return 1500

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=70)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:  # noqa: N802
        return 0x20

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:  # noqa: N802
        return 83


def test_nvidia_reads_what_the_driver_says() -> None:
    answer = nvidia.reading(FakeNvml())
    assert answer["driver"] == "580.1"
    gpu = GpuReading(**answer["gpus"][0])
    assert gpu.model == "NVIDIA H100 PCIe"
    assert (gpu.vram_mib, gpu.free_mib) == (80 * 1024, 60 * 1024)
    assert gpu.compute_capability == 9.0
    assert gpu.pcie_gb_s == pytest.approx(63.0, abs=0.1)
    assert gpu.bandwidth_gb_s == pytest.approx(2039, abs=1)
    assert (gpu.gpu_percent, gpu.temperature_c, gpu.throttled, gpu.clock_percent) == (70, 83, True, 75)


def test_nvidia_leaves_out_what_a_card_does_not_give() -> None:
    silent = frozenset(
        name
        for name in dir(FakeNvml)
        if name.startswith("nvmlDeviceGet") and not name.endswith(("Count", "ByIndex", "Name", "MemoryInfo"))
    )
    gpu = GpuReading(**nvidia.reading(FakeNvml(silent))["gpus"][0])
    assert gpu == GpuReading("NVIDIA H100 PCIe", 80 * 1024, 60 * 1024)
