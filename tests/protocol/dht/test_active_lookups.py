"""Look-ups as a node makes them: whom they ask, what counts as found, and what dead or lying peers cost."""

from __future__ import annotations

import pytest

from protocol.dht import links
from protocol.dht.dht import MOST_LOOKUPS, PROVIDERS
from protocol.dht.routing_table import as_number, peer_key
from protocol.effects import Dial, Effect, Found, Penalise, Send, SetTimer
from protocol.ids import ModelId
from protocol.settings import DhtSettings
from protocol.statements.envelope import seal
from protocol.statements.keys import PROVIDER
from protocol.wire.messages import Contact, DhtReply
from tests.protocol.dht.dht_network import TEST, signer
from tests.protocol.dht.one_node import (
    MODEL,
    NOW,
    WALL,
    addrs_of,
    advert,
    forged,
    linked,
    machine,
    name,
    of,
    provider,
    questions,
    reply,
    store,
)

# --- searching -----------------------------------------------------------------------------------------------------


def test_alpha_are_asked_at_once_and_enough_values_end_it_after_a_short_grace() -> None:
    node = machine()
    linked(node, *range(2, 12))
    effects = node.find_providers(7, MODEL, NOW)
    asked = [number for number in range(2, 12) if signer(number).peer_id in questions(effects)]
    assert len(asked) == TEST.alpha
    assert of(effects, SetTimer)[-1] == SetTimer(("dht", "look", node.searches._begun), NOW + 0.1)
    more = reply(node, effects, asked[0], NOW + 0.01, values=tuple(provider(n).wire for n in range(50, 55)))
    assert questions(more) == {}
    assert of(more, SetTimer)[0].at == pytest.approx(NOW + 0.1)
    reply(node, effects, asked[1], NOW + 0.02, values=(provider(50, seq=2).wire, provider(51).wire))
    (found,) = node.timer(("dht", "look", node.searches._begun), NOW + 0.12, WALL)
    assert found.query == 7
    assert {(envelope.author, envelope.seq) for envelope in found.envelopes} == {
        (signer(50).peer_id, 2),
        *((signer(n).peer_id, 1) for n in range(51, 55)),
    }
    assert dict(found.contacts) == {signer(n).peer_id: addrs_of(n) for n in range(50, 55)}
    assert found.hops == 1
    assert node.timer(("dht", "look", node.searches._begun), NOW + 1, WALL) == []
    assert node.timer(("dht", "look"), NOW + 1, WALL) == []


def test_nobody_is_asked_besides_where_nobody_waits() -> None:
    node = machine()
    linked(node, *range(2, 32))
    assert len(questions(node.timer(("dht", "rejoin"), NOW, WALL))) == TEST.alpha


def test_one_provider_is_not_enough_for_it_may_be_dead() -> None:
    node = machine()
    linked(node, *range(2, 12))
    effects = node.find_providers(7, MODEL, NOW)
    asked = [number for number in range(2, 12) if signer(number).peer_id in questions(effects)]
    more = reply(node, effects, asked[0], NOW + 0.01, values=(provider(50).wire,))
    assert len(questions(more)) == 1  # the search goes on
    values = tuple(provider(n).wire for n in range(51, 55))
    assert questions(reply(node, effects, asked[1], NOW + 0.02, values=values)) == {}
    assert PROVIDERS == 5


def test_with_enough_values_nobody_who_is_late_is_waited_for() -> None:
    node = machine()
    linked(node, *range(2, 12))
    effects = node.find_providers(7, MODEL, NOW)
    asked = [number for number in range(2, 12) if signer(number).peer_id in questions(effects)]
    more = reply(node, effects, asked[0], NOW + 0.09, values=tuple(provider(n).wire for n in range(50, 55)))
    assert (of(more, Found), of(more, SetTimer)[0].at) == ([], pytest.approx(NOW + 0.1))  # the others are still in time
    assert of(node.timer(("dht", "look", node.searches._begun), NOW + 0.1, WALL), Found)  # the grace is not over


def test_a_few_values_will_do_once_the_closest_have_answered() -> None:
    node = machine()
    linked(node, *range(2, 12))
    effects = node.find_providers(7, MODEL, NOW)
    number = node.searches._begun
    first = [number for number in range(2, 12) if signer(number).peer_id in questions(effects)]
    reply(node, effects, first[0])
    reply(node, effects, first[1], NOW + 0.01, values=(provider(50).wire,))
    assert of(node.timer(("dht", "look", number), NOW + 0.2, WALL), Found) == []  # the grace is over, one is silent
    (found,) = of(reply(node, effects, first[2], NOW + 0.3), Found)
    assert len(found.envelopes) == 1


def test_a_few_values_are_taken_when_patience_is_over_and_an_author_has_answered() -> None:
    node = machine()
    linked(node, *range(2, 12), 50)
    effects = node.find_providers(7, MODEL, NOW)
    number = node.searches._begun
    last = list(questions(effects))[2]
    assert signer(50).peer_id not in questions(effects)
    reply_of_last = DhtReply(questions(effects)[last].query, (), (provider(50).wire,))
    asked = node.on_message(last, reply_of_last, NOW + 0.01, WALL)
    assert signer(50).peer_id in questions(asked)
    reply(node, asked, 50, NOW + 0.02)
    for at in (0.1, 0.2, 0.3, 0.4):
        effects = node.timer(("dht", "look", number), NOW + at, WALL)
        assert of(effects, Found) == []
    assert of(effects, SetTimer)[-1].at == pytest.approx(NOW + 0.45)
    assert of(node.timer(("dht", "look", number), NOW + 0.45, WALL), Found)


def test_a_statement_whose_author_did_not_answer_is_no_answer() -> None:
    node = machine()
    linked(node, *range(2, 12))
    effects = node.find_providers(7, MODEL, NOW)
    number = node.searches._begun
    last = list(questions(effects))[2]
    reply_of_last = DhtReply(questions(effects)[last].query, (), (provider(50).wire,))
    asked = node.on_message(last, reply_of_last, NOW + 0.01, WALL)
    assert of(asked, Dial) == [Dial(signer(50).peer_id, addrs_of(50))]
    node.dial_failed(signer(50).peer_id, NOW + 0.02)
    assert of(node.timer(("dht", "look", number), NOW + 0.45, WALL), Found) == []  # patience was over
    (found,) = of(node.timer(("dht", "look", number), NOW + 3 * TEST.query_s, WALL), Found)
    assert [envelope.author for envelope in found.envelopes] == [signer(50).peer_id]


def test_authors_that_failed_do_not_count_and_come_last() -> None:
    node = machine()
    linked(node, *range(2, 12))
    effects = node.find_providers(7, MODEL, NOW)
    number = node.searches._begun
    first, second, *_ = [number for number in range(2, 12) if signer(number).peer_id in questions(effects)]
    asked = reply(node, effects, first, NOW + 0.01, values=tuple(provider(n).wire for n in range(50, 54)))
    assert {dial.peer for dial in of(asked, Dial)} == {signer(n).peer_id for n in range(50, 54)}
    for each in (50, 51):
        node.dial_failed(signer(each).peer_id, NOW + 0.02)
    more = reply(node, effects, second, NOW + 0.03, values=(provider(54).wire,))
    assert questions(more)  # five values, but three of authors that may be there: others are asked
    node.timer(("dht", "look", number), NOW + 0.2, WALL)
    third = next(n for n in range(2, 12) if signer(n).peer_id in questions(more))
    (found,) = of(reply(node, more, third, NOW + 0.2, values=(provider(55).wire, provider(56).wire)), Found)
    assert len(found.envelopes) == 7
    assert {envelope.author for envelope in found.envelopes[-2:]} == {signer(n).peer_id for n in (50, 51)}


def test_those_with_a_link_come_first_then_the_youngest() -> None:
    node = machine()
    linked(node, 2, 3)
    effects = node.find_providers(7, MODEL, NOW)
    values = (provider(50, issued=WALL - 60).wire, provider(3, issued=WALL - 90).wire, provider(51).wire)
    reply(node, effects, 2, values=values)
    (found,) = of(reply(node, effects, 3), Found)
    assert [peer for peer, _ in found.contacts] == [signer(n).peer_id for n in (3, 51, 50)]


def test_what_is_kept_here_counts_but_others_are_asked_once_too() -> None:
    node = machine()
    linked(node, 2, 3)
    store(node, 2, provider(2))
    effects = node.find_providers(7, MODEL, NOW)
    assert len(questions(effects)) == 2
    reply(node, effects, 2)
    (found,) = of(reply(node, effects, 3, values=(provider(3).wire,)), Found)
    assert {envelope.author for envelope in found.envelopes} == {signer(2).peer_id, signer(3).peer_id}
    assert found.hops == 0


def test_two_who_ask_the_same_share_one_look_up() -> None:
    node = machine()
    linked(node, 2)
    effects = node.find_providers(7, MODEL, NOW)
    assert node.find_providers(8, MODEL, NOW) == []
    founds = of(reply(node, effects, 2, values=(provider(50).wire,)), Found)
    assert [found.query for found in founds] == [7, 8]


def test_a_node_without_contacts_finds_nothing_at_once() -> None:
    assert machine().find_providers(7, MODEL, NOW) == [Found(7, (), (), 0)]
    assert machine().find_peer(7, name(2), NOW) == [Found(7, (), (), 0)]


def test_too_many_look_ups_at_once_find_nothing() -> None:
    node = machine()
    linked(node, 2)
    for number in range(MOST_LOOKUPS):
        assert questions(node.find_providers(number, ModelId(number.to_bytes(16, "big")), NOW))
    assert node.find_providers(99, MODEL, NOW) == [Found(99, (), (), 0)]


def test_a_linked_peer_needs_no_look_up() -> None:
    node = machine()
    linked(node, 2)
    store(node, 2, advert(2), peer_key(signer(2).peer_id))
    (found,) = node.find_peer(7, signer(2).peer_id, NOW)
    assert found.contacts == ((signer(2).peer_id, addrs_of(2)),)
    assert [envelope.author for envelope in found.envelopes] == [signer(2).peer_id]


def test_a_peer_that_is_only_named_is_dialled_and_asked_itself() -> None:
    node = machine()
    linked(node, 2)
    target = signer(3).peer_id
    effects = node.find_peer(7, target, NOW)
    (dial,) = of(reply(node, effects, 2, contacts=(Contact(target, addrs_of(3)),)), Dial)
    assert dial == Dial(target, addrs_of(3))
    effects = node.link_up(target, addrs_of(3), "", NOW + 0.1)
    (found,) = of(reply(node, effects, 3, NOW + 0.1, values=(advert(3).wire,)), Found)
    assert found.contacts == ((target, addrs_of(3)),)
    assert found.hops == 2


def test_a_peer_that_was_named_but_not_reached_is_found_as_a_hint() -> None:
    node = machine()
    linked(node, 2)
    target = signer(3).peer_id
    reply(node, node.find_peer(7, target, NOW), 2, contacts=(Contact(target, addrs_of(3)),))
    (found,) = of(node.dial_failed(target, NOW + 0.1), Found)
    assert (found.envelopes, found.contacts) == ((), ((target, addrs_of(3)),))


def test_a_provider_with_a_link_and_no_address_of_its_own_is_still_a_contact() -> None:
    node = machine()
    linked(node, 2)
    node.link_up(signer(3).peer_id, (), "", NOW)
    effects = node.find_providers(7, MODEL, NOW)
    reply(node, effects, 2, values=(provider(3).wire,))
    (found,) = of(reply(node, effects, 3), Found)
    assert found.contacts == ((signer(3).peer_id, addrs_of(3)),)


@pytest.mark.parametrize(
    ("wire", "points"),
    [
        (forged(provider(50)), 1),
        (provider(50, model=b"another model...").wire, 1),
        (advert(50).wire, 1),
        (b"?", 1),
        (provider(50, issued=WALL - 9999).wire, 0),
        (provider(1, seq=9).wire, 0),  # our own, which we know better
        (b"\x01\x09" + provider(50).wire[2:], 0),  # of a newer version
        (seal(signer(50), PROVIDER, (1, 1), WALL, 60, b"\x91\xa3new").wire, 0),
    ],
)
def test_a_value_that_does_not_hold_is_dropped_and_a_wrong_one_held_against_its_sender(
    wire: bytes, points: int
) -> None:
    node = machine()
    linked(node, 2)
    effects = node.find_providers(7, MODEL, NOW)
    effects = reply(node, effects, 2, values=(wire,))
    assert of(effects, Found) == [Found(7, (), (), 0)]
    assert [blame.points for blame in of(effects, Penalise)] == [1] * points


def test_replies_that_nobody_asked_for_are_dropped() -> None:
    node = machine()
    linked(node, 2, 3)
    assert node.on_message(signer(2).peer_id, DhtReply(1, (Contact(name(9), addrs_of(9)),)), NOW, WALL) == []
    effects = node.find_providers(7, MODEL, NOW)
    query = questions(effects)[signer(2).peer_id].query
    stolen = DhtReply(query, values=(provider(50).wire,))
    assert node.on_message(signer(3).peer_id, stolen, NOW, WALL) == []  # another peer's number
    reply(node, effects, 2)
    assert reply(node, effects, 2, values=(provider(50).wire,)) == []  # twice


def test_an_answer_after_its_time_is_dropped() -> None:
    node = machine()
    linked(node, 2, 3)
    effects = node.find_providers(7, MODEL, NOW)
    number = node.searches._begun
    node.timer(("dht", "look", number), NOW + 0.2, WALL)
    reply(node, effects, 3, NOW + 0.2, contacts=(Contact(name(9), addrs_of(9)),))
    node.timer(("dht", "look", number), NOW + 0.5, WALL)
    assert reply(node, effects, 2, NOW + 0.6, values=(provider(50).wire,)) == []


def test_a_contact_is_never_this_node_itself() -> None:
    node = machine()
    linked(node, 2)
    effects = node.find_providers(7, MODEL, NOW)
    assert of(reply(node, effects, 2, contacts=(Contact(node.me, addrs_of(1)),)), Dial) == []


def test_a_link_to_a_peer_that_a_look_up_has_not_come_to_changes_nothing() -> None:
    node = machine()
    linked(node, *range(2, 12))
    asked = questions(node.find_providers(7, MODEL, NOW))
    waiting = next(n for n in range(2, 12) if signer(n).peer_id not in asked)
    assert not questions(node.link_up(signer(waiting).peer_id, addrs_of(waiting), "", NOW))


# --- dead contacts -------------------------------------------------------------------------------------------------


def test_a_late_contact_gives_its_place_to_the_next_and_may_still_answer() -> None:
    node = machine()
    linked(node, *range(2, 10))
    effects = node.find_providers(7, MODEL, NOW)
    number = node.searches._begun
    first = set(questions(effects))
    second = set(questions(node.timer(("dht", "look", number), NOW + 0.1, WALL)))
    assert len(first) == len(second) == 3
    assert not first & second
    late = next(n for n in range(2, 10) if signer(n).peer_id in first)
    reply(node, effects, late, NOW + 0.15, values=tuple(provider(n).wire for n in range(50, 55)))
    assert of(node.timer(("dht", "look", number), NOW + 0.3, WALL), Found)


def test_a_broken_link_lets_the_look_up_go_on_at_once() -> None:
    node = machine()
    linked(node, *range(2, 10))
    effects = node.find_providers(7, MODEL, NOW)
    dead = next(iter(questions(effects)))
    assert len(questions(node.link_down(dead, NOW))) == 1
    assert node.link_down(dead, NOW) == []


def test_a_contact_that_leaves_two_queries_unanswered_loses_its_place_to_a_replacement() -> None:
    node = machine(DhtSettings(k=1, query_s=0.5))
    linked(node, 2)
    replacement = next(n for n in range(3, 99) if node.table.index(as_number(peer_key(signer(n).peer_id))) == 0)
    in_bucket_0 = [n for n in (2, replacement) if node.table.index(as_number(peer_key(signer(n).peer_id))) == 0]
    linked(node, replacement)
    if len(in_bucket_0) == 2:
        assert signer(replacement).peer_id not in node.table
    for round_ in (0.0, 10.0):
        node.find_providers(round(round_), ModelId(bytes([round(round_)]) * 16), NOW + round_)
        node.timer(("dht", "look", node.searches._begun), NOW + round_ + 0.5, WALL)
    assert len(node.table) <= 1


def test_an_address_that_could_not_be_reached_is_left_alone_for_a_while() -> None:
    node = machine()
    linked(node, 2)

    def named(now: float, port: int) -> list[Effect]:
        effects = node.find_providers(7, ModelId(bytes([port]) * 16), now)
        return of(reply(node, effects, 2, now, contacts=(Contact(name(9), addrs_of(port)),)), Dial)

    assert named(NOW, 9) == [Dial(name(9), addrs_of(9))]
    node.dial_failed(name(9), NOW)
    assert named(NOW + 1, 9) == []
    assert named(NOW + 1, 10) == [Dial(name(9), addrs_of(10))]  # a liar's address does not hide the true one
    node.dial_failed(name(9), NOW + 1)
    node.timer(("dht", "upkeep"), NOW + 12, WALL)
    assert named(NOW + 12, 9) == [Dial(name(9), addrs_of(9))]


def test_the_memory_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "MOST_SHUNNED", 2)
    node = machine()
    linked(node, 2)
    effects = node.find_providers(7, MODEL, NOW)
    more = reply(node, effects, 2, contacts=tuple(Contact(name(n), addrs_of(n)) for n in range(3, 8)))
    dialled = of(more, Dial)
    for dial in dialled:
        node.dial_failed(dial.peer, NOW)
    assert len(dialled) == 3
    assert len(node.links.shunned) == 2


def test_a_contact_without_address_or_link_is_not_asked() -> None:
    node = machine()
    linked(node, 2)
    effects = node.find_providers(7, MODEL, NOW)
    assert of(reply(node, effects, 2, contacts=(Contact(name(9)),)), Found) == [Found(7, (), (), 0)]


def test_two_look_ups_share_a_dial() -> None:
    node = machine()
    linked(node, 2)
    one, two = (node.find_providers(n, ModelId(bytes([n]) * 16), NOW) for n in (7, 8))
    contact = Contact(name(9), addrs_of(9))
    assert of(reply(node, one, 2, contacts=(contact,)), Dial)
    assert not of(reply(node, two, 2, contacts=(contact,)), Dial)
    asked = [e for e in node.link_up(name(9), addrs_of(9), "", NOW) if isinstance(e, Send)]
    assert len(asked) == 2


def test_a_wrong_address_costs_a_contact_nothing_but_a_dead_one_its_place() -> None:
    node = machine()
    linked(node, 2, 3)
    peer = signer(3).peer_id
    node.dial_failed(peer, NOW)  # it has a link: somebody else's dial came late
    node.link_down(peer, NOW)
    node.dial_failed(peer, NOW)  # not our dial: one failure
    assert peer in node.table
    linked(node, 3)
    node.link_down(peer, NOW)
    effects = node.find_providers(7, MODEL, NOW)
    assert of(effects, Dial) == [Dial(peer, addrs_of(3))]
    node.dial_failed(peer, NOW)
    assert peer not in node.table
