"""The catalogue of models: what all peers that are there offer together."""

from __future__ import annotations

from protocol.routing.catalog import anything
from protocol.routing.ranking import catalog
from protocol.statements.adverts import Advert, Status
from tests.protocol.sample_peers import advert, idle, new_view, offer, put

NOW = 10.0


def test_the_catalogue_is_the_union_over_those_who_are_there() -> None:
    view = new_view()
    view.put_self(advert(offer("a", quantization="awq", price_out=2.0, price_in=0.1)), idle(), 0.0)
    put(view, 1, advert(offer("a", state=1, context=32768, price_out=1.0, price_in=0.2, capabilities=("tools",))))
    put(view, 2, advert(offer("a", state=0), offer("b"), runtime="simulated"), idle(status=int(Status.BUSY)))
    for number, state in enumerate(("dead", "left"), 3):
        view.set_state(put(view, number, advert(offer("a"), offer("gone"))), state, 0.0)
    put(view, 5, advert(offer("gone")), until=5.0)
    put(view, 6, advert(offer("gone")), idle(status=int(Status.DRAINING)))
    put(view, 7, Advert(9, models=(offer("gone"),)))
    a, b = catalog(view, NOW)
    assert anything(view, NOW)
    assert not anything(new_view(), NOW)
    assert (a.name, a.peers, a.warm, a.sleeping, a.on_disk) == ("a", 3, 1, 1, 1)
    assert (a.context_length, a.quantizations, a.capabilities) == (32768, ("awq",), ("tools",))
    assert (a.price_in, a.price_out, a.fingerprints) == (0.0, 0.0, (bytes(16),))
    assert not a.simulated
    assert (b.name, b.peers, b.simulated) == ("b", 1, True)
    assert 0 < a.expected_wait_s < b.expected_wait_s + 1


def test_a_model_that_nobody_has_warm_is_waited_for() -> None:
    view = new_view()
    put(view, 1, advert(offer("on-disk-8b", state=0), offer("warm-8b")))
    cold, warm = catalog(view, NOW)
    assert cold.expected_wait_s > warm.expected_wait_s + 15
