"""Which addresses a node dials, and how often: anyone can sign an advert that names somebody else's address.

Theory of operation
===================

A *target* is an address without a peer id: the host and the port that get the packets.  A dial that ends with the proof
of a key shows that its target is that peer's.  Any other target may belong to a victim, and any number of identities
may name it, so all of them together get one dial in ``dial_again_s``.

==================================== ========================================================================
target                               dialled
==================================== ========================================================================
of a seed as the operator names it   always: with its peer id, or without one
proven for the peer that is dialled  always: the pauses of its dials are the overlay's and the jobs'
loopback, link-local or private      only if an own address, a seed or a link's other end is in the range
any other                            once in ``dial_again_s``, for all peers that name it
==================================== ========================================================================

Not here: how many dials are under way (``connections``), and which peers are worth a dial (``overlay``).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, TypeVar

from protocol.ids import PeerId, peer_text
from protocol.subnet import group_of, network_group, private_range

T = TypeVar("T")

#: Targets whose last dial, and whose proven peer, is remembered (guess: a full view).
REMEMBERED: Final = 4096


def target_of(address: str) -> str:
    """The address without the id of a peer."""
    return address.partition("/p2p/")[0]


class DialTargets:
    """The dials of one node by target.  ``again_s`` is the pause between two dials of a target that proved no key."""

    def __init__(self, again_s: float, seeds: Iterable[str] = ()) -> None:
        seeds = tuple(seeds)
        self._again_s = again_s
        self._seeds = frozenset(seeds)
        self._ranges = _ranges(seeds)
        self._dialled: OrderedDict[str, float] = OrderedDict()
        self._proven: OrderedDict[str, PeerId] = OrderedDict()

    def admit(self, peer: PeerId | None, addrs: tuple[str, ...], own: tuple[str, ...], now: float) -> tuple[str, ...]:
        """Those of a peer's addresses that are dialled now; ``own`` are this node's."""
        if peer is None:
            return addrs
        near = self._ranges | _ranges(own)
        return tuple(address for address in addrs if self._admit(peer, address, near, now))

    def _admit(self, peer: PeerId, address: str, near: frozenset[str], now: float) -> bool:
        target = target_of(address)
        if f"{target}/p2p/{peer_text(peer)}" in self._seeds or self._proven.get(target) == peer:
            return True
        if private_range(group_of((address,))) not in near:
            return False
        if now < self._dialled.get(target, -math.inf) + self._again_s:
            return False
        _remember(self._dialled, target, now)
        return True

    def linked(self, peer: PeerId, ip: str, dialled: str = "") -> None:
        """A link stands to ``ip``; ``dialled`` is the address that led to it, which is therefore this peer's."""
        self._ranges |= {private_range(network_group(ip))}
        if dialled:
            self.proven(peer, dialled)

    def proven(self, peer: PeerId, dialled: str) -> None:
        """``peer`` has proven its key at an address, whichever peer was expected there.

        So a peer whose address others claim stays in reach: the first dial of a claim shows who is there.
        """
        _remember(self._proven, target_of(dialled), peer)


def _ranges(addrs: tuple[str, ...]) -> frozenset[str]:
    """The private ranges of addresses; empty text, for public ones, is always among them."""
    return frozenset({"", *(private_range(group_of((address,))) for address in addrs)})


def _remember(memory: OrderedDict[str, T], target: str, value: T) -> None:
    memory[target] = value
    memory.move_to_end(target)
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)
