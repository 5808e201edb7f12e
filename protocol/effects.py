"""The effects that the machines of a node return: frozen values, not to be subclassed.

A driver performs each ``Effect`` in the given order: the swarm driver with trio and libp2p, the simulator with its
event loop.  An ``InternalEffect`` is for another machine of the same node: ``protocol.node`` carries it out, and no
driver sees it.

Not here: the effects of a job, which the job machines define (``protocol.jobs``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from protocol.ids import PeerId

if TYPE_CHECKING:
    from protocol.statements.envelope import Envelope
    from protocol.wire.messages import NodeMessage

#: Name of a timer: the machine, then the parts that distinguish its timers.
TimerKey = tuple[str | int | bytes, ...]


class Send(msgspec.Struct, frozen=True, gc=False):
    """Send a message on channel 0 of the link to ``peer``; it is dropped if there is no link."""

    peer: PeerId
    message: NodeMessage


class SetTimer(msgspec.Struct, frozen=True, gc=False):
    """Deliver ``TimerFired(key)`` at ``at`` (monotonic seconds).  Setting a key again moves it."""

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
    """``peer`` broke the protocol; the driver adds up its ``points`` to a ban."""

    peer: PeerId
    points: int
    reason: str


class PeerState(msgspec.Struct, frozen=True, gc=False):
    """The state of ``peer`` changed to ``alive``, ``suspect``, ``dead`` or ``left``.  For logs and views."""

    peer: PeerId
    state: str


class Found(msgspec.Struct, frozen=True, gc=False):
    """The end of a look-up: sealed statements (verified) and contacts, best first; empty if nothing was found."""

    query: int
    envelopes: tuple[Envelope, ...]
    contacts: tuple[tuple[PeerId, tuple[str, ...]], ...]
    hops: int


class StatementAccepted(msgspec.Struct, frozen=True, gc=False):
    """Gossip accepted a new statement of ``author``, which proves that it lived a moment ago."""

    author: PeerId


class Probe(msgspec.Struct, frozen=True, gc=False):
    """The failure detector wants ``peer`` dialled, to learn whether it lives."""

    peer: PeerId


class NeighbourChosen(msgspec.Struct, frozen=True, gc=False):
    """The overlay chose ``peer`` as a neighbour, whose link stood already."""

    peer: PeerId


Effect = Send | SetTimer | Dial | Hangup | Penalise | PeerState | Found
InternalEffect = StatementAccepted | Probe | NeighbourChosen
AnyEffect = Effect | InternalEffect
