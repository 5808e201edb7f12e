"""The failure detector: which peers this node believes to be alive, from its own observations.

Theory of operation
===================

Evidence that a peer lives is anything that only it can make: a message or an answered PING on its link, a link that
comes up, a newer statement with its signature.  Once per period every peer without fresh evidence has missed::

    alive    a period passed without evidence                 -> suspect (miss 1), probed, neighbours told
    alive    its link broke or was doubted, and a dial failed -> suspect (miss 1), neighbours told
    suspect  another period, nothing                          -> miss 2, probed again
    suspect  ``misses`` misses                                -> dead
    any      evidence                                         -> alive
    any      a signed goodbye                                 -> left

A probe is a dial, or the wait for the PING of a link that stands.  A peer that states its load less often than once per
period (large networks stretch the load period) misses only after one and a half of its own periods.  Each period the
node dials a few random peers without a link and without fresh evidence, dead ones included, so that a partitioned
network heals.

*Doubt.*  A node tells its neighbours of a new suspicion.  A doubt is a reason to probe, never a fact.  A neighbour with
a newer statement sends it; one with a link to the doubted peer passes the doubt on to it; the others probe, a few times
per period.  The doubted peer answers with a newer statement, which refutes the suspicion wherever it arrives.

*Own health* (Lifeguard).  If more than a third of the peers, and at least three, fall silent within one period, the
fault is more likely ours.  Each such period stretches the next ones by one period, to nine at most.

Not here: the links (``overlay``), the statements (``gossip``).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Final

from protocol.effects import AnyEffect, Effect, PeerState, Probe, Send, SetTimer, TimerKey
from protocol.ids import PeerId
from protocol.membership.peer_view import PeerView
from protocol.rng import Rng
from protocol.settings import LivenessSettings
from protocol.wire.messages import Doubt

#: Peers looked at because they missed, per period (guess: a third of 30 nodes at once).
MAX_PROBES: Final = 10
#: Peers probed because a neighbour doubts them, per period (guess).
MAX_DOUBT_PROBES: Final = 8
#: New suspicions told to the neighbours, per period (guess).
MAX_DOUBTS: Final = 16
#: Stretching of the period, at most (memberlist ``awareness.go``: 8).
MAX_AWARENESS: Final = 8
#: Periods of its own statements that a peer may be late by before it misses (guess).
LATE: Final = 1.5

#: ``gossip``'s answer to "which of this peer's loads is the newest we know".
VersionOf = Callable[[PeerId], tuple[int, int]]

_SWEEP: Final[TimerKey] = ("liveness", "sweep")


class _Watch:
    __slots__ = ("asked", "heard", "looked", "misses", "state")

    def __init__(self, now: float) -> None:
        #: Last evidence, and since when a dial that fails means something (None: it does not).
        self.heard = now
        self.looked: float | None = None
        self.misses = 0
        self.state = "alive"
        #: Whether a doubt was passed on to the peer in this period.
        self.asked = False


class FailureDetector:
    """The failure detector of one node.  ``linked`` is a live view of the peers with a link."""

    def __init__(
        self,
        settings: LivenessSettings,
        load_ttl_periods: float,
        view: PeerView,
        rng: Rng,
        linked: Container[PeerId],
    ) -> None:
        self._settings = settings
        self._load_ttl_periods = load_ttl_periods
        self._view = view
        self._rng = rng
        self._linked = linked
        self._watched: dict[PeerId, _Watch] = {}
        self._doubt_looks = 0
        self._doubts = 0
        self.awareness = 0

    def start(self, now: float) -> list[Effect]:
        """Begin; sweeps of different nodes are not in step."""
        return [SetTimer(_SWEEP, now + self._settings.period_s * self._rng.uniform(0.5, 1.0))]

    def state(self, peer: PeerId) -> str | None:
        """``alive``, ``suspect``, ``dead``, ``left``, or None for a peer that is not watched."""
        watch = self._watched.get(peer)
        return watch.state if watch is not None else None

    # --- evidence ------------------------------------------------------------------------------------------------

    def heard(self, peer: PeerId, now: float, stated: bool = False) -> list[Effect]:
        """Something that only ``peer`` can have made.

        ``stated``: it was a statement that is no goodbye; only that brings back a peer that has said goodbye.
        """
        watch = self._watched.get(peer)
        if watch is None:
            if peer not in self._view:
                return []
            watch = self._watched[peer] = _Watch(now)
            return self._change(peer, watch, "alive", now)
        watch.heard = now
        watch.looked = None
        watch.misses = 0
        if watch.state == "alive" or (watch.state == "left" and not stated):
            return []
        return self._change(peer, watch, "alive", now)

    def goodbye(self, peer: PeerId, now: float) -> list[Effect]:
        """The peer said that it leaves."""
        watch = self._watched.get(peer)
        if watch is None:
            watch = self._watched[peer] = _Watch(now)
        return self._change(peer, watch, "left", now) if watch.state != "left" else []

    def link_down(self, peer: PeerId, now: float) -> None:
        """A link broke: the dial that follows will tell."""
        watch = self._watched.get(peer)
        if watch is not None and watch.looked is None:
            watch.looked = now

    def dial_failed(
        self, peer: PeerId, now: float, neighbours: Iterable[PeerId], version: tuple[int, int]
    ) -> list[Effect]:
        """A dial failed; that counts if there was a reason to probe and no evidence since."""
        watch = self._watched.get(peer)
        if watch is None or watch.looked is None or watch.state != "alive" or peer in self._linked:
            return []
        return self._suspect(peer, watch, now, neighbours, version)

    def forget(self, peer: PeerId) -> list[Effect]:
        """The view does not know this peer any more: its statements ran out before it had missed often enough."""
        watch = self._watched.pop(peer, None)
        return [PeerState(peer, "dead")] if watch is not None and watch.state in ("alive", "suspect") else []

    # --- doubt ---------------------------------------------------------------------------------------------------

    def doubted(self, doubt: Doubt, now: float) -> list[AnyEffect]:
        """A neighbour could not reach ``doubt.peer`` and knows nothing newer than we do."""
        peer = PeerId(doubt.peer)
        watch = self._watched.get(peer)
        if watch is None or watch.state in ("dead", "left"):
            return []
        if peer in self._linked:
            if watch.asked:
                return []
            watch.asked = True
            return [Send(peer, doubt)]
        if watch.looked is None and self._doubt_looks < MAX_DOUBT_PROBES:
            self._doubt_looks += 1
            watch.looked = now
            return [Probe(peer)]
        return []

    def _suspect(
        self, peer: PeerId, watch: _Watch, now: float, neighbours: Iterable[PeerId], version: tuple[int, int]
    ) -> list[Effect]:
        watch.misses = max(watch.misses, 1)
        effects = self._change(peer, watch, "suspect", now)
        if self._doubts < MAX_DOUBTS:
            self._doubts += 1
            effects += [Send(other, Doubt(peer, *version)) for other in neighbours if other != peer]
        return effects

    def _change(self, peer: PeerId, watch: _Watch, state: str, now: float) -> list[Effect]:
        watch.state = state
        self._view.set_state(peer, state, now)
        return [PeerState(peer, state)]

    # --- the period ----------------------------------------------------------------------------------------------

    @property
    def period_s(self) -> float:
        """Seconds between two sweeps, as healthy as we feel."""
        return self._settings.period_s * (1 + self.awareness)

    def sweep(self, now: float, neighbours: tuple[PeerId, ...], version_of: VersionOf) -> list[AnyEffect]:
        """A period is over: count the peers that missed it, and probe them and a few others."""
        self._doubt_looks = self._doubts = 0
        for peer in [peer for peer in self._watched if peer not in self._view]:
            del self._watched[peer]
        watched = [(peer, watch) for peer, watch in self._watched.items() if watch.state in ("alive", "suspect")]
        silent = [(peer, watch) for peer, watch in watched if now - watch.heard > self._patience(peer)]
        newly = sum(watch.misses == 0 for _, watch in silent)
        if newly >= 3 and 3 * newly > len(watched):
            self.awareness = min(MAX_AWARENESS, self.awareness + 1)
        else:
            self.awareness = max(0, self.awareness - 1)
        effects: list[Effect] = []
        probes: list[PeerId] = []
        for peer, watch in silent:
            watch.misses += 1
            if watch.state == "alive":
                effects += self._suspect(peer, watch, now, neighbours, version_of(peer))
            if watch.misses >= self._settings.misses:
                effects += self._change(peer, watch, "dead", now)
            elif peer not in self._linked:
                watch.looked = now
                probes.append(peer)
        self._rng.shuffle(probes)
        probes = probes[:MAX_PROBES] + self._random_probes(now)
        for watch in self._watched.values():
            watch.asked = False
        sweep = SetTimer(_SWEEP, now + self.period_s * self._rng.uniform(0.95, 1.05))
        return [*effects, sweep, *map(Probe, probes)]

    def _patience(self, peer: PeerId) -> float:
        """Seconds that a peer may be silent without missing."""
        record = self._view.get(peer)
        envelope = record.load_env if record is not None else None
        if envelope is None:
            return self._settings.period_s
        return max(self._settings.period_s, LATE * envelope.ttl / self._load_ttl_periods)

    def _random_probes(self, now: float) -> list[PeerId]:
        """Random peers to probe, without those heard of lately: a dial costs both ends and proves nothing new."""
        fresh = now - self._settings.period_s
        others = [
            peer
            for peer, watch in self._watched.items()
            if peer not in self._linked and (watch.state == "dead" or (watch.state == "alive" and watch.heard <= fresh))
        ]
        return self._rng.sample(others, min(self._settings.probes, len(others)))
