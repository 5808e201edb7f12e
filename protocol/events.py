"""The events that the machines of a node handle: frozen values, not to be subclassed.

The swarm driver and the simulator create them.  Not here: the events of a job, which the job machines define
(``protocol.jobs``).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from protocol.effects import TimerKey
from protocol.ids import ModelId, PeerId
from protocol.statements.adverts import Advert, Load
from protocol.wire.messages import NodeMessage

#: Seconds that a node goes on after ``Leave``, so that its goodbye is sent before it ends (guess).
GOODBYE_S: Final = 1.0


class LinkUp(msgspec.Struct, frozen=True, gc=False):
    """A link to ``peer`` is up, and both HELLOs were exchanged.

    ``address`` is the remote's IP address as text, which decides its network group; ``outbound`` is whether we
    dialled.  ``addrs`` are addresses of the peer.  If we dialled, the first one is the address of ``Dial`` that
    worked, unchanged, so that a seed of unknown identity can be recognised.  The others come from its HELLO.
    ``features`` are the optional parts of the protocol that both ends speak (``wire.features``).
    """

    peer: PeerId
    outbound: bool
    address: str
    addrs: tuple[str, ...] = ()
    features: tuple[str, ...] = ()


class LinkDown(msgspec.Struct, frozen=True, gc=False):
    """The link to ``peer`` is gone."""

    peer: PeerId
    reason: str


class DialFailed(msgspec.Struct, frozen=True, gc=False):
    """A requested dial failed.  ``peer`` is None for a seed whose peer id is not known."""

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
    """A timer of a machine expired."""

    key: TimerKey


class Advertise(msgspec.Struct, frozen=True, gc=False):
    """This node's own advert changed."""

    advert: Advert


class ReportLoad(msgspec.Struct, frozen=True, gc=False):
    """This node's own load, measured now; the machines decide whom to tell.

    ``jobs``: how many of its running and waiting jobs are of which peer.
    """

    load: Load
    jobs: Mapping[PeerId, int] = MappingProxyType({})


class Routed(msgspec.Struct, frozen=True, gc=False):
    """The peers for a job were ranked here: this node wants links to peers that can do such jobs.

    ``among``: the only peers that may get them; empty for all.
    """

    model: str
    prompt_tokens: int
    max_tokens: int
    among: frozenset[PeerId] = frozenset()


class FindPeer(msgspec.Struct, frozen=True, gc=False):
    """Look up a peer's addresses in the DHT; answered by ``Found`` with the same ``query``."""

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
    | Routed
    | FindPeer
    | FindProviders
    | Leave
)
