"""What a node publishes is where it belongs, in the newest version, without a dial too many."""

from __future__ import annotations

import pytest

from protocol.dht.own_records import OwnRecord
from protocol.dht.routing_table import as_number, model_key, peer_key
from protocol.effects import Dial, Hangup, Send
from protocol.errors import BadEnvelope
from protocol.settings import DhtSettings
from protocol.statements.adverts import Load
from protocol.statements.envelope import statement
from protocol.wire.messages import DhtQuery, DhtReply, DhtStore
from tests.protocol.dht.dht_network import TEST, signer
from tests.protocol.dht.one_node import (
    MODEL,
    NOW,
    WALL,
    addrs_of,
    advert,
    linked,
    machine,
    name,
    of,
    place,
    provider,
    questions,
    stored,
)


def test_a_statement_goes_to_the_k_closest_and_its_successor_to_the_same() -> None:
    node = machine(DhtSettings(k=4, query_s=0.5))
    linked(node, *range(2, 12))
    target = as_number(model_key(MODEL))
    near = sorted((signer(n).peer_id for n in range(2, 12)), key=lambda p: as_number(peer_key(p)) ^ target)
    assert place(node, node.publish((provider(1),), NOW)) == set(near[:4])
    again = node.publish((provider(1, seq=2),), NOW + 1)
    assert stored(again) == set(near[:4])
    assert not questions(again)
    assert questions(node.publish((provider(1, seq=3),), NOW + 1201))  # time to look anew


def test_a_home_without_a_link_is_dialled_and_gets_it_then() -> None:
    node = machine()
    linked(node, 2, 3)
    place(node, node.publish((provider(1),), NOW))
    home = signer(3).peer_id
    node.link_down(home, NOW)
    effects = node.publish((provider(1, seq=2),), NOW)
    assert of(effects, Dial) == [Dial(home, addrs_of(3))]
    assert of(node.publish((provider(1, seq=3),), NOW), Dial) == []  # one dial is enough
    (send,) = node.link_up(home, addrs_of(3), "", NOW)
    assert send == Send(home, DhtStore(model_key(MODEL), provider(1, seq=3).wire))
    node.link_down(home, NOW)
    node.publish((provider(1, seq=4),), NOW)
    node.dial_failed(home, NOW)
    assert stored(node.publish((provider(1, seq=5),), NOW)) == {signer(2).peer_id}


def test_a_new_version_dials_only_the_closest_of_the_homes_without_a_link() -> None:
    node = machine()
    linked(node, *range(2, 12))
    place(node, node.publish((provider(1),), NOW))
    order = [contact.peer for contact in node.table.closest(model_key(MODEL), 20)]
    for peer in order[:8]:
        node.link_down(peer, NOW)
    effects = node.publish((provider(1, seq=2),), NOW)
    assert [dial.peer for dial in of(effects, Dial)] == order[:5]
    assert stored(effects) == set(order[8:])


def test_a_new_version_keeps_no_link_but_those_to_whom_it_would_be_dialled() -> None:
    node = machine()
    linked(node, *range(2, 12))
    place(node, node.publish((provider(1),), NOW))
    for link in node.links.up.values():
        link.ours = True
    late = NOW + TEST.idle_s
    assert len(stored(node.publish((provider(1, seq=2),), late - 1))) == 10
    for number in range(2, 12):  # nor does it matter that they store here: they would dial
        node.on_message(signer(number).peer_id, DhtStore(model_key(MODEL), provider(number).wire), late - 1, WALL)
    hung_up = {effect.peer for effect in of(node.timer(("dht", "upkeep"), late, WALL), Hangup)}
    assert hung_up == {contact.peer for contact in node.table.closest(model_key(MODEL), 20)[5:]}


def test_a_home_that_is_no_contact_any_more_is_passed_over() -> None:
    node = machine()
    linked(node, 2)
    node.link_up(name(3), (), "", NOW)
    replicas = place(node, node.publish((provider(1),), NOW))
    assert replicas == {signer(2).peer_id, name(3)}
    node.link_down(name(3), NOW)
    assert stored(node.publish((provider(1, seq=2),), NOW)) == {signer(2).peer_id}


def test_when_half_of_the_homes_are_gone_new_ones_are_looked_for() -> None:
    node = machine()
    linked(node, 2, 3, 4, 5)
    place(node, node.publish((provider(1),), NOW))
    for number in (2, 3, 4):
        node.link_down(signer(number).peer_id, NOW)
        node.dial_failed(signer(number).peer_id, NOW)
    assert questions(node.publish((provider(1, seq=2),), NOW))
    assert len(node.own.publishing) == 1
    assert not questions(node.publish((provider(1, seq=3),), NOW))  # that look-up places the newest


def test_a_closer_peer_that_turns_up_is_given_what_belongs_to_it() -> None:
    node = machine(DhtSettings(k=2, query_s=0.5))
    target = as_number(model_key(MODEL))
    order = sorted(range(2, 60), key=lambda n: as_number(peer_key(signer(n).peer_id)) ^ target)
    bucket = {n: node.table.index(as_number(peer_key(signer(n).peer_id))) for n in order}
    replicas = order[-3:-1]
    linked(node, *replicas)
    place(node, node.publish((provider(1),), NOW))
    closer = next(n for n in order if bucket[n] not in {bucket[home] for home in replicas})
    farther = next(n for n in reversed(order) if bucket[n] not in {bucket[m] for m in (*replicas, closer)})
    assert stored(node.link_up(signer(closer).peer_id, addrs_of(closer), "", NOW)) == {signer(closer).peer_id}
    (own,) = node.own.records.values()
    assert set(own.replicas) == {signer(closer).peer_id, signer(replicas[0]).peer_id}
    assert stored(node.link_up(signer(order[-1]).peer_id, addrs_of(order[-1]), "", NOW)) == set()
    own.replicas = {signer(closer).peer_id: 0, name(98): 1}
    assert stored(node.link_up(signer(farther).peer_id, addrs_of(farther), "", NOW)) == set()
    assert stored(node.link_up(name(99), (), "", NOW)) == set()  # listens nowhere


def test_statements_are_published_again_when_due_and_forgotten_when_expired() -> None:
    node = machine()
    linked(node, 2)
    place(node, node.publish((provider(1),), NOW))
    place(node, node.publish((advert(1),), NOW))
    due = node.timer(("dht", "upkeep"), NOW + 1200, WALL + 1200)
    asked_for = {e.message.target for e in of(due, Send) if isinstance(e.message, DhtQuery)}
    assert model_key(MODEL) in asked_for
    assert peer_key(node.me) not in asked_for
    assert [own.key for own in node.own.records.values()] == [model_key(MODEL)]  # the advert lives two minutes
    node.timer(("dht", "upkeep"), NOW + 3600, WALL + 3600)
    assert node.own.records == {}


def test_many_models_are_placed_a_few_at_a_time() -> None:
    node = machine()
    linked(node, 2)
    envelopes = tuple(provider(1, model=bytes([n]) * 16) for n in range(10))
    effects = node.publish(envelopes, NOW)
    assert len([e for e in of(effects, Send) if isinstance(e.message, DhtQuery)]) == 4
    begun = 4
    while sends := [e for e in of(effects, Send) if isinstance(e.message, DhtQuery)]:
        effects = [e for send in sends for e in node.on_message(send.peer, DhtReply(send.message.query), NOW, WALL)]
        begun += len([e for e in of(effects, Send) if isinstance(e.message, DhtQuery)])
    assert begun == 10
    assert all(own.replicas for own in node.own.records.values())


def test_what_cannot_be_kept_is_not_published() -> None:
    with pytest.raises(BadEnvelope, match="not kept"):
        machine().publish((statement(signer(1), Load(), (1, 1), WALL, 60),), NOW)


def test_a_record_that_is_restored_is_offered_to_its_replicas_and_not_looked_up_again() -> None:
    node = machine()
    own = OwnRecord(provider(1), model_key(MODEL), NOW + 3600, {signer(2).peer_id: 0}, 1, NOW)
    node.own.restore([own])
    assert stored(node.link_up(signer(2).peer_id, addrs_of(2), "", NOW)) == {signer(2).peer_id}
    assert node.own.holds(own.key, own.envelope)
    newer = provider(1, seq=2)
    effects = node.publish((newer,), NOW + 1)
    assert (stored(effects), questions(effects)) == ({signer(2).peer_id}, {})
    assert node.own.holds(own.key, newer)
    assert not node.own.holds(bytes(32), newer)
