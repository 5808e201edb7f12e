"""What was learned of a peer follows it through the view."""

from __future__ import annotations

from protocol.membership.peer_view import PeerView
from tests.protocol.sample_peers import MODEL, advert, at, new_view, offer, peer, put

FIGURES = (1.0, 2.0, 3.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


def columns(view: PeerView, number: int) -> tuple[float, float]:
    """The failures of a peer, and those of the newcomers in its group."""
    record = view.get(peer(number))
    assert record is not None
    past = view.learned.past
    return float(past["bad"][record.row]), float(past["group_bad"][record.row])


def test_it_is_there_when_the_peer_comes_and_when_it_comes_back() -> None:
    view = new_view()
    view.learned.learn(peer(1), FIGURES, 4.0)
    view.learned.learn_of_group("8.8.8.0/24", (5.0, 6.0, 7.0))
    put(view, 1, at("8.8.8.1"))
    put(view, 2, at("8.8.8.2"))
    assert (columns(view, 1), columns(view, 2)) == ((2.0, 6.0), (0.0, 6.0))
    view.remove(peer(1))
    put(view, 3, at("9.9.9.3"))
    assert columns(view, 3) == (0.0, 0.0), "the next in that row is another"
    put(view, 1, at("8.8.8.1"))
    assert columns(view, 1) == (2.0, 6.0)


def test_what_is_forgotten_is_gone() -> None:
    view = new_view()
    put(view, 1, at("8.8.8.1"))
    view.learned.learn(peer(1), FIGURES, 4.0)
    view.learned.forget(peer(1))
    assert columns(view, 1) == (0.0, 0.0)
    view.learned.forget(peer(9))
    view.learned.learn_of_group("8.8.8.0/24", (5.0, 6.0, 7.0))
    view.learned.forget_group("8.8.8.0/24")
    put(view, 2, at("8.8.8.2"))
    assert (columns(view, 1), columns(view, 2)) == ((0.0, 6.0), (0.0, 0.0))


def test_a_peer_that_moves_has_the_standing_of_its_new_group() -> None:
    view = new_view()
    view.learned.learn_of_group("8.8.8.0/24", (5.0, 6.0, 7.0))
    put(view, 1, at("8.8.8.1"))
    put(view, 1, at("9.9.9.1"))
    assert columns(view, 1) == (0.0, 0.0)


def test_what_was_learned_of_a_model_is_there_whenever_the_peer_offers_it() -> None:
    view = new_view()
    view.learned.learn_of_offer(peer(1), MODEL, (0.1, 0.2, 0.3, 0.4, 0.5))
    put(view, 1, advert(offer(MODEL), offer("other")))
    put(view, 2)
    assert [offered(view, name) for name in (MODEL, "other")] == [[0.1, 0.0], [0.0]]
    view.learned.learn_of_offer(peer(2), MODEL, (0.9, 0.2, 0.3, 0.4, 0.5))
    assert offered(view, MODEL) == [0.1, 0.9]
    put(view, 1, advert(offer(MODEL, context=99), offer("other")))
    assert offered(view, MODEL) == [0.1, 0.9]
    view.remove(peer(1))
    put(view, 3)
    assert offered(view, MODEL) == [0.9, 0.0]
    view.learned.learn_of_offer(peer(4), MODEL, (0.7, 0.2, 0.3, 0.4, 0.5))
    put(view, 4)
    assert offered(view, MODEL) == [0.9, 0.0, 0.7]
    view.learned.learn_of_offer(peer(4), "nothing", (0.7, 0.2, 0.3, 0.4, 0.5))


def offered(view: PeerView, model: str) -> list[float]:
    """The log factors of the prompt, of all that offer the model."""
    offers = view.offers(model)
    assert offers is not None
    return [float(each) for each in offers.column("prompt_log")]


def test_what_was_learned_before_the_first_query_is_in_the_columns_as_well() -> None:
    view = new_view()
    put(view, 1)
    view.learned.learn_of_offer(peer(1), MODEL, (0.1, 0.2, 0.3, 0.4, 0.5))
    assert offered(view, MODEL) == [0.1]
