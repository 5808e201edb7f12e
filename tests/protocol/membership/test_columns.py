"""The index of models as parallel columns: it follows every advert and forgets what nobody offers."""

from __future__ import annotations

from tests.protocol.sample_peers import advert, new_view, offer, peer, put


def test_the_index_follows_every_advert() -> None:
    view = new_view()
    put(view, 1, advert(offer("a"), offer("b")))
    put(view, 2, advert(offer("b"), offer("b", context=7), offer("c")))
    assert view.models() == ["b", "a", "c"]
    assert view.models(1) == ["b"]
    twice = view.offers("b")
    assert twice is not None
    assert sorted(twice.column("context").tolist()) == [8192, 8192]  # of two offers of one name the first counts
    put(view, 1, advert(offer("b", context=99)))
    assert view.offers("a") is None
    assert sorted(twice.column("context").tolist()) == [99, 8192]
    view.remove(peer(1))
    view.remove(peer(1))
    assert [view.at(row).peer for row in view.offering("b").tolist()] == [peer(2)]
    view.remove(peer(2))
    assert view.models() == []


def test_an_index_forgets_kinds_that_nobody_offers_any_more() -> None:
    view = new_view()
    put(view, 1, advert(offer(quantization="kept")))
    put(view, 3, advert(offer(quantization="gone")))
    offers = view.offers("llama-3.1-8b-instruct")
    assert offers is not None
    assert len(offers.rows) == 2
    for number in range(100):
        put(view, 2, advert(offer(quantization=f"q{number}")))
    view.remove(peer(3))
    put(view, 4, advert(offer(quantization="new")))
    assert len(offers.kinds) < 40
    labels = [offers.kinds[number][1] for number in offers.column("kind").tolist()]
    assert sorted(labels) == ["kept", "new", "q99"]


def test_dropping_an_offer_before_anybody_asked_is_cheap_and_right() -> None:
    view = new_view()
    put(view, 1)
    put(view, 2)
    view.remove(peer(1))
    assert [view.at(row).peer for row in view.offering("llama-3.1-8b-instruct").tolist()] == [peer(2)]
