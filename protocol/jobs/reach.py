"""How one attempt gets a link to its peer: which addresses it dials, and when it looks for others.

Theory of operation
-------------------
The addresses that are known are dialled: those of the peer's advert, of its last link, and of the look-up that found
it.  If they lead nowhere, the attempt is over at once, because the next peer is better than a look-up, which takes
seconds.  Only where no other peer is left the DHT is asked for other addresses, once.  So a refused dial costs a round
trip.

====== ========================= ==================================== ======
state  event                     effect                               next
====== ========================= ==================================== ======
idle   begin, addresses known    DialThese                            dials
idle   begin, none, last peer    FindAddrs                            finds
idle   begin, none               Unreached                            over
dials  failed, last peer         FindAddrs, unless that was done      finds
dials  failed                    Unreached                            over
finds  found others              DialThese                            dials
finds  found none                Unreached                            over
====== ========================= ==================================== ======

Not here: the dial itself, and links that stand already (the driver).
"""

from __future__ import annotations

from typing import Final

import msgspec

#: More seconds for a peer to accept whose addresses have to be looked up first (guess: a look-up and a dial).
REACH_S: Final = 5.0


class DialThese(msgspec.Struct, frozen=True, gc=False):
    """Dial these addresses; answered by ``failed`` unless a link stands."""

    addrs: tuple[str, ...]


class FindAddrs(msgspec.Struct, frozen=True, gc=False):
    """Look the peer up in the DHT; answered by ``found``."""


class Unreached(msgspec.Struct, frozen=True, gc=False):
    """There is no way to the peer; ``problem`` is for people."""

    problem: str


ReachEffect = DialThese | FindAddrs | Unreached


class Reach:
    """See the module's docstring.  ``last``: no other peer is left to ask."""

    def __init__(self, known: tuple[str, ...], *, last: bool) -> None:
        self._known = tuple(dict.fromkeys(known))
        self._may_find = last
        self._problem = "none of its addresses is known"

    def begin(self) -> ReachEffect:
        """There is no link yet."""
        return DialThese(self._known) if self._known else self._otherwise()

    def failed(self, problem: str) -> ReachEffect:
        """None of the addresses led to the peer."""
        self._problem = problem
        return self._otherwise()

    def found(self, addrs: tuple[str, ...]) -> ReachEffect:
        """The look-up is over."""
        others = tuple(addr for addr in dict.fromkeys(addrs) if addr not in self._known)
        return DialThese(others) if others else Unreached(self._problem)

    def _otherwise(self) -> ReachEffect:
        if not self._may_find:
            return Unreached(self._problem)
        self._may_find = False
        return FindAddrs()
