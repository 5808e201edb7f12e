"""What may happen to the machines of a node.  Frozen values; do not subclass.

Who makes them: the swarm driver and the simulator.  The events of a job are in ``cascade`` and ``admission``.
"""

from __future__ import annotations

import msgspec

from protocol.effects import TimerKey
from protocol.ids import ModelId, PeerId
from protocol.statements.adverts import Advert, Load
from protocol.wire.messages import NodeMessage


class LinkUp(msgspec.Struct, frozen=True, gc=False):
    """A link to ``peer`` stands and both HELLOs were exchanged.

    ``address`` is the remote's IP address as text (network groups are made of it), ``outbound`` whether we dialled.
    ``addrs`` are where the peer may be dialled: first, if we dialled, the address that worked, exactly as it was
    given in ``Dial`` (that is how a seed of unknown identity is recognised); then what the peer says in HELLO.
    """

    peer: PeerId
    outbound: bool
    address: str
    addrs: tuple[str, ...] = ()


class LinkDown(msgspec.Struct, frozen=True, gc=False):
    """The link to ``peer`` is gone, for whatever reason."""

    peer: PeerId
    reason: str


class DialFailed(msgspec.Struct, frozen=True, gc=False):
    """A dial that we asked for came to nothing.  ``peer`` is None for a seed whose peer id is not known."""

    peer: PeerId | None
    addrs: tuple[str, ...]
    reason: str


class Received(msgspec.Struct, frozen=True, gc=False):
    """A message of ``peer`` arrived on channel 0 of its link."""

    peer: PeerId
    message: NodeMessage


class RoundTrip(msgspec.Struct, frozen=True, gc=False):
    """The link measured ``seconds`` from PING to PONG."""

    peer: PeerId
    seconds: float


class TimerFired(msgspec.Struct, frozen=True, gc=False):
    """A timer that a machine had set went off."""

    key: TimerKey


class Advertise(msgspec.Struct, frozen=True, gc=False):
    """This node's own advert changed."""

    advert: Advert


class ReportLoad(msgspec.Struct, frozen=True, gc=False):
    """This node's own load, as measured now; the gossip machine decides whether it is worth a statement."""

    load: Load


class FindPeer(msgspec.Struct, frozen=True, gc=False):
    """Look a peer's addresses up in the DHT; answered by ``Found`` with the same ``query``."""

    query: int
    target: PeerId


class FindProviders(msgspec.Struct, frozen=True, gc=False):
    """Look for peers that serve a model; answered by ``Found`` with the same ``query``."""

    query: int
    model: ModelId


class Leave(msgspec.Struct, frozen=True, gc=False):
    """Say goodbye: the last statement of this node is pushed to all neighbours at once."""


Event = (
    LinkUp
    | LinkDown
    | DialFailed
    | Received
    | RoundTrip
    | TimerFired
    | Advertise
    | ReportLoad
    | FindPeer
    | FindProviders
    | Leave
)
