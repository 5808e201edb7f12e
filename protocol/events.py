"""What may happen to the machines of a node.  Frozen values; do not subclass.

Who makes them: the swarm driver and the simulator.  The events of a job are in ``cascade`` and ``admission``.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.adverts import Advert, Load
from protocol.effects import TimerKey
from protocol.ids import ModelId, PeerId
from protocol.messages import NodeMessage


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A link to ``peer`` stands and both HELLOs were exchanged.

    ``address`` is the remote's IP address as text (network groups are made of it), ``outbound`` whether we dialled.
    ``addrs`` are where the peer may be dialled: first, if we dialled, the address that worked, exactly as it was
    given in ``Dial`` (that is how a seed of unknown identity is recognised); then what the peer says in HELLO.
    """

    peer: PeerId
    outbound: bool
    address: str
    addrs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The link to ``peer`` is gone, for whatever reason."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class DialFailed:
    """A dial that we asked for came to nothing.  ``peer`` is None for a seed whose peer id is not known."""

    peer: PeerId | None
    addrs: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Received:
    """A message of ``peer`` arrived on channel 0 of its link."""

    peer: PeerId
    message: NodeMessage


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """The link measured ``seconds`` from PING to PONG."""

    peer: PeerId
    seconds: float


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer that a machine had set went off."""

    key: TimerKey


@dataclass(frozen=True, slots=True)
class Advertise:
    """This node's own advert changed."""

    advert: Advert


@dataclass(frozen=True, slots=True)
class ReportLoad:
    """This node's own load, as measured now; the gossip machine decides whether it is worth a statement."""

    load: Load


@dataclass(frozen=True, slots=True)
class FindPeer:
    """Look a peer's addresses up in the DHT; answered by ``Found`` with the same ``query``."""

    query: int
    target: PeerId


@dataclass(frozen=True, slots=True)
class FindProviders:
    """Look for peers that serve a model; answered by ``Found`` with the same ``query``."""

    query: int
    model: ModelId


@dataclass(frozen=True, slots=True)
class Leave:
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
