"""The machines composed: every event reaches whom it concerns, and the same inputs give the same effects."""

from __future__ import annotations

import math
import random

import pytest

from protocol.effects import Dial, Effect, Found, Hangup, PeerState, Send
from protocol.events import (
    Advertise,
    DialFailed,
    Event,
    FindPeer,
    FindProviders,
    Leave,
    LinkDown,
    LinkUp,
    Received,
    ReportLoad,
    RoundTrip,
    Routed,
    TimerFired,
)
from protocol.ids import ModelId, PeerId, name_key
from protocol.membership.connections import NOT_NOW
from protocol.node import Node
from protocol.settings import PROFILES, GossipSettings, NodeSettings
from protocol.statements.adverts import Advert, Load, ModelOffer, Status
from protocol.statements.envelope import Envelope, parse, statement
from protocol.statements.keys import ADVERT, LOAD, PROVIDER
from protocol.wire.features import OFFERED
from protocol.wire.messages import Digest, Doubt, FreshLoad, Full, Records, Watch, encode
from tests.protocol.harness import FRAME_BYTES, WALL, MemoryNetwork, addr_of, advert_of, signer_of

PEER = signer_of(1).peer_id


class Alone:
    """One node and a driver that only notes what it asks for."""

    def __init__(self, **given: object) -> None:
        self.node = Node(signer_of(0), PROFILES["wan"], random.Random(1), 1, (), **given)  # type: ignore[arg-type]
        self.now = 0.0
        self.started = self.node.start(0.0, WALL)

    def feed(self, event: Event, after: float = 0.0) -> list[Effect]:
        self.now += after
        return self.node.handle(event, self.now, WALL + self.now)

    def link(
        self, index: int = 1, outbound: bool = True, addrs: tuple[str, ...] = ("/ip4/10.0.0.9/tcp/1",)
    ) -> list[Effect]:
        return self.feed(LinkUp(signer_of(index).peer_id, outbound, f"10.{index}.0.1", addrs, OFFERED))

    def get(self, *envelopes: Envelope, source: int = 1) -> list[Effect]:
        return self.feed(Received(signer_of(source).peer_id, Records(tuple(parse(e.wire) for e in envelopes))))


def said(author: int, seq: int = 1, status: int = 0) -> Envelope:
    return statement(signer_of(author), Load(status=status), (1, seq), WALL, 60)


def advert(author: int, seq: int = 1) -> Envelope:
    return statement(signer_of(author), advert_of(author), (1, seq), WALL, 120)


def states(effects: list[Effect]) -> list[tuple[PeerId, str]]:
    return [(effect.peer, effect.state) for effect in effects if isinstance(effect, PeerState)]


def test_every_timer_carries_the_name_of_its_machine() -> None:
    node = Alone()
    names = {effect.key[0] for effect in node.started if hasattr(effect, "key")}
    assert names == {"gossip", "liveness", "neighbours", "dht"}


def test_a_link_and_its_round_trip_are_seen_by_the_view() -> None:
    node = Alone()
    effects = node.link()
    assert states(effects) == [(PEER, "alive")]
    record = node.node.view.get(PEER)
    assert record is not None
    assert (record.linked, record.outbound, record.address) == (True, True, "10.1.0.1")
    node.feed(RoundTrip(PEER, 0.05), after=1.0)
    assert record.rtt_s == pytest.approx(0.05)
    node.feed(LinkDown(PEER, "reset"))
    assert node.node.view.get(PEER) is None  # nothing else is known of it
    assert node.feed(LinkDown(PEER, "again")) == []


def test_the_broken_link_of_a_neighbour_is_a_reason_to_doubt_it() -> None:
    node = Alone()
    node.link()
    node.get(advert(1), said(1))
    node.feed(TimerFired(("neighbours", "tick")), after=30.0)
    assert node.node.overlay.is_standing(PEER)
    node.feed(LinkDown(PEER, "reset"))
    assert node.node.failure_detector.state(PEER) == "alive"  # links break for many reasons
    effects = node.feed(DialFailed(PEER, (), "nobody there"))
    assert (PEER, "suspect") in states(effects)


def test_messages_without_a_link_are_not_for_us() -> None:
    assert Alone().get(said(1)) == []


def test_news_reach_the_failure_detector() -> None:
    node = Alone()
    node.link()
    assert (signer_of(2).peer_id, "alive") in states(node.get(said(2)))
    assert states(node.get(said(2, 2, int(Status.LEFT)))) == [(signer_of(2).peer_id, "left")]
    assert states(node.get(advert(2))) == []  # late, and said before the goodbye
    assert states(node.get(said(2, 3))) == [(signer_of(2).peer_id, "alive")]


def test_news_of_somebody_the_view_has_no_room_for_change_nothing() -> None:
    settings = NodeSettings(gossip=GossipSettings(view_size=1))
    node = Alone()
    node.node = Node(signer_of(0), settings, random.Random(1), 1, ())
    node.node.start(0.0, WALL)
    node.link()
    assert states(node.get(said(2), said(3))) == []
    assert len(node.node.view) == 1


def test_a_doubt_about_us_is_refuted_at_once() -> None:
    node = Alone()
    node.feed(Advertise(advert_of(0)))
    node.link()
    node.feed(Received(PEER, Digest(reply=True)))  # it wants to be neighbours
    effects = node.feed(Received(PEER, Doubt(node.node.me, 1, 2)), after=5.0)
    (push,) = [effect for effect in effects if isinstance(effect, Send)]
    assert isinstance(push.message, Records)
    assert push.message.envelopes[0].version > (1, 2)


def test_a_doubt_that_we_know_better_is_answered_with_the_newer_statement() -> None:
    node = Alone()
    node.link(outbound=False)
    node.feed(Received(PEER, Digest(reply=True)))
    node.get(said(2, 5))
    node.feed(Received(PEER, Doubt(signer_of(2).peer_id, 1, 4)))
    effects = node.feed(TimerFired(("gossip", "tick")), after=1.0)
    (push,) = [effect for effect in effects if isinstance(effect, Send) and isinstance(effect.message, Records)]
    assert [envelope.author for envelope in push.message.envelopes] == [signer_of(2).peer_id]


def test_a_doubt_that_may_be_right_makes_us_look() -> None:
    node = Alone()
    node.link()
    node.get(advert(2), said(2))
    effects = node.feed(Received(PEER, Doubt(signer_of(2).peer_id, 1, 1)))
    assert [effect for effect in effects if isinstance(effect, Dial)] == [Dial(signer_of(2).peer_id, (addr_of(2),))]
    failed = node.feed(DialFailed(signer_of(2).peer_id, (addr_of(2),), "refused"), after=1.0)
    assert (signer_of(2).peer_id, "suspect") in states(failed)


@pytest.mark.parametrize(
    ("dialled", "reason", "counts"),
    [
        ((addr_of(2),), "refused", True),
        (("/ip4/203.0.113.9/tcp/1",), "refused", False),  # a third party named that address
        ((addr_of(2),), NOT_NOW, False),  # nothing was sent
    ],
)
def test_a_failed_dial_counts_where_the_addresses_that_the_peer_signed_were_dialled(
    dialled: tuple[str, ...], reason: str, counts: bool
) -> None:
    node = Alone()
    node.link()
    node.get(advert(2), said(2))
    record = node.node.view.get(signer_of(2).peer_id)
    assert record is not None
    node.feed(DialFailed(record.peer, dialled, reason), after=1.0)
    assert (node.node.view.columns["missed_until"][record.row] > node.now) == counts


def test_doubts_are_paid_from_the_byte_budget() -> None:
    alone = Alone()
    alone.link(1)
    alone.link(2, outbound=False)
    alone.get(advert(2), said(2))
    before = alone.node.stats()
    doubts = [e for e in alone.feed(Received(PEER, Doubt(signer_of(2).peer_id, 9, 9))) if isinstance(e, Send)]
    assert [type(effect.message) for effect in doubts] == [Doubt]
    after = alone.node.stats()
    assert after["messages_out"] == before["messages_out"] + 1
    assert after["bytes_out"] >= before["bytes_out"] + len(encode(doubts[0].message)) + FRAME_BYTES


def test_a_seed_without_identity_that_cannot_be_dialled_is_nobodys_death() -> None:
    assert Alone().feed(DialFailed(None, ("/a",), "refused")) == []


def test_peers_whose_statements_ran_out_are_gone() -> None:
    node = Alone()
    node.link()
    node.get(advert(2), said(2))
    effects = node.feed(TimerFired(("gossip", "tick")), after=500.0)
    assert states(effects) == [(signer_of(2).peer_id, "dead")]
    assert signer_of(2).peer_id not in node.node.view


def test_addresses_of_suspects_are_remembered() -> None:
    node = Alone()
    node.link()
    for index in range(2, 6):
        node.get(advert(index), said(index))
    node.feed(TimerFired(("liveness", "sweep")), after=40.0)
    assert set(node.node.overlay._former) == {signer_of(index).peer_id for index in range(2, 6)}


def test_what_we_serve_is_published_once_per_burst_of_changes_and_again() -> None:
    node = Alone()
    published: list[tuple[int, int]] = []
    publish = node.node.dht.publish
    node.node.dht.publish = lambda envelopes, now: (  # type: ignore[method-assign]
        published.extend((envelope.kind, envelope.seq) for envelope in envelopes) or publish(envelopes, now)
    )
    first = node.feed(Advertise(advert_of(0)))
    second = node.feed(Advertise(advert_of(2)))
    timer = ("node", "publish")
    assert [timer in [getattr(effect, "key", None) for effect in effects] for effects in (first, second)] == [
        True,
        False,
    ]
    node.feed(TimerFired(timer), after=1.0)
    assert published == [(PROVIDER, seq) for seq in (1, 2, 3, 4)]  # two models, by fingerprint and by name
    node.feed(TimerFired(("gossip", "tick")))
    node.feed(TimerFired(("gossip", "tick")))
    assert published[4:] == [(ADVERT, 3)]
    node.feed(Advertise(Advert(1)), after=1.0)
    node.feed(TimerFired(timer), after=1.0)  # nothing is served any more
    assert len(published) == 5


def test_what_we_serve_is_published_under_the_incarnation_that_counts() -> None:
    node = Alone()
    published: list[int] = []
    node.node.dht.publish = lambda envelopes, now: (  # type: ignore[method-assign]
        published.extend(envelope.inc for envelope in envelopes) or []
    )
    node.link(1)
    node.feed(Advertise(advert_of(0)))
    former = statement(signer_of(0), Load(), (7, 1), WALL, 60)
    node.get(former)
    node.feed(TimerFired(("node", "publish")), after=1.0)
    assert set(published) == {8}


def test_a_neighbour_is_not_hung_up_because_the_dht_needs_it_no_more() -> None:
    node = Alone()
    node.link(1, outbound=False)
    node.feed(Received(PEER, Digest(reply=True)))
    node.link(2)
    stranger = signer_of(2).peer_id
    node.node.dht.timer = lambda key, now, wall: [Hangup(PEER, "idle"), Hangup(stranger, "idle")]  # type: ignore[method-assign]
    assert node.feed(TimerFired(("dht", "upkeep"))) == [Hangup(stranger, "idle")]


def test_what_the_dht_found_is_taken_up_by_gossip() -> None:
    node = Alone()
    found = Found(7, (advert(3),), (), 1)
    node.node.dht.find_peer = lambda query, target, now: [found]  # type: ignore[method-assign]
    effects = node.feed(FindPeer(7, signer_of(3).peer_id))
    assert effects[0] is found
    assert states(effects) == [(signer_of(3).peer_id, "alive")]
    assert isinstance(node.feed(FindProviders(8, ModelId(bytes(16))))[0], Found)


def test_our_own_load_is_in_our_own_view_at_once() -> None:
    node = Alone()
    node.feed(ReportLoad(Load(running=3)))
    assert node.node.view.get(node.node.me).load == Load(running=3)


def test_leaving_says_goodbye_and_stops_dialling() -> None:
    net = MemoryNetwork(PROFILES["test"])
    net.grow(3)
    net.run(2.0)
    leaver, other = net.members[1], net.members[2]
    net.feed(leaver, Leave())
    net.run(0.1)
    assert other.node.view.get(leaver.peer).state == "left"
    net.run(1.0)
    assert other.node.view.get(leaver.peer).state == "left"  # although its link still answers


def test_stats_and_marks_are_for_the_driver() -> None:
    node = Alone()
    node.feed(Advertise(advert_of(0)))
    node.link()
    node.get(said(2, 9))
    stats = node.node.stats()
    assert stats["records_new"] == 1
    assert (stats["links"], stats["view"]) == (1, 2)
    assert stats["load_period_s"] == 5.0
    snapshot = node.node.snapshot()
    assert snapshot.marks[signer_of(2).peer_id, LOAD][:2] == (1, 9)
    assert snapshot.known == ()
    node.get(advert(2))
    assert node.node.snapshot().known == ((signer_of(2).peer_id, (addr_of(2),)),)
    assert node.node.sizes() == {
        **{"view": 2, "links": 1, "shelf_keys": 0, "shelf_statements": 0},
        **node.node.gossip.sizes(),
        **node.node.warm.sizes(),
    }
    node.get(said(2, 10, int(Status.LEFT)))
    assert node.node.snapshot().known == ()  # only the addresses of live peers are worth a dial
    again = Alone(restored=snapshot)
    again.link()
    again.get(said(2, 8))
    assert signer_of(2).peer_id not in again.node.view
    again.get(said(2, 9))
    assert signer_of(2).peer_id in again.node.view


@pytest.mark.slow
def test_the_same_inputs_give_the_same_network() -> None:
    def story(seed: int) -> list[object]:
        net = MemoryNetwork(PROFILES["test"], seed=seed)
        net.grow(8)
        net.run(3.0)
        net.crash(net.members[2])
        net.run(3.0)
        return [(member.states, member.bytes_out, dict(member.sent), list(member.links)) for member in net.members]

    assert story(1) == story(1)
    assert story(1) != story(2)


@pytest.mark.slow
def test_a_model_is_found_through_the_dht() -> None:
    net = MemoryNetwork(PROFILES["test"])
    net.grow(8)
    net.run(3.0)
    fingerprint = ModelId(b"rare model 16 by")
    net.feed(
        net.members[5], Advertise(Advert(1, models=(ModelOffer("rare", fingerprint),), addrs=(net.members[5].addr,)))
    )
    net.run(5.0)
    asker = net.members[2]
    for query, key in enumerate((fingerprint, name_key("rare"))):
        net.feed(asker, FindProviders(query, key))
        net.run(2.0)
        assert {envelope.author for envelope in asker.found[query].envelopes} == {net.members[5].peer}


# --- warm links and fresh loads ---------------------------------------------------------------------------------------


def sent(effects: list[Effect], to: PeerId = PEER) -> list[object]:
    return [effect.message for effect in effects if isinstance(effect, Send) and effect.peer == to]


def watching(node: Alone) -> None:
    """A link to a peer that is a member of the pool."""
    node.link()
    node.get(advert(1), said(1))
    node.feed(Routed("llama-3.1-8b-instruct", 100, 100))
    assert Watch() in sent(node.feed(TimerFired(("pool", "tick"))))


def test_a_routed_model_gets_its_links_and_their_loads() -> None:
    node = Alone()
    node.feed(Advertise(advert_of(0)))
    watching(node)
    assert node.node.keeps(PEER)
    assert node.feed(Received(PEER, FreshLoad(3, 1, 8))) == []
    record = node.node.view.get(PEER)
    assert record is not None
    assert (record.fresh, record.fresh_until) == (FreshLoad(3, 1, 8), math.inf)
    node.feed(LinkDown(PEER, "reset"))
    assert not node.node.keeps(PEER)


def test_a_load_of_a_peer_that_is_not_watched_counts_for_a_while() -> None:
    node = Alone()
    node.link()
    node.get(advert(1), said(1))
    node.feed(Received(PEER, FreshLoad(3, 1, 8)), after=1.0)
    record = node.node.view.get(PEER)
    assert record is not None
    assert record.fresh_until == 1.0 + node.node.settings.gossip.load_period_s


def test_a_full_peer_is_hung_up_unless_somebody_else_needs_its_link() -> None:
    node = Alone()
    node.feed(Advertise(advert_of(0)))
    watching(node)
    effects = node.feed(Received(PEER, Full()))
    assert [type(effect) for effect in effects if isinstance(effect, Hangup)] == [Hangup]
    assert not node.node.keeps(PEER)
    assert not any(isinstance(effect, Hangup) for effect in node.feed(Received(PEER, Full())))
    other = Alone()
    other.feed(Advertise(advert_of(0)))
    watching(other)
    other.feed(Received(PEER, Watch()))
    assert not any(isinstance(effect, Hangup) for effect in other.feed(Received(PEER, Full())))


def test_whoever_watches_is_told_the_load() -> None:
    node = Alone()
    node.feed(Advertise(advert_of(0)))
    node.link()
    assert sent(node.feed(Received(PEER, Watch()))) == [FreshLoad()]
    assert node.node.keeps(PEER)
    told = sent(node.feed(ReportLoad(Load(running=1, slots=4), {PEER: 1}), after=1.0))
    assert FreshLoad(1, 0, 4, yours=1) in told
    assert sent(node.feed(ReportLoad(Load(running=2, slots=4), {PEER: 1}), after=0.1)) == []
    assert sent(node.feed(TimerFired(("fresh", "turn")), after=0.5)) == [FreshLoad(2, 0, 4, yours=1)]
    assert node.node.sizes()["watchers"] == 1
    node.feed(LinkDown(PEER, "reset"))
    assert node.node.sizes()["watchers"] == 0
