"""Everybody's newest statement reaches everybody, whatever breaks, within the byte budget, and nothing else does."""

from __future__ import annotations

import random

import pytest

from protocol.effects import AnyEffect, Penalise, Send, SetTimer, StatementAccepted
from protocol.events import Advertise
from protocol.gossip import anti_entropy, gossip
from protocol.gossip.budget import PAYBACK_SHARE
from protocol.gossip.gossip import Gossip
from protocol.gossip.publisher import few_of
from protocol.ids import PeerId
from protocol.membership.peer_view import PeerView
from protocol.settings import PROFILES, GossipSettings
from protocol.statements.adverts import Load, Status
from protocol.statements.envelope import Envelope, Key, parse, seal, statement
from protocol.statements.keys import ADVERT, LOAD, PROVIDER
from protocol.wire.messages import Digest, NodeMessage, Records, encode
from tests.protocol.harness import FRAME_BYTES, WALL, Member, MemoryNetwork, advert_of, signer_of

TICK_S = PROFILES["wan"].gossip.tick_s


def network(nodes: int = 30, seed: int = 1, rest: float = 20.0) -> MemoryNetwork:
    """A ``wan`` network that has found itself."""
    net = MemoryNetwork(seed=seed)
    net.grow(nodes, gap=0.2)
    net.run_until(net.converged, 60)
    net.run(rest)
    return net


# --- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_late_joiner_has_the_whole_view_within_three_ticks_of_its_first_link(seed: int) -> None:
    net = network(seed=seed)
    late = net.add(seeds=(net.rng.randrange(30),))
    net.run_until(lambda: bool(late.links), 5, step=0.01)
    assert net.run_until(lambda: net.complete(late), 10, step=0.01) <= 3 * TICK_S
    net.run_until(net.converged, 3 * TICK_S)  # and everybody has heard of it


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_third_of_the_links_breaking_at_random_still_converges(seed: int) -> None:
    net = network(seed=seed)
    rng = random.Random(seed)
    for round_ in range(4):
        for member in rng.sample(net.members, 10):
            net.feed(member, net_advert(member, round_))
        links = net.links()
        for a, b in rng.sample(links, len(links) // 3):
            net.break_link(a, b)
        net.run(0.5)
    assert net.run_until(net.converged, 60) <= 30


def net_advert(member: Member, round_: int) -> Advertise:
    return Advertise(advert_of(1000 + round_, member.addr))


@pytest.mark.slow
def test_at_rest_thirty_nodes_stay_within_the_byte_budget() -> None:
    net = network(rest=30.0)
    seconds = 60.0
    before = [member.gossip_bytes for member in net.members]
    net.run(seconds)
    rates = [(member.gossip_bytes - old) / seconds for member, old in zip(net.members, before, strict=True)]
    assert max(rates) <= net.settings.gossip.budget_bytes_s
    assert sum(rates) / len(rates) <= 0.8 * net.settings.gossip.budget_bytes_s
    for member in net.members:  # the count that metrics show is the truth, from above
        assert member.gossip_bytes <= member.node.stats()["bytes_out"] + FRAME_BYTES * member.sent["Doubt"] * 20
        assert all(net.now - record.load_at < 15 for record in member.node.view.records() if record.linked)


@pytest.mark.slow
def test_one_message_per_neighbour_and_tick() -> None:
    net = network()
    before = {member.peer: dict(member.sent) for member in net.members}
    neighbours = {member.peer: len(member.node.overlay.standing()) for member in net.members}
    net.run(20.0)
    for member in net.members:
        records = member.sent["Records"] - before[member.peer]["Records"]
        assert records <= 21 * (max(neighbours[member.peer], len(member.node.overlay.standing())) + 3)


def relayed(records: Records, me: PeerId) -> tuple[list[Envelope], list[Envelope]]:
    mine = [envelope for envelope in records.envelopes if envelope.author == me]
    return mine, [envelope for envelope in records.envelopes if envelope.author != me]


@pytest.mark.slow
def test_a_relayed_forgery_goes_nowhere_and_is_the_relayers_fault() -> None:
    net = network()
    liar = net.members[4]

    def forge(source: Member, target: Member, message: NodeMessage) -> NodeMessage:
        if source is not liar or not isinstance(message, Records):
            return message
        mine, others = relayed(message, liar.peer)
        return Records((*mine, *(forgery(envelope) for envelope in others)))

    def forgery(envelope: Envelope) -> Envelope:
        """The newest load of its author, raised: the author never said so."""
        wire = envelope.wire[:42] + (2**32 - 1).to_bytes(4, "big") + envelope.wire[46:]
        return parse(wire)

    net.tamper = forge
    net.run(30.0)
    for member in net.members:
        assert all(penalty.peer == liar.peer and penalty.points == 1 for penalty in member.penalties)
        for _, mark in member.node.gossip._marks.items():
            assert mark.seq < 2**32 - 1
    assert sum(len(member.penalties) for member in net.members) > 0
    net.tamper = lambda a, b, message: message
    assert net.run_until(net.converged, 60) <= 40


@pytest.mark.slow
def test_relayed_old_statements_go_nowhere() -> None:
    net = network()
    liar = net.members[4]
    old: dict[Key, Envelope] = {}

    def replay(source: Member, target: Member, message: NodeMessage) -> NodeMessage:
        if source is not liar or not isinstance(message, Records):
            return message
        for envelope in message.envelopes:
            old.setdefault((envelope.author, envelope.kind), envelope)
        return Records(tuple(old.values()))

    net.tamper = replay
    net.run(30.0)
    fresh = {member.peer: member.node.gossip.own(LOAD) for member in net.members}
    for member in net.members:
        assert member.penalties == []
        for record in member.node.view.records():
            newest = fresh[record.peer]
            if liar.peer not in (member.peer, record.peer) and record.load_env is not None and newest is not None:
                assert newest.seq - record.load_env.seq <= 4


@pytest.mark.slow
@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_our_own_clock_jumping_an_hour_changes_nothing(jump: float) -> None:
    net = network(nodes=12, rest=5.0)
    odd = net.members[6]
    odd.wall_jump = jump
    for _ in range(10):
        net.run(15.0)
        net.run_until(lambda: net.complete(odd), 5.0)
        assert all(record.load_until > net.now for record in odd.node.view.records() if not record.is_self)
        assert all(member.node.view.get(odd.peer).load_until > net.now for member in net.members if member is not odd)
    assert odd.node.stats()["clock_disputed"] == 1
    assert net.members[7].node.stats()["skewed"] == 0


def test_a_laptop_that_slept_an_hour_is_back_at_once() -> None:
    net = network(nodes=5, rest=5.0)
    for member in net.members[1:]:  # everybody else lived through it
        member.wall_jump = 3600.0
        member.node.gossip._validator.clock._offset += 3600.0
    sleeper = net.members[0]
    sleeper.wall_jump = 3600.0
    net.run(20.0)
    assert sleeper.node.stats()["clock_disputed"] == 0
    assert net.converged()


@pytest.mark.slow
def test_a_node_that_forgot_its_incarnation_overtakes_its_former_self() -> None:
    net = network(nodes=12)
    old = net.members[3]
    net.crash(old)
    born_again = net.add(seeds=(0,), index=3, inc=0)
    assert net.run_until(net.converged, 30) <= 20
    assert born_again.node.stats()["impostors"] >= 1


@pytest.mark.slow
def test_a_large_view_is_repaired_by_buckets() -> None:
    net = network(nodes=3, rest=5.0)
    left, right = net.members[0], net.members[2]
    table = [statement(signer_of(100 + i), Load(), (1, 1), net.wall(left), 3000) for i in range(300)]
    for envelope in table:  # heard by one of them only, and not spread
        left.node.gossip._validator.take((envelope.author, LOAD), None, envelope, (), net.now)
    net.run(4 * net.settings.gossip.digest_s)
    assert all(envelope.author in right.node.view for envelope in table)
    assert len({member.node.stats()["view"] for member in net.members}) == 1


# --- one machine -----------------------------------------------------------------------------------------------------


class Alone:
    """One gossip machine with neighbours that are only names."""

    def __init__(self, neighbours: int = 2, **changes: object) -> None:
        settings = GossipSettings(**changes)  # type: ignore[arg-type]
        self.me = signer_of(0)
        self.view = PeerView(self.me.peer_id, settings.view_size, settings.view_per_group)
        self.gossip = Gossip(self.me, settings, self.view, random.Random(1), 1)
        self.started = self.gossip.start({}, 0.0, WALL)
        self.peers = [signer_of(50 + i).peer_id for i in range(neighbours)]
        for peer in self.peers:
            self.gossip.link_up(peer, True, 0.0)
        self.gossip.stand(self.peers)

    def get(self, peer: PeerId, *envelopes: Envelope, now: float = 0.0) -> list[AnyEffect]:
        return self.gossip.on_records(peer, Records(tuple(parse(e.wire) for e in envelopes)), now, WALL + now)

    def tick(self, now: float) -> list[AnyEffect]:
        return self.gossip.timer(("gossip", "tick"), now, WALL + now)


def pushed(effects: list[AnyEffect]) -> dict[PeerId, list[tuple[PeerId, int, int]]]:
    """What goes to whom: author, kind and seq."""
    found: dict[PeerId, list[tuple[PeerId, int, int]]] = {}
    for effect in effects:
        if isinstance(effect, Send) and isinstance(effect.message, Records):
            found.setdefault(effect.peer, []).extend((e.author, e.kind, e.seq) for e in effect.message.envelopes)
    return found


def who_hears_of(author: int, effects: list[AnyEffect]) -> set[PeerId]:
    """To whom a statement of that author goes."""
    told = signer_of(author).peer_id
    return {peer for peer, items in pushed(effects).items() if told in {item[0] for item in items}}


def load(author: int, seq: int = 1, issued: float = WALL, status: int = 0, ttl: int = 60) -> Envelope:
    return statement(signer_of(author), Load(status=status), (1, seq), issued, ttl)


def test_it_starts_with_two_timers() -> None:
    assert [effect.key for effect in Alone().started if isinstance(effect, SetTimer)] == [
        ("gossip", "tick"),
        ("gossip", "digest"),
    ]


def test_a_new_statement_goes_to_those_who_lack_it_once() -> None:
    node = Alone(3)
    a, b, c = node.peers
    assert node.get(a, load(1)) == [StatementAccepted(signer_of(1).peer_id)]
    assert node.get(b, load(1)) == []  # b has it, too
    assert pushed(node.tick(1.0)) == {c: [(signer_of(1).peer_id, LOAD, 1)]}
    assert pushed(node.tick(2.0)) == {}


def test_each_copy_of_a_known_statement_is_counted_once() -> None:
    node = Alone(2)
    a, b = node.peers
    counts = node.gossip.counts
    story = []
    for peer, envelopes in (
        (a, (load(1), load(2), load(3))),  # three that are new
        (b, (load(1), load(2), load(4))),  # two known, one new
        (a, (load(4), load(4), load(4))),  # three copies of one
        (b, (load(5),)),
        (a, ()),
    ):
        node.get(peer, *envelopes)
        story.append((counts.records_in, counts.records_new, counts.known))
    assert story == [(3, 3, 0), (6, 4, 2), (9, 4, 5), (10, 5, 5), (10, 5, 5)]


def test_an_author_is_not_told_what_it_said() -> None:
    node = Alone(2)
    node.get(node.peers[1], load(50))
    assert pushed(node.tick(1.0)) == {}


def test_a_slow_link_skips_versions() -> None:
    node = Alone(2)
    a, b = node.peers
    for seq in (1, 2, 3):
        node.get(a, load(1, seq))
    assert pushed(node.tick(1.0)) == {b: [(signer_of(1).peer_id, LOAD, 3)]}


def test_who_shows_an_old_statement_gets_the_new_one() -> None:
    node = Alone(2)
    a, b = node.peers
    node.get(a, load(1, 5))
    node.tick(1.0)
    assert node.get(b, load(1, 4), now=1.0) == []
    assert pushed(node.tick(2.0)) == {b: [(signer_of(1).peer_id, LOAD, 5)]}


def test_a_forgery_ends_its_message() -> None:
    node = Alone(2)
    a, _ = node.peers
    bad = load(1).wire[:60] + bytes(4) + load(1).wire[64:]
    effects = node.get(a, load(2), parse(bad), load(3))
    assert [effect for effect in effects if isinstance(effect, Penalise)] == [
        Penalise(a, 1, "The peer relayed a statement whose signature, length or header is wrong. (signature)")
    ]
    assert signer_of(2).peer_id in node.view
    assert signer_of(1).peer_id not in node.view
    assert signer_of(3).peer_id not in node.view
    assert node.gossip.counts.forged == 1
    for _ in range(2):
        node.get(a, parse(bad))
    assert node.gossip.counts.forged == 3


def test_periods_grow_with_the_number_of_nodes_this_one_included() -> None:
    node = Alone(2, budget_bytes_s=1)  # so little that nothing but the number of nodes decides
    node.gossip.advertise(advert_of(0), 0.0)
    alone = node.gossip.period(ADVERT)
    for author in range(1, 10):
        assert node.view.put(load(author), Load(), 0.0, 60.0)
        assert node.gossip.period(ADVERT) == pytest.approx((author + 1) * alone)


def test_who_has_no_link_is_not_heard() -> None:
    node = Alone(1)
    stranger = signer_of(99).peer_id
    assert node.get(stranger, load(1)) == []
    assert node.gossip.on_digest(stranger, Digest(reply=True), 0.0) == []
    node.gossip.lacks(stranger, (stranger, LOAD), 0.0)
    assert len(node.view) == 0


def test_a_goodbye_is_relayed_at_once() -> None:
    node = Alone(3)
    a, b, c = node.peers
    goodbye = load(1, 2, status=int(Status.LEFT))
    assert pushed(node.get(a, goodbye)) == {peer: [(goodbye.author, LOAD, 2)] for peer in (b, c)}
    assert pushed(node.tick(1.0)) == {}


@pytest.mark.parametrize(("links", "few"), [(0, 0), (2, 2), (8, 3), (16, 6)])
def test_whoever_has_many_neighbours_passes_a_load_on_to_more_of_them(links: int, few: int) -> None:
    assert few_of(links) == few


def test_in_a_crowded_network_a_load_goes_to_few_and_everything_else_to_all() -> None:
    node = Alone(8, budget_bytes_s=2048)
    node.gossip.advertise(advert_of(0), 0.0)
    for author in range(1, 12):
        node.get(node.peers[0], load(author))
    for second in range(10, 40):
        node.tick(float(second))
    assert node.gossip._crowded
    now, went = 1000.0, set()
    for author in range(1, 12):
        now += 100.0
        node.get(node.peers[0], load(author, 2, issued=WALL + now), now=now)
        told = who_hears_of(author, node.tick(now + 0.1))
        assert 2 <= len(told) <= few_of(8)  # one of them may be who brought it
        went |= told
    assert went == set(node.peers[1:])  # each has its turn
    news = statement(signer_of(20), advert_of(20), (1, 1), WALL + now, 120)
    node.get(node.peers[0], news, now=now + 100.0)
    ticks = [node.tick(now + 100.0 + second) for second in range(1, 9)]  # it is too large to go to all at once
    assert {peer for effects in ticks for peer in who_hears_of(20, effects)} == set(node.peers[1:])
    goodbye = load(1, 3, issued=WALL + now + 200, status=int(Status.LEFT))
    assert who_hears_of(1, node.get(node.peers[0], goodbye, now=now + 200.0)) == set(node.peers[1:])


def test_our_own_change_goes_out_at_once_and_repeats_wait_for_the_tick() -> None:
    node = Alone(2)
    me = node.me.peer_id
    first = pushed(node.gossip.advertise(advert_of(0), 0.0))
    assert first == {peer: [(me, ADVERT, 1), (me, LOAD, 2)] for peer in node.peers}
    assert node.gossip.report_load(Load(running=3), 0.5) == []
    assert node.view.get(me).load == Load(running=3)  # we ourselves know at once
    assert pushed(node.tick(1.5)) == {peer: [(me, LOAD, 3)] for peer in node.peers}
    assert pushed(node.gossip.refute(6.5)) == {peer: [(me, LOAD, 4)] for peer in node.peers}
    assert pushed(node.gossip.report_load(Load(status=1), 8.0)) == {peer: [(me, LOAD, 5)] for peer in node.peers}
    assert pushed(node.gossip.leave(8.1)) == {peer: [(me, LOAD, 6)] for peer in node.peers}
    assert node.gossip.publisher.advert == advert_of(0)


def test_what_a_neighbour_lacks_is_no_more_than_is_known_however_often_the_view_changes() -> None:
    node = Alone(2, view_size=1)
    link = node.gossip._links[node.peers[1]]
    for seq in range(1, 40, 2):
        for author, other in ((1, 2), (2, 1)):
            node.get(node.peers[0], load(author, seq))  # it finds room
            node.view.remove(signer_of(author).peer_id)
            node.get(node.peers[0], load(other, seq + 1))  # now this one has it
            node.get(node.peers[0], load(author, seq + 1))
            node.view.remove(signer_of(other).peer_id)
        node.gossip.lacks(node.peers[1], (signer_of(1).peer_id, LOAD), 0.0)
        assert len(link.lacks) <= len(node.gossip._marks)


def told(effects: list[AnyEffect]) -> dict[PeerId, Digest]:
    """Who is told that we have something."""
    return {
        effect.peer: effect.message
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, Digest) and effect.message.have
    }


def test_of_an_advert_that_was_left_behind_the_neighbours_are_told_and_they_ask() -> None:
    node = Alone(2, budget_bytes_s=1024, burst_bytes=4000)
    node.gossip._flow.spend(node.gossip._flow.level(0.0), 0.0)
    author, other = signer_of(20).peer_id, node.peers[1]
    node.get(node.peers[0], statement(signer_of(20), advert_of(20), (1, 1), WALL, 120))
    heard: list[tuple[PeerId, Digest]] = []
    for tick in range(1, 14):  # newer loads always come
        for number in range(1, 15):
            node.get(node.peers[0], load(number, tick, issued=WALL + tick), now=float(tick))
        effects = node.tick(tick + 0.5)
        assert not who_hears_of(20, effects)
        heard += told(effects).items()
    assert heard == [(other, Digest(entries=((ADVERT, author, 1, 1),), have=True))]
    answer = node.gossip.on_digest(other, Digest(entries=((ADVERT, author, 0, 0),)), 14.0)
    assert who_hears_of(20, answer) == {other}


def test_whoever_is_told_asks_for_what_it_lacks_and_tells_nobody_what_they_have() -> None:
    node = Alone(2)
    node.gossip._flow.spend(node.gossip._flow.level(0.0), 0.0)
    other, (old, lacked) = node.peers[1], (signer_of(20).peer_id, signer_of(21).peer_id)
    node.get(node.peers[0], statement(signer_of(20), advert_of(20), (1, 2), WALL, 120))
    lacks = node.gossip._links[other].lacks
    assert len(lacks) == 1
    assert node.gossip.on_digest(other, Digest(entries=((ADVERT, old, 1, 1),), have=True), 0.0) == []
    assert len(lacks) == 1  # it has an older one
    have = Digest(entries=((ADVERT, old, 1, 2), (ADVERT, lacked, 1, 1), (99, lacked, 1, 1)), have=True)
    assert node.gossip.on_digest(other, have, 0.0) == [Send(other, Digest(entries=((ADVERT, lacked, 0, 0),)))]
    assert len(lacks) == 0


def test_what_is_told_takes_little_of_the_budget_and_every_neighbour_has_its_turn() -> None:
    node = Alone(16)
    bytes_told, turns = 0, dict.fromkeys(node.peers[1:], 0)
    for second in range(1, 120):  # adverts such as nobody can pass on
        adverts = [
            statement(signer_of(author), advert_of(author), (1, second), WALL + second, 120)
            for author in range(100 + 15 * second % 90, 115 + 15 * second % 90)
        ]
        node.get(node.peers[0], *adverts, now=float(second))
        for peer, digest in told(node.tick(second + 0.5)).items():
            bytes_told += anti_entropy.size(digest)
            turns[peer] = turns.get(peer, 0) + 1
    assert 0 < bytes_told / 119 <= gossip.TOLD_SHARE * node.gossip._flow.rate * 1.05 + 24 + 49 * gossip.MAX_TOLD / 119
    assert min(turns.values()) * 4 >= max(turns.values())


def test_whoever_tells_much_makes_us_ask_for_little() -> None:
    node = Alone(1)
    (peer,) = node.peers
    entries = tuple((ADVERT, bytes([number]) * 32, 1, 1) for number in range(1, 100))
    asked = [node.gossip.on_digest(peer, Digest(entries=entries[start:], have=True), 0.0) for start in (0, 30, 60)]
    assert [len(wants) for wants in map(told_or_asked, asked)] == [gossip.MAX_TOLD, 0, 0]
    node.gossip.timer(("gossip", "digest"), 30.0, WALL + 30)
    node.gossip._sync.spend(node.gossip._sync.level(30.0) - 24 - 49 * 3, 30.0)
    assert len(told_or_asked(node.gossip.on_digest(peer, Digest(entries=entries, have=True), 30.0))) == 3


def told_or_asked(effects: list[AnyEffect]) -> tuple[tuple[int, bytes, int, int], ...]:
    """The entries of the one digest there is, if any."""
    return next((e.message.entries for e in effects if isinstance(e, Send) and isinstance(e.message, Digest)), ())


def test_what_is_asked_for_twice_in_one_message_is_sent_once() -> None:
    node = Alone(1)
    (peer,) = node.peers
    node.gossip.learn([load(1)], 0.0)
    want = Digest(entries=((LOAD, signer_of(1).peer_id, 0, 0),) * 50)
    assert pushed(node.gossip.on_digest(peer, want, 20.0)) == {peer: [(signer_of(1).peer_id, LOAD, 1)]}


def test_our_own_goes_first_also_to_whoever_showed_us_an_older_one() -> None:
    node = Alone(1, budget_bytes_s=400, burst_bytes=400)
    (peer,) = node.peers
    node.gossip._flow.spend(node.gossip._flow.level(0.0), 0.0, debt=10**6)
    node.gossip.advertise(advert_of(0), 0.0)
    node.get(peer, *[load(author) for author in range(1, 9)])
    node.get(peer, load(0, 0, issued=WALL - 1))  # of an earlier version
    assert {mark.envelope.author for mark in node.gossip._links[peer].lacks._first if mark.envelope} == {
        node.me.peer_id
    }
    assert len(node.gossip._links[peer].lacks._first) == 2


def test_a_short_budget_goes_to_our_own_then_goodbyes_then_the_newest() -> None:
    node = Alone(1, budget_bytes_s=400, burst_bytes=400)
    (a,) = node.peers
    node.gossip.link_up(signer_of(60).peer_id, True, 0.0)
    for author in range(1, 20):
        node.gossip.learn([load(author)], 0.0)
    node.gossip._flow.spend(node.gossip._flow.level(0.0), 0.0)
    assert pushed(node.gossip.learn([load(30, status=int(Status.LEFT))], 0.0)) != {}  # borrowed
    node.gossip.lacks(a, (signer_of(30).peer_id, LOAD), 0.0)
    node.gossip.advertise(advert_of(0), 0.0)
    seen: list[PeerId] = []
    for tick in range(1, 60):
        for author, _, _ in pushed(node.tick(float(tick))).get(a, []):
            if author not in seen:
                seen.append(author)
    assert seen[0] == node.me.peer_id
    assert seen[1] == signer_of(30).peer_id
    assert seen[2] == signer_of(19).peer_id


def test_lists_forget_what_is_gone_and_who_came_back() -> None:
    node = Alone(1, budget_bytes_s=100, burst_bytes=100)
    (a,) = node.peers
    node.gossip._flow.spend(node.gossip._flow.level(0.0), 0.0)
    node.gossip.learn([load(author) for author in range(1, 30)], 0.0)
    node.gossip.learn([load(30, status=int(Status.LEFT)), load(31, status=int(Status.LEFT))], 0.0)
    node.gossip.learn([load(30, 2)], 0.0)
    link = node.gossip._links[a]
    for author in range(1, 29):
        node.view.remove(signer_of(author).peer_id)
    assert len(link.lacks) > 20
    node.gossip.timer(("gossip", "digest"), 0.5, WALL)
    held = {mark.envelope.author for mark in link.lacks.marks() if mark.envelope is not None}
    assert held >= {signer_of(29).peer_id, signer_of(30).peer_id}
    assert len(link.lacks) <= 4


def test_a_debt_makes_even_our_own_wait() -> None:
    node = Alone(1, budget_bytes_s=100, burst_bytes=100)
    node.gossip._flow.spend(10**6, 0.0, debt=10**6)
    assert pushed(node.gossip.advertise(advert_of(0), 0.0)) == {}
    assert pushed(node.get(node.peers[0], load(1, status=int(Status.LEFT)))) == {}


def test_doubts_are_paid_from_what_may_be_pushed() -> None:
    """Pushes may take 850 bytes a second; 4,250 bytes of doubts take the first second's and those of four more."""
    pushes = {}
    for doubts in (0, 4250):
        node = Alone(2, budget_bytes_s=1000, tick_s=1.0)
        node.get(node.peers[0], load(1))
        node.gossip.pay(doubts, 0.0)
        pushes[doubts] = [bool(pushed(node.tick(float(second)))) for second in range(1, 10)]
    assert pushes[0].index(True) == 0
    assert 4 <= pushes[4250].index(True) < 8


def test_what_ran_out_before_it_could_be_sent_is_not_sent() -> None:
    node = Alone(2)
    node.get(node.peers[0], load(1, ttl=5))
    assert pushed(node.tick(6.0)) == {}


def test_a_full_view_does_not_relay_what_it_does_not_hold() -> None:
    node = Alone(2, view_size=1)
    a, b = node.peers
    node.get(a, load(1), load(2))
    assert pushed(node.tick(1.0)) == {b: [(signer_of(1).peer_id, LOAD, 1)]}


def test_a_newcomer_gets_everything_in_messages_of_bounded_size() -> None:
    node = Alone(1)
    table = [load(100 + i) for i in range(700)]
    node.get(node.peers[0], *table)
    newcomer = signer_of(60).peer_id
    node.gossip.link_up(newcomer, True, 1.0)
    effects = node.gossip.on_digest(newcomer, Digest(reply=True), 1.0)
    messages = [effect.message for effect in effects if isinstance(effect, Send)]
    assert all(len(message.envelopes) <= gossip.MAX_RECORDS for message in messages if isinstance(message, Records))
    assert len(messages) == 2
    assert all(len(encode(message)) <= gossip.MAX_RECORDS_BYTES for message in messages)
    assert len(pushed(effects)[newcomer]) == 700


def test_what_the_burst_does_not_cover_follows_later() -> None:
    node = Alone(1, burst_bytes=1000, budget_bytes_s=2000)
    for i in range(40):
        node.gossip.learn([load(100 + i)], 0.0)
    asker = signer_of(60).peer_id
    node.gossip.link_up(asker, True, 0.0)
    got = pushed(node.gossip.on_digest(asker, Digest(reply=True), 0.0))[asker]
    assert len(got) < 40
    for tick in range(1, 40):
        got += pushed(node.tick(float(tick))).get(asker, [])
    assert len(set(got)) == 40


def test_only_one_exchange_is_open_at_a_time() -> None:
    node = Alone(3)
    a, b, c = node.peers
    opened = [effect.peer for peer in (a, b, c) for effect in node.gossip.introduce(peer, 0.0)]
    assert opened == [a]
    assert [e.peer for e in node.tick(0.5) if isinstance(e, Send) and isinstance(e.message, Digest)] == []
    assert [e.peer for e in node.tick(1.0) if isinstance(e, Send) and isinstance(e.message, Digest)] == [b]
    node.gossip.link_down(c)
    assert [e for e in node.tick(2.0) if isinstance(e, Send)] == []


def test_what_we_lack_is_asked_for_one_neighbour_at_a_time() -> None:
    node = Alone(3)
    a, b, _ = node.peers
    everything = Digest(entries=((LOAD, signer_of(1).peer_id, 1, 1),), reply=True)
    (want,) = node.gossip.on_digest(a, everything, 0.0)
    assert isinstance(want, Send)
    assert want.message == Digest(entries=((LOAD, signer_of(1).peer_id, 0, 0),))
    assert node.gossip.on_digest(b, everything, 0.0) == []  # b's turn comes with the next tick
    assert [e.peer for e in node.tick(1.0) if isinstance(e, Send)] == [b]
    node.gossip.stand([a])
    assert node.gossip.on_digest(b, everything, 1.0) == []


def test_what_an_exchange_of_ours_shows_is_asked_for_at_once() -> None:
    node = Alone(2)
    a, b = node.peers
    node.get(a, *(load(100 + i) for i in range(200)))
    (opened,) = node.gossip.introduce(a, 0.0)
    assert isinstance(opened, Send)
    assert isinstance(opened.message, Digest)
    assert opened.message.buckets
    author = signer_of(1).peer_id
    detail = Digest(listed=(author[0],), entries=((LOAD, author, 1, 1),), reply=True)
    answers = [[e.message for e in node.gossip.on_digest(peer, detail, 0.2) if isinstance(e, Send)] for peer in (a, b)]
    want = Digest(entries=((LOAD, author, 0, 0),))
    assert [want in messages for messages in answers] == [True, False]  # b was not asked
    node.gossip.timer(("gossip", "digest"), 0.3, WALL)
    assert want not in [e.message for e in node.gossip.on_digest(a, detail, 0.4) if isinstance(e, Send)]  # long ago


def test_a_digest_does_not_bring_forward_what_waits_for_the_tick() -> None:
    node = Alone(2)
    a, b = node.peers
    node.get(a, *(load(100 + i) for i in range(20)))
    author = signer_of(100).peer_id
    want = Digest(entries=((LOAD, author, 0, 0),))
    assert pushed(node.gossip.on_digest(b, want, 0.0)) == {b: [(author, LOAD, 1)]}
    assert len(pushed(node.tick(1.0))[b]) == 19


def test_a_want_is_answered() -> None:
    node = Alone(1)
    node.gossip.learn([load(1), load(2)], 0.0)
    want = Digest(entries=((LOAD, signer_of(1).peer_id, 0, 0), (ADVERT, signer_of(2).peer_id, 0, 0)))
    asker = signer_of(60).peer_id
    node.gossip.link_up(asker, True, 0.0)
    assert pushed(node.gossip.on_digest(asker, want, 0.0)) == {asker: [(signer_of(1).peer_id, LOAD, 1)]}


def test_a_neighbour_that_asks_all_the_time_is_not_answered() -> None:
    node = Alone(1)
    node.gossip.learn([load(1)], 0.0)
    asked = [node.gossip.on_digest(node.peers[0], Digest(reply=True), 0.0) for _ in range(gossip.MAX_DIGESTS + 5)]
    assert sum(map(bool, asked)) == gossip.MAX_DIGESTS
    node.gossip.timer(("gossip", "digest"), 30.0, WALL + 30)
    assert node.gossip.on_digest(node.peers[0], Digest(reply=True), 30.0)


def test_a_thousand_identities_cost_no_more_than_a_few_and_nothing_to_those_we_chose() -> None:
    node = Alone(1)
    guests = [PeerId(index.to_bytes(32, "big")) for index in range(10)]
    for guest in guests:
        node.gossip.link_up(guest, False, 0.0)
    most = gossip.CHECKS_BURST
    node.gossip._guest_checks.spend(most - 15, 0.0)
    for number, guest in enumerate(guests):
        node.get(guest, load(100 + 2 * number), load(101 + 2 * number))
    assert node.gossip.counts.shed == 20 - 15
    node.get(node.peers[0], *(load(200 + number) for number in range(20)))
    assert node.gossip.counts.shed == 20 - 15
    node.get(guests[0], load(300), now=1.0)
    assert signer_of(300).peer_id in node.view, "they get more with time"

    asked = [node.gossip.on_digest(guest, Digest(reply=True), 2.0) for guest in guests for _ in range(20)]
    assert sum(map(bool, asked)) <= gossip.GUEST_DIGESTS_BURST
    assert node.gossip.counts.digests_in == gossip.GUEST_DIGESTS_BURST
    node.gossip.on_digest(node.peers[0], Digest(reply=True), 2.0)
    assert node.gossip.counts.digests_in == gossip.GUEST_DIGESTS_BURST + 1


def test_between_old_neighbours_few_buckets_are_listed() -> None:
    node = Alone(1)
    (a,) = node.peers
    table = [load(100 + i) for i in range(400)]
    node.get(a, *table)
    other = anti_entropy.opening(node.gossip._marks, 0.0)
    strange = Digest(buckets=bytes(len(other.buckets)), reply=True)

    def listed() -> int:
        effects = node.gossip.on_digest(a, strange, 0.0)
        return sum(len(e.message.listed) for e in effects if isinstance(e, Send) and isinstance(e.message, Digest))

    assert listed() == anti_entropy.FIRST_BUCKETS
    assert listed() == anti_entropy.FEW_BUCKETS
    strange = Digest(buckets=bytes(8) + other.buckets[8:], reply=True)
    assert listed() == 1


def test_the_digest_timer_asks_one_neighbour_and_none_if_there_is_none() -> None:
    node = Alone(2)
    effects = node.gossip.timer(("gossip", "digest"), 30.0, WALL + 30)
    assert sum(isinstance(effect, Send) for effect in effects) == 1
    alone = Alone(0)
    assert [type(e) for e in alone.gossip.timer(("gossip", "digest"), 30.0, WALL + 30)] == [SetTimer]


def test_a_digest_that_the_budget_does_not_allow_waits() -> None:
    node = Alone(1, burst_bytes=10, budget_bytes_s=100)
    assert node.gossip.introduce(node.peers[0], 0.0) == []
    assert not any(isinstance(e, Send) and isinstance(e.message, Digest) for e in node.tick(1.0))


def test_statements_from_elsewhere_are_checked_like_all() -> None:
    node = Alone(1)
    bad = parse(load(1).wire[:60] + bytes(4) + load(1).wire[64:])
    provider = seal(signer_of(3), PROVIDER, (1, 1), WALL, 60, b"")
    learned = node.gossip.learn([bad, provider, load(2), load(2), load(2, 0)], 0.0)
    assert learned == [StatementAccepted(signer_of(2).peer_id)]
    assert node.gossip.counts.forged == 1
    assert node.gossip.version_of(signer_of(2).peer_id) == (1, 1)
    assert node.gossip.version_of(signer_of(9).peer_id) == (0, 0)


def test_equivocation_is_shown() -> None:
    node = Alone(1)
    node.get(node.peers[0], load(1), load(1, status=1))
    assert list(node.gossip.proofs) == [signer_of(1).peer_id]


@pytest.mark.slow
def test_whoever_links_again_and_again_takes_a_part_of_what_neighbours_get_and_only_until_his_burst_is_repaid() -> None:
    def relayed(strangers: int) -> tuple[int, int]:
        node, counts = Alone(8), []
        node.gossip.advertise(advert_of(0), 0.0)
        for second in range(1, 121):
            now = float(second)
            said = [(signer_of(100 + i), Load(running=second), (1, second), WALL + now, 20) for i in range(20)]
            node.get(node.peers[0], *(statement(*each) for each in said), now=now)
            for number in range(strangers):
                stranger = signer_of(5000 + (second * strangers + number) % 50).peer_id
                node.gossip.link_up(stranger, False, now + 0.5)
                node.gossip.greet(stranger, now + 0.5)
                node.gossip.link_down(stranger)
            counts.append(sum(len(what) for what in pushed(node.tick(now + 0.97)).values()))
        return sum(counts[:60]), sum(counts[60:])

    alone, crowded = relayed(0), relayed(10)
    assert crowded[0] > (1 - PAYBACK_SHARE) * 0.95 * alone[0] > 0
    assert crowded[1] > 0.99 * alone[1] > 0


def test_a_node_that_goes_on_holds_and_offers_what_it_states_but_sends_nothing_at_once() -> None:
    node = Alone(1)
    node.gossip.advertise(advert_of(0), 0.0)
    stated = node.gossip.resume(Load(running=2), {ADVERT: 0.5, LOAD: 0.5}, 1, 0.0)
    assert [node.gossip.own(ADVERT), node.gossip.own(LOAD)] == stated
    record = node.view.get(node.me.peer_id)
    assert record is not None
    assert record.load == Load(running=2)
    me, peer = node.me.peer_id, node.peers[0]
    assert sorted(pushed(node.tick(1.0))[peer]) == sorted((me, said.kind, said.seq) for said in stated)


def test_sizes_are_those_of_the_marks_and_of_the_longest_list() -> None:
    node = Alone(2)
    assert node.gossip.sizes() == {"marks": 0, "lacks": 0}
    node.get(node.peers[0], load(1), load(2))
    assert node.gossip.sizes() == {"marks": 2, "lacks": 2}
    assert Alone(0).gossip.sizes()["lacks"] == 0
