"""Runs the probes: ``survey`` once, ``watch`` as long as the node runs.

A probe that exceeds its time limit is killed and counts as "no GPU", with the reason in ``problems``.  A broken driver
then costs the node its GPU, but not its API.  The probes themselves are in the other modules.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from p2pnode.hardware import amd, cpu
from p2pnode.json_types import JsonObject

#: Seconds a probe may take: NVML initialises a machine of eight cards in about 2 s without the persistence daemon
#: (NVIDIA's driver persistence notes); the rest is reserve (guess).
PROBE_LIMIT_S: Final = 10.0
#: Seconds between readings while watching, and until a silent watcher is replaced (guess).
WATCH_EVERY_S: Final = 2.0
WATCH_LIMIT_S: Final = 15.0
#: First and longest pause before a failed watcher is restarted, seconds (guess).
RESTART_FIRST_S: Final = 5.0
RESTART_MOST_S: Final = 300.0
#: Longest line of a probe, bytes: 16 GPUs take about 5 kB.
LINE_BYTES: Final = 64 * 1024

_NVIDIA = (sys.executable, "-m", "p2pnode.hardware.nvidia")


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One card, as its driver describes it now.  A figure that the driver does not report is 0."""

    model: str
    vram_mib: int = 0
    free_mib: int = 0
    compute_capability: float = 0.0
    pcie_gb_s: float = 0.0
    bandwidth_gb_s: float = 0.0
    gpu_percent: int = 0
    temperature_c: int = 0
    throttled: bool = False
    clock_percent: int = 100


@dataclass(frozen=True, slots=True)
class Survey:
    """The result of all probes.  ``runtime`` is ``cuda``, ``rocm`` or ``cpu``."""

    runtime: str = "cpu"
    driver: str = ""
    gpus: tuple[GpuReading, ...] = ()
    cpu: JsonObject = field(default_factory=dict)
    problems: tuple[str, ...] = ()


async def survey(limit_s: float = PROBE_LIMIT_S) -> Survey:
    """Run every probe once, in parallel; failures of a driver become ``problems``."""
    results: dict[str, Survey] = {}

    async def ask(runtime: str, command: tuple[str, ...], read: Callable[[str], JsonObject]) -> None:
        results[runtime] = await _once(runtime, command, read, limit_s)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "cuda", _NVIDIA, json.loads)
        if shutil.which(amd.COMMAND[0]):
            nursery.start_soon(ask, "rocm", amd.COMMAND, amd.reading)
    found = next((results[name] for name in ("cuda", "rocm") if name in results and results[name].gpus), Survey())
    problems = tuple(problem for result in results.values() for problem in result.problems)
    return Survey(found.runtime, found.driver, found.gpus, cpu.reading(), problems)


async def _once(runtime: str, command: tuple[str, ...], read: Callable[[str], JsonObject], limit_s: float) -> Survey:
    try:
        with trio.fail_after(limit_s):
            # If the deadline passes, trio kills the child.
            done = await trio.run_process(
                list(command), capture_stdout=True, check=False, stdin=b"", stderr=subprocess.DEVNULL
            )
        return _understood(runtime, read(done.stdout[-LINE_BYTES:].decode(errors="replace")))
    except trio.TooSlowError:
        return Survey(problems=(f"the {runtime} driver did not answer within {limit_s:g} s",))
    except (OSError, ValueError) as error:
        return Survey(problems=(f"the {runtime} probe failed: {error}",))


def _understood(runtime: str, answer: JsonObject) -> Survey:
    """Check the output of a probe; raises ``ValueError`` if it has another form."""
    try:
        if "problem" in answer:
            return Survey(problems=(str(answer["problem"]),))
        gpus = tuple(GpuReading(**gpu) for gpu in answer["gpus"])
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not the answer of a probe: {error!r}") from None
    return Survey(runtime, str(answer.get("driver", "")), gpus)


async def watch(report: Callable[[tuple[GpuReading, ...]], None], every_s: float = WATCH_EVERY_S) -> None:
    """Report the state of the NVIDIA cards for ever, from one child that is replaced when it hangs or ends.

    ``report(())`` means that the state is unknown.
    """
    pause = RESTART_FIRST_S
    while True:
        began = trio.current_time()
        await _watch_once(report, every_s, _NVIDIA)
        report(())
        # A watcher that ran for a while worked, so its end has a new cause.
        pause = RESTART_FIRST_S if trio.current_time() - began > RESTART_MOST_S else min(2 * pause, RESTART_MOST_S)
        await trio.sleep(pause)


async def _watch_once(
    report: Callable[[tuple[GpuReading, ...]], None],
    every_s: float,
    command: tuple[str, ...],
    limit_s: float = WATCH_LIMIT_S,
) -> None:
    async with trio.open_nursery() as nursery:
        process = await nursery.start(_child, [*command, "--every", str(every_s)])
        rest = b""
        while True:
            with trio.move_on_after(limit_s) as limit:
                data = await process.stdout.receive_some(LINE_BYTES)
            if limit.cancelled_caught or not data or len(rest) > LINE_BYTES:
                break
            *lines, rest = (rest + data).split(b"\n")
            try:
                for line in lines:
                    report(_understood("cuda", json.loads(line)).gpus)
            except ValueError:
                break
        nursery.cancel_scope.cancel()


async def _child(command: list[str], *, task_status: trio.TaskStatus[trio.Process]) -> None:
    await trio.run_process(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
        task_status=task_status,
    )
