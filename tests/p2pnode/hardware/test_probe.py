"""The probes against fake drivers: what is read, what a card does not give, what hangs, what lies."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import trio

from p2pnode.hardware import amd, cpu, probe
from p2pnode.hardware.probe import GpuReading, Survey

ROCM = """WARNING: AMD GPU device(s) is/are in a low-power state.
{"card0": {"Temperature (Sensor edge) (C)": "31.0", "GPU use (%)": "12",
 "VRAM Total Memory (B)": "25753026560", "VRAM Total Used Memory (B)": "27082752", "Card Series": "Radeon RX 7900 XTX"},
 "system": {"Driver version": "6.8.5"}}"""


def test_amd_reads_the_tools_json() -> None:
    answer = amd.reading(ROCM)
    gpu = GpuReading(**answer["gpus"][0])
    assert answer["driver"] == "6.8.5"
    assert gpu.model == "Radeon RX 7900 XTX"
    assert gpu.vram_mib == 24560
    assert gpu.free_mib == 24534
    assert (gpu.gpu_percent, gpu.temperature_c) == (12, 31)


@pytest.mark.parametrize("text", ["", "no devices", "{broken"])
def test_amd_refuses_what_is_no_json(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own error is one, too
        amd.reading(text)


def test_amd_does_not_trip_over_missing_or_odd_fields() -> None:
    gpu = GpuReading(**amd.reading('{"card0": {"VRAM Total Memory (B)": "N/A"}}')["gpus"][0])
    assert gpu == GpuReading("AMD GPU")


def test_cpu_respects_the_containers_limit(tmp_path: Path) -> None:
    info, limit = tmp_path / "cpuinfo", tmp_path / "cpu.max"
    info.write_text("processor : 0\nmodel name : Some CPU @ 3 GHz\n")
    limit.write_text("50000 100000\n")
    answer = cpu.reading(info, limit)
    assert answer["model"] == "Some CPU @ 3 GHz"
    assert answer["cores"] == 1
    assert answer["memory_mib"] > 0


def test_cpu_without_any_of_the_files(tmp_path: Path) -> None:
    answer = cpu.reading(tmp_path / "none", tmp_path / "none")
    assert answer["cores"] >= 1


def child(code: str) -> tuple[str, ...]:
    """A probe made of one line of Python."""
    return (sys.executable, "-S", "-c", code)


async def test_a_probe_that_hangs_costs_its_gpu_and_no_more() -> None:
    found = await probe._once("cuda", child("import time; time.sleep(60)"), json.loads, 0.2)
    assert found == Survey(problems=("the cuda driver did not answer within 0.2 s",))


@pytest.mark.parametrize("said", ["", "garbage", "[1]", "{}", '{"gpus": [{"name": 1}]}'])
async def test_a_probe_that_talks_nonsense_counts_as_no_gpu(said: str) -> None:
    found = await probe._once("cuda", child(f"print({said!r})"), json.loads, 10)
    assert not found.gpus
    assert len(found.problems) == 1


async def test_a_probe_that_is_not_there_counts_as_no_gpu() -> None:
    found = await probe._once("rocm", ("/nonexistent/rocm-smi",), amd.reading, 10)
    assert not found.gpus
    assert "rocm probe failed" in found.problems[0]


@pytest.mark.slow
async def test_the_survey_of_any_machine_ends_and_knows_its_cpu() -> None:
    found = await probe.survey()
    assert found.cpu["cores"] >= 1
    assert found.runtime in ("cuda", "rocm", "cpu")
    assert found.gpus or found.problems


async def test_a_watcher_reports_until_its_child_ends() -> None:
    line = json.dumps({"driver": "1", "gpus": [{"model": "G", "gpu_percent": 7}]})
    seen: list[tuple[GpuReading, ...]] = []
    await probe._watch_once(seen.append, 1.0, child(f"print({line!r}); print({line!r})"))
    assert seen == [(GpuReading("G", gpu_percent=7),)] * 2


async def test_a_watcher_that_falls_silent_is_given_up_and_its_child_killed() -> None:
    seen: list[tuple[GpuReading, ...]] = []
    with trio.fail_after(10):
        await probe._watch_once(seen.append, 1.0, child("import time; time.sleep(60)"), limit_s=0.2)
    assert seen == []


async def test_a_watcher_that_talks_nonsense_is_given_up() -> None:
    seen: list[tuple[GpuReading, ...]] = []
    with trio.fail_after(10):
        await probe._watch_once(seen.append, 1.0, child("print('nonsense'); import time; time.sleep(60)"))
    assert seen == []
