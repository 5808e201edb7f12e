"""One look-up: the order in which it asks, whom it believes, and how much it holds."""

from __future__ import annotations

import pytest

from protocol.dht.lookup import Lookup, QueryState
from protocol.dht.routing_table import as_number, peer_key
from protocol.settings import DhtSettings
from protocol.statements.envelope import Envelope
from protocol.statements.keys import PROVIDER
from tests.protocol.dht.dht_network import TEST, signer
from tests.protocol.dht.one_node import addrs_of, name


def test_who_has_a_link_is_asked_besides_the_closest_that_have_none() -> None:
    settings = DhtSettings(alpha=3)
    search, numbers = Lookup(bytes(32), 20, settings, 0.0), range(2, 32)
    for number in numbers:
        search.add(signer(number).peer_id, addrs_of(number), None)
    closest = sorted((signer(number).peer_id for number in numbers), key=peer_key)
    linked = {closest[1], *closest[10:]}
    besides = search.ask_first(linked, 0.0)
    assert [entry.peer for entry in besides] == closest[10:12]  # one of the three closest has a link itself
    assert [entry.peer for entry in search.ask_next(0.0)] == closest[:3]
    assert search.ask_next(0.0) == []
    assert search.answered(closest[10]) is besides[0]
    assert search.ask_next(0.0) == []  # it displaced no contact, and its loss frees no place
    assert not Lookup(bytes(32), 20, settings, 0.0).ask_first(linked, 0.0)


def test_whoever_is_not_among_the_closest_any_more_takes_no_place() -> None:
    search = Lookup(bytes(32), 2, DhtSettings(alpha=1), 0.0)
    closest = sorted((signer(number).peer_id for number in range(2, 12)), key=peer_key)
    search.add(closest[9], (), None)
    search.add(closest[8], (), None)
    assert [entry.peer for entry in search.ask_next(0.0)] == [closest[8]]
    search.add(closest[1], (), None)
    assert search.ask_next(0.1) == []  # of two close ones one is asked
    search.add(closest[0], (), None)
    assert [entry.peer for entry in search.ask_next(0.1)] == [closest[0]]
    assert search.ask_next(0.1) == []


def test_contacts_of_a_source_whose_word_was_worth_nothing_are_asked_last() -> None:
    search = Lookup(bytes(32), 20, TEST, 0.0)
    search.add(name(1), addrs_of(1), None)
    search.add(name(2), addrs_of(2), None)
    search.ask_next(0.0)
    liar, honest = search.answered(name(1)), search.answered(name(2))
    by_distance = sorted(range(10, 40), key=lambda n: as_number(peer_key(name(n))))
    for number in by_distance[:20]:
        search.add(name(number), addrs_of(number), liar)
    for number in by_distance[20:22]:
        search.add(name(number), addrs_of(number), honest)
    search.add(name(by_distance[21]), addrs_of(by_distance[21]), liar)
    assert [entry.peer for entry in search.ask_next(0.0)] == [name(n) for n in by_distance[:3]]
    assert [entry.peer for entry in search.ask_next(0.1)] == [name(n) for n in by_distance[20:22]]
    for number in by_distance[20:22]:
        search.answered(name(number))
    assert [entry.peer for entry in search.ask_next(0.1)] == [name(n) for n in by_distance[3:6]]
    assert not search.over(0.1)


def test_a_flood_of_contacts_is_cut_to_the_closest() -> None:
    search = Lookup(bytes(32), 2, DhtSettings(k=2), 0.0)
    for number in range(10, 60):
        search.add(name(number), addrs_of(number), None)
    kept = [number for number in range(10, 60) if search.get(name(number))]
    everyone = sorted(range(10, 60), key=lambda n: as_number(peer_key(name(n))))
    assert set(kept) == set(everyone[:16])
    for _ in range(16):
        for entry in search.ask_next(0.0):
            entry.state = QueryState.FAILED
    search.add(name(9), addrs_of(9), None)  # who was asked is not forgotten for it
    assert search.get(name(9)) is None
    assert all(search.get(name(number)) for number in kept)


def test_a_failed_candidate_is_tried_once_more_under_another_address() -> None:
    search = Lookup(bytes(32), 20, TEST, 0.0)
    search.add(name(1), ("a",), None)
    search.ask_next(0.0)
    assert search.failed(name(1))
    assert not search.failed(name(1))
    assert not search.failed(name(2))
    search.add(name(1), ("a",), None)
    assert search.ask_next(0.0) == []
    search.add(name(1), ("b",), None)
    (again,) = search.ask_next(0.0)
    assert again.addrs == ("b",)
    search.failed(name(1))
    search.add(name(1), ("c",), None)
    assert search.ask_next(0.0) == []
    assert search.over(0.0)


def test_no_more_than_k_are_in_flight_however_late_they_are() -> None:
    search = Lookup(bytes(32), 100, DhtSettings(k=5, query_s=1.0), 0.0)
    for number in range(1, 30):
        search.add(name(number), addrs_of(number), None)
    assert [len(search.ask_next(0.2 * step)) for step in range(4)] == [3, 2, 0, 0]
    assert search.fail_overdue(1.0) == [c.peer for c in search._sorted if c.state is QueryState.FAILED]
    assert search.wake(1.0) == pytest.approx(1.2)
    assert search.over(4.0)


# --- values on the own shelf ------------------------------------------------------------------------------------------

#: Peers, the closest to a target of zeros first.
NEAREST = sorted((name(number) for number in range(1, 40)), key=peer_key)


def value(number: int) -> Envelope:
    """What a provider says, as far as a look-up is concerned."""
    return Envelope(PROVIDER, name(number), 1, 1, 0.0, 3600, b"", b"")


def with_kept(kept: int) -> Lookup:
    """A look-up for which two values are enough, with six candidates and so many values that this node keeps itself."""
    search = Lookup(bytes(32), 20, DhtSettings(alpha=3, query_s=3.0), 0.0, 2)
    for number in range(kept):
        search.found(value(1 + number), 0, 0.0)
    for peer in NEAREST[:6]:
        search.add(peer, ("/ip4/10.0.0.1/tcp/1",), None)
    return search


def test_the_first_round_is_asked_even_with_enough_values_on_the_own_shelf() -> None:
    """Values on the own shelf may be outdated, so three peers are asked once, and no others after them."""
    search = with_kept(2)
    assert not search.over(0.0), "no peer was asked"
    assert [entry.peer for entry in search.ask_next(0.0)] == NEAREST[:3]
    assert not search.over(0.0), "three are asked and in time"
    assert search.ask_next(0.0) == []
    for peer in NEAREST[:2]:
        assert search.answered(peer) is not None
        assert search.ask_next(0.0) == []
        assert not search.over(0.0)
    assert search.answered(NEAREST[2]) is not None
    assert search.over(0.0)
    assert [entry.peer for entry in search.closest()] == NEAREST[:3]


def test_with_enough_values_a_look_up_waits_no_longer_than_the_grace() -> None:
    search = with_kept(2)
    search.ask_next(0.0)
    late_s = 0.6  # a fifth of the 3 s that a query may take
    assert search.wake(0.0) == pytest.approx(late_s)
    assert not search.over(late_s - 0.01)
    assert search.over(late_s + 0.01)


def test_with_too_few_values_the_next_are_asked_as_answers_come() -> None:
    search = with_kept(1)
    assert len(search.ask_next(0.0)) == 3
    search.answered(NEAREST[0])
    assert [entry.peer for entry in search.ask_next(0.0)] == [NEAREST[3]]
    search.found(value(40), 1, 0.0)
    search.answered(NEAREST[1])
    assert search.ask_next(0.0) == [], "now there are enough"


def test_an_author_that_is_named_later_takes_its_place_among_the_closest() -> None:
    search = with_kept(0)
    search.ask_next(0.0)
    source = search.answered(NEAREST[0])
    assert source is not None
    author = NEAREST[7]
    said = Envelope(PROVIDER, author, 1, 1, 0.0, 3600, b"", b"")
    search.found(said, 1, 0.0)
    search.add_author(said, addrs_of(1), source)
    assert [entry.peer for entry in search.ask_next(0.0)] == [NEAREST[3], author]
    assert author not in [entry.peer for entry in search._window(0.0)]
    search.add(author, addrs_of(1), source)
    assert author in [entry.peer for entry in search._window(0.0)]
    assert search.answered(author) is not None
    search.add(author, addrs_of(1), source)  # one of its contacts answered: the source is to be trusted
    assert source.peer in search._heard
    search.add_author(said, addrs_of(2), source)  # known already
    entry = search.get(author)
    assert entry is not None
    assert entry.addrs == addrs_of(1)


def test_one_answer_of_its_contacts_clears_a_source_of_which_others_are_silent() -> None:
    search = Lookup(bytes(32), 20, DhtSettings(alpha=3, query_s=3.0), 0.0)
    for peer in NEAREST[20:22]:
        search.add(peer, addrs_of(1), None)
    assert len(search.ask_next(0.0)) == 2
    for source, contacts in ((NEAREST[20], NEAREST[:6]), (NEAREST[21], NEAREST[10:13])):
        entry = search.answered(source)
        for peer in contacts:
            search.add(peer, addrs_of(2), entry)
    assert [entry.peer for entry in search.ask_next(0.0)] == NEAREST[:3]
    search.answered(NEAREST[0])
    assert [entry.peer for entry in search.ask_next(0.0)] == [NEAREST[3]]
    # A fifth of 3 s later three are silent, which would be enough to doubt a source of which nothing came.
    assert [entry.peer for entry in search.ask_next(0.7)] == [NEAREST[4], NEAREST[5], NEAREST[10]]
