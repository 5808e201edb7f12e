"""What an offer costs on the hardware of its peer, by hand."""

from __future__ import annotations

import msgspec
import pytest

from protocol.perf.gpu_catalog import find_gpu
from protocol.perf.offer_costs import offer_costs
from protocol.statements.adverts import Gpu, ModelOffer, ModelState

NAME = "llama-3.1-8b-instruct"
CARD = Gpu("card", 1, 24 * 1024, 1000.0, 100.0, 100.0)


def offer(quantization: str = "", **changes: object) -> ModelOffer:
    return ModelOffer(NAME, bytes(16), quantization=quantization, **changes)  # type: ignore[arg-type]


def test_costs_to_the_digit() -> None:
    """8.03e9 parameters of 2 bytes on 100 TFLOPS and 1,000 GB/s, 131,072 KV bytes per token, 90 % of 24 GiB."""
    costs = offer_costs(offer(state=int(ModelState.SLEEPING), vram_mib=20_000), (CARD,))
    assert costs.need_mib == 20_000
    assert costs.weight_bytes == pytest.approx(16.06e9)
    assert costs.token_s == pytest.approx(16.06e9 / 64e12)
    assert costs.weights_s == pytest.approx(16.06e9 / 700e9)
    assert costs.kv_s == pytest.approx(131072 / 510e9)
    assert costs.backlog_s == pytest.approx(251.5e-6, rel=1e-3)  # computed at 64 TFLOPS it is 250.9
    assert costs.kv_room == pytest.approx((0.9 * 24 * 2**30 - 16.06e9) / 131072)
    assert costs.cold_s == pytest.approx(16.06 / 25 + 0.3)
    assert costs.unable == 0


@pytest.mark.parametrize(
    ("gpu", "quantization", "tflops"),
    [("RTX 4090", "", 165.2), ("RTX 4090", "fp8", 330.3), ("RTX 3090", "fp8", 71.2), ("RTX 5090", "nvfp4", 1676.0)],
)
def test_a_card_counts_in_the_type_that_the_weights_compute_in(gpu: str, quantization: str, tflops: float) -> None:
    costs = offer_costs(offer(quantization), (find_gpu(gpu),))
    assert costs.token_s == pytest.approx(16.06e9 / (0.64 * tflops * 1e12))


def test_the_name_stands_for_a_quantization_that_is_not_said() -> None:
    named = ModelOffer("llama-3.1-8b-instruct-fp8", bytes(16))
    assert offer_costs(named, (find_gpu("RTX 4090"),))[1:] == offer_costs(offer("fp8"), (find_gpu("RTX 4090"),))[1:]


def test_gpus_have_a_bus_and_a_memory_each() -> None:
    pair = msgspec.structs.replace(CARD, count=2, pcie_gb_s=8.0)
    costs = offer_costs(offer(state=int(ModelState.SLEEPING)), (pair,))
    assert costs.cold_s == pytest.approx(16.06 / (2 * 6.4) + 0.3)
    assert costs.kv_room == pytest.approx((2 * 0.9 * 24 * 2**30 - 16.06e9) / 131072)
    assert costs.token_s == pytest.approx(16.06e9 / 64e12 / 1.8)


def test_the_room_in_a_cache_is_unknown_where_the_weights_do_not_fit() -> None:
    assert offer_costs(offer(), ()).kv_room == 0
    assert offer_costs(offer(), (Gpu("small", vram_mib=8 * 1024),)).kv_room == 0


@pytest.mark.parametrize(
    ("gpus", "quantization", "unable"),
    [
        *((("V100 SXM2 16GB",), "awq", 1), (("V100 SXM2 16GB",), "fp8", 1), (("V100 SXM2 16GB",), "gptq", 0)),
        *((("T4",), "fp8", 0), (("T4",), "bf16", 1), (("T4",), "fp16", 0), (("RTX 3090",), "nvfp4", 0)),
        *((("V100 SXM2 16GB", "T4"), "awq", 0), (("MI300X",), "awq", 0), ((), "awq", 0)),
    ],
)
def test_a_card_without_kernels_for_the_quantization_is_unable(
    gpus: tuple[str, ...], quantization: str, unable: int
) -> None:
    assert offer_costs(offer(quantization), tuple(find_gpu(name) for name in gpus)).unable == unable
