"""What the machines of a node may ask for.  Frozen values; performed by a driver in the order given.

Who performs them: the swarm driver with trio and libp2p, the simulator with a heap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from protocol.ids import PeerId

if TYPE_CHECKING:
    from protocol.statements.envelope import Envelope
    from protocol.wire.messages import NodeMessage

#: Name of a timer: the machine, then whatever it needs to tell its timers apart.
TimerKey = tuple[str | int | bytes, ...]


class Send(msgspec.Struct, frozen=True, gc=False):
    """Put a message on channel 0 of the link to ``peer``; dropped if there is none."""

    peer: PeerId
    message: NodeMessage


class SetTimer(msgspec.Struct, frozen=True, gc=False):
    """Give ``TimerFired(key)`` back at ``at`` (monotonic seconds).  Setting a key again moves it."""

    key: TimerKey
    at: float


class Dial(msgspec.Struct, frozen=True, gc=False):
    """Make a link; answered by ``LinkUp`` or ``DialFailed``.  ``peer`` is None for a seed of unknown identity."""

    peer: PeerId | None
    addrs: tuple[str, ...]


class Hangup(msgspec.Struct, frozen=True, gc=False):
    """Close the link to ``peer`` unless jobs run on it."""

    peer: PeerId
    reason: str


class Penalise(msgspec.Struct, frozen=True, gc=False):
    """``peer`` sent what it must not; ``points`` add up in the driver to a ban."""

    peer: PeerId
    points: int
    reason: str


class PeerState(msgspec.Struct, frozen=True, gc=False):
    """What this node now believes of ``peer``: ``alive``, ``suspect``, ``dead`` or ``left``.  For logs and views."""

    peer: PeerId
    state: str


class Found(msgspec.Struct, frozen=True, gc=False):
    """The end of a look-up: sealed statements (verified) and contacts, best first; empty if nothing was found."""

    query: int
    envelopes: tuple[Envelope, ...]
    contacts: tuple[tuple[PeerId, tuple[str, ...]], ...]
    hops: int


Effect = Send | SetTimer | Dial | Hangup | Penalise | PeerState | Found
