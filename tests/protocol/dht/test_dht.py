"""The DHT: a peer that is there is found, a record that is kept is signed, and no peer can hold a look-up up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.dht.routing_table import as_number, model_key, peer_key
from protocol.effects import Effect, Found, Hangup, Send, SetTimer
from protocol.ids import ModelId, PeerId
from protocol.settings import DhtSettings
from protocol.wire.messages import Contact, DhtQuery, DhtReply, DhtStore
from tests.protocol.dht.dht_network import EPOCH, TEST, DhtNetwork, Member, signer
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
    place,
    provider,
    questions,
    reply,
)

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


def test_a_node_that_has_joined_looks_nothing_up_at_its_first_link() -> None:
    node = machine()
    node.has_joined = True
    assert questions(node.link_up(signer(2).peer_id, addrs_of(2), "", NOW)) == {}
    node.link_down(signer(2).peer_id, NOW)
    node.has_joined = False
    assert questions(node.link_up(signer(2).peer_id, addrs_of(2), "", NOW)) != {}


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
    for turn in range(1, 20):  # no peer answers for a while, although the links stand
        node.timer(look, NOW + turn * TEST.query_s / 4, WALL)
    assert not node.searches.lookups
    assert stores(node.timer(("dht", "rejoin"), NOW + 60, WALL)) == 10  # all there are
    assert stores(node.timer(("dht", "rejoin"), NOW + 120, WALL)) == 0


def test_peers_that_listen_nowhere_are_asked_but_not_passed_on() -> None:
    node = machine()
    effects = node.link_up(name(2), (), "", NOW)
    assert name(2) in questions(effects)
    assert name(2) not in node.table


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
                    e
                    for number in list(node.searches.lookups)
                    for e in node.timer(("dht", "look", number), now, now + EPOCH)
                ]
            case (name_,):
                new = node.timer(("dht", name_), now, now + EPOCH)
        open_queries |= {peer: query.query for peer, query in questions(new).items()}
        effects += new
    for number in list(node.searches.lookups):
        effects += node.timer(("dht", "look", number), now + 99, now + EPOCH + 99)
    assert sorted(found.query for found in of(effects, Found)) == list(range(asked))
    assert all(envelope.check() for found in of(effects, Found) for envelope in found.envelopes)
    assert {envelope.author for found in of(effects, Found) for envelope in found.envelopes} <= {
        signer(number).peer_id for number in (2, 3, 5)
    }
