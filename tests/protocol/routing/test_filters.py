"""Filters: who cannot or must not be asked, and the number that says why."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from protocol.ids import peer_text, short
from protocol.routing.policies import POLICIES
from protocol.statements.adverts import Advert, Load, ModelState, Status
from protocol.statements.keys import LOAD
from tests.protocol.routing.rankings import chosen, ranked, why_not
from tests.protocol.sample_peers import ME, MODEL, advert, card, envelope, idle, new_view, offer, peer, put


def test_who_fails_two_filters_is_told_the_first() -> None:
    view = new_view()
    dead = put(view, 1)
    view.set_state(dead, "dead", 4.0)
    ranking = ranked(view, prompt_tokens=10**7)
    assert [each.reason for each in ranking.excluded if each.peer == dead] == ["not_alive"]


def test_dead_peers_are_left_out_and_doubted_ones_come_last() -> None:
    view = new_view()
    dead, doubted, alive = (put(view, number) for number in (1, 2, 3))
    view.set_state(dead, "dead", 4.0)
    view.set_state(doubted, "suspect", 4.0)
    for policy in POLICIES:
        ranking = ranked(view, policy=policy)
        assert chosen(ranking) == [alive, doubted]
        assert why_not(ranking, dead) == ("not_alive", "dead for 6 s")


def test_old_statements_are_not_believed() -> None:
    view = new_view()
    advert_old, load_old, new = put(view, 1, until=9.0), put(view, 2), put(view, 3)
    assert view.put(envelope(load_old, LOAD), idle(), 0.0, 8.5)
    ranking = ranked(view)
    assert chosen(ranking) == [new]
    assert why_not(ranking, advert_old) == ("stale_advert", "expired 1.0 s ago")
    assert why_not(ranking, load_old) == ("stale_load", "expired 1.5 s ago")


@pytest.mark.parametrize(
    ("status", "word"),
    [(Status.DRAINING, "draining"), (Status.LEFT, "left")],
)
def test_a_peer_that_takes_no_jobs_is_left_out(status: Status, word: str) -> None:
    view = new_view()
    one = put(view, 1, load=idle(status=int(status), running=8, waiting=2))
    assert why_not(ranked(view), one) == ("leaving", f"{word}: 8 running, 2 waiting in 8 places")


@pytest.mark.parametrize(
    ("offered", "wishes", "reason", "detail"),
    [
        (
            {"context": 4096},
            {"prompt_tokens": 4000, "max_tokens": 200},
            "context",
            "holds 4096 tokens, the job needs 4200",
        ),
        ({"capabilities": ("vision",)}, {"capabilities": frozenset({"tools", "vision"})}, "capability", "lacks tools"),
        ({"quantization": "awq"}, {"quantizations": ("fp8", "bf16")}, "quantization", "serves awq"),
        ({}, {"quantizations": ("fp8",)}, "quantization", "serves unknown"),
        ({"price_out": 2.5}, {"max_price": 1.0}, "price", "asks 2.5 USD per million tokens, at most 1"),
    ],
)
def test_an_offer_that_does_not_do_is_left_out(
    offered: dict[str, object], wishes: dict[str, object], reason: str, detail: str
) -> None:
    view = new_view()
    one = put(view, 1, advert(offer(**offered)))
    assert why_not(ranked(view, **wishes), one) == (reason, detail)


def test_an_offer_that_just_does_is_a_candidate() -> None:
    view = new_view()
    fits = offer(context=4200, capabilities=("tools", "vision"), quantization="FP8", price_out=1.0)
    unlimited = offer(context=0, capabilities=("tools",), quantization="fp8")
    both = [put(view, 1, advert(fits)), put(view, 2, advert(unlimited))]
    wishes = {"prompt_tokens": 4000, "max_tokens": 200, "capabilities": frozenset({"tools"})}
    ranking = ranked(view, **wishes, quantizations=("fp8",), max_price=1.0)
    assert sorted(chosen(ranking)) == both
    assert ranking.offered == 2
    unsaid = put(view, 3, advert(offer(capabilities=("tools",))))
    assert unsaid in chosen(ranked(view, **wishes, quantizations=("unknown",)))


def test_memory_counts_for_who_has_to_load_the_model() -> None:
    view = new_view()
    cold = offer(state=int(ModelState.ON_DISK))
    full = put(view, 1, advert(cold), idle(free_vram_mib=4096))
    room = put(view, 2, advert(cold), idle())
    warm = put(view, 3, load=idle(free_vram_mib=10))
    unknown = put(view, 4, advert(cold, gpu=card(0)))
    ranking = ranked(view)
    assert set(chosen(ranking)) == {room, warm, unknown}
    assert why_not(ranking, full) == ("memory", "needs 16384 MiB to load, 4096 are free")


def test_a_card_without_kernels_for_the_quantization_is_left_out() -> None:
    view = new_view()
    old = replace(card(name="V100"), compute_capability=7.0)
    volta = put(view, 1, advert(offer(quantization="awq"), gpu=old))
    named = put(view, 2, advert(offer("llama-3.1-8b-instruct"), gpu=old))
    unknown = put(view, 3, advert(offer(quantization="awq")))
    ranking = ranked(view)
    assert set(chosen(ranking)) == {named, unknown}
    assert why_not(ranking, volta) == ("hardware", "V100 cannot run awq, which needs compute capability 7.5")


def test_another_version_of_the_protocol_is_left_out() -> None:
    view = new_view()
    one = put(view, 1, Advert(2, models=(offer(),)))
    assert why_not(ranked(view), one) == ("protocol", "speaks version 2, we 1")


def test_who_was_tried_is_not_tried_again() -> None:
    view = new_view()
    one, two = put(view, 1), put(view, 2)
    ranking = ranked(view, exclude=frozenset((one, peer(77))))
    assert chosen(ranking) == [two]
    assert why_not(ranking, one) == ("already_tried", "this job was tried there")
    assert set(chosen(ranked(view, exclude=frozenset((peer(77),))))) == {one, two}


def test_zones() -> None:
    view = new_view()
    view.put_self(advert(), idle(), 0.0)
    friend, stranger = put(view, 1), put(view, 2)
    assert chosen(ranked(view, zone="local")) == [ME]
    assert set(chosen(ranked(view, zone="trusted", trusted=frozenset((friend,))))) == {ME, friend}
    assert chosen(ranked(view, zone="mine")) == [ME]
    assert chosen(ranked(view, zone="local", trusted=frozenset((friend,)))) == [ME]
    assert set(chosen(ranked(view))) == {ME, friend, stranger}
    assert why_not(ranked(view, zone="local"), stranger) == ("zone", "outside the zone 'local'")


def test_peers_are_named_by_id_by_short_id_and_by_name() -> None:
    view = new_view()
    one, two, three = (put(view, n, advert(name=f"box-{n}")) for n in (1, 2, 3))
    names = (peer_text(one), short(two), "box-3")
    for who, name in zip((one, two, three), names, strict=True):
        assert chosen(ranked(view, only=(name,))) == [who]
        assert who not in chosen(ranked(view, ignore=(name,)))
        assert chosen(ranked(view, order=(name,)))[0] == who
    assert chosen(ranked(view, order=names[::-1])) == [three, two, one]
    assert chosen(ranked(view, order=("box-2", peer_text(one), short(two)))) == [two, one, three]
    assert chosen(ranked(view, order=("nobody", "O0O0O0O0"))) != []
    assert why_not(ranked(view, only=names[:2]), three) == ("not_named", "not among the 2 that `only` names")
    assert why_not(ranked(view, ignore=names[2:]), three) == ("ignored", "named by `ignore`")


@pytest.mark.parametrize(
    ("said", "load", "detail"),
    [
        (advert(gpu=card(24, 1e12)), None, "claims 1e+12 TFLOPS in bf16 for each 'card'; 2,250 count"),
        (
            advert(gpu=card(24, 400.0, name="RTX 4090")),
            None,
            "claims 400 TFLOPS in bf16 for each 'RTX 4090'; 189.98 count",
        ),
        (advert(offer(price_out=1e9)), None, f"claims 1e+09 USD per million tokens for {MODEL!r}; up to 10,000"),
        (advert(), idle(slots=1 << 20), "claims 1,048,576 slots; up to 4,096 are plausible"),
    ],
)
def test_what_cannot_be_true_is_shown_and_not_used(said: Advert, load: Load | None, detail: str) -> None:
    view = new_view()
    liar, honest = put(view, 1, said, load), put(view, 2)
    ranking = ranked(view)
    assert chosen(ranking) == chosen(ranked(view, explain=False)) == [honest]
    reason, told = why_not(ranking, liar)
    assert reason == "implausible"
    assert told.startswith(detail)


def test_a_load_that_can_be_true_again_is_believed() -> None:
    view = new_view()
    one = put(view, 1, advert(), idle(slots=1 << 20))
    assert chosen(ranked(view)) == []
    assert view.put(envelope(one, LOAD), idle(), 1.0, 99.0)
    assert chosen(ranked(view)) == [one]
