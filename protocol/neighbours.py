"""Standing links: which peers this node keeps a link to, and whom it dials for that.

Theory of operation
===================

A node wants ``target`` neighbours and dials half of them itself, so that nobody can surround it by dialling in; it
dials more only while it has fewer than ``target - SLACK`` in all.  Where the network is no larger than that it
dials everybody.  Whom: first those whose link broke, then living peers of the view from network groups it has not
dialled yet, then living peers, then anybody it has ever had an address of.  One dialled neighbour is replaced by
another every ``rotate_s``, and as often a peer that vanished from the view is tried: after a long partition nobody
else would.

Seeds, and the peers known from an earlier life, are dialled at the start, all at once.  A seed is retried for ever, a
broken link until ``LOST_TRIES`` dials failed; the pause before the n-th try is drawn from ``[0, first * 2^n]``, at most
``redial_most_s`` (full jitter).  Nothing depends on a seed once other links stand.

Links that others made are neighbours too, up to ``most``, and so are links that we made for jobs or look-ups, up to
``target``; the rest carry only what they were made for.  A link that was only dialled to look whether a peer lives is
hung up again unless it is needed.  Two nodes that dial each other at once end up with
one link; which one is for the driver to decide.

Not here: what goes over the links (``gossip``, ``dht``), what a broken one means (``liveness``).  Who calls it: ``node``.
"""

from __future__ import annotations

from collections.abc import KeysView
from dataclasses import dataclass, field
from typing import Final

from protocol.effects import Dial, Effect, Hangup, SetTimer, TimerKey
from protocol.ids import PeerId
from protocol.peerview import PeerRecord, PeerView, network_group
from protocol.rng import Rng
from protocol.settings import NeighbourSettings

#: Neighbours that may be missing from ``target`` before more than half of them are dialled (DESIGN: 6 to 8).
SLACK: Final = 2
#: Dials of a peer whose link broke until it is left to chance and to others (guess).
LOST_TRIES: Final = 5
#: A dial that was not answered after this long is forgotten, seconds (guess: three times a TCP timeout of 10 s).
DIAL_S: Final = 30.0
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
class _Link:
    outbound: bool
    group: str
    since: float
    standing: bool = False
    #: Hung up by us: not to be dialled again because it breaks.
    released: bool = False


@dataclass(slots=True)
class _Seed:
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
    addrs: Addrs
    until: float
    look: bool = field(default=False)


def host_of(addr: str) -> str:
    """The host of a multiaddr: ``/ip4/1.2.3.4/tcp/4411`` gives ``1.2.3.4``."""
    parts = addr.split("/")
    return parts[2] if len(parts) > 2 else ""


class Neighbours:
    """The link keeper of one node."""

    def __init__(self, me: PeerId, settings: NeighbourSettings, view: PeerView, rng: Rng) -> None:
        self.me = me
        self._settings = settings
        self._view = view
        self._rng = rng
        self._links: dict[PeerId, _Link] = {}
        self._seeds: list[_Seed] = []
        self._former: dict[PeerId, Addrs] = {}
        self._lost: dict[PeerId, Addrs] = {}
        self._pauses: dict[PeerId, _Pause] = {}
        self._dialling: dict[PeerId, _Dialling] = {}
        self._rotating = False
        self._left = False

    @property
    def linked(self) -> KeysView[PeerId]:
        """Every peer with a link, always up to date."""
        return self._links.keys()

    def standing(self) -> tuple[PeerId, ...]:
        """The neighbours, oldest link first."""
        return tuple(peer for peer, link in self._links.items() if link.standing)

    def is_standing(self, peer: PeerId) -> bool:
        """Whether the link to ``peer`` is one of those that are kept."""
        link = self._links.get(peer)
        return link is not None and link.standing

    def start(self, seeds: Seeds, known: Known, now: float) -> list[Effect]:
        """Dial the seeds and as many known peers as are wanted; the other known ones are kept for bad times."""
        self._seeds = [_Seed(peer, addrs) for peer, addrs in seeds if peer != self.me]
        effects: list[Effect] = []
        for peer, addrs in known:
            self.remember(peer, addrs)
            if peer in self._former and len(self._dialling) < self._settings.target:
                effects += self._dial(peer, addrs, now)
        return [*effects, *self._tick(now), SetTimer(_ROTATE, now + self._rotate_s())]

    def leave(self) -> None:
        """No more dialling."""
        self._left = True

    # --- what happens to links -----------------------------------------------------------------------------------

    def link_up(self, peer: PeerId, outbound: bool, address: str, addrs: Addrs, now: float) -> list[Effect]:
        """A link stands."""
        dialling = self._dialling.pop(peer, None)
        self._recognise(peer, outbound, addrs)
        self._pauses.pop(peer, None)
        self._lost.pop(peer, None)
        self._former.pop(peer, None)
        looked = dialling is not None and dialling.look and outbound
        needed = not looked or self._need() > 0
        link = self._links[peer] = _Link(outbound, network_group(address), now)
        if not needed:
            link.released = True
            return [Hangup(peer, "only looked")]
        wanted = dialling is not None or not outbound
        link.standing = len(self.standing()) < (self._settings.most if wanted else self._settings.target)
        return self._replace(peer) if dialling is not None and not looked else []

    def _recognise(self, peer: PeerId, outbound: bool, addrs: Addrs) -> None:
        """Note that a seed was reached; one of unknown identity is told by the address that was dialled."""
        for seed in self._seeds:
            if seed.peer is None and outbound and addrs and addrs[0] in seed.addrs:
                seed.peer = peer
            if seed.peer == peer:
                seed.failures = 0
                seed.next_at = 0.0

    def _replace(self, newcomer: PeerId) -> list[Effect]:
        """The end of a rotation: a new neighbour is there, the oldest one that we dialled goes."""
        if not self._rotating:
            return []
        self._rotating = False
        dialled = [peer for peer, link in self._links.items() if link.standing and link.outbound and peer != newcomer]
        if len(dialled) < self._settings.target // 2:
            return []
        self._links[dialled[0]].released = True
        return [Hangup(dialled[0], "rotation")]

    def link_down(self, peer: PeerId, now: float) -> list[Effect]:
        """A link is gone.  Ours are dialled again soon; those of others a little later, if they do not."""
        link = self._links.pop(peer, None)
        if link is None:
            return []
        for other in self._links.values():
            if not other.standing and not other.released and len(self.standing()) < self._settings.target:
                other.standing = True
        for seed in self._seeds:
            if seed.peer == peer and link.released:
                seed.next_at = now + self._settings.rotate_s
            elif seed.peer == peer:
                self._back_off(seed, now)
        if link.released or self._left or not link.standing:
            return []
        addrs = self._addrs(peer)
        if addrs and not self._has_left(peer):
            self._lost[peer] = addrs
            self._pause(peer, 0 if link.outbound else 1, now)
        return [SetTimer(_TICK, now + self._settings.redial_first_s * self._rng.random())]

    def dial_failed(self, peer: PeerId | None, addrs: Addrs, now: float) -> None:
        """A dial came to nothing, whoever wanted it."""
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

    def look(self, peer: PeerId, now: float) -> list[Effect]:
        """Dial a peer to see whether it lives (``liveness``)."""
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

    # --- whom to dial --------------------------------------------------------------------------------------------

    def timer(self, key: TimerKey, now: float) -> list[Effect]:
        """A timer of ours went off."""
        return self._tick(now) if key == _TICK else self._rotate(now)

    def _tick(self, now: float) -> list[Effect]:
        """Dial whoever is due, and come back soon while something is missing, later otherwise."""
        if self._left:
            return []
        for peer in [peer for peer, dialling in self._dialling.items() if dialling.until <= now]:
            del self._dialling[peer]
        effects = self._dial_seeds(now)
        need = self._need() - sum(not dialling.look for dialling in self._dialling.values())
        for peer, addrs in self._candidates(now, need):
            effects += self._dial(peer, addrs, now)
        pause = self._settings.redial_first_s * (1 if need > 0 or self._seeds_missing() else 5)
        return [*effects, SetTimer(_TICK, now + pause)]

    def _need(self) -> int:
        """Links still to be dialled."""
        standing = [link for link in self._links.values() if link.standing]
        target, others = self._settings.target, len(self._view)
        if len(standing) >= self._settings.most:
            return 0
        if others <= target:
            return max(0, target - len(standing))  # as many as there are candidates: a full mesh
        dialled = sum(link.outbound for link in standing)
        return max(target // 2 - dialled, target - SLACK - len(standing), 0)

    def _candidates(self, now: float, need: int) -> list[tuple[PeerId, Addrs]]:
        """The best ``need`` peers to dial now; the order is told at the top of this file."""
        if need <= 0:
            return []
        chosen = [(peer, addrs) for peer, addrs in self._lost.items() if self._is_free(peer, now)][:need]
        if len(chosen) == need:
            return chosen
        taken = {link.group for link in self._links.values() if link.outbound}
        fresh: list[tuple[PeerId, Addrs]] = []
        living: list[tuple[PeerId, Addrs]] = []
        records = [record for record in self._view.records() if self._is_candidate(record, now)]
        for record in self._rng.sample(records, min(len(records), 16 * need)):
            assert record.advert is not None, "a candidate has an advert"
            group = network_group(host_of(record.advert.addrs[0]))
            (living if group in taken else fresh).append((record.peer, record.advert.addrs))
            taken.add(group)
        chosen += [entry for entry in fresh + living if entry[0] not in self._lost]
        if len(chosen) < need:
            former = [entry for entry in self._former.items() if self._is_free(entry[0], now)]
            chosen += self._rng.sample(former, min(len(former), need - len(chosen)))
        return chosen[:need]

    def _is_candidate(self, record: PeerRecord, now: float) -> bool:
        if record.advert is None or not record.advert.addrs or record.state not in ("alive", "suspect"):
            return False
        # In a small network everybody dials everybody: the larger key waits a little so that few do so at once.
        polite = 0.0 if record.peer > self.me else 2 * self._settings.redial_first_s
        return self._is_free(record.peer, now) and now - record.first_seen >= polite

    def _is_free(self, peer: PeerId, now: float) -> bool:
        if peer == self.me or peer in self._links or peer in self._dialling:
            return False
        pause = self._pauses.get(peer)
        return pause is None or pause.until <= now

    def _rotate(self, now: float) -> list[Effect]:
        """Dial one more than needed, and one that vanished."""
        effects: list[Effect] = [SetTimer(_ROTATE, now + self._rotate_s())]
        if self._left:
            return effects
        if len(self._view) > self._settings.target and len(self.standing()) >= self._settings.target - SLACK:
            for peer, addrs in self._candidates(now, 1):
                self._rotating = True
                effects += self._dial(peer, addrs, now)
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
        self._dialling[peer] = _Dialling(addrs, now + DIAL_S, look)
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

    def _back_off(self, seed: _Seed, now: float) -> None:
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
