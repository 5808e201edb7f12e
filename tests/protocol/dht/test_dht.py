"""The DHT: a peer that is there is found, a record that is kept is signed, and no peer can hold a look-up up."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.dht import dht as dht_module
from protocol.dht.dht import MOST_LOOKUPS, PROVIDERS, Dht
from protocol.dht.lookup import Lookup, QueryState
from protocol.dht.record_store import RecordStore, record_key
from protocol.dht.routing_table import RoutingTable, as_number, model_key, peer_key
from protocol.effects import Dial, Effect, Found, Hangup, Penalise, Send, SetTimer
from protocol.errors import BadEnvelope, StaleStatement
from protocol.ids import ModelId, PeerId
from protocol.settings import DhtSettings
from protocol.statements.adverts import Advert, Load, Provider
from protocol.statements.envelope import Envelope, remaining_s, seal, statement
from protocol.statements.keys import PROVIDER
from protocol.subnet import limited
from protocol.wire.messages import Contact, DhtQuery, DhtReply, DhtStore, Doubt
from tests.protocol.dht.dht_network import EPOCH, TEST, DhtNetwork, Member, signer

MODEL = ModelId(b"m" * 16)
NOW = 100.0
WALL = NOW + EPOCH


def name(number: int) -> PeerId:
    """A peer that never signs anything."""
    return PeerId(number.to_bytes(32, "big"))


def provider(number: int, seq: int = 1, model: bytes = MODEL, issued: float = WALL, ttl: int = 3600) -> Envelope:
    return statement(signer(number), Provider(model, (f"/ip4/10.0.0.1/tcp/{number}",)), (1, seq), issued, ttl)


def advert(number: int, seq: int = 1, issued: float = WALL, ttl: int = 120) -> Envelope:
    return statement(signer(number), Advert(1, addrs=(f"/ip4/10.0.0.1/tcp/{number}",)), (1, seq), issued, ttl)


def forged(envelope: Envelope) -> bytes:
    return envelope.wire[:-1] + bytes([envelope.wire[-1] ^ 1])


def addrs_of(number: int) -> tuple[str, ...]:
    return (f"/ip4/10.0.0.1/tcp/{number}",)


def of(effects: list[Effect], kind: type) -> list:
    return [effect for effect in effects if isinstance(effect, kind)]


def questions(effects: list[Effect]) -> dict[PeerId, DhtQuery]:
    return {e.peer: e.message for e in of(effects, Send) if isinstance(e.message, DhtQuery)}


def machine(limits: DhtSettings = TEST) -> Dht:
    return Dht(signer(1).peer_id, limits, random.Random(1))


def linked(node: Dht, *numbers: int, now: float = NOW) -> None:
    """Links to peers who answer every question with nothing, until the look-ups of the join are over."""
    for number in numbers:
        effects = node.link_up(signer(number).peer_id, addrs_of(number), "", now)
        while asked := questions(effects):
            effects = [
                effect
                for peer, query in asked.items()
                for effect in node.on_message(peer, DhtReply(query.query), now, now + EPOCH)
            ]


def reply(node: Dht, effects: list[Effect], number: int, now: float = NOW, **fields: object) -> list[Effect]:
    peer = signer(number).peer_id
    return node.on_message(peer, DhtReply(questions(effects)[peer].query, **fields), now, now + EPOCH)


# --- a network -----------------------------------------------------------------------------------------------------


def published(size: int, seed: int, **kwargs: object) -> DhtNetwork:
    """A network in which node ``i`` alone serves the model of that number."""
    net = DhtNetwork(size, seed, **kwargs)
    net.join(settle_s=4.0)
    for index, member in enumerate(net.members):
        own = (
            advert(index + 1, issued=net.now + EPOCH),
            provider(index + 1, model=model(index), issued=net.now + EPOCH),
        )
        net.perform(member, member.dht.publish(own, net.now))
    net.run(5.0)
    return net


def model(index: int) -> ModelId:
    return ModelId(index.to_bytes(16, "big"))


def look_ups(net: DhtNetwork, times: int) -> list[tuple[float, Found, Member]]:
    """Random survivors ask for the model of another random survivor."""
    alive = net.alive()
    results = []
    for _ in range(times):
        asker, owner = net.rng.sample(alive, 2)
        results.append((*net.answer(asker, "find_providers", model(net.members.index(owner))), owner))
    return results


@pytest.mark.slow
@pytest.mark.parametrize(("size", "refusal_s"), [(30, 0.0), (30, 10.0), (200, 10.0)])
def test_every_one_of_200_look_ups_succeeds_within_a_second_with_a_third_killed(size: int, refusal_s: float) -> None:
    net = published(size, seed=size, refusal_s=refusal_s, settings=replace(TEST, idle_s=3.0))
    net.run(4.0)  # links that no look-up needs are gone: the dead have to be dialled
    for member in net.rng.sample(net.members, size // 3):
        net.kill(member)
    for seconds, found, owner in look_ups(net, 200):
        assert [peer for peer, _ in found.contacts] == [owner.me]
        assert seconds < 1.0
    assert not any(member.blamed for member in net.members)


@pytest.mark.slow
def test_a_peer_is_found_by_its_id_through_anybody() -> None:
    net = published(60, seed=2)
    newcomer = net.members[-1]
    for asker in net.members[:-1:7]:
        asker.links.discard(newcomer.me)
        asker.dht.link_down(newcomer.me, net.now)
        _, found = net.answer(asker, "find_peer", newcomer.me)
        assert found.contacts == ((newcomer.me, newcomer.addrs),)


@pytest.mark.slow
def test_a_model_that_nobody_serves_is_not_found_and_not_waited_for() -> None:
    net = published(40, seed=3)
    for member in net.members[20:]:
        net.kill(member)
    seconds, found = net.answer(net.members[0], "find_providers", b"?" * 16)
    assert (found.envelopes, found.contacts) == ((), ())
    assert seconds < 3 * TEST.query_s + 0.02


@pytest.mark.slow
def test_what_was_published_into_a_small_network_is_found_in_the_grown_one() -> None:
    net = DhtNetwork(80, seed=4)
    first = net.members[0]
    net.perform(first, first.dht.publish((provider(1, issued=net.now + EPOCH),), net.now))
    net.join(settle_s=20.0)
    net.kill(net.members[1])
    for asker in net.members[5::9]:
        _, found = net.answer(asker, "find_providers", MODEL)
        assert [peer for peer, _ in found.contacts] == [first.me]


@pytest.mark.slow
def test_a_network_refreshes_hangs_up_what_is_idle_and_keeps_what_is_published() -> None:
    limits = DhtSettings(query_s=0.5, refresh_s=30.0, republish_s=40.0, idle_s=5.0)
    net = published(30, seed=5, settings=limits)
    joined = net.members[0].dials
    net.run(120.0)
    links = sum(len(member.links) for member in net.members) / 30
    assert links < 29
    assert sum(len(member.dht.table) for member in net.members) / 30 > 20
    assert net.members[0].dials > joined
    for member in net.rng.sample(net.members, 20):  # most of the replicas that the first look-up chose
        if member is not net.members[0]:
            net.kill(member)
    net.run(60.0)
    for _, found, owner in look_ups(net, 20):
        assert [peer for peer, _ in found.contacts] == [owner.me]


@pytest.mark.slow
def test_liars_who_flood_contacts_and_values_do_not_stop_a_look_up() -> None:
    net = published(30, seed=6)
    for member in net.members[20:]:
        target = [0]

        def lie(peer: PeerId, message: object, now: float, wall: float, target: list[int] = target) -> list[Effect]:
            if not isinstance(message, DhtQuery):
                return []
            target[0] += 20
            invented = tuple(Contact(name(10**6 + target[0] + n), (f"/ip4/10.9.9.9/tcp/{n}",)) for n in range(20))
            bad = (forged(provider(1, model=model(0))), provider(2, model=b"another model...").wire)
            return [Send(peer, DhtReply(message.query, invented, bad))]

        member.dht.on_message = lie  # type: ignore[method-assign]
    for _ in range(40):
        asker, owner = net.rng.sample(net.members[:20], 2)
        seconds, found = net.answer(asker, "find_providers", model(net.members.index(owner)))
        assert [peer for peer, _ in found.contacts] == [owner.me]
        assert seconds < 1.0
    liars = {member.me for member in net.members[20:]}
    assert {blame.peer for member in net.members[:20] for blame in member.blamed} <= liars


# --- joining -------------------------------------------------------------------------------------------------------


def test_the_first_link_looks_the_own_key_up_and_again_while_the_network_grows() -> None:
    node = machine()
    assert node.start(NOW) == [SetTimer(("dht", "upkeep"), NOW + TEST.refresh_s / 16)]
    effects = node.link_up(name(2), addrs_of(2), "", NOW)
    (query,) = questions(effects).values()
    assert query.target == peer_key(node.me)
    assert not query.values
    pauses = []
    when = NOW
    while timers := [e for e in of(effects, SetTimer) if e.key == ("dht", "rejoin")]:
        pauses.append(timers[0].at - when)
        when = timers[0].at
        effects = node.timer(("dht", "rejoin"), when, WALL)
        assert questions(effects)
    assert pauses == [2.0, 4.0, 8.0, 16.0]


def test_a_node_that_lost_all_links_joins_again() -> None:
    node = machine()
    linked(node, 2)
    assert not questions(node.link_up(name(3), addrs_of(3), "", NOW))
    for peer in (signer(2).peer_id, name(3)):
        node.link_down(peer, NOW)
    assert questions(node.link_up(name(3), addrs_of(3), "", NOW))


def test_what_is_published_is_published_anew_while_the_network_grows() -> None:
    node = machine()
    linked(node, 2, 3)
    place(node, node.publish((provider(1),), NOW))

    def looked_for(effects: list[Effect]) -> set[bytes]:
        targets = set()
        while asked := questions(effects):
            targets |= {query.target for query in asked.values()}
            effects = [e for p, q in asked.items() for e in node.on_message(p, DhtReply(q.query), NOW, WALL)]
        return targets

    grown, same = {peer_key(node.me), model_key(MODEL)}, {peer_key(node.me)}
    assert [looked_for(node.timer(("dht", "rejoin"), NOW, WALL)) for _ in range(2)] == [grown, same]
    linked(node, 4)
    assert [looked_for(node.timer(("dht", "rejoin"), NOW, WALL)) for _ in range(2)] == [grown, same]
    for number in (2, 3, 4):
        node.link_down(signer(number).peer_id, NOW)
    effects = node.link_up(signer(2).peer_id, addrs_of(2), "", NOW)
    for number in (3, 4):
        effects += node.dial_failed(signer(number).peer_id, NOW)
    assert looked_for(effects) == grown  # what others kept may be lost


def test_what_nobody_took_is_published_again_although_the_network_has_its_size() -> None:
    node = machine()
    linked(node, *range(2, 12))

    def stores(effects: list[Effect]) -> int:
        count = 0
        while asked := questions(effects):
            effects = [e for p, q in asked.items() for e in node.on_message(p, DhtReply(q.query), NOW, WALL)]
            count += sum(isinstance(each.message, DhtStore) for each in of(effects, Send))
        return count

    assert stores(node.timer(("dht", "rejoin"), NOW, WALL)) == 0
    (look,) = [each.key for each in of(node.publish((provider(1),), NOW), SetTimer)]
    for turn in range(1, 20):  # nobody answers for a while, over links that stand
        node.timer(look, NOW + turn * TEST.query_s / 4, WALL)
    assert not node._lookups
    assert stores(node.timer(("dht", "rejoin"), NOW + 60, WALL)) == 10  # all there are
    assert stores(node.timer(("dht", "rejoin"), NOW + 120, WALL)) == 0


def test_peers_that_listen_nowhere_are_asked_but_not_passed_on() -> None:
    node = machine()
    effects = node.link_up(name(2), (), "", NOW)
    assert name(2) in questions(effects)
    assert name(2) not in node.table


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
    monkeypatch.setattr(dht_module, "_MOST_VALUE_BYTES", 2 * len(provider(2).wire))
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


def store(node: Dht, number: int, envelope: Envelope | bytes, key: bytes = b"", now: float = NOW) -> list[Effect]:
    wire = envelope if isinstance(envelope, bytes) else envelope.wire
    return node.on_message(signer(number).peer_id, DhtStore(key or model_key(MODEL), wire), now, now + EPOCH)


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


def test_a_shelf_is_bounded_per_key_and_per_group() -> None:
    shelf = RecordStore(name(1), DhtSettings(store_per_key=8))
    key = model_key(MODEL)
    taken = [shelf.put(key, provider(number), "203.0.113", NOW, NOW + 60) for number in range(2, 6)]
    assert taken == [True, True, False, False]
    taken = [shelf.put(key, provider(number), f"203.0.{number}", NOW, NOW + 60) for number in range(6, 14)]
    assert taken == [True] * 6 + [False] * 2
    assert shelf.put(key, provider(2, seq=2), "203.0.113", NOW, NOW + 60)  # a newer version needs no room
    assert shelf.put(key, provider(20), "", NOW + 60, NOW + 120)  # the others have expired


def test_a_full_shelf_gives_up_the_keys_farthest_from_its_own() -> None:
    shelf = RecordStore(name(1), DhtSettings(store_keys=4))
    mine = as_number(peer_key(name(1)))
    items = sorted(
        (provider(2, model=bytes([n]) * 16) for n in range(12)), key=lambda e: as_number(record_key(e)) ^ mine
    )
    near, far = items[:4], items[4:]
    for envelope in far[:4]:
        assert shelf.put(record_key(envelope), envelope, "", NOW, NOW + 60)
    assert not shelf.put(record_key(far[4]), far[4], "", NOW, NOW + 60)
    for envelope in near:
        assert shelf.put(record_key(envelope), envelope, "", NOW, NOW + 60)
    assert [len(shelf.get(record_key(envelope), NOW)) for envelope in items] == [1] * 4 + [0] * 8
    assert (len(shelf), shelf.statements) == (4, 4)


def test_a_shelf_is_bounded_in_all() -> None:
    shelf = RecordStore(name(1), DhtSettings(store_keys=2))
    envelopes = [provider(number) for number in range(2, 12)]
    taken = [shelf.put(model_key(MODEL), envelope, "", NOW, NOW + 60) for envelope in envelopes]
    assert taken == [True] * 8 + [False] * 2


# --- searching -----------------------------------------------------------------------------------------------------


def test_alpha_are_asked_at_once_and_enough_values_end_it_after_a_short_grace() -> None:
    node = machine()
    linked(node, *range(2, 12))
    effects = node.find_providers(7, MODEL, NOW)
    asked = [number for number in range(2, 12) if signer(number).peer_id in questions(effects)]
    assert len(asked) == TEST.alpha
    assert of(effects, SetTimer)[-1] == SetTimer(("dht", "look", node._next_lookup - 1), NOW + 0.1)
    more = reply(node, effects, asked[0], NOW + 0.01, values=tuple(provider(n).wire for n in range(50, 55)))
    assert questions(more) == {}
    assert of(more, SetTimer)[0].at == pytest.approx(NOW + 0.1)
    reply(node, effects, asked[1], NOW + 0.02, values=(provider(50, seq=2).wire, provider(51).wire))
    (found,) = node.timer(("dht", "look", node._next_lookup - 1), NOW + 0.12, WALL)
    assert found.query == 7
    assert {(envelope.author, envelope.seq) for envelope in found.envelopes} == {
        (signer(50).peer_id, 2),
        *((signer(n).peer_id, 1) for n in range(51, 55)),
    }
    assert dict(found.contacts) == {signer(n).peer_id: addrs_of(n) for n in range(50, 55)}
    assert found.hops == 1
    assert node.timer(("dht", "look", node._next_lookup - 1), NOW + 1, WALL) == []
    assert node.timer(("dht", "look"), NOW + 1, WALL) == []


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
    assert search.ask_next(0.0) == []  # it took nobody's place, and gives none
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
    assert of(node.timer(("dht", "look", node._next_lookup - 1), NOW + 0.1, WALL), Found)  # the grace is not over


def test_a_few_values_will_do_once_the_closest_have_answered() -> None:
    node = machine()
    linked(node, *range(2, 12))
    effects = node.find_providers(7, MODEL, NOW)
    number = node._next_lookup - 1
    first = [number for number in range(2, 12) if signer(number).peer_id in questions(effects)]
    reply(node, effects, first[0])
    reply(node, effects, first[1], NOW + 0.01, values=(provider(50).wire,))
    assert of(node.timer(("dht", "look", number), NOW + 0.2, WALL), Found) == []  # the grace is over, one is silent
    (found,) = of(reply(node, effects, first[2], NOW + 0.3), Found)
    assert len(found.envelopes) == 1


def test_a_few_values_are_taken_when_patience_is_over() -> None:
    node = machine()
    linked(node, *range(2, 12))
    effects = node.find_providers(7, MODEL, NOW)
    number = node._next_lookup - 1
    last = list(questions(effects))[2]
    node.on_message(last, DhtReply(questions(effects)[last].query, (), (provider(50).wire,)), NOW + 0.01, WALL)
    for at in (0.1, 0.2, 0.3, 0.4):
        effects = node.timer(("dht", "look", number), NOW + at, WALL)
        assert of(effects, Found) == []
    assert of(effects, SetTimer)[-1].at == pytest.approx(NOW + 0.45)
    assert of(node.timer(("dht", "look", number), NOW + 0.45, WALL), Found)


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
    number = node._next_lookup - 1
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
    number = node._next_lookup - 1
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
        node.timer(("dht", "look", node._next_lookup - 1), NOW + round_ + 0.5, WALL)
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
    monkeypatch.setattr(dht_module, "_MOST_SHUNNED", 2)
    node = machine()
    linked(node, 2)
    effects = node.find_providers(7, MODEL, NOW)
    more = reply(node, effects, 2, contacts=tuple(Contact(name(n), addrs_of(n)) for n in range(3, 8)))
    dialled = of(more, Dial)
    for dial in dialled:
        node.dial_failed(dial.peer, NOW)
    assert len(dialled) == 3
    assert len(node._shunned) == 2


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


# --- publishing ----------------------------------------------------------------------------------------------------


def stored(effects: list[Effect]) -> set[PeerId]:
    return {e.peer for e in of(effects, Send) if isinstance(e.message, DhtStore)}


def place(node: Dht, effects: list[Effect], now: float = NOW) -> set[PeerId]:
    """Answer every question with nothing; who got a statement in the end."""
    replicas = stored(effects)
    while asked := questions(effects):
        effects = [e for p, q in asked.items() for e in node.on_message(p, DhtReply(q.query), now, now + EPOCH)]
        replicas |= stored(effects)
    return replicas


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
    for link in node._links.values():
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
    assert len(node._publishing) == 1
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
    (own,) = node._own.values()
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
    assert [own.key for own in node._own.values()] == [model_key(MODEL)]  # the advert lives two minutes
    node.timer(("dht", "upkeep"), NOW + 3600, WALL + 3600)
    assert node._own == {}


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
    assert all(own.replicas for own in node._own.values())


def test_what_cannot_be_kept_is_not_published() -> None:
    with pytest.raises(BadEnvelope, match="not kept"):
        machine().publish((statement(signer(1), Load(), (1, 1), WALL, 60),), NOW)


# --- upkeep --------------------------------------------------------------------------------------------------------


def test_links_made_for_look_ups_are_hung_up_once_when_idle() -> None:
    node = machine()
    linked(node, 2)
    effects = node.find_providers(7, MODEL, NOW)
    reply(node, effects, 2, contacts=(Contact(name(9), addrs_of(9)),))
    node.link_up(name(9), addrs_of(9), "", NOW)
    assert of(node.timer(("dht", "upkeep"), NOW + 89, WALL), Hangup) == []
    node.on_message(name(9), DhtQuery(1, bytes(32)), NOW + 89, WALL)
    assert of(node.timer(("dht", "upkeep"), NOW + 90, WALL), Hangup) == []
    assert [e.peer for e in of(node.timer(("dht", "upkeep"), NOW + 179, WALL), Hangup)] == [name(9)]
    assert of(node.timer(("dht", "upkeep"), NOW + 500, WALL), Hangup) == []  # somebody else wanted it to stay


def test_the_upkeep_refreshes_one_stale_bucket_at_a_time() -> None:
    node = machine()
    linked(node, *range(2, 20))
    first, second = (node.timer(("dht", "upkeep"), NOW + n, WALL) for n in (0, 1))
    targets = [next(iter(questions(effects).values())).target for effects in (first, second)]
    indexes = [node.table.index(as_number(target)) for target in targets]
    assert len(set(indexes)) == 2
    for number in range(2, 99):
        node.timer(("dht", "upkeep"), NOW + number / 10, WALL)
    assert not questions(node.timer(("dht", "upkeep"), NOW + 12, WALL))
    assert questions(node.timer(("dht", "upkeep"), NOW + 45, WALL))


# --- the table -----------------------------------------------------------------------------------------------------


def same_bucket(table: RoutingTable, count: int) -> list[PeerId]:
    peers = (name(number) for number in range(1000, 9999))
    return [peer for peer in peers if table.index(as_number(peer_key(peer))) == 0][:count]


def test_old_contacts_keep_their_place_and_newcomers_wait() -> None:
    table = RoutingTable(name(1), k=3, per_group=2)
    peers = same_bucket(table, 10)
    for peer in peers:
        table.seen(peer, ("a",), "", 1.0)
    assert [peer for peer in peers if peer in table] == peers[:3]
    table.seen(peers[0], ("b",), "", 2.0)
    contact = table.get(peers[0])
    assert contact is not None
    assert contact.addrs == ("b",)
    table.failed(peers[9], unreachable=True)
    table.failed(peers[0], unreachable=True)
    assert [peer for peer in peers if peer in table] == [*peers[1:3], peers[8]]  # whoever was seen last
    table.failed(peers[1], unreachable=False)
    table.answered(peers[1], 3.0)
    table.failed(peers[1], unreachable=False)
    assert peers[1] in table
    table.failed(peers[1], unreachable=False)
    assert peers[1] not in table
    table.answered(peers[1], 4.0)
    table.failed(name(1), unreachable=False)
    assert len(table) == 3


def test_a_network_group_gets_a_few_places_only_unless_it_is_private() -> None:
    table = RoutingTable(name(1), k=8, per_group=2)
    peers = same_bucket(table, 12)
    for peer in peers[:5]:
        table.seen(peer, ("a",), "203.0.113", 1.0)
    assert len(table) == 2
    for peer in peers[5:8]:
        table.seen(peer, ("a",), "127.0.0", 1.0)
    assert len(table) == 5
    table.failed(peers[5], unreachable=True)  # the replacements are all of the group that is full
    assert len(table) == 4
    table.failed(peers[0], unreachable=True)
    assert peers[4] in table
    assert [contact.peer for contact in table.closest(peer_key(peers[4]), 1)] == [peers[4]]  # no other bucket is asked
    table.seen(name(1), ("a",), "", 1.0)  # oneself
    assert len(table) == 4


def test_a_bucket_without_replacements_shrinks() -> None:
    table = RoutingTable(name(1), k=8, per_group=2)
    (peer,) = same_bucket(table, 1)
    table.seen(peer, ("a",), "", 1.0)
    table.failed(peer, unreachable=True)
    assert len(table) == 0


@pytest.mark.parametrize(
    ("group", "scarce"),
    [
        ("", False),
        ("127.0.0.0/24", False),
        ("10.1.2.0/24", False),
        ("172.20.1.0/24", False),
        ("fe80::/48", False),
        ("172.40.1.0/24", True),
        ("203.0.113.0/24", True),
        ("2001:db8:1::/48", True),
    ],
)
def test_which_groups_are_scarce(group: str, scarce: bool) -> None:
    assert limited(group) is scarce


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(2, 10_000), unique=True, max_size=60), st.binary(min_size=32, max_size=32))
def test_the_closest_are_the_closest(numbers: list[int], target: bytes) -> None:
    table = RoutingTable(name(1), k=100, per_group=100)
    for number in numbers:
        table.seen(name(number), ("a",), "", 1.0)
    closest = table.closest(target, 10)
    distances = [contact.number ^ as_number(target) for contact in closest]
    everyone = sorted(as_number(peer_key(name(number))) ^ as_number(target) for number in numbers)
    assert distances == everyone[:10]
    assert all(a < b for a, b in pairwise(distances))


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 255), st.integers(0, (1 << 256) - 1))
def test_a_random_key_of_a_bucket_falls_into_it(index: int, entropy: int) -> None:
    table = RoutingTable(name(1), k=20, per_group=4)
    assert table.index(as_number(table.key_in(index, entropy))) == index


# --- one look-up ---------------------------------------------------------------------------------------------------


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


# --- any message, in any order -------------------------------------------------------------------------------------

keys = st.sampled_from([peer_key(signer(1).peer_id), model_key(MODEL), bytes(32), b"\xff" * 32])
peers = st.sampled_from([signer(number).peer_id for number in range(1, 6)])
wires = st.sampled_from(
    [provider(2).wire, provider(3, seq=7).wire, forged(provider(4)), advert(5).wire, b"", b"x" * 200]
)
contacts = st.builds(Contact, peers, st.lists(st.text(max_size=200), max_size=4).map(tuple))
messages = st.one_of(
    st.builds(DhtQuery, st.integers(0, 3), keys, st.booleans()),
    st.builds(
        DhtReply, st.integers(0, 3), st.lists(contacts, max_size=5).map(tuple), st.lists(wires, max_size=3).map(tuple)
    ),
    st.builds(DhtStore, keys, wires),
)
moves = st.one_of(
    st.tuples(st.just("message"), peers, messages),
    st.tuples(st.just("reply"), peers, st.lists(contacts, max_size=5), st.lists(wires, max_size=3)),
    st.tuples(st.sampled_from(["up", "down", "failed", "peer"]), peers),
    st.tuples(st.sampled_from(["providers", "publish", "upkeep", "rejoin", "look"])),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(moves, max_size=40))
def test_whatever_arrives_the_machine_goes_on_and_every_question_is_answered_once(steps: list[tuple]) -> None:
    node, now, effects, asked = machine(), NOW, [], 0
    open_queries: dict[PeerId, int] = {}
    for step in steps:
        now += 0.03
        match step:
            case ("message", peer, message):
                new = node.on_message(peer, message, now, now + EPOCH)
            case ("reply", peer, named, values):
                answer = DhtReply(open_queries.pop(peer, 0), tuple(named), tuple(values))
                new = node.on_message(peer, answer, now, now + EPOCH)
            case ("up", peer):
                new = node.link_up(peer, ("a",), "", now)
            case ("down", peer):
                new = node.link_down(peer, now)
            case ("failed", peer):
                new = node.dial_failed(peer, now)
            case ("peer", peer):
                new, asked = node.find_peer(asked, peer, now), asked + 1
            case ("providers",):
                new, asked = node.find_providers(asked, MODEL, now), asked + 1
            case ("publish",):
                new = node.publish((provider(1, seq=asked + 1),), now)
            case ("look",):
                new = [
                    e for number in list(node._lookups) for e in node.timer(("dht", "look", number), now, now + EPOCH)
                ]
            case (name_,):
                new = node.timer(("dht", name_), now, now + EPOCH)
        open_queries |= {peer: query.query for peer, query in questions(new).items()}
        effects += new
    for number in list(node._lookups):
        effects += node.timer(("dht", "look", number), now + 99, now + EPOCH + 99)
    assert sorted(found.query for found in of(effects, Found)) == list(range(asked))
    assert all(envelope.check() for found in of(effects, Found) for envelope in found.envelopes)
    assert {envelope.author for found in of(effects, Found) for envelope in found.envelopes} <= {
        signer(number).peer_id for number in (2, 3, 5)
    }
