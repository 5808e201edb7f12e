"""Reads processor and memory through the standard library.  That cannot hang, so it needs no child process."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Final

from p2pnode.json_types import JsonObject

MIB: Final = 1024 * 1024
_CPUINFO = Path("/proc/cpuinfo")
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def reading(cpuinfo: Path = _CPUINFO, cpu_max: Path = _CPU_MAX) -> JsonObject:
    """Name, usable cores (affinity and container limit included) and memory in MiB."""
    return {"model": _name(cpuinfo), "cores": _cores(cpu_max), "memory_mib": _memory_mib()}


def _name(cpuinfo: Path) -> str:
    try:
        for line in cpuinfo.read_text().splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cores(cpu_max: Path) -> int:
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        usable = os.cpu_count() or 1
    try:
        quota, period = cpu_max.read_text().split()
        return max(1, min(usable, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # no cgroup v2, or "max", which sets no limit
        return usable


def _memory_mib() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB
    except (ValueError, OSError):
        return 0
