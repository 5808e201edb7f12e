"""Standing links: enough of them, chosen by us, diverse, and there again after whatever happened."""

from __future__ import annotations

import itertools
import random

import pytest

from protocol.effects import AnyEffect, Dial, Hangup, NeighbourChosen, SetTimer
from protocol.ids import PeerId
from protocol.membership import overlay as machine
from protocol.membership.overlay import Overlay
from protocol.membership.peer_view import PeerView
from protocol.node import NodeSnapshot
from protocol.settings import PROFILES, NeighbourSettings
from protocol.statements.adverts import Load
from protocol.statements.envelope import statement
from protocol.subnet import group_of
from tests.protocol.harness import WALL, MemoryNetwork, addr_of, advert_of, signer_of


def reached(net: MemoryNetwork) -> int:
    """Nodes that can be reached from the first living one over links."""
    start = net.alive[0].peer
    seen, todo = {start}, [start]
    while todo:
        for peer in net.by_peer[todo.pop()].links:
            if peer not in seen:
                seen.add(peer)
                todo.append(peer)
    return len(seen)


# --- the network -----------------------------------------------------------------------------------------------------


def test_a_small_network_becomes_a_full_mesh() -> None:
    net = MemoryNetwork(PROFILES["test"])
    net.grow(6)
    net.run_until(lambda: all(len(member.node.overlay.standing()) == 5 for member in net.members), 10)


@pytest.mark.slow
def test_thirty_nodes_stay_connected_with_few_neighbours_of_different_groups() -> None:
    net = MemoryNetwork()
    net.grow(30, gap=0.2)
    net.run(60.0)
    counts = [len(member.node.overlay.standing()) for member in net.members]
    assert min(counts) >= net.settings.neighbours.target - machine.SLACK
    assert sum(counts) / 30 <= net.settings.neighbours.target + 2
    assert max(counts) <= net.settings.neighbours.most
    assert reached(net) == 30


@pytest.mark.slow
def test_the_network_lives_on_without_its_seed_and_takes_newcomers() -> None:
    net = MemoryNetwork()
    net.grow(12, gap=0.2)
    net.run_until(net.converged, 30)
    net.crash(net.members[0])
    net.run(60.0)
    assert net.converged()
    assert reached(net) == 11
    late = net.add(seeds=(7,))
    net.run_until(lambda: net.complete(late), 10)


@pytest.mark.slow
def test_a_seed_that_comes_up_late_is_found() -> None:
    net = MemoryNetwork()
    seed = net.add()
    net.crash(seed)
    early = [net.add(seeds=(0,)) for _ in range(3)]
    net.run(300.0)
    assert all(not member.links for member in early)
    net.add(index=0, inc=2)
    net.run_until(net.converged, 2 * net.settings.neighbours.redial_most_s)


@pytest.mark.slow
def test_known_peers_are_enough_to_come_back() -> None:
    net = MemoryNetwork(PROFILES["test"])
    net.grow(6)
    net.run(3.0)
    known = tuple((member.peer, (member.addr,)) for member in net.members[1:4])
    net.crash(net.members[0])
    back = net.add(index=20, restored=NodeSnapshot(known))
    net.run_until(lambda: len(back.links) >= 3, 3.0)


# --- one machine -----------------------------------------------------------------------------------------------------


class Alone:
    """One link keeper, its view, and peers that are only names."""

    def __init__(self, known: int = 0, me: int = 0, **changes: object) -> None:
        self.me = signer_of(me).peer_id
        self.view = PeerView(self.me, 4096, 4096)
        self.settings = NeighbourSettings(**changes)  # type: ignore[arg-type]
        self.machine = Overlay(self.me, self.settings, self.view, random.Random(1))
        self.now = 0.0
        for index in range(1, known + 1):
            self.meet(index)

    def meet(self, index: int, addr: str | None = None, state: str = "alive") -> PeerId:
        signer = signer_of(index)
        for value in (advert_of(index, addr), Load()):
            self.view.put(statement(signer, value, (1, 1), WALL, 60), value, self.now - 100.0, 1e9)
        self.view.set_state(signer.peer_id, state, self.now)
        return signer.peer_id

    def tick(self, after: float = 1.0) -> list[AnyEffect]:
        self.now += after
        return self.machine.timer(("neighbours", "tick"), self.now)

    def rotate(self) -> list[AnyEffect]:
        return self.machine.timer(("neighbours", "rotate"), self.now)

    def up(self, index: int, outbound: bool = True, addrs: tuple[str, ...] = ()) -> list[AnyEffect]:
        return self.machine.link_up(signer_of(index).peer_id, outbound, addr_of(index).split("/")[2], addrs)

    def down(self, index: int) -> list[AnyEffect]:
        return self.machine.link_down(signer_of(index).peer_id, self.now)

    def dial_all(self, ticks: int = 20) -> None:
        """Every dial succeeds."""
        for _ in range(ticks):
            for peer in dialled(self.tick()):
                if peer is not None:
                    self.machine.link_up(peer, True, "10.0.0.1", ())


def dialled(effects: list[AnyEffect]) -> list[PeerId | None]:
    return [effect.peer for effect in effects if isinstance(effect, Dial)]


def hung_up(effects: list[AnyEffect]) -> list[PeerId]:
    return [effect.peer for effect in effects if isinstance(effect, Hangup)]


def peer(index: int) -> PeerId:
    return signer_of(index).peer_id


def test_seeds_and_known_peers_are_dialled_at_once() -> None:
    node = Alone()
    seeds = ((peer(1), ("/a",)), (None, ("/b",)), (node.me, ("/me",)))
    known = tuple((peer(i), (f"/k{i}",)) for i in range(2, 20))
    effects = node.machine.start(seeds, (*known, (node.me, ("/me",)), (peer(30), ())), 0.0)
    assert set(dialled(effects)) == {peer(1), None} | {peer(i) for i in range(2, 10)}
    assert {effect.key[1] for effect in effects if isinstance(effect, SetTimer)} == {"tick", "rotate"}


def test_a_seed_is_retried_for_ever_with_growing_pauses() -> None:
    node = Alone()
    node.machine.start(((peer(1), ("/a",)), (None, ("/b",))), (), 0.0)
    tries: dict[PeerId | None, list[float]] = {peer(1): [], None: []}
    node.machine.dial_failed(peer(1), ("/a",), 0.0)
    node.machine.dial_failed(None, ("/b",), 0.0)
    for _ in range(20_000):
        for who in dialled(node.tick()):
            tries[who].append(node.now)
            node.machine.dial_failed(who, ("/a",) if who else ("/b",), node.now)
    for times in tries.values():
        gaps = [b - a for a, b in itertools.pairwise(times)]
        assert max(gaps) <= 61.0
        assert 20.0 < sum(gaps) / len(gaps) < 40.0  # full jitter below a minute
        assert len(times) > 400


class Longest(random.Random):
    """Draws the most that it may."""

    def uniform(self, _least: float, most: float) -> float:
        return most


def test_a_seed_without_a_name_backs_off_like_one_with_a_name() -> None:
    """With the longest draws the pauses are 1, 2, 4, ... seconds and at most a minute, whatever the seed is called."""
    node = Alone()
    node.machine = Overlay(node.me, node.settings, node.view, Longest(1))
    node.machine.start(((peer(1), ("/a",)), (None, ("/b",)), (None, ("/c",))), (), 0.0)
    tries: dict[tuple[str, ...], list[float]] = {("/a",): [], ("/b",): []}
    for addrs, who in ((("/a",), peer(1)), (("/b",), None)):
        node.machine.dial_failed(who, addrs, 0.0)
    while node.now < 200.0:
        for effect in node.tick():
            if isinstance(effect, Dial) and effect.addrs in tries:
                tries[effect.addrs].append(node.now)
                node.machine.dial_failed(effect.peer, effect.addrs, node.now)
    assert tries[("/b",)] == tries[("/a",)] == [1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 123.0, 183.0]


def test_a_dial_that_is_never_answered_is_forgotten() -> None:
    node = Alone()
    assert dialled(node.machine.start(((peer(1), ("/a",)),), (), 0.0)) == [peer(1)]
    assert dialled(node.tick(machine.DIAL_S - 1)) == []
    assert dialled(node.tick(1.0)) == [peer(1)]


def test_a_seed_of_unknown_identity_is_recognised_by_its_address() -> None:
    node = Alone()
    node.machine.start(((None, ("/a", "/b")), (None, ("/c",))), (), 0.0)
    node.up(1, addrs=("/b", "/elsewhere"))
    assert node.machine.is_standing(peer(1))
    assert dialled(node.tick(machine.DIAL_S)) == [None]  # only the other one
    node.down(1)
    assert peer(1) in [who for _ in range(5) for who in dialled(node.tick())]


def test_a_seed_that_turns_out_to_be_us_is_left_alone() -> None:
    node = Alone()
    node.machine.start(((None, ("/a",)),), (), 0.0)
    node.machine._seeds[0].peer = node.me
    assert dialled(node.tick(100.0)) == []


def test_half_of_the_neighbours_are_chosen_by_us() -> None:
    node = Alone(known=30)
    for index in range(1, 9):
        node.up(index, outbound=False)
        assert node.machine.asked(peer(index))
    assert len(dialled(node.tick())) == 4
    assert not node.machine.asked(peer(1))
    assert not node.machine.asked(peer(29))


def test_without_anybody_choosing_us_we_choose_more() -> None:
    node = Alone(known=30)
    assert len(dialled(node.tick())) == 6
    assert dialled(node.tick()) == []


def test_seeds_do_not_count_among_those_that_we_have_to_choose() -> None:
    node = Alone()
    node.machine.start(tuple((peer(index), ("/a",)) for index in range(1, 5)), (), 0.0)
    for index in range(1, 5):
        node.up(index)
    for index in range(1, 31):
        node.meet(index)
    for index in range(5, 9):
        node.up(index, outbound=False)
        assert node.machine.asked(peer(index))
    assert len(node.machine.standing()) == node.settings.target  # enough, but nobody of them is bound to tell us much
    others = dialled(node.tick())
    assert len(others) == node.settings.target // 2
    assert not {peer(index) for index in range(1, 9)} & set(others)
    for who in others:
        node.machine.link_up(who, True, "10.0.0.1", ())  # type: ignore[arg-type]
    assert dialled(node.tick()) == []


def test_others_may_choose_us_up_to_a_limit_and_the_next_waits() -> None:
    node = Alone(known=40)
    for index in range(1, 14):
        node.up(index, outbound=False)
        assert node.machine.asked(peer(index)) is (index <= 12)
    node.down(3)
    assert node.machine.is_standing(peer(13))


def test_whoever_fills_every_place_from_outside_does_not_keep_us_from_our_own_choice() -> None:
    node = Alone(known=40)
    for index in range(1, 21):
        node.up(index, outbound=False)
        node.machine.asked(peer(index))
    node.dial_all()
    theirs = {peer(index) for index in range(1, 13)}
    assert len(set(node.machine.standing()) - theirs) == node.settings.target // 2
    assert len(node.machine.standing()) == node.settings.most
    assert dialled(node.tick()) == []


def test_groups_not_chosen_yet_come_first() -> None:
    node = Alone()
    for index in range(1, 21):
        node.meet(index, addr=f"/ip4/198.51.100.{index}/tcp/1")
    for index in range(21, 24):
        node.meet(index, addr=f"/ip4/203.0.{index}.1/tcp/1")
    groups = [group_of(node.view.get(who).advert.addrs) for who in dialled(node.tick())]
    assert len(set(groups)) == 4


def test_a_link_that_stands_is_taken_as_it_is() -> None:
    node = Alone(known=9)
    for index in range(1, 10):
        node.up(index)  # dialled for jobs or look-ups, not by us
    assert node.machine.standing() == ()
    effects = node.tick()
    assert dialled(effects) == []
    chosen = [effect.peer for effect in effects if isinstance(effect, NeighbourChosen)]
    assert len(chosen) == 6
    assert set(node.machine.standing()) == set(chosen)
    assert not [effect for effect in node.tick() if isinstance(effect, NeighbourChosen)]


def test_the_dead_the_gone_and_the_unreachable_are_not_chosen() -> None:
    node = Alone()
    node.meet(1, state="dead")
    node.meet(2, state="left")
    node.meet(3, addr="")
    node.view.put(statement(signer_of(4), Load(), (1, 1), WALL, 60), Load(), 0.0, 1e9)
    suspect = node.meet(5, state="suspect")
    assert dialled(node.tick()) == [suspect]


def test_the_larger_key_waits_a_little_in_a_fresh_network() -> None:
    node = Alone(known=1)
    node.view.get(peer(1)).first_seen = 0.0
    polite = node.me > peer(1)
    assert dialled(node.tick(1.0)) == ([] if polite else [peer(1)])
    assert (dialled(node.tick(1.0)) == [peer(1)]) is polite


def test_former_peers_are_the_last_resort() -> None:
    node = Alone()
    node.machine.remember(peer(1), ("/a",))
    node.machine.remember(peer(2), ())
    node.machine.remember(node.me, ("/me",))
    assert dialled(node.tick()) == [peer(1)]
    for index in range(10, 10 + machine.MAX_FORMER):
        node.machine.remember(peer(index), ("/x",))
    assert peer(1) not in node.machine._former


def test_a_broken_link_that_we_chose_is_dialled_again_and_given_up_in_the_end() -> None:
    node = Alone(known=30)
    node.dial_all()
    lost = node.machine.standing()[0]
    assert [e for e in node.machine.link_down(lost, node.now) if isinstance(e, SetTimer)]
    tries = 0
    for _ in range(200):
        for who in dialled(node.tick()):
            if who == lost:
                tries += 1
                node.machine.dial_failed(lost, ("/a",), node.now)
            elif who is not None:
                node.machine.link_up(who, True, "10.0.0.1", ())
    assert tries == machine.LOST_TRIES


def test_at_a_broken_link_that_others_chose_we_only_look() -> None:
    node = Alone(known=30)
    node.dial_all()
    node.up(29, outbound=False)
    node.machine.asked(peer(29))
    node.down(29)
    looks = [who for _ in range(5) for who in dialled(node.tick())]
    assert looks == [peer(29)]
    assert hung_up(node.up(29)) == [peer(29)]
    assert not node.machine.is_standing(peer(29))
    assert node.down(29) == []  # that was us
    assert dialled(node.tick(60.0)) == []


def test_a_link_that_was_only_a_look_cannot_become_a_neighbour_while_it_closes() -> None:
    node = Alone(known=30)
    node.dial_all()
    before = node.machine.standing()
    (other,) = [each for each in (peer(index) for index in range(1, 31)) if each not in before][:1]
    node.machine.probe(other, node.now)
    assert hung_up(node.machine.link_up(other, True, "10.9.9.9", ())) == [other]
    assert not node.machine.asked(other)
    assert node.machine.standing() == before


def test_it_comes_back_after_one_pause_while_neighbours_are_missing_and_after_five_otherwise() -> None:
    node = Alone(known=30, redial_first_s=1.0)

    def pause() -> float:
        (timer,) = [effect for effect in node.tick() if isinstance(effect, SetTimer)]
        return timer.at - node.now

    assert pause() == 1.0
    node.dial_all()
    assert pause() == 5.0


def test_a_look_that_finds_a_needed_peer_keeps_it() -> None:
    node = Alone(known=1)
    assert dialled(node.machine.probe(peer(1), 0.0)) == [peer(1)]
    assert node.machine.probe(peer(1), 0.0) == []
    assert node.up(1) == []
    assert node.machine.is_standing(peer(1))
    assert node.machine.probe(peer(1), 0.0) == []
    assert node.machine.probe(peer(9), 0.0) == []  # no address


def test_a_peer_that_is_being_looked_at_can_be_wanted_after_all() -> None:
    node = Alone(known=30)
    node.machine.probe(peer(1), 0.0)
    node.machine.start(((peer(1), ("/a",)),), (), 0.0)
    node.dial_all()
    assert node.up(1) == []
    assert node.machine.is_standing(peer(1))


def test_who_said_goodbye_is_not_dialled_again() -> None:
    node = Alone(known=3)
    node.dial_all()
    node.view.set_state(peer(1), "left", 0.0)
    node.down(1)
    assert peer(1) not in [who for _ in range(60) for who in dialled(node.tick())]


def test_one_chosen_neighbour_is_replaced_by_another_now_and_then() -> None:
    node = Alone(known=30)
    node.dial_all()
    before = node.machine.standing()
    (newcomer,) = dialled(node.rotate())
    assert newcomer not in before
    assert hung_up(node.machine.link_up(newcomer, True, "10.9.9.9", ())) == [before[0]]
    assert before[0] not in node.machine.standing()
    assert newcomer in node.machine.standing()


def test_rotation_may_take_a_link_that_stands() -> None:
    node = Alone(known=7)
    node.dial_all()
    node.meet(8)
    node.meet(9)
    node.up(9)
    node.up(8)
    before = node.machine.standing()
    effects = node.rotate()
    assert hung_up(effects) == [before[0]]
    assert len([effect for effect in effects if isinstance(effect, NeighbourChosen)]) == 1


@pytest.mark.parametrize(("chosen", "goes"), [(3, []), (4, [1]), (5, [1])])
def test_a_rotation_lets_the_oldest_go_if_half_of_the_target_stays_chosen(chosen: int, goes: list[int]) -> None:
    node = Alone(known=30)  # it wants eight neighbours and chooses four itself
    for index in range(1, chosen + 1):
        node.machine.probe(peer(index), 0.0)
        node.up(index)
    node.machine._rotating = True
    node.machine.probe(peer(20), 0.0)
    assert hung_up(node.up(20)) == [peer(index) for index in goes]


def test_a_rotation_that_would_leave_too_few_keeps_all() -> None:
    node = Alone(known=30)
    node.machine._rotating = True
    for index in (1, 2):
        node.machine.probe(peer(index), 0.0)
        assert node.up(index) == []


def test_in_a_small_network_rotation_only_tries_somebody_out_of_sight() -> None:
    node = Alone(known=2)
    node.dial_all()
    node.machine.remember(peer(77), ("/old",))
    effects = node.rotate()
    assert dialled(effects) == [peer(77)]
    assert hung_up(effects) == []


def test_rotation_tries_somebody_out_of_sight() -> None:
    node = Alone(known=9)
    node.dial_all()
    node.machine.remember(peer(77), ("/old",))
    assert peer(77) in dialled(node.rotate())


def test_too_many_chosen_ones_are_let_go_one_by_one() -> None:
    node = Alone(known=8)
    node.dial_all()
    assert len(node.machine.standing()) == 8
    for index in range(9, 13):
        node.meet(index)
        node.up(index, outbound=False)
        node.machine.asked(peer(index))
    gone: list[PeerId] = []
    for _ in range(20):
        gone += hung_up(node.tick())
    assert len(gone) == 4
    assert len(node.machine.standing()) == 8


def test_letting_go_ends_because_a_seed_goes_first() -> None:
    node = Alone(known=20)
    for who in dialled(node.machine.start(((peer(1), ("/a",)),), (), 0.0)):
        node.machine.link_up(who, True, "10.0.0.1", ())  # type: ignore[arg-type]
    node.dial_all()
    for index in range(30, 34):  # with these there are more than enough
        node.up(index, outbound=False)
        node.machine.asked(peer(index))
    happened: list[tuple[list[PeerId], list[PeerId | None]]] = []
    for _ in range(40):
        effects = node.tick(5.0)
        happened.append((hung_up(effects), dialled(effects)))
        for who in dialled(effects):
            node.machine.link_up(who, True, "10.0.0.1", ())  # type: ignore[arg-type]
        for who in hung_up(effects):
            node.machine.link_down(who, node.now)
    assert happened[0] == ([peer(1)], [])
    assert happened[2:] == [([], [])] * 38


def test_a_released_seed_is_not_dialled_again_at_once() -> None:
    node = Alone()
    for index in range(2, 30):
        node.meet(index)
    node.machine.start(((peer(1), ("/a",)),), (), 0.0)
    node.up(1)
    node.dial_all()
    node.machine._release(peer(1), "rotation")
    node.down(1)
    assert peer(1) not in [who for _ in range(100) for who in dialled(node.tick())]
    node.now += node.settings.rotate_s
    assert peer(1) in dialled(node.tick())


def test_a_seed_that_only_looked_is_not_dialled_unless_somebody_is_needed() -> None:
    for known, soon in ((0, True), (30, False)):
        node = Alone(known=known)
        node.dial_all()
        node.machine.start(((peer(77), ("/a",)),), (), node.now)
        node.machine.dial_failed(peer(77), ("/a",), node.now)
        node.up(77, outbound=False)
        node.down(77)
        assert (peer(77) in [who for _ in range(100) for who in dialled(node.tick())]) == soon
        node.now += node.settings.rotate_s
        assert peer(77) in dialled(node.tick())


def test_a_seed_that_was_left_alone_is_dialled_once_no_link_is_left() -> None:
    node = Alone(known=30)
    node.dial_all()
    node.machine.start(((peer(77), ("/a",)),), (), node.now)
    node.machine.dial_failed(peer(77), ("/a",), node.now)
    node.up(77, outbound=False)
    node.down(77)
    for other in list(node.machine.linked):
        node.machine.link_down(other, node.now)
    node.now += node.settings.redial_most_s
    assert peer(77) in dialled(node.tick())


def test_after_leaving_nothing_is_dialled() -> None:
    node = Alone(known=30)
    node.machine.start(((peer(1), ("/a",)),), (), 0.0)
    node.up(1)
    node.machine.leave()
    assert node.down(1) == node.tick() == node.machine.probe(peer(2), 0.0) == []
    assert [type(effect) for effect in node.rotate()] == [SetTimer]


def test_links_we_never_had_do_not_go_down() -> None:
    assert Alone().down(1) == []


def test_pauses_are_bounded() -> None:
    node = Alone()
    for index in range(machine.MAX_PAUSES + 10):
        node.machine.dial_failed(PeerId(index.to_bytes(32, "big")), (), 0.0)
    assert len(node.machine._pauses) == machine.MAX_PAUSES


def test_with_most_links_taken_a_seed_carries_only_what_is_asked() -> None:
    node = Alone(known=30, most=4)
    node.dial_all()
    assert len(node.machine.standing()) == 4
    node.machine.start(((peer(3), ("/a",)),), (), 0.0)
    assert node.up(3) == []
    assert not node.machine.is_standing(peer(3))
