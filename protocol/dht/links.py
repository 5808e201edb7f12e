"""The links that the DHT may use, its dials under way, and the addresses that it avoids after a failed dial.

Not here: which links a node keeps for other reasons (``protocol.membership.overlay``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.dht.lookup import MOST_ADDRS
from protocol.effects import Dial, Effect, Hangup
from protocol.ids import PeerId
from protocol.settings import DhtSettings
from protocol.token_bucket import TokenBucket

#: Longest address kept or passed on, characters (as in an advert).
_MOST_ADDR: Final = 128
#: An address that could not be reached is left alone for this many ``query_s``: one minute on a WAN (DESIGN 2.1).
_SHUN_QUERIES: Final = 20.0
#: Addresses that are left alone at one time.
MOST_SHUNNED: Final = 4096


def short(addrs: tuple[str, ...]) -> tuple[str, ...]:
    """Addresses that may be kept and passed on."""
    if len(addrs) <= MOST_ADDRS and sum(map(len, addrs)) <= _MOST_ADDR:
        return addrs  # the commonest case: nothing is too long
    return tuple(addr for addr in addrs if len(addr) <= _MOST_ADDR)[:MOST_ADDRS]


@dataclass(slots=True)
class DhtLink:
    """A link that stands.  ``ours``: it was dialled for the DHT."""

    addrs: tuple[str, ...]
    group: str
    ours: bool
    used: float
    served: TokenBucket | None = None  # once it asks


class DhtLinks:
    """The links of one node, as its DHT sees them."""

    def __init__(self, settings: DhtSettings) -> None:
        self.up: dict[PeerId, DhtLink] = {}
        self.dialling: dict[PeerId, tuple[str, ...]] = {}
        self.shunned: dict[tuple[PeerId, tuple[str, ...]], float] = {}
        self._shun_s = settings.query_s * _SHUN_QUERIES
        self._idle_s = settings.idle_s

    def link_up(self, peer: PeerId, addrs: tuple[str, ...], group: str, now: float) -> None:
        """A link stands."""
        self.up[peer] = DhtLink(addrs, group, ours=self.dialling.pop(peer, None) is not None, used=now)

    def dial(self, peer: PeerId, addrs: tuple[str, ...]) -> list[Effect]:
        """Dial a peer without a link, unless that is under way."""
        if peer in self.dialling:
            return []
        self.dialling[peer] = addrs
        return [Dial(peer, addrs)]

    def dial_failed(self, peer: PeerId, now: float) -> tuple[str, ...] | None:
        """Leave the addresses alone that we dialled in vain, and return them; None if the dial was not ours."""
        addrs = self.dialling.pop(peer, None)
        if addrs is not None:
            while len(self.shunned) >= MOST_SHUNNED:
                del self.shunned[next(iter(self.shunned))]
            self.shunned[peer, addrs] = now + self._shun_s
        return addrs

    def is_shunned(self, peer: PeerId, addrs: tuple[str, ...], now: float) -> bool:
        """Whether these addresses could not be reached a moment ago."""
        return now < self.shunned.get((peer, addrs), now)

    def expire(self, now: float) -> None:
        """Try addresses again that were left alone for long enough."""
        self.shunned = {key: until for key, until in self.shunned.items() if until > now}

    def hang_up_idle(self, now: float) -> list[Effect]:
        """Request, once per link, the end of links that the DHT dialled and no longer uses."""
        effects: list[Effect] = []
        for peer, link in self.up.items():
            if link.ours and now >= link.used + self._idle_s:
                link.ours = False  # if the link stays, another machine uses it
                effects.append(Hangup(peer, "no look-up needs it"))
        return effects
