"""Predictions: the anchors they were checked against, and what must never happen whatever the numbers are."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.perf.cost_model import (
    ANSWER_TOKENS,
    Prediction,
    Rates,
    added_s,
    backlog_token_s,
    cold_s,
    fastest,
    kv_tokens,
    memory_bytes_s,
    peak_flops,
    predict,
    prefill_s,
    rates,
    step_s,
    together,
    touched_share,
)
from protocol.perf.gpu_catalog import ModelShape, find_gpu, gpu_names, model_names, shape_of
from protocol.statements.adverts import Gpu, ModelState

LLAMA = shape_of("llama-3.1-8b-instruct")


@pytest.mark.parametrize(
    ("gpu", "quantization", "milliseconds"),
    [
        *(("H100 SXM5 80GB", "", 8), ("A100 SXM4 80GB", "", 13), ("RTX 4090", "", 24)),
        *(("RTX 3090", "awq", 8), ("RTX 3060 12GB", "awq", 19)),
    ],
)
def test_seconds_per_token_are_those_of_the_study(gpu: str, quantization: str, milliseconds: float) -> None:
    prediction = predict(find_gpu(gpu), LLAMA, 1000, quantization=quantization)
    assert prediction.itl_s * 1000 == pytest.approx(milliseconds, abs=0.6)


def test_a_prompt_is_a_step_per_chunk_to_the_digit() -> None:
    """Llama 3.1 8B (32 layers, 4,096 wide, 16.06 GB) on 100 TFLOPS and 1,000 GB/s; by hand.

    1,000 tokens: 2 x 8.03e9 x 1,000 = 1.606e13 operations and 2 x 32 x 4,096 x 1,000^2 = 2.62144e11 of attention take
    255.03 ms of 64 TFLOPS; the weights once 22.943 ms; 32 x 32 us + 126 us = 1.15 ms more.
    """
    speed = rates(Gpu("card", 1, 24 * 1024, 1000.0, 100.0, 100.0), LLAMA)
    once = math.hypot((1.606e13 + 2.62144e11) / 64e12, 16.06e9 / 0.7e12) + 1.15e-3
    assert once == pytest.approx(0.25721, abs=1e-5)
    assert prefill_s(LLAMA, speed, 1000.0) == pytest.approx(once)
    # 8,192 tokens are four chunks: 1.31564e14 + 1.75922e13 operations, four times the weights.
    four = math.hypot((1.315635e14 + 1.759219e13) / 64e12, 4 * 16.06e9 / 0.7e12) + 4 * 1.15e-3
    assert prefill_s(LLAMA, speed, 8192.0) == pytest.approx(four, rel=1e-6)
    # The least prompt waits for the weights.
    assert prefill_s(LLAMA, speed, 1.0) == pytest.approx(math.hypot(2.51e-4, 22.943e-3) + 1.15e-3, rel=1e-4)


def test_a_prompt_among_other_jobs_shares_the_weights_and_the_overhead_of_their_steps() -> None:
    """1,000 tokens: 257.21 ms alone, of which 22.94 ms read the weights and 1.15 ms are overhead of a step."""
    speed = rates(Gpu("card", 1, 24 * 1024, 1000.0, 100.0, 100.0), LLAMA)
    assert added_s(LLAMA, speed, 1000.0) == pytest.approx(0.25721 - 0.022943 - 1.15e-3, abs=1e-5)
    four = 4 * (16.06e9 / 0.7e12 + 1.15e-3)
    assert added_s(LLAMA, speed, 8192.0) == pytest.approx(prefill_s(LLAMA, speed, 8192.0) - four)
    assert added_s(LLAMA, speed, 1.0) < 2e-6  # the weights hide the computation


def test_attention_grows_with_the_square_of_the_prompt() -> None:
    """With compute alone, 16,384 tokens cost 2.63127e14 operations for the weights and 7.03687e13 for attention."""
    speed = Rates(2 * 8.03e9 / 64e12, 0.0, 0.0)
    steps = 8 * 1.15e-3
    assert prefill_s(LLAMA, speed, 16384.0) - steps == pytest.approx((2.63127e14 + 7.03687e13) / 64e12, rel=1e-5)
    half = prefill_s(LLAMA, speed, 8192.0) - steps / 2
    assert half == pytest.approx((2.63127e14 / 2 + 7.03687e13 / 4) / 64e12, rel=1e-5)


def test_a_token_of_another_prompt_costs_its_share_of_a_chunk() -> None:
    """2,048 tokens: 3.28909e13 operations at 64 TFLOPS are 513.92 ms, the weights 22.943 ms, 1.15 ms more."""
    speed = rates(Gpu("card", 1, 24 * 1024, 1000.0, 100.0, 100.0), LLAMA)
    assert backlog_token_s(LLAMA, speed) == pytest.approx((math.hypot(0.51392, 0.022943) + 1.15e-3) / 2048, rel=1e-4)


def test_a_mixture_touches_more_weights_the_larger_the_batch() -> None:
    mixture = shape_of("mixtral-8x7b-v0.1")
    speed = rates(find_gpu("H200"), mixture)

    def step(batch: float) -> float:
        return step_s(mixture, speed, batch, 1000.0)

    assert step(1.0) < 0.4 * step(64.0)
    alone = step(1.0) - mixture.layers * 32e-6 - 126e-6 - 4.4e-6
    assert alone == pytest.approx(mixture.active_params * 2 / 0.7 / 4.8e12, rel=0.05)
    # A prompt touches all experts: 93.4 GB at 3.36 TB/s are 27.8 ms, and 64 tokens compute 2.6 ms.
    assert prefill_s(mixture, speed, 64.0) == pytest.approx(27.8e-3 + 1.15e-3, rel=0.02)


@pytest.mark.parametrize(("batch", "untouched"), [(1.0, 0.75), (2.0, 0.5625), (3.0, 0.421875)])
def test_a_batch_touches_the_experts_that_at_least_one_of_its_tokens_chose(batch: float, untouched: float) -> None:
    """Mixtral: a token chooses 2 of 8 experts, so each expert is left out with probability (3/4)^batch."""
    mixture = shape_of("mixtral-8x7b-v0.1")
    experts = (mixture.params - mixture.active_params) / 0.75  # a token leaves out three quarters of them
    assert touched_share(mixture, batch) == pytest.approx(1 - experts * untouched / mixture.params)
    assert touched_share(mixture, 1.0) == pytest.approx(mixture.active_params / mixture.params)
    assert touched_share(LLAMA, batch) == 1.0


@pytest.mark.parametrize(
    ("gpu", "quantization", "tflops"),
    [
        *(("A100 SXM4 80GB", "", 312), ("A100 SXM4 80GB", "fp8", 312), ("A100 SXM4 80GB", "awq", 312)),
        *(("H100 SXM5 80GB", "fp8", 1979), ("H100 SXM5 80GB", "int8", 989), ("H100 SXM5 80GB", "nvfp4", 989)),
        *(("B200 SXM", "nvfp4", 9000), ("RTX 4090", "fp8", 330.3), ("MI300X", "fp8", 2615)),
        *(("T4", "", 65.1), ("V100 SXM2 16GB", "", 125)),
        *(("B200 SXM", "", 2250), ("B200 SXM", "awq", 2250), ("B200 SXM", "int8", 2250), ("B200 SXM", "fp8", 4500)),
    ],
)
def test_weights_are_computed_in_the_fastest_type_the_gpu_has_for_them(
    gpu: str, quantization: str, tflops: float
) -> None:
    assert peak_flops(find_gpu(gpu), quantization) == pytest.approx(tflops * 1e12)


def test_a_machine_that_says_nothing_gets_a_slow_guess() -> None:
    nothing = Gpu("?")
    assert peak_flops(nothing) == 1e12
    assert memory_bytes_s(nothing) == 40e9
    assert kv_tokens(nothing, LLAMA) is None
    assert predict(nothing, LLAMA, 10).itl_s > 0.4


@pytest.mark.parametrize(("count", "times"), [(1, 1.0), (2, 1.8), (4, 3.24), (8, 5.832), (3, 2.5386)])
def test_gpus_lose_a_tenth_of_their_sum_at_each_doubling(count: int, times: float) -> None:
    one, more = find_gpu("RTX 4090"), Gpu("RTX 4090", count, 24576, 1010, 165.2, 165.2)
    assert together(count) == pytest.approx(times, rel=1e-4)
    assert peak_flops(more) == pytest.approx(times * peak_flops(one), rel=1e-4)
    assert memory_bytes_s(more) == pytest.approx(times * 1010e9, rel=1e-4)


def test_of_different_kinds_of_gpus_the_one_with_the_most_bandwidth_counts() -> None:
    small, large = find_gpu("RTX 3060 12GB"), find_gpu("RTX 4090")
    assert fastest((small, large)) == fastest((large, small)) == large
    assert fastest((large, msgspec.structs.replace(small, count=8))).count == 8
    assert peak_flops(fastest(())) == 1e12


def test_context_that_does_not_fit_makes_the_next_job_wait() -> None:
    gpu = find_gpu("RTX 4090")
    room = kv_tokens(gpu, LLAMA)
    assert room is not None
    assert 40_000 < room < 60_000
    fits = predict(gpu, LLAMA, 1000, batch=8, context=round(room) - 2000)
    waits = predict(gpu, LLAMA, 1000, batch=8, context=round(room) + 1000)
    assert fits.ttft_s < 1
    assert waits.ttft_s == pytest.approx(fits.ttft_s + 2000 / room * ANSWER_TOKENS * waits.itl_s, rel=0.05)
    usual = predict(gpu, LLAMA, 1000, batch=8, context=round(room) + 1000, answer_tokens=256)
    assert usual == waits
    assert predict(gpu, LLAMA, 1000, batch=1, context=0) == predict(gpu, LLAMA, 1000)
    assert kv_tokens(find_gpu("RTX 3070"), LLAMA) == 0
    never = predict(gpu, LLAMA, 100_000, batch=2, context=10)
    assert never.ttft_s < predict(gpu, LLAMA, 100_000).ttft_s + ANSWER_TOKENS * never.itl_s + 1e-9


def test_a_cold_model_has_to_be_loaded() -> None:
    weights = 16e9
    assert cold_s(ModelState.RESIDENT, weights) == 0
    assert cold_s(ModelState.SLEEPING, weights) == pytest.approx(0.94)
    assert cold_s(ModelState.ON_DISK, weights) == pytest.approx(23)


def test_a_cold_model_comes_over_the_bus_of_the_peer() -> None:
    """16 GB: 0.3 s and 2.5 s at 80 % of 8 GB/s; from disk the slower of both, 2 GB/s or 0.8 GB/s."""
    assert cold_s(ModelState.SLEEPING, 16e9, 8.0) == pytest.approx(2.8)
    assert cold_s(ModelState.ON_DISK, 16e9, 8.0) == pytest.approx(23)
    assert cold_s(ModelState.ON_DISK, 16e9, 1.0) == pytest.approx(35)
    assert cold_s(ModelState.SLEEPING, 16e9, 1e-9) == pytest.approx(200.3)  # no claim divides by nothing


def test_a_whole_answer() -> None:
    assert Prediction(1.0, 0.1).total_s(11) == pytest.approx(2.0)
    assert Prediction(1.0, 0.1).total_s(0) == 1.0


def test_columns_give_what_numbers_give() -> None:
    for shape in map(shape_of, model_names()):
        gpus = [find_gpu(name) for name in gpu_names()]
        batch = np.linspace(1, 64, len(gpus))
        each = [rates(gpu, shape) for gpu in gpus]
        columns = Rates(*(np.array([getattr(one, field) for one in each]) for field in Rates.__slots__))
        together = step_s(shape, columns, batch, batch * 500)
        prompts = prefill_s(shape, columns, 3000.0)
        for place, one in enumerate(each):
            alone = step_s(shape, one, float(batch[place]), float(batch[place] * 500))
            assert together[place] == pytest.approx(alone)
            assert prompts[place] == pytest.approx(prefill_s(shape, one, 3000.0))


gpus = st.sampled_from(gpu_names()).map(find_gpu) | st.builds(
    Gpu,
    st.just("odd"),
    st.integers(1, 1024),
    *(st.integers(0, 1 << 31) if field == "vram" else st.floats(0, 1e12) for field in ("vram", "bw", "fp16", "bf16")),
)
shapes = st.sampled_from(model_names()).map(shape_of) | st.floats(0, 1e12).map(lambda size: shape_of("odd-8x7b", size))
loads = st.tuples(st.integers(1, 512), st.integers(0, 2_000_000), st.integers(0, 2_000_000))


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(gpus, shapes, st.integers(0, 200_000), loads, loads, st.sampled_from(("", "awq", "fp8", "nvfp4")))
def test_more_load_is_never_faster(
    gpu: Gpu,
    shape: ModelShape,
    prompt: int,
    load: tuple[int, int, int],
    more: tuple[int, int, int],
    quantization: str,
) -> None:
    batch, context, queued = load
    calm = predict(gpu, shape, prompt, batch, context, queued_tokens=queued, quantization=quantization)
    busy = predict(
        gpu,
        shape,
        prompt,
        batch + more[0],
        context + more[1],
        queued_tokens=queued + more[2],
        quantization=quantization,
    )
    assert all(math.isfinite(value) and value > 0 for value in (calm.ttft_s, calm.itl_s, busy.ttft_s, busy.itl_s))
    assert busy.ttft_s >= calm.ttft_s * (1 - 1e-9)
    assert busy.itl_s >= calm.itl_s * (1 - 1e-9)
    longer = predict(gpu, shape, prompt + 100, batch, context, queued_tokens=queued, quantization=quantization)
    assert longer.ttft_s >= calm.ttft_s * (1 - 1e-9)
    cached = predict(
        gpu, shape, prompt, batch, context, queued_tokens=queued, cached_tokens=100, quantization=quantization
    )
    assert cached.ttft_s <= calm.ttft_s * (1 + 1e-9)
