"""What a node does for others in the DHT: answers within bounds, and keeps what its author brought."""

from __future__ import annotations

import pytest

from protocol.dht import server
from protocol.dht.routing_table import model_key, peer_key
from protocol.errors import StaleStatement
from protocol.settings import DhtSettings
from protocol.statements.adverts import Load, Provider
from protocol.statements.envelope import remaining_s, statement
from protocol.wire.messages import DhtQuery, DhtStore, Doubt
from tests.protocol.dht.dht_network import DhtNetwork, signer
from tests.protocol.dht.one_node import MODEL, NOW, WALL, advert, forged, linked, machine, name, provider, store

# --- answering -----------------------------------------------------------------------------------------------------


def test_a_query_is_answered_with_the_closest_contacts_but_the_asker() -> None:
    node = machine()
    linked(node, *range(2, 40))
    target = peer_key(name(77))
    asker = signer(2).peer_id
    (effect,) = node.on_message(asker, DhtQuery(9, target), NOW, WALL)
    assert effect.peer == asker
    assert effect.message.query == 9
    expected = [contact.peer for contact in node.table.closest(target, 21) if contact.peer != asker][:20]
    assert [contact.peer for contact in effect.message.contacts] == expected
    assert effect.message.values == ()


def test_the_largest_reply_fits_into_a_message() -> None:
    limits = DhtSettings()
    node = machine(limits)
    long = ("y" * 1024, *("/dns/" + "x" * 123 for _ in range(9)))
    for number in range(2, 60):
        node.link_up(signer(number).peer_id, long, "", NOW)
        kept = statement(signer(number), Provider(MODEL, ("a" * 128,) * 4), (1, 1), WALL, 3600)
        assert node.on_message(signer(number).peer_id, DhtStore(model_key(MODEL), kept.wire), NOW, WALL) == []
    (effect,) = node.on_message(signer(2).peer_id, DhtQuery(9, model_key(MODEL), True), NOW, WALL)
    assert len(effect.message.contacts) == 20
    assert {len(contact.addrs) for contact in effect.message.contacts} == {4}
    assert len(effect.message.values) == 20
    net = DhtNetwork(2)
    net.perform(net.members[0], [effect])  # asserts the size


def test_values_beyond_the_room_of_a_reply_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MOST_VALUE_BYTES", 2 * len(provider(2).wire))
    node = machine()
    linked(node, 2, 3, 4)
    for number in (2, 3, 4):
        node.on_message(signer(number).peer_id, DhtStore(model_key(MODEL), provider(number).wire), NOW, WALL)
    (effect,) = node.on_message(signer(2).peer_id, DhtQuery(9, model_key(MODEL), True), NOW, WALL)
    assert len(effect.message.values) == 2


def test_a_node_names_itself_as_a_provider_until_its_statement_expires() -> None:
    node = machine()
    linked(node, 2)
    node.publish((provider(1),), NOW)
    query = DhtQuery(9, model_key(MODEL), True)
    (effect,) = node.on_message(signer(2).peer_id, query, NOW, WALL)
    assert effect.message.values == (provider(1).wire,)
    (effect,) = node.on_message(signer(2).peer_id, query, NOW + 3600, WALL + 3600)
    assert effect.message.values == ()


def test_a_peer_that_asks_too_often_is_not_answered_for_a_while() -> None:
    node = machine()
    linked(node, 2)
    peer = signer(2).peer_id
    answers = [bool(node.on_message(peer, DhtQuery(n, bytes(32)), NOW, WALL)) for n in range(202)]
    assert answers == [True] * 200 + [False] * 2
    assert store(node, 2, provider(2)) == []
    assert len(node.records) == 0, "statements cost as much"
    assert node.on_message(peer, DhtQuery(1, bytes(32)), NOW + 0.01, WALL)


def test_all_peers_together_are_not_answered_without_end() -> None:
    node = machine()
    linked(node, *range(2, 22))
    peers = [signer(number).peer_id for number in range(2, 22)]
    answers = [node.on_message(peer, DhtQuery(n, bytes(32)), NOW, WALL) for peer in peers for n in range(100)]
    assert sum(map(bool, answers)) == 1000


def test_messages_of_others_and_messages_that_are_not_ours_are_left_alone() -> None:
    node = machine()
    linked(node, 2)
    assert node.on_message(name(3), DhtQuery(1, bytes(32)), NOW, WALL) == []
    assert node.on_message(signer(2).peer_id, Doubt(bytes(32), 1, 1), NOW, WALL) == []


# --- keeping -------------------------------------------------------------------------------------------------------


def test_the_newest_statement_of_each_author_is_kept_and_expires_on_our_clock() -> None:
    node = machine()
    linked(node, 2, 3)
    for number, seq in ((2, 5), (2, 4), (2, 5), (3, 1), (2, 6)):
        assert store(node, number, provider(number, seq)) == []
    assert store(node, 2, advert(2), peer_key(signer(2).peer_id)) == []
    kept = node.records.get(model_key(MODEL), NOW)
    assert {(envelope.author, envelope.seq) for envelope in kept} == {(signer(2).peer_id, 6), (signer(3).peer_id, 1)}
    assert (len(node.records), node.records.statements) == (2, 3)
    node.timer(("dht", "upkeep"), NOW + 120, WALL + 120)
    assert (len(node.records), node.records.statements) == (1, 2)
    assert node.records.get(model_key(MODEL), NOW + 3600) == []
    assert (len(node.records), node.records.statements) == (0, 0)


@pytest.mark.parametrize(
    ("wire", "why"),
    [
        (forged(provider(2)), "signature"),
        (provider(3).wire, "somebody else than its author"),
        (provider(2, model=b"another model...").wire, "a key that is not its own"),
        (advert(2).wire, "a key that is not its own"),
        (statement(signer(2), Load(), (1, 1), WALL, 60).wire, "a load is not kept"),
        (b"short", "5 bytes"),
    ],
)
def test_a_wrong_statement_is_not_kept_and_held_against_its_sender(wire: bytes, why: str) -> None:
    node = machine()
    linked(node, 2)
    (blame,) = store(node, 2, wire)
    assert (blame.peer, blame.points) == (signer(2).peer_id, 1)
    assert why in blame.reason
    assert len(node.records) == 0


@pytest.mark.parametrize("issued", [WALL - 3600 - 121, WALL + 121])
def test_an_old_or_early_statement_is_not_kept_and_nobody_blamed(issued: float) -> None:
    node = machine()
    linked(node, 2)
    assert store(node, 2, provider(2, issued=issued)) == []
    assert len(node.records) == 0


def test_the_life_of_a_statement_follows_the_skew_rule() -> None:
    assert remaining_s(provider(2, issued=WALL - 150, ttl=60), WALL, 120.0) == pytest.approx(30.0, abs=0.01)
    assert remaining_s(provider(2, issued=WALL - 119, ttl=60), WALL, 120.0) == 60.0
    assert remaining_s(provider(2, issued=WALL + 119, ttl=60), WALL, 120.0) == 60.0
    with pytest.raises(StaleStatement, match="expired"):
        remaining_s(provider(2, issued=WALL - 181, ttl=60), WALL, 120.0)
    with pytest.raises(StaleStatement, match="in the future"):
        remaining_s(provider(2, issued=WALL + 121, ttl=60), WALL, 120.0)
