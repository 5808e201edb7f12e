"""The overlay: which neighbours a node has, which links it keeps, and which peers it dials for that.

Theory of operation
===================

A neighbour is a peer whose link either end *chose*.  This node chooses when it needs one; the other end chooses by
opening a digest exchange on the link.  A node wants ``target`` neighbours and chooses half of them itself, so that
attackers cannot surround it by dialling in.  It chooses more only while it has fewer than ``target - SLACK`` in all,
and every peer where the network is no larger than ``target``.

It prefers peers whose link broke, then living peers from network groups not chosen yet, then other living peers, then
any peer with a known address.  If a link made for a job or a look-up stands already, the node uses it.  Others may
choose us up to ``most`` neighbours, less the half of ``target`` that is ours to choose: otherwise incoming links could
take every place.  The node drops one of its choices while it has more than enough, and replaces one every ``rotate_s``.
As often it dials a peer that is out of sight, because after a long partition no other node would.

The node dials seeds, and the peers known from an earlier life, at the start, all at once.  It retries a seed for ever,
and a broken link until ``LOST_TRIES`` dials failed.  The pause before the n-th try is drawn from ``[0, first * 2^n]``,
at most ``redial_most_s`` (full jitter).  A seed that is a neighbour does not count among those that a node has to
choose.  If a seed hangs up while the node needs no neighbour (the seed only probed), the node leaves it alone for
``rotate_s``, or until no link is left, as if the node had dropped it.  Nothing depends on a seed once other links
stand.

When a link that the other end chose breaks, and when ``failure_detector`` asks, the node dials the peer only to probe
whether it lives.  It hangs up that link again unless it needs one.  Two nodes that dial each other at once end up with
one link (``connections``).

Not here: the traffic on the links (``gossip``, ``dht``), the meaning of a broken one (``failure_detector``).
"""

from __future__ import annotations

from collections.abc import Iterable, KeysView
from dataclasses import dataclass
from typing import Final

from protocol.effects import AnyEffect, Dial, Effect, Hangup, NeighbourChosen, SetTimer, TimerKey
from protocol.ids import PeerId
from protocol.membership.peer_record import PeerRecord
from protocol.membership.peer_view import PeerView
from protocol.rng import Rng
from protocol.settings import NeighbourSettings
from protocol.subnet import group_of, network_group

#: Neighbours that may be missing from ``target`` before more than half of them are dialled (DESIGN 4: 6 to 8).
SLACK: Final = 2
#: Dials of a peer whose link broke until it is left to chance and to others (guess).
LOST_TRIES: Final = 5
#: A dial that was not answered after this long is forgotten, seconds (guess: three times a TCP timeout of 10 s).
DIAL_S: Final = 30.0
#: Peers of an earlier life that are remembered, those heard of last (guess: eight links are wanted).
MAX_KNOWN: Final = 64
#: Addresses of former peers that are remembered (guess).
MAX_FORMER: Final = 256
#: Backs-off that are remembered: as many as a view has records.
MAX_PAUSES: Final = 4096
#: Doublings of a pause, at most; enough for any pair of settings and no overflow.
MAX_DOUBLINGS: Final = 16

_TICK: Final[TimerKey] = ("neighbours", "tick")
_ROTATE: Final[TimerKey] = ("neighbours", "rotate")

Addrs = tuple[str, ...]
Seeds = tuple[tuple[PeerId | None, Addrs], ...]
Known = tuple[tuple[PeerId, Addrs], ...]


@dataclass(slots=True)
class _LinkState:
    group: str
    #: Whether we want the peer as a neighbour, and whether the other end does.
    chosen: bool = False
    asked: bool = False
    #: Whether it is one.
    standing: bool = False
    #: Hung up by us: not to be dialled again because it breaks.
    released: bool = False


@dataclass(slots=True)
class Seed:
    """A well-known address, and when it may be dialled next."""

    peer: PeerId | None
    addrs: Addrs
    failures: int = 0
    next_at: float = 0.0


@dataclass(slots=True)
class _Pause:
    failures: int
    until: float


@dataclass(slots=True)
class _Dialling:
    until: float
    look: bool


class Overlay:
    """The overlay machine of one node."""

    def __init__(self, me: PeerId, settings: NeighbourSettings, view: PeerView, rng: Rng) -> None:
        self.me = me
        self._settings = settings
        self._view = view
        self._rng = rng
        self._links: dict[PeerId, _LinkState] = {}
        self._seeds: list[Seed] = []
        self._former: dict[PeerId, Addrs] = {}
        #: Broken links, and whether they are only to be looked at.
        self._lost: dict[PeerId, bool] = {}
        self._pauses: dict[PeerId, _Pause] = {}
        self._dialling: dict[PeerId, _Dialling] = {}
        self._rotating = False
        self._left = False

    @property
    def linked(self) -> KeysView[PeerId]:
        """Every peer with a link, always up to date."""
        return self._links.keys()

    def standing(self) -> tuple[PeerId, ...]:
        """The neighbours, in the order of their links."""
        return tuple([peer for peer, link in self._links.items() if link.standing])

    def is_standing(self, peer: PeerId) -> bool:
        """Whether the link to ``peer`` is one of those that are kept."""
        link = self._links.get(peer)
        return link is not None and link.standing

    def start(self, seeds: Seeds, known: Known, now: float) -> list[AnyEffect]:
        """Dial the seeds and as many known peers as are wanted; the other known ones are kept for bad times."""
        self.restore_seeds(Seed(peer, addrs) for peer, addrs in seeds)
        effects: list[AnyEffect] = []
        for peer, addrs in known[:MAX_KNOWN]:
            self.remember(peer, addrs)
            if peer in self._former and len(self._dialling) < self._settings.target:
                effects += self._dial(peer, addrs, now)
        return [*effects, *self._tick(now), SetTimer(_ROTATE, now + self._rotate_s())]

    def restore_seeds(self, seeds: Iterable[Seed]) -> None:
        """Replace the seeds by these, which were dialled before."""
        self._seeds = [seed for seed in seeds if seed.peer != self.me]

    def leave(self) -> None:
        """Stop dialling."""
        self._left = True

    # --- what happens to links -----------------------------------------------------------------------------------

    def link_up(self, peer: PeerId, outbound: bool, address: str, addrs: Addrs) -> list[Effect]:
        """A link stands."""
        dialling = self._dialling.pop(peer, None) if outbound else None
        seed = self._reached_seed(peer, addrs if outbound else ())
        self._pauses.pop(peer, None)
        self._lost.pop(peer, None)
        self._former.pop(peer, None)
        link = self._links[peer] = _LinkState(network_group(address))
        if dialling is None and not (seed and outbound):
            return []
        if dialling is not None and dialling.look and self._need() == 0:
            link.released = True
            return [Hangup(peer, "only looked")]
        link.chosen = link.standing = len(self.standing()) < self._settings.most
        return self._replace(peer)

    def asked(self, peer: PeerId) -> bool:
        """The other end wants to be neighbours; True if that is new and we have room."""
        link = self._links.get(peer)
        if link is None or link.standing or link.released:
            return False
        link.asked = True
        link.standing = self._has_room_for_others()
        return link.standing

    def _has_room_for_others(self) -> bool:
        standing = [link for link in self._links.values() if link.standing]
        theirs = sum(not link.chosen for link in standing)
        most = self._settings.most
        return len(standing) < most and theirs < most - self._settings.target // 2

    def _reached_seed(self, peer: PeerId, addrs: Addrs) -> bool:
        """Note that a seed was reached, and return whether it was one.

        A seed of unknown identity is told by the address that was dialled.
        """
        found = False
        for seed in self._seeds:
            if seed.peer is None and addrs and addrs[0] in seed.addrs:
                seed.peer = peer
            if seed.peer == peer:
                seed.failures, seed.next_at, found = 0, 0.0, True
        return found

    def _replace(self, newcomer: PeerId) -> list[Effect]:
        """The end of a rotation: a new neighbour is there, the one that we chose longest ago goes."""
        chosen = [peer for peer, link in self._links.items() if link.chosen and peer != newcomer]
        if not self._rotating or len(chosen) < self._settings.target // 2:
            return []
        self._rotating = False
        return self._release(chosen[0], "rotation")

    def _release(self, peer: PeerId, reason: str) -> list[Effect]:
        link = self._links[peer]
        link.released, link.standing, link.chosen = True, False, False
        return [Hangup(peer, reason)]

    def _trim(self) -> list[Effect]:
        """Let one neighbour go if we chose too many: the network was smaller then, or many have chosen us since.

        A seed goes first.  It does not count among those that we have to choose, so a node that dropped another one
        would choose a new one at once, and repeat that for ever.  Besides, every node needs the places of a seed.
        """
        chosen = [peer for peer, link in self._links.items() if link.chosen]
        spare = len(self.standing()) > self._settings.target and len(chosen) > self._settings.target // 2
        if not spare or len(self._view) <= self._settings.target:
            return []
        seeds = [seed.peer for seed in self._seeds]
        first = [peer for peer in chosen if peer in seeds]
        return self._release(self._rng.choice(first or chosen), "enough neighbours")

    def link_down(self, peer: PeerId, now: float) -> list[Effect]:
        """A link is gone.  One that we chose is dialled again; at one that chose us we only look."""
        link = self._links.pop(peer, None)
        if link is None:
            return []
        for other in self._links.values():
            if other.asked and not other.standing and self._has_room_for_others():
                other.standing = True
        for seed in self._seeds:
            if seed.peer == peer and (link.released or not (link.standing or self._need())):
                seed.next_at = now + self._settings.rotate_s
            elif seed.peer == peer:
                self._back_off(seed, now)
        if not self._links and not link.released:  # a seed that was left alone is needed now
            for seed in self._seeds:
                seed.next_at = min(seed.next_at, now + self._settings.redial_most_s)
        if self._left or not link.standing:
            return []
        addrs = self._addrs(peer)
        if addrs and not self._has_left(peer):
            self._lost[peer] = not link.chosen
            self._pause(peer, 0 if link.chosen else 1, now)
        return [SetTimer(_TICK, now + self._settings.redial_first_s * self._rng.random())]

    def dial_failed(self, peer: PeerId | None, addrs: Addrs, now: float) -> None:
        """A dial failed, ours or that of another machine."""
        for seed in self._seeds:
            if seed.peer == peer and (peer is not None or seed.addrs == addrs):
                self._back_off(seed, now)
        if peer is None:
            return
        self._dialling.pop(peer, None)
        pause = self._pauses.get(peer)
        failures = pause.failures + 1 if pause is not None else 1
        self._pause(peer, failures, now)
        if failures >= LOST_TRIES:
            self._lost.pop(peer, None)

    def probe(self, peer: PeerId, now: float) -> list[Effect]:
        """Dial a peer to see whether it lives (``failure_detector``)."""
        addrs = self._addrs(peer)
        if peer in self._links or self._left or not addrs:
            return []
        return self._dial(peer, addrs, now, look=True)

    def remember(self, peer: PeerId, addrs: Addrs) -> None:
        """Keep the addresses of a peer that may only be out of reach."""
        if not addrs or peer == self.me or peer in self._links:
            return
        self._former.pop(peer, None)
        if len(self._former) >= MAX_FORMER:
            del self._former[next(iter(self._former))]
        self._former[peer] = addrs

    # --- dial targets --------------------------------------------------------------------------------------------

    def timer(self, key: TimerKey, now: float) -> list[AnyEffect]:
        """Handle an expired timer of this machine."""
        return self._tick(now) if key == _TICK else self._rotate(now)

    def _tick(self, now: float) -> list[AnyEffect]:
        """Dial the peers that are due, and set the timer: soon while neighbours are missing, later otherwise."""
        if self._left:
            return []
        for peer in [peer for peer, dialling in self._dialling.items() if dialling.until <= now]:
            del self._dialling[peer]
        effects: list[AnyEffect] = [*self._dial_seeds(now)]
        for peer in [peer for peer in self._lost if self._is_free(peer, now)]:
            effects += self._dial(peer, self._addrs(peer), now, look=self._lost[peer])
        need = self._need() - sum(not dialling.look for dialling in self._dialling.values())
        effects += self._choose(now, need) if need > 0 else self._trim()
        pause = self._settings.redial_first_s * (1 if need > 0 or self._lost or self._seeds_missing() else 5)
        return [*effects, SetTimer(_TICK, now + pause)]

    def _need(self) -> int:
        """Links still to be chosen."""
        standing = [link for link in self._links.values() if link.standing]
        target, others = self._settings.target, len(self._view)
        if len(standing) >= self._settings.most:
            return 0
        if others <= target:
            return max(0, target - len(standing))  # as many as there are candidates: a full mesh
        # Every node chooses the seeds, which have room for a few: most nodes learn nothing there and need others.
        seeds = [seed.peer for seed in self._seeds]
        chosen = sum(link.chosen and link.standing for peer, link in self._links.items() if peer not in seeds)
        return max(target // 2 - chosen, target - SLACK - len(standing), 0)

    def _choose(self, now: float, need: int) -> list[AnyEffect]:
        """Make the best ``need`` candidates neighbours: dial them, or take the link that stands."""
        effects: list[AnyEffect] = []
        for peer, addrs in self._candidates(now, need):
            link = self._links.get(peer)
            if link is None:
                effects += self._dial(peer, addrs, now)
            else:
                link.chosen = link.standing = True
                effects.append(NeighbourChosen(peer))
                effects += self._replace(peer)
        return effects

    def _candidates(self, now: float, need: int) -> list[tuple[PeerId, Addrs]]:
        """The best ``need`` peers to choose now; the order is told at the top of this file."""
        taken = {link.group for link in self._links.values() if link.chosen}
        fresh: list[tuple[PeerId, Addrs]] = []
        living: list[tuple[PeerId, Addrs]] = []
        records = [record for record in self._view.records() if self._is_candidate(record, now)]
        for record in self._rng.sample(records, min(len(records), 16 * need)):
            addrs = record.advert.addrs if record.advert is not None else ()
            group = network_group(record.address) if record.linked else group_of(addrs)
            (living if group in taken else fresh).append((record.peer, addrs))
            taken.add(group)
        chosen = fresh + living
        if len(chosen) < need:
            former = [entry for entry in self._former.items() if self._is_free(entry[0], now)]
            chosen += self._rng.sample(former, min(len(former), need - len(chosen)))
        return chosen[:need]

    def _is_candidate(self, record: PeerRecord, now: float) -> bool:
        link = self._links.get(record.peer)
        if link is not None:
            return not link.standing and not link.released and record.state in ("alive", "suspect")
        if record.advert is None or not record.advert.addrs or record.state not in ("alive", "suspect"):
            return False
        # In a small network all nodes dial each other: the larger key waits a little, to avoid crossing dials.
        polite = 0.0 if record.peer > self.me else 2 * self._settings.redial_first_s
        return self._is_free(record.peer, now) and now - record.first_seen >= polite

    def _is_free(self, peer: PeerId, now: float) -> bool:
        if peer == self.me or peer in self._links or peer in self._dialling:
            return False
        pause = self._pauses.get(peer)
        return pause is None or pause.until <= now

    def _rotate(self, now: float) -> list[AnyEffect]:
        """Dial one more than needed, and one that vanished."""
        effects: list[AnyEffect] = [SetTimer(_ROTATE, now + self._rotate_s())]
        if self._left:
            return effects
        if len(self._view) > self._settings.target and self._need() == 0:
            self._rotating = True
            effects += self._choose(now, 1)
        former = [entry for entry in self._former.items() if self._is_free(entry[0], now)]
        if former:
            peer, addrs = self._rng.choice(former)
            effects += self._dial(peer, addrs, now)
        return effects

    def _rotate_s(self) -> float:
        return self._settings.rotate_s * self._rng.uniform(0.5, 1.5)

    # --- dialling ------------------------------------------------------------------------------------------------

    def _dial(self, peer: PeerId, addrs: Addrs, now: float, look: bool = False) -> list[Effect]:
        running = self._dialling.get(peer)
        if running is not None:
            running.look &= look
            return []
        self._dialling[peer] = _Dialling(now + DIAL_S, look)
        return [Dial(peer, addrs)]

    def _dial_seeds(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for seed in self._seeds:
            if seed.next_at > now or seed.peer in self._links or seed.peer == self.me:
                continue
            seed.next_at = now + DIAL_S  # moved by the answer
            effects += self._dial(seed.peer, seed.addrs, now) if seed.peer else [Dial(None, seed.addrs)]
        return effects

    def _seeds_missing(self) -> bool:
        return any(seed.peer is None or seed.peer not in self._links for seed in self._seeds)

    def _back_off(self, seed: Seed, now: float) -> None:
        seed.next_at = now + self._jitter(seed.failures)
        seed.failures += 1

    def _pause(self, peer: PeerId, failures: int, now: float) -> None:
        self._pauses.pop(peer, None)
        if len(self._pauses) >= MAX_PAUSES:
            del self._pauses[next(iter(self._pauses))]
        self._pauses[peer] = _Pause(failures, now + self._jitter(failures))

    def _jitter(self, failures: int) -> float:
        """Full jitter: anything up to the doubled pause."""
        doubled = self._settings.redial_first_s * 2.0 ** min(failures, MAX_DOUBLINGS)
        return self._rng.uniform(0.0, min(doubled, self._settings.redial_most_s))

    # --- addresses -----------------------------------------------------------------------------------------------

    def _addrs(self, peer: PeerId) -> Addrs:
        record = self._view.get(peer)
        if record is not None and record.advert is not None:
            return record.advert.addrs
        return self._former.get(peer, ())

    def _has_left(self, peer: PeerId) -> bool:
        record = self._view.get(peer)
        return record is not None and record.state == "left"
