"""The tables: names as drivers and people write them, shapes guessed from names, sizes in memory."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.perf.gpu_catalog import (
    bits_per_weight,
    bytes_per_weight,
    find_gpu,
    gpu_names,
    model_names,
    need_mib,
    shape_of,
    weight_bytes,
)
from protocol.statements.adverts import ModelOffer


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM4 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80GB"),
        ("A100", "A100 PCIe 40GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM5 80GB"),
        ("NVIDIA H100 PCIe", "H100 PCIe 80GB"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 Blackwell"),
        ("Tesla V100-SXM2-32GB", "V100 SXM2 32GB"),
        ("Tesla T4", "T4"),
        ("NVIDIA GH200 480GB", "GH200 96GB"),
        ("AMD Instinct MI300X OAM", "MI300X"),
        ("AMD Radeon RX 7900 XTX", "RX 7900 XTX"),
        ("RTX 4070 Ti Super", "RTX 4070 Ti SUPER"),
        ("4070TiSUPER", "RTX 4070 Ti SUPER"),
        ("4070Ti", "RTX 4070 Ti"),
        ("rtx 3080 12 GB", "RTX 3080 12GB"),
    ],
)
def test_a_gpu_is_found_by_any_usual_name(written: str, meant: str) -> None:
    assert find_gpu(written).model == meant


def test_every_gpu_of_the_table_finds_itself_and_is_plausible() -> None:
    assert len(gpu_names()) == len(set(gpu_names())) == 58
    for name in gpu_names():
        gpu = find_gpu(name)
        assert gpu.model == name
        assert 6 * 1024 <= gpu.vram_mib <= 256 * 1024
        assert 100 <= gpu.bandwidth_gb_s <= 10_000
        assert gpu.fp16_tflops > 10


def test_memory_tells_variants_apart() -> None:
    assert find_gpu("RTX 3080", 12 * 1024) == find_gpu("RTX 3080 12GB")
    assert find_gpu("A100", 81_920) == find_gpu("A100 PCIe 80GB")


@pytest.mark.parametrize(
    "name", ["", "NVIDIA", "GeForce RTX 4070 Laptop GPU", "RTX 4095", "NVIDIA A10G", "Hopper", "Voodoo"]
)
def test_better_unknown_than_wrong(name: str) -> None:
    assert find_gpu(name) is None


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b-instruct"),
        ("llama-3.1-8b", "llama-3.1-8b-instruct"),
        ("Llama-3.1-8B-Instruct-AWQ-INT4", "llama-3.1-8b-instruct"),
        ("Qwen/Qwen3-30B-A3B-FP8", "qwen3-30b-a3b"),
        ("mistralai/Mistral-Nemo-Instruct-2407", "mistral-nemo-instruct-2407"),
        ("mixtral-8x7b-v0.1", "mixtral-8x7b-v0.1"),
    ],
)
def test_a_model_is_found_under_the_names_of_its_variants(name: str, known: str) -> None:
    assert known in model_names()
    assert shape_of(name).name == known
    assert shape_of(name).known


@pytest.mark.parametrize(
    ("name", "params_b", "active_b"),
    [
        ("Qwen2.5-72B-Instruct", 72, 72),
        ("qwen3:0.6b", 0.6, 0.6),
        ("google/gemma-3-270m-it", 0.27, 0.27),
        ("new-235b-a22b", 235, 22),
        ("odd-4b-a9b", 4, 4),
        ("odd-4b-a0b", 4, 4),
        ("twins-2x7b", 14, 14),
    ],
)
def test_the_size_of_an_unknown_model_is_read_from_its_name(name: str, params_b: float, active_b: float) -> None:
    shape = shape_of(name)
    assert (shape.known, shape.sized) == (False, True)
    assert shape.params == pytest.approx(params_b * 1e9)
    assert shape.active_params == pytest.approx(active_b * 1e9)


def test_a_mixture_is_read_from_its_name() -> None:
    shape = shape_of("other-8x22b")
    assert (shape.experts, shape.experts_per_token) == (8, 2)
    assert shape.params == pytest.approx(141e9, rel=0.05)
    assert shape.active_params == pytest.approx(39e9, rel=0.1)


def test_what_says_nothing_is_of_a_usual_size() -> None:
    for name in ("mock-small", "mystery", "odd-0b", "odd-8x0b"):
        shape = shape_of(name)
        assert (shape.known, shape.sized, shape.params) == (False, False, 8e9)
    assert shape_of("mystery", 3.0).params == 3e9
    assert shape_of("mystery", 3.0).sized
    assert shape_of("huge", 1e12).params == 1e13


@pytest.mark.parametrize(("params_b", "layers"), [(1.0, 16), (8.0, 32), (70.0, 80)])
def test_guessed_layers_are_near_those_of_llama(params_b: float, layers: int) -> None:
    assert shape_of("mystery", params_b).layers == pytest.approx(layers, rel=0.15)


@pytest.mark.parametrize(
    ("label", "bits"),
    [
        *(("", 16), ("bf16", 16), ("AWQ", 4), ("gptq", 4), ("nvfp4", 4), ("Q4_K_M", 4), ("iq2_xs", 2 + 1)),
        *(("fp8", 8), ("int8", 8), ("w8a8", 8), ("Q8_0", 8), ("q6_k", 6), ("q5_1", 5), ("fp32", 32)),
    ],
)
def test_bits_are_read_from_the_label(label: str, bits: int) -> None:
    assert bits_per_weight(label) == bits


def test_memory_that_an_offer_needs() -> None:
    plain = ModelOffer("llama-3.1-8b-instruct", bytes(16))
    small = ModelOffer("llama-3.1-8b-instruct", bytes(16), quantization="awq")
    assert weight_bytes(plain) == pytest.approx(16.06e9)
    assert weight_bytes(small) == pytest.approx(16.06e9 / 4 * 1.06)
    assert bytes_per_weight("") == 2
    assert need_mib(plain) == pytest.approx(16.06e9 * 1.2 / 2**20)
    assert need_mib(ModelOffer("x", bytes(16), vram_mib=7)) == 7
    assert need_mib(ModelOffer("mystery", bytes(16))) == 0
    assert need_mib(ModelOffer("mystery", bytes(16), params_b=1.0)) > 2000


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(st.text(max_size=128), st.floats(0, 1e12), st.text(max_size=64))
def test_no_name_is_too_strange(name: str, params_b: float, quantization: str) -> None:
    find_gpu(name)
    shape = shape_of(name, params_b)
    assert 0 < shape.active_params <= shape.params <= 1e13
    assert shape.layers >= 1
    assert shape.kv_bytes > 0
    need = need_mib(ModelOffer(name, bytes(16), params_b=params_b, quantization=quantization))
    assert math.isfinite(need)
