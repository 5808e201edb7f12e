"""One node: all its machines behind one ``handle``, for the swarm driver and the simulator.

The node passes each event to the machines that it concerns, in a fixed order (links, view, liveness, gossip, pool,
DHT), and carries out the effects that one machine has on another.  The key of a timer starts with the name of its
machine.  With the same events, times and random numbers, a node returns the same effects.

Not here: decisions, which the machines make, and input or output, which belong to the drivers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from protocol.dht.dht import Dht
from protocol.dht.routing_table import peer_key
from protocol.effects import (
    AnyEffect,
    Effect,
    Found,
    Hangup,
    InternalEffect,
    PeerState,
    Probe,
    Send,
    SetTimer,
    StatementAccepted,
)
from protocol.events import (
    Advertise,
    DialFailed,
    Event,
    FindPeer,
    FindProviders,
    Leave,
    LinkDown,
    LinkUp,
    Received,
    ReportLoad,
    RoundTrip,
    Routed,
    TimerFired,
)
from protocol.gossip.gossip import Gossip
from protocol.ids import ModelId, PeerId, name_key
from protocol.jobs.warm_links import WarmLinks
from protocol.membership.connections import NOT_NOW
from protocol.membership.failure_detector import FailureDetector
from protocol.membership.overlay import Known, Overlay, Seeds
from protocol.membership.peer_record import PeerRecord
from protocol.membership.peer_view import PeerView
from protocol.rng import Rng
from protocol.settings import NodeSettings
from protocol.statements.adverts import Provider
from protocol.statements.envelope import Envelope, statement
from protocol.statements.keys import ADVERT, LOAD, Signer
from protocol.statements.versions import MarkTable
from protocol.subnet import network_group
from protocol.wire.messages import Digest, Doubt, FreshLoad, Full, Records, Watch

#: Bytes of a doubt in its frame, from above.
_DOUBT_BYTES: Final = 64
#: Seconds between a change of the advert and its publication in the DHT: changes come in bursts (guess).
PUBLISH_PAUSE_S: Final = 1.0

_PUBLISH: Final = ("node", "publish")


class NodeSnapshot(msgspec.Struct, frozen=True):
    """The state that a node keeps over a restart: peers with their addresses, and high-water marks, for 7 days."""

    known: Known = ()
    marks: MarkTable = MappingProxyType({})


class Node:
    """The machines of one node, composed."""

    def __init__(
        self,
        signer: Signer,
        settings: NodeSettings,
        rng: Rng,
        inc: int,
        seeds: Seeds,
        restored: NodeSnapshot = NodeSnapshot(),  # noqa: B008 - frozen
    ) -> None:
        self.me = signer.peer_id
        self.settings = settings
        self.view = PeerView(self.me, settings.gossip.view_size, settings.gossip.view_per_group)
        self.overlay = Overlay(self.me, settings.neighbours, self.view, rng)
        self.gossip = Gossip(signer, settings.gossip, self.view, rng, inc)
        self.failure_detector = FailureDetector(
            settings.liveness, settings.gossip.load_ttl_periods, self.view, rng, self.overlay.linked
        )
        self.dht = Dht(self.me, settings.dht, rng)
        self.warm = WarmLinks(self.me, settings, self.view, rng, self.overlay)
        self._signer = signer
        self._rng = rng
        self._published = 0
        self._publishing = False
        self._given = (seeds, restored)
        self._now = 0.0

    # --- for the driver ------------------------------------------------------------------------------------------

    def start(self, now: float, wall: float) -> list[Effect]:
        """Begin: called once, before any event."""
        self._now = now
        seeds, restored = self._given
        effects = self.gossip.start(restored.marks, now, wall)
        effects += self.failure_detector.start(now)
        effects += self._route(self.overlay.start(seeds, restored.known, now), now)
        return effects + self.dht.start(now)

    def handle(self, event: Event, now: float, wall: float) -> list[Effect]:
        """Handle one event at ``now`` (monotonic) and ``wall`` (Unix) seconds."""
        self._now = now
        return _ACTIONS[type(event)](self, event, now, wall)

    def keeps(self, peer: PeerId) -> bool:
        """Whether the link to ``peer`` stays open while it is idle."""
        return self.overlay.is_standing(peer) or peer in self.warm

    def snapshot(self) -> NodeSnapshot:
        """The state to restore after a restart: addresses of live peers, and high-water marks."""
        known = tuple(
            (record.peer, record.advert.addrs)
            for record in self.view.records()[1:]
            if record.state == "alive" and record.advert is not None and record.advert.addrs
        )
        return NodeSnapshot(known, self.gossip.export_marks(self._now))

    def sizes(self) -> dict[str, int]:
        """How much this node holds that others could make grow."""
        return {
            "view": len(self.view),
            "links": len(self.overlay.linked),
            "shelf_keys": len(self.dht.records),
            "shelf_statements": self.dht.records.statements,
            **self.gossip.sizes(),
            **self.warm.sizes(),
        }

    def stats(self) -> dict[str, int | float]:
        """Counters and a few levels, for metrics."""
        return {
            **self.gossip.counts.as_dict(),
            "links": len(self.overlay.linked),
            "neighbours": len(self.overlay.standing()),
            **self.warm.stats(),
            "view": len(self.view),
            "awareness": self.failure_detector.awareness,
            "clock_disputed": int(self.gossip.clock_disputed),
            "load_period_s": self.gossip.period(LOAD),
            "advert_period_s": self.gossip.period(ADVERT),
        }

    # --- links ---------------------------------------------------------------------------------------------------

    def _link_up(self, event: LinkUp, now: float, _wall: float) -> list[Effect]:
        peer = event.peer
        effects = self.overlay.link_up(peer, event.outbound, event.address, event.addrs)
        self.view.set_link(peer, True, event.outbound, event.address, now)
        effects += self.failure_detector.heard(peer, now)
        self.gossip.link_up(peer, event.outbound, now)
        self.gossip.stand(self.overlay.standing())
        effects += self.gossip.greet(peer, now)
        if self.overlay.is_standing(peer):
            effects += self.gossip.introduce(peer, now)
        effects += self.warm.link_up(peer, event.features, now)
        record = self.view.get(peer)
        addrs = event.addrs or (record.advert.addrs if record is not None and record.advert is not None else ())
        return effects + self._route_dht(self.dht.link_up(peer, addrs, network_group(event.address), now), now)

    def _link_down(self, event: LinkDown, now: float, _wall: float) -> list[Effect]:
        peer = event.peer
        if peer not in self.overlay.linked:
            return []
        effects = self.overlay.link_down(peer, now)
        self.view.set_link(peer, False)
        if effects:  # it was a neighbour, and the other end hung up
            self.failure_detector.link_down(peer, now)
        self.gossip.link_down(peer)
        self.gossip.stand(self.overlay.standing())
        effects += self.warm.link_down(peer, now)
        return effects + self._route_dht(self.dht.link_down(peer, now), now)

    def _dial_failed(self, event: DialFailed, now: float, _wall: float) -> list[Effect]:
        self.overlay.dial_failed(event.peer, event.addrs, now)
        if event.peer is None:
            return []
        if _was_dialled_as_signed(self.view.get(event.peer), event):
            self.view.observe_unreachable(event.peer, now)
        version = self.gossip.version_of(event.peer)
        effects = self.failure_detector.dial_failed(event.peer, now, self.overlay.standing(), version)
        self._pay_doubts(effects, now)
        effects += self.warm.pool.dial_failed(event.peer, now)
        return effects + self._route_dht(self.dht.dial_failed(event.peer, now), now)

    def _round_trip(self, event: RoundTrip, now: float, _wall: float) -> list[Effect]:
        self.view.observe_rtt(event.peer, event.seconds)
        return self.failure_detector.heard(event.peer, now)

    # --- messages ------------------------------------------------------------------------------------------------

    def _received(self, event: Received, now: float, wall: float) -> list[Effect]:
        peer, message = event.peer, event.message
        if peer not in self.overlay.linked:
            return []
        if isinstance(message, FreshLoad | Watch | Full):
            effects = self.warm.on_message(peer, message, now)
        elif isinstance(message, Records):
            effects = self._route(self.gossip.on_records(peer, message, now, wall), now)
        elif isinstance(message, Digest):
            if message.reply and self.overlay.asked(peer):
                self.gossip.stand(self.overlay.standing())
            effects = self.gossip.on_digest(peer, message, now)
        elif isinstance(message, Doubt):
            effects = self._doubted(peer, message, now)
        else:
            effects = self._route_dht(self.dht.on_message(peer, message, now, wall), now)
        return effects + self.failure_detector.heard(peer, now)

    def _doubted(self, by: PeerId, doubt: Doubt, now: float) -> list[Effect]:
        subject = PeerId(doubt.peer)
        if subject == self.me:
            return self.gossip.refute(now)
        if self.gossip.version_of(subject) > (doubt.inc, doubt.seq):
            self.gossip.lacks(by, (subject, LOAD), now)
            return []
        effects = self.failure_detector.doubted(doubt, now)
        self._pay_doubts(effects, now)
        return self._route(effects, now)

    def _pay_doubts(self, effects: Sequence[AnyEffect], now: float) -> None:
        """Doubts, which are all that ``failure_detector`` sends, are part of the upload that gossip may have."""
        for effect in effects:
            if isinstance(effect, Send):
                self.gossip.pay(_DOUBT_BYTES, now)

    # --- effects of one machine on another -------------------------------------------------------------------------

    def _route(self, effects: Sequence[AnyEffect], now: float) -> list[Effect]:
        """Carry out the internal effects, in their order; what follows from them comes after the effects outside."""
        passed: list[Effect] = []
        internal: list[InternalEffect] = []
        for effect in effects:
            if isinstance(effect, InternalEffect):
                internal.append(effect)
            else:
                passed.append(effect)
        for effect in internal:
            if isinstance(effect, StatementAccepted):
                passed += self._accepted(effect.author, now)
            elif isinstance(effect, Probe):
                passed += self.overlay.probe(effect.peer, now)
            else:
                self.gossip.stand(self.overlay.standing())
                passed += self.gossip.introduce(effect.peer, now)
        return passed

    def _accepted(self, author: PeerId, now: float) -> list[Effect]:
        """A statement proves that its author lives, unless the last one said goodbye: an advert may come late."""
        record = self.view.get(author)
        if record is None:
            return []
        if record.said_goodbye:
            return self.failure_detector.goodbye(author, now)
        return self.failure_detector.heard(author, now, stated=True)

    def _route_dht(self, effects: Sequence[Effect], now: float) -> list[Effect]:
        """Drop the hang-ups that would cost a link that is kept; gossip learns the adverts that a look-up found."""
        passed: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Hangup) and self.keeps(effect.peer):
                continue
            passed.append(effect)
            if isinstance(effect, Found):
                adverts = (envelope for envelope in effect.envelopes if envelope.kind == ADVERT)
                passed += self._route(self.gossip.learn(adverts, now), now)
        return passed

    # --- requests of the program ---------------------------------------------------------------------------------

    def _find_peer(self, event: FindPeer, now: float, _wall: float) -> list[Effect]:
        return self._route_dht(self.dht.find_peer(event.query, event.target, now), now)

    def _find_providers(self, event: FindProviders, now: float, _wall: float) -> list[Effect]:
        return self._route_dht(self.dht.find_providers(event.query, event.model, now), now)

    def _report_load(self, event: ReportLoad, now: float, _wall: float) -> list[Effect]:
        return self.gossip.report_load(event.load, now) + self.warm.report(event.load, event.jobs, now)

    def _advertise(self, event: Advertise, now: float, _wall: float) -> list[Effect]:
        news = event.advert != self.gossip.publisher.advert
        effects = self.gossip.advertise(event.advert, now)
        if news and not self._publishing:
            self._publishing = True
            effects.append(SetTimer(_PUBLISH, now + PUBLISH_PAUSE_S))
        return effects

    def _publish(self, now: float) -> list[Effect]:
        """Publish our models in the DHT, by fingerprint and by name, and again before the statements expire."""
        self._publishing = False
        advert, settings = self.gossip.publisher.advert, self.settings.dht
        assert advert is not None, "the timer is set by the first advert"
        envelopes: list[Envelope] = []
        keys = [key for offer in advert.models for key in (ModelId(offer.fingerprint), name_key(offer.name))]
        for key in dict.fromkeys(keys):
            self._published += 1
            provider, version = Provider(key, advert.addrs), (self.gossip.publisher.inc, self._published)
            wall = self.gossip.wall(now)
            envelopes.append(statement(self._signer, provider, version, wall, settings.provider_ttl_s))
        effects = self._route_dht(self.dht.publish(tuple(envelopes), now), now) if envelopes else []
        return [*effects, SetTimer(_PUBLISH, now + settings.republish_s)]

    def _publish_advert(self, now: float) -> list[Effect]:
        """Our advert was stated afresh: the DHT gets the same one."""
        envelope = self.gossip.own(ADVERT)
        if envelope is None or self.dht.own.holds(peer_key(self.me), envelope):
            return []
        return self._route_dht(self.dht.publish((envelope,), now), now)

    def _leave(self, _event: Leave, now: float, _wall: float) -> list[Effect]:
        self.overlay.leave()
        self.warm.pool.leave()
        return self.gossip.leave(now)

    # --- timers --------------------------------------------------------------------------------------------------

    def _timer(self, event: TimerFired, now: float, wall: float) -> list[Effect]:
        key = event.key
        machine = key[0]
        if machine == "gossip":
            effects = self.gossip.timer(key, now, wall) + self._publish_advert(now)
            for peer in self.view.expire(now):
                effects += self.failure_detector.forget(peer)
            return effects
        if machine == "liveness":
            return self._sweep(now)
        if machine == "neighbours":
            return self._route(self.overlay.timer(key, now), now)
        if machine == "dht":
            return self._route_dht(self.dht.timer(key, now, wall), now)
        if machine in ("pool", "fresh"):
            return self.warm.timer(key, now)
        return self._publish(now)

    def _sweep(self, now: float) -> list[Effect]:
        effects = self.failure_detector.sweep(now, self.overlay.standing(), self.gossip.version_of)
        self._pay_doubts(effects, now)
        for effect in effects:
            if isinstance(effect, PeerState) and effect.state == "suspect":
                record = self.view.get(effect.peer)
                if record is not None and record.advert is not None:
                    self.overlay.remember(effect.peer, record.advert.addrs)
        return self._route(effects, now)


def _was_dialled_as_signed(record: PeerRecord | None, event: DialFailed) -> bool:
    """Whether all addresses that the peer signed were dialled: those of third parties prove nothing."""
    signed = () if record is None or record.advert is None else record.advert.addrs
    return event.reason != NOT_NOW and bool(signed) and set(signed) <= set(event.addrs)


#: The handler of each event.  It is no attribute of a node: a node with bound methods lives until a garbage collection.
_ACTIONS: Final[Mapping[type, Callable[[Node, Any, float, float], list[Effect]]]] = {
    Received: Node._received,
    TimerFired: Node._timer,
    LinkUp: Node._link_up,
    LinkDown: Node._link_down,
    DialFailed: Node._dial_failed,
    RoundTrip: Node._round_trip,
    Advertise: Node._advertise,
    ReportLoad: Node._report_load,
    Routed: lambda node, event, now, _wall: node.warm.routed(event, now),
    FindPeer: Node._find_peer,
    FindProviders: Node._find_providers,
    Leave: Node._leave,
}
