"""The cost model, cold, against measured layer times: a change of the formula or of a constant moves these errors.

``data/README.md`` names the source.  The times are of linear operators, so what the model says of attention, of the KV
cache and of a request's fixed time is not held here.  A constant that moves by one percent moves an error by 0.3 points
or more, three times the tolerance.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from protocol.perf.cost_model import JOB_S, REQUEST_S, STEP_S, memory_bytes_s, peak_flops, predict, step_s
from protocol.perf.gpu_catalog import ModelShape, find_gpu
from protocol.statements.adverts import Gpu

GPUS = {"a40": "A40", "a100": "A100 SXM4 80GB", "h100": "H100 SXM5 80GB"}
#: Batches from here on are prompts: no batch of an engine has so many jobs.
PROMPT_TOKENS = 1024


@dataclass(frozen=True)
class Measured:
    parameters: float
    tokens: float
    seconds: float

    @property
    def layer(self) -> ModelShape:
        """A model of this one layer."""
        return ModelShape("layer", self.parameters, self.parameters, 1, 4096, 1.0)


def measured(device: str) -> list[Measured]:
    with (Path(__file__).parent / "data/vidur_layer_times.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["device"] == device]
    return [Measured(float(row["parameters"]), float(row["tokens"]), float(row["layer_ms"]) / 1000) for row in rows]


def step_of_layer(gpu: Gpu, row: Measured) -> float:
    """A step without what it costs once, and once for each job."""
    flops, bytes_s = peak_flops(gpu), memory_bytes_s(gpu)
    weights = 2 * row.parameters
    whole = step_s(row.layer, flops=flops, bytes_s=bytes_s, weights=weights, batch=row.tokens, context=0.0)
    return whole - STEP_S - JOB_S * row.tokens


def itl_of_layer(gpu: Gpu, row: Measured) -> float:
    """The same of the whole prediction of a batch, without its KV cache, which holds one byte a token here."""
    return predict(gpu, row.layer, 1, batch=int(row.tokens)).itl_s - STEP_S - JOB_S * row.tokens


def prompt_of_layer(gpu: Gpu, row: Measured) -> float:
    return predict(gpu, row.layer, int(row.tokens)).ttft_s - REQUEST_S


def error_percent(device: str, predicted: Callable[[Gpu, Measured], float], least_tokens: float = 0.0) -> float:
    """Mean of the absolute errors, in percent of what was measured."""
    gpu = find_gpu(GPUS[device])
    rows = [row for row in measured(device) if row.tokens >= least_tokens]
    return 100 * sum(abs(predicted(gpu, row) / row.seconds - 1) for row in rows) / len(rows)


def peak_figures(gpu: Gpu, row: Measured) -> float:
    """What a data sheet promises."""
    return max(2 * row.parameters * row.tokens / peak_flops(gpu), 2 * row.parameters / memory_bytes_s(gpu))


@pytest.mark.parametrize(("device", "percent"), [("a40", 9.0), ("a100", 6.7), ("h100", 13.3)])
def test_a_step_is_as_far_from_what_was_measured_as_it_was(device: str, percent: float) -> None:
    for predicted in (step_of_layer, itl_of_layer):
        assert error_percent(device, predicted) == pytest.approx(percent, abs=0.1)


@pytest.mark.parametrize(("device", "percent"), [("a40", 44.3), ("a100", 41.2), ("h100", 28.8)])
def test_a_prompt_is_as_far_from_what_was_measured_as_it_was(device: str, percent: float) -> None:
    """Far: the share of the peak that a whole prefill reaches is one constant, fitted elsewhere."""
    assert error_percent(device, prompt_of_layer, PROMPT_TOKENS) == pytest.approx(percent, abs=0.1)


@pytest.mark.parametrize("device", GPUS)
def test_a_step_is_three_times_nearer_than_the_data_sheet(device: str) -> None:
    assert error_percent(device, step_of_layer) < error_percent(device, peak_figures) / 3
