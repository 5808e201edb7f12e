"""How much of a claim counts."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.perf.ceilings import (
    ABSURD,
    MOST_GPUS,
    MOST_PER_KIND,
    OVERCLOCKED,
    REBUILT,
    absurd_advert,
    absurd_load,
    believed,
)
from protocol.perf.gpu_catalog import all_gpus, find_gpu
from protocol.statements.adverts import Advert, Gpu, Load, ModelOffer
from tests.protocol.sample_peers import advert, card, offer

FIGURES = ("bandwidth_gb_s", "fp16_tflops", "bf16_tflops", "fp8_tflops", "int8_tops", "fp4_tflops")


def test_every_card_of_the_table_counts_as_it_is() -> None:
    for gpu in all_gpus():
        assert believed((gpu,)) == (gpu,)
        assert absurd_advert(advert(gpu=gpu)) == ""


@given(
    st.sampled_from(["a card of next year", "RTX 4090", "T4", "MI300X"]),
    st.integers(1, 1024),
    st.lists(st.floats(0, 1e12), min_size=7, max_size=7),
)
def test_no_claim_counts_for_more_than_the_fastest_card_there_is(name: str, count: int, figures: list[float]) -> None:
    *speeds, vram = figures
    gpu = Gpu(name, count, min(int(vram), 1 << 31), **dict(zip(FIGURES, speeds, strict=True)))
    (counted,) = believed((gpu,))
    assert counted.count <= min(count, MOST_PER_KIND)
    for figure in FIGURES:
        most = max(getattr(each, figure) for each in all_gpus())
        known = find_gpu(name)
        if known is not None and getattr(known, figure):
            most = getattr(known, figure) * OVERCLOCKED
        assert getattr(counted, figure) <= most
        assert getattr(counted, figure) <= getattr(gpu, figure), "a ceiling gives nothing"
    assert counted.vram_mib <= max(REBUILT * each.vram_mib for each in all_gpus())


def test_a_type_that_the_table_leaves_empty_is_no_way_around_the_ceiling() -> None:
    (t4,) = believed((Gpu("T4", bf16_tflops=2250.0, fp8_tflops=4500.0, fp4_tflops=9000.0),))
    fp16 = 65.1 * OVERCLOCKED
    assert (t4.bf16_tflops, t4.fp8_tflops, t4.fp4_tflops) == pytest.approx((fp16, 2 * fp16, 4 * fp16))


def test_so_many_gpus_count_in_all() -> None:
    counted = believed(tuple(card(name=f"card {number}", tflops=10.0 + number) for number in range(4)) * 8)
    assert sum(gpu.count for gpu in counted) == MOST_GPUS
    assert (
        believed((msgspec.structs.replace(card(), count=9),) * 2)
        == (msgspec.structs.replace(card(), count=MOST_PER_KIND),) * 2
    )
    several = tuple(msgspec.structs.replace(card(), count=8) for _ in range(3))
    assert absurd_advert(Advert(1, gpus=several)) == ""
    assert absurd_advert(Advert(1, gpus=(*several, card()))) == "claims 25 GPUs; up to 16 count"


def test_a_little_too_much_is_cut_and_far_too_much_is_a_lie() -> None:
    limit = 165.2 * OVERCLOCKED
    near, far = (card(24, limit * ABSURD * factor, name="RTX 4090") for factor in (0.999, 1.001))
    assert believed((near,))[0].bf16_tflops == pytest.approx(limit)
    assert absurd_advert(advert(gpu=near)) == ""
    assert "TFLOPS in bf16" in absurd_advert(advert(gpu=far))
    assert "vram mib" in absurd_advert(advert(gpu=card(24 * 4, name="RTX 4090")))
    assert believed((card(24 * 2.5, name="RTX 4090"),))[0].vram_mib == 48 * 1024


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ({"price_in": 1e5}, "USD per million tokens of a prompt"),
        ({"context": 1 << 30}, "tokens of context"),
        ({"params_b": 1e6}, "billion parameters"),
        ({"vram_mib": 1 << 30}, "MiB"),
    ],
)
def test_an_offer_beyond_its_bounds_is_named(claim: dict[str, object], words: str) -> None:
    good: ModelOffer = offer()
    assert absurd_advert(advert(good)) == ""
    assert words in absurd_advert(advert(good, offer("other", **claim)))


@pytest.mark.parametrize("figure", ["slots", "running", "waiting", "queued_prefill_tokens", "tokens_s"])
def test_a_load_beyond_its_bounds_is_named(figure: str) -> None:
    assert absurd_load(Load(slots=256, running=256, waiting=64, queued_prefill_tokens=1 << 20, tokens_s=10_000)) == ""
    assert absurd_load(Load(**{figure: 1 << 31})).startswith("claims 2,147,483,648 ")  # type: ignore[arg-type]
