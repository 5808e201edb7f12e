"""How fast one model runs on one machine: the formulas of the cost model, with a hidden factor."""

from __future__ import annotations

import math

import pytest

from protocol.perf.cost_model import REQUEST_S, added_s, backlog_token_s, predict, prefill_s, rates
from protocol.perf.gpu_catalog import shape_of
from protocol.perf.model_timing import ModelTiming
from protocol.statements.adverts import Gpu, ModelState
from tests.protocol.perf.engine_loop import CARD, SHAPE


def test_a_mixture_reads_more_experts_the_larger_the_batch() -> None:
    mixture = ModelTiming(CARD, shape_of("mixtral-8x7b-instruct-v0.1"), "awq")
    steps = [mixture.step(size, 0.0)[0] for size in (1, 4, 16)]
    for size, step in zip((1, 4, 16), steps, strict=True):
        expected = predict(CARD, mixture.shape, 0, size, quantization="awq").itl_s
        assert step == pytest.approx(expected)
    assert steps[0] < steps[1] < steps[2]
    assert ModelTiming(CARD, SHAPE, scale=0.0).step(1, 5.0) == (0.0, 0.0)


def test_a_step_and_what_a_token_of_context_adds_to_it_to_the_digit() -> None:
    """Llama 3.1 8B on 100 TFLOPS and 1,000 GB/s at half its speed: 2 sequences that hold 3,000 tokens, by hand."""
    timing = ModelTiming(Gpu("card", 1, 24 * 1024, 1000.0, 100.0, 100.0), SHAPE, efficiency=0.5)
    compute = 2 * 2 * 8.03e9 * 2 / (0.64 * 100e12)
    weights, context = 2 * 16.06e9 / (0.70 * 1000e9), 2 * 131072 / (0.51 * 1000e9)
    memory = weights + context * 3000
    overhead = 2 * (32 * 32e-6 + 126e-6 + 2 * 4.4e-6)
    step, slope = timing.step(2, 3000.0)
    assert step == pytest.approx(math.hypot(compute, memory) + overhead)
    assert slope == pytest.approx(context * memory / math.hypot(compute, memory))
    more, _ = timing.step(2, 3001.0)
    assert more - step == pytest.approx(slope, rel=1e-3)


def test_the_hidden_efficiency_slows_reading_but_not_loading() -> None:
    gpu = Gpu("card", 1, 24 * 1024, 1000.0, 100.0, 100.0)
    whole, half = ModelTiming(gpu, SHAPE), ModelTiming(gpu, SHAPE, efficiency=0.5)
    assert whole.read_s(1000) == pytest.approx(prefill_s(SHAPE, rates(gpu, SHAPE), 1000.0))
    assert half.read_s(1000) == pytest.approx(2 * whole.read_s(1000))
    assert whole.backlog_s(1000) == pytest.approx(1000 * backlog_token_s(SHAPE, rates(gpu, SHAPE)))
    assert half.backlog_s(1000) == pytest.approx(2 * whole.backlog_s(1000))
    for tokens, chunks in ((2048, 1), (2049, 2), (8192, 4)):
        assert whole.chunk_s(tokens, shared=False) == pytest.approx(whole.read_s(tokens) / chunks)
        added = added_s(SHAPE, rates(gpu, SHAPE), float(tokens)) / chunks
        assert whole.chunk_s(tokens, shared=True) == pytest.approx(added)
        assert half.chunk_s(tokens, shared=True) == pytest.approx(2 * added)
    for timing in (whole, half):
        assert timing.load_s(ModelState.ON_DISK) == pytest.approx(16.06e9 / 2e9 + 15.0)
        assert timing.load_s(ModelState.RESIDENT) == 0.0
        assert timing.request_s == REQUEST_S
        assert timing.memory_bytes == pytest.approx(0.9 * 24 * 2**30)
    narrow = ModelTiming(Gpu("card", 1, 24 * 1024, 1000.0, 100.0, 100.0, pcie_gb_s=8.0), SHAPE)
    assert narrow.load_s(ModelState.SLEEPING) == pytest.approx(16.06 / 6.4 + 0.3)
    nothing = ModelTiming(gpu, SHAPE, scale=0.0)
    assert (nothing.read_s(1000), nothing.load_s(ModelState.ON_DISK), nothing.request_s) == (0.0, 0.0, 0.0)
    assert ModelTiming(Gpu("somebody's"), SHAPE).memory_bytes == math.inf
