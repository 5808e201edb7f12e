"""The link pool: which links this node keeps warm for jobs, and which peers it dials for that.

Theory of operation
===================

A job over a link that stands saves the round trips of a dial, and its worker's load is known first-hand
(``jobs.fresh_load``).  So for each model that jobs were routed for within ``wanted_s``, the node keeps links to
``per_model`` peers that offer it.  A *member* is a peer with such a link; either end may have dialled it.  One link
counts for every model that the peer offers, and ``Watch`` asks the peer for its load.  At least half of the members of
a model were *chosen* by this node, so that attackers cannot surround it by dialling in.

A link that stands for another reason becomes a member while members are missing.  Otherwise the node dials: peers are
drawn by the score of the default policy, as for a job (``ranking.prospects``), from network groups that have no member
yet before others.  A few dials are under way at once, none of them on the path of a job.  Once per ``rotate_s`` it
dials one more than it needs for one model, and then lets the member go that it chose longest ago.

===================== ==========================================================================================
event                 what follows
===================== ==========================================================================================
Routed                the model is wanted for ``wanted_s`` from now
LinkUp                a peer that was dialled for the pool becomes a member; any other one may, at the next tick
LinkDown              no member any more; a replacement is looked for at the next tick
DialFailed, no room   the peer is left alone for a while, longer each time (full jitter)
timer                 models expire, members without a wanted model go, missing ones are taken or dialled
===================== ==========================================================================================

Letting a member go only ends its exemption from the rule for idle links (``membership.connections.is_idle``): a link
that jobs use stays.  Bounds: ``most`` members, and as many connections as leave ``reserve`` free.

Not here: neighbours (``membership.overlay``), the order of peers for a job (``ranking``).
"""

from __future__ import annotations

from collections.abc import Iterable, KeysView
from dataclasses import dataclass
from typing import Final

from protocol.effects import Dial, Effect, Send, SetTimer, TimerKey
from protocol.events import Routed
from protocol.ids import PeerId
from protocol.membership.peer_view import PeerView
from protocol.rng import Rng
from protocol.routing.job_query import JobQuery
from protocol.routing.ranking import prospects
from protocol.settings import LinkPoolSettings
from protocol.subnet import group_of
from protocol.wire.messages import Watch

#: Models whose links are kept at once, those routed last (guess: ``most`` / ``per_model`` have room, some share peers).
MOST_MODELS: Final = 16
#: Peers that are left alone at one time.
MOST_PAUSES: Final = 1024
#: Doublings of a pause, at most; enough for any pair of settings and no overflow.
MAX_DOUBLINGS: Final = 16
#: A dial that was not answered after this long is forgotten, seconds (guess: twice the longest dial).
DIAL_S: Final = 30.0
#: Seconds between two looks while members are missing, and while none is (guess).
SOON_S: Final = 0.5
LATER_S: Final = 10.0
#: Peers drawn for each one that is missing, so that groups can differ (guess).
DRAWN: Final = 4

_TICK: Final[TimerKey] = ("pool", "tick")


def routed(query: JobQuery) -> Routed | None:
    """The event of a job that is routed; None for a job that does not leave this node."""
    if query.zone == "local":
        return None
    among = query.trusted if query.zone in ("mine", "trusted") else frozenset()
    return Routed(query.model, query.prompt_tokens, query.max_tokens, among)


@dataclass(slots=True)
class _Wanted:
    query: JobQuery
    until: float
    rotate_at: float


@dataclass(slots=True)
class _Pause:
    failures: int
    until: float


class LinkPool:
    """The link pool of one node.  ``linked`` is a live view of the peers with a link."""

    def __init__(
        self,
        me: PeerId,
        settings: LinkPoolSettings,
        connections: int,
        view: PeerView,
        rng: Rng,
        linked: KeysView[PeerId],
    ) -> None:
        self.me = me
        self._settings = settings
        self._room = connections - settings.reserve
        self._view = view
        self._rng = rng
        self._linked = linked
        self._models: dict[str, _Wanted] = {}
        #: Members, and whether this node chose them; the one that became a member last at the end.
        self._members: dict[PeerId, bool] = {}
        self._dialling: dict[PeerId, float] = {}
        #: Peers of an older version: their links are kept warm, and their loads come by gossip.
        self._silent: dict[PeerId, None] = {}
        self._pauses: dict[PeerId, _Pause] = {}
        self._tick_at = float("inf")
        self._left = False

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, peer: PeerId) -> bool:
        """Whether the link to a peer is kept for jobs."""
        return peer in self._members

    def sizes(self) -> dict[str, int]:
        """The sizes of the tables that others could make grow."""
        return {"pool": len(self._members), "pool_models": len(self._models), "pool_pauses": len(self._pauses)}

    def leave(self) -> None:
        """Stop dialling."""
        self._left = True

    # --- events --------------------------------------------------------------------------------------------------

    def routed(self, event: Routed, now: float) -> list[Effect]:
        """A job was routed."""
        wanted = self._models.pop(event.model, None)
        among = event.among
        query = JobQuery(
            event.model,
            event.prompt_tokens,
            event.max_tokens,
            zone="trusted" if among else "anyone",
            trusted=among,
        )
        rotate_at = now + self._rotate_s() if wanted is None else wanted.rotate_at
        self._models[event.model] = _Wanted(query, now + self._settings.wanted_s, rotate_at)
        if wanted is not None:
            return []
        if len(self._models) > MOST_MODELS:
            del self._models[next(iter(self._models))]
        return self._look_at(now)

    def link_up(self, peer: PeerId, now: float, *, tells: bool = True) -> list[Effect]:
        """A link stands; ``tells``: the peer can tell its load over it."""
        if not tells:
            self._silent[peer] = None
        if self._dialling.pop(peer, None) is not None:
            self._pauses.pop(peer, None)
            return [*self._add(peer, chosen=True), *self._look_at(now + SOON_S)]
        return self._look_at(now + SOON_S) if self._models else []

    def link_down(self, peer: PeerId, now: float) -> list[Effect]:
        """A link is gone."""
        self._silent.pop(peer, None)
        if self._members.pop(peer, None) is None:
            return []
        return self._look_at(now + SOON_S)

    def dial_failed(self, peer: PeerId, now: float) -> list[Effect]:
        """A peer could not be dialled: others are tried first."""
        return [] if self._dialling.pop(peer, None) is None else self._avoid(peer, now)

    def full(self, peer: PeerId, now: float) -> list[Effect]:
        """The other end has no room for one more: others are tried first."""
        if self._members.pop(peer, None) is None:
            return []
        self._view.end_fresh(peer)
        return self._avoid(peer, now)

    def _avoid(self, peer: PeerId, now: float) -> list[Effect]:
        pause = self._pauses.pop(peer, None)
        failures = 0 if pause is None else pause.failures + 1
        if len(self._pauses) >= MOST_PAUSES:
            del self._pauses[next(iter(self._pauses))]
        self._pauses[peer] = _Pause(failures, now + self._jitter(failures))
        return self._look_at(now)

    def timer(self, now: float) -> list[Effect]:
        """The tick: let go what is not wanted, take or dial what is missing."""
        self._tick_at = float("inf")
        if self._left:
            return []
        for model in [model for model, wanted in self._models.items() if wanted.until <= now]:
            del self._models[model]
        for peer in [peer for peer, until in self._dialling.items() if until <= now]:
            del self._dialling[peer]
        offered = {model: self._offering(model) for model in self._models}
        effects = self._let_go(offered)
        for model, wanted in self._models.items():
            effects += self._fill(model, wanted, offered[model], now)
        if not self._models:
            return effects
        return [*effects, *self._look_at(now + (SOON_S if self._dialling else LATER_S))]

    # --- members -------------------------------------------------------------------------------------------------

    def _add(self, peer: PeerId, *, chosen: bool) -> list[Effect]:
        if len(self._members) >= self._settings.most:
            return []
        self._members[peer] = chosen
        return self._watch(peer)

    def _drop(self, peer: PeerId) -> list[Effect]:
        del self._members[peer]
        self._view.end_fresh(peer)
        return self._watch(peer, on=False)

    def _watch(self, peer: PeerId, *, on: bool = True) -> list[Effect]:
        return [] if peer in self._silent else [Send(peer, Watch(on))]

    def _offering(self, model: str) -> set[PeerId]:
        """The members, and the peers that are being dialled, that offer a model."""
        offers = self._view.offers(model)
        if offers is None:
            return set()
        rows = offers.offers
        found: set[PeerId] = set()
        for peer in (*self._members, *self._dialling):
            record = self._view.get(peer)
            if record is not None and record.row in rows:
                found.add(peer)
        return found

    def _need(self, offering: set[PeerId]) -> int:
        """Members that are missing for a model; those that are being dialled count as chosen ones."""
        most = self._settings.per_model
        chosen = sum(self._members.get(peer, True) for peer in offering)
        return max(most - len(offering), most // 2 - chosen)

    def _let_go(self, offered: dict[str, set[PeerId]]) -> list[Effect]:
        """Drop members that offer no wanted model, and the one chosen longest ago where a rotation has added one."""
        effects: list[Effect] = []
        useful: set[PeerId] = set().union(*offered.values())
        for peer in [peer for peer in self._members if peer not in useful]:
            effects += self._drop(peer)
        for peer, chosen in self._members.items():
            models = [offering for offering in offered.values() if peer in offering]
            if chosen and all(self._need(offering.difference(self._dialling)) < 0 for offering in models):
                for offering in models:
                    offering.discard(peer)
                return effects + self._drop(peer)
        return effects

    def _fill(self, model: str, wanted: _Wanted, offering: set[PeerId], now: float) -> list[Effect]:
        effects = self._adopt(model, offering, now) if self._need(offering) > 0 else []
        need = self._need(offering)
        if wanted.rotate_at <= now:
            wanted.rotate_at = now + self._rotate_s()
            need = max(need, 1)
        need = min(need, self._dials_left())
        if need <= 0:
            return effects
        for peer, addrs in self._choose(wanted.query, offering, need, now):
            self._dialling[peer] = now + DIAL_S
            offering.add(peer)
            effects.append(Dial(peer, addrs))
        return effects

    def _adopt(self, model: str, offering: set[PeerId], now: float) -> list[Effect]:
        """Make members of peers that offer the model and have a link for another reason."""
        effects: list[Effect] = []
        offers = self._view.offers(model)
        for peer in self._linked if offers is not None else ():
            if len(offering) >= self._settings.per_model:
                break
            record = self._view.get(peer)
            if peer in offering or record is None or offers is None or self._is_paused(peer, now):
                continue
            if record.row in offers.offers and (added := self._add(peer, chosen=record.outbound)):
                effects += added
                offering.add(peer)
        return effects

    # --- dialling ------------------------------------------------------------------------------------------------

    def _dials_left(self) -> int:
        settings = self._settings
        return min(
            settings.dials - len(self._dialling),
            settings.most - len(self._members) - len(self._dialling),
            self._room - len(self._linked) - len(self._dialling),
        )

    def _choose(
        self, query: JobQuery, offering: Iterable[PeerId], need: int, now: float
    ) -> list[tuple[PeerId, tuple[str, ...]]]:
        """The peers to dial: in the order of the draw, those from groups without a member first."""
        groups = {self._group(peer) for peer in offering}
        fresh: list[tuple[PeerId, tuple[str, ...]]] = []
        others: list[tuple[PeerId, tuple[str, ...]]] = []
        for peer in prospects(self._view, query, self._rng, now, DRAWN * need + len(self._pauses)):
            record = self._view.get(peer)
            addrs = record.advert.addrs if record is not None and record.advert is not None else ()
            if not addrs or peer in self._dialling or self._is_paused(peer, now):
                continue
            group = group_of(addrs)
            (others if group in groups else fresh).append((peer, addrs))
            groups.add(group)
        return (fresh + others)[:need]

    def _group(self, peer: PeerId) -> str:
        record = self._view.get(peer)
        return "" if record is None else record.group

    def _is_paused(self, peer: PeerId, now: float) -> bool:
        pause = self._pauses.get(peer)
        return pause is not None and now < pause.until

    def _jitter(self, failures: int) -> float:
        """Full jitter: anything up to the doubled pause."""
        doubled = self._settings.retry_first_s * 2.0 ** min(failures, MAX_DOUBLINGS)
        return self._rng.uniform(0.0, min(doubled, self._settings.retry_most_s))

    # --- the clock -----------------------------------------------------------------------------------------------

    def _look_at(self, at: float) -> list[Effect]:
        """Set the timer, unless it expires earlier."""
        if at >= self._tick_at or self._left:
            return []
        self._tick_at = at
        return [SetTimer(_TICK, at)]

    def _rotate_s(self) -> float:
        return self._settings.rotate_s * self._rng.uniform(0.5, 1.5)
