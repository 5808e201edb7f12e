"""The cost model against measured layer times: a change of the formula or of a constant moves these errors.

``data/README.md`` names the source.  The times are of linear operators, so what the model says of attention, of the KV
cache and of a request's fixed time is not held here.  ``pytest -s`` prints the table of all errors, which are means of
absolute relative errors; the last column divides one by that of the peak figures of the data sheet.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import log2
from pathlib import Path

import numpy as np
import pytest

from protocol.arrays import FloatArray
from protocol.perf.cost_model import (
    CHUNK_TOKENS,
    COMPUTE_SHARE,
    JOB_S,
    REQUEST_S,
    STEP_S,
    WEIGHTS_SHARE,
    memory_bytes_s,
    peak_flops,
    predict,
    prefill_s,
    rates,
    step_s,
)
from protocol.perf.gpu_catalog import ModelShape, find_gpu

GPUS = {"a40": "A40", "a100": "A100 SXM4 80GB", "h100": "H100 SXM5 80GB"}
#: Batches from here on are prompts: no batch of an engine has so many jobs.
PROMPT_TOKENS = 1024
#: Observations of one key before a prediction is judged; the learning of ``m``, the logarithm of observed to predicted.
OBSERVED, LEAST_GAIN, CLIP = 20, 0.1, 2.0


@dataclass(frozen=True)
class Measured:
    """The times of one layer on one device, by number of tokens."""

    device: str
    tp: int
    parameters: float
    tokens: FloatArray
    seconds: FloatArray

    @property
    def layer(self) -> ModelShape:
        """A model of this one layer.  It has no width, because its attention is not in the times."""
        return ModelShape("layer", self.parameters, self.parameters, 1, 0, 1.0)

    def errors(self, predicted: FloatArray) -> FloatArray:
        errors: FloatArray = abs(predicted / self.seconds - 1)
        return errors


@cache
def measured() -> tuple[Measured, ...]:
    with (Path(__file__).parent / "data/vidur_layer_times.csv").open(encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    tokens = np.array(names[4:], float)
    return tuple(Measured(row[0], int(row[2]), float(row[3]), tokens, np.array(row[4:], float) / 1000) for row in rows)


Predict = Callable[[Measured], FloatArray]


def peak(row: Measured) -> FloatArray:
    """What a data sheet promises."""
    gpu = find_gpu(GPUS[row.device])
    compute = 2 * row.parameters * row.tokens / peak_flops(gpu)
    return np.maximum(compute, 2 * row.parameters / memory_bytes_s(gpu))


def step(row: Measured) -> FloatArray:
    """A step without what it costs once, and once for each job."""
    speed = rates(find_gpu(GPUS[row.device]), row.layer)
    return np.array([step_s(row.layer, speed, tokens, 0.0) for tokens in row.tokens]) - STEP_S - JOB_S * row.tokens


def prompt(row: Measured) -> FloatArray:
    """A prompt without what its steps cost once."""
    speed = rates(find_gpu(GPUS[row.device]), row.layer)
    chunks = np.maximum(1.0, row.tokens / CHUNK_TOKENS)
    return np.array([prefill_s(row.layer, speed, tokens) for tokens in row.tokens]) - STEP_S * chunks


def error(predicted: Predict, device: str = "", least_tokens: float = 0.0) -> float:
    rows = [row for row in measured() if device in ("", row.device)]
    return float(np.mean([row.errors(predicted(row))[row.tokens >= least_tokens] for row in rows]))


def test_the_whole_prediction_has_the_same_step_and_prompt() -> None:
    for row in (measured()[0], measured()[-1]):
        gpu, place = find_gpu(GPUS[row.device]), int(np.flatnonzero(row.tokens >= PROMPT_TOKENS)[0])
        tokens = int(row.tokens[place])
        whole = predict(gpu, row.layer, tokens, batch=tokens)
        context_s = 1 / (0.51 * memory_bytes_s(gpu)) * tokens  # one byte a token, next to nothing
        assert whole.itl_s - STEP_S - JOB_S * tokens == pytest.approx(step(row)[place], rel=0.01, abs=context_s)
        assert whole.ttft_s - REQUEST_S - STEP_S == pytest.approx(prompt(row)[place], rel=1e-3)


@pytest.mark.parametrize(
    ("device", "of_steps", "of_prompts"), [("a40", 8.0, 8.4), ("a100", 6.4, 5.6), ("h100", 11.4, 8.5)]
)
def test_the_errors_are_what_they_were(device: str, of_steps: float, of_prompts: float) -> None:
    """In percent.  A constant that moves by one percent moves an error by 0.3 points or more."""
    assert 100 * error(step, device) == pytest.approx(of_steps, abs=0.1)
    assert 100 * error(prompt, device, PROMPT_TOKENS) == pytest.approx(of_prompts, abs=0.1)


def test_a_cold_prediction_has_a_fifth_of_the_error_of_the_data_sheet() -> None:
    assert ratio("cold", error(step), error(peak)) <= 0.22


def test_a_prompt_of_1024_tokens_and_more_has_a_fifth_of_the_error_of_the_data_sheet() -> None:
    large = ratio("prompts >= 1,024 tokens", error(prompt, "", PROMPT_TOKENS), error(peak, "", PROMPT_TOKENS))
    assert large <= 0.3


def test_the_error_falls_to_an_eighth_after_20_observations() -> None:
    """One factor per device, model and degree; 20 times of each in random order, the rest is judged."""
    rng = random.Random(1)
    learned, plain = [], []
    for row in measured():
        predicted, places = step(row), list(range(len(row.tokens)))
        rng.shuffle(places)
        factor = 0.0
        for count, place in enumerate(places[:OBSERVED], 1):
            seen = np.clip(np.log(row.seconds[place] / predicted[place]), -CLIP, CLIP)
            factor += max(1 / (count + 1), LEAST_GAIN) * (seen - factor)
        rest = places[OBSERVED:]
        learned.append(row.errors(predicted * np.exp(factor))[rest])
        plain.append(row.errors(peak(row))[rest])
    assert ratio("after 20 observations", float(np.mean(learned)), float(np.mean(plain))) <= 0.15


@pytest.mark.parametrize("device", GPUS)
def test_constants_fitted_on_two_gpus_predict_the_third(device: str) -> None:
    shares = [(compute, weights) for compute, weights in product(np.arange(0.5, 0.8, 0.02), np.arange(0.5, 0.95, 0.05))]
    others = [each for each in GPUS if each != device]
    best = min(shares, key=lambda pair: sum(refitted_error(each, *pair) for each in others))
    left_out = ratio(f"{device} left out", refitted_error(device, *best), error(peak, device))
    assert left_out <= 0.35
    assert best[0] == pytest.approx(COMPUTE_SHARE, abs=0.05)
    assert best[1] == pytest.approx(WEIGHTS_SHARE, abs=0.15)


def refitted_error(device: str, compute: float, weights: float) -> float:
    """The error of a step with other shares of the peak."""

    def predicted(row: Measured) -> FloatArray:
        scales = parts(row.device, row.parameters)
        return np.hypot(scales[0] * row.tokens / compute, scales[1] / weights) + scales[2]

    return error(predicted, device)


@cache
def parts(device: str, parameters: float) -> tuple[float, float, float]:
    """Seconds per token and for the weights at the peak, and those of a layer."""
    gpu, layer = find_gpu(GPUS[device]), ModelShape("layer", parameters, parameters, 1, 0, 1.0)
    speed = rates(gpu, layer)
    overhead = step_s(layer, speed, 0.0, 0.0) - speed.weights_s - STEP_S
    return speed.token_s * COMPUTE_SHARE, speed.weights_s * WEIGHTS_SHARE, overhead


def test_kernels_lose_five_percent_at_each_doubling_of_the_gpus() -> None:
    """``DOUBLING_SHARE`` adds a guess for the all-reduce, which is not in these times."""
    late = [(log2(row.tp), float(np.median(np.log(row.seconds / step(row))))) for row in measured()]
    slope = np.polyfit([doublings for doublings, _ in late], [loss for _, loss in late], 1)[0]
    assert np.exp(-slope) == pytest.approx(0.95, abs=0.015)


def ratio(what: str, predicted: float, data_sheet: float) -> float:
    print(f"{what:>24}: {100 * predicted:5.1f} % of {100 * data_sheet:5.1f} % = {predicted / data_sheet:.3f}")
    return predicted / data_sheet
