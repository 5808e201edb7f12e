"""Predictions: the anchors they were checked against, and what must never happen whatever the numbers are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.perf.cost_model import (
    ANSWER_TOKENS,
    Prediction,
    cold_s,
    kv_tokens,
    memory_bytes_s,
    peak_flops,
    predict,
    prefill_s,
    step_s,
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


def test_a_prompt_is_read_at_the_share_of_the_peak_that_is_reached() -> None:
    seconds = prefill_s(LLAMA, 312e12, 1000.0)
    assert seconds == pytest.approx(2 * 8.03e9 * 1000 / (0.45 * 312e12))
    assert prefill_s(LLAMA, 312e12, 8193.0) > 8193 / 1000 * seconds  # attention starts to count


def test_a_prompt_beyond_8192_tokens_pays_for_attention() -> None:
    """Llama 3.1 8B (32 layers, 4,096 wide) on 312 TFLOPS of which 45 % are reached; 16,384 tokens, by hand.

    Weights 2 x 8.03e9 x 16,384 = 2.631e14, attention 2 x 32 x 4,096 x 16,384^2 = 7.037e13 floating-point operations.
    """
    assert prefill_s(LLAMA, 312e12, 16384.0) == pytest.approx((2.63127e14 + 7.03687e13) / 1.404e14, rel=1e-5)
    assert prefill_s(LLAMA, 312e12, 8192.0) == pytest.approx(2 * 8.03e9 * 8192 / 1.404e14)
    long, longer = (
        prefill_s(LLAMA, 312e12, tokens) - 2 * 8.03e9 * tokens / 1.404e14 for tokens in (10_000.0, 20_000.0)
    )
    assert longer == pytest.approx(4 * long)  # it grows with the square of the length


def test_a_mixture_touches_more_weights_the_larger_the_batch() -> None:
    mixture = shape_of("mixtral-8x7b-v0.1")
    gpu = find_gpu("H200")

    def step(batch: float) -> float:
        return step_s(
            mixture,
            flops=peak_flops(gpu),
            bytes_s=memory_bytes_s(gpu),
            weights=mixture.params * 2,
            batch=batch,
            context=1000.0,
        )

    assert step(1.0) < 0.4 * step(64.0)
    alone = step(1.0) - mixture.layers * 32e-6 - 126e-6 - 4.4e-6
    assert alone == pytest.approx(mixture.active_params * 2 / 0.7 / 4.8e12, rel=0.05)


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
    nothing = Gpu("?", count=2)
    assert peak_flops(nothing) == 2e12
    assert memory_bytes_s(nothing) == 80e9
    assert kv_tokens(nothing, LLAMA) is None
    assert predict(nothing, LLAMA, 10).itl_s > 0.2


def test_several_gpus_count_as_one_of_their_sum() -> None:
    one, two = find_gpu("RTX 4090"), Gpu("RTX 4090", 2, 24576, 1010, 165.2, 165.2)
    assert predict(two, LLAMA, 1000).itl_s < 0.6 * predict(one, LLAMA, 1000).itl_s


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


def test_a_whole_answer() -> None:
    assert Prediction(1.0, 0.1).total_s(11) == pytest.approx(2.0)
    assert Prediction(1.0, 0.1).total_s(0) == 1.0


def test_columns_give_what_numbers_give() -> None:
    for shape in map(shape_of, model_names()):
        gpus = [find_gpu(name) for name in gpu_names()]
        batch = np.linspace(1, 64, len(gpus))
        together = step_s(
            shape,
            flops=np.array([peak_flops(gpu) for gpu in gpus]),
            bytes_s=np.array([memory_bytes_s(gpu) for gpu in gpus]),
            weights=np.full(len(gpus), shape.params * 2),
            batch=batch,
            context=batch * 500,
        )
        for place, gpu in enumerate(gpus):
            alone = step_s(
                shape,
                flops=peak_flops(gpu),
                bytes_s=memory_bytes_s(gpu),
                weights=shape.params * 2,
                batch=float(batch[place]),
                context=float(batch[place] * 500),
            )
            assert together[place] == pytest.approx(alone)


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
