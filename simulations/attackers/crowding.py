"""Sybils hold many identities; eclipsers try to become the only neighbours of a node."""

from __future__ import annotations

from typing import Any

import msgspec

from protocol.ids import PeerId
from protocol.statements.adverts import Advert
from protocol.statements.envelope import parse
from protocol.wire.messages import Contact, DhtReply, Digest, Doubt, NodeMessage, Records
from simulations.attackers.attacker import Attacker
from simulations.attackers.liars import claimed_models
from simulations.attackers.stalling import BlackHoleWorker
from simulations.sim.cluster import Cluster
from simulations.sim.node import SimNode

#: The first number of the addresses of sybils: no other node has it.
_NET = "93"


def address_in(group: int, number: int) -> str:
    """An address of the /24 that a machine of sybils has for itself."""
    return f"{_NET}.{group >> 8 & 255}.{group & 255}.{1 + number % 254}"


class Sybil(Attacker):
    """Many identities on one machine in one /24, each of which claims every model and does no job.

    Each has a processor and a line of its own here: they are stronger than one machine could make them.
    """

    WORKS_AS = BlackHoleWorker

    def __init__(self, index: int, key: bytes, address: str, *args: Any, **named: Any) -> None:
        mine = address if address.startswith(f"{_NET}.") else address_in(index, 0)
        super().__init__(index, key, mine, *args, **named)

    def enlist(self, cluster: Cluster) -> None:
        super().enlist(cluster)
        for number in range(1, self.attack.identities):
            twin = cluster.add(len(cluster.peers), address_in(self.index, number), of=self)
            assert isinstance(twin, Sybil), "an identity is of its machine's kind"
            Attacker.enlist(twin, cluster)
            joins = cluster.scenario.topology.join_s * self.rng.random()
            cluster.loop.at(max(self.window[0], joins), cluster.start, twin)
            if self.window[1] < cluster.scenario.duration_s:
                cluster.loop.at(self.window[1], twin.leave)

    def make_advert(self) -> Advert:
        advert = super().make_advert()
        if not self.active or not advert.models:
            return advert
        return msgspec.structs.replace(advert, models=claimed_models(self, advert))


class Eclipse(Attacker):
    """Knows only its own kind, and offers itself as a neighbour to every node."""

    EVERY_S = 1.0

    def colludes(self, peer: PeerId) -> bool:
        """Whether ``peer`` is one of them."""
        return isinstance(self.network.by_peer.get(peer), Eclipse)

    def send(self, peer: PeerId, message: NodeMessage) -> None:
        said: NodeMessage | None = message
        if self.active and not self.colludes(peer):
            said = self._censored(message)
        if said is not None:
            super().send(peer, said)

    def _censored(self, message: NodeMessage) -> NodeMessage | None:
        if isinstance(message, Records):
            ours = tuple(each for each in message.envelopes if self.colludes(each.author))
            return Records(ours) if ours else None
        if isinstance(message, DhtReply):
            values = tuple(wire for wire in message.values if self.colludes(parse(wire).author))
            return DhtReply(message.query, tuple(self._contacts()), values)
        return None if isinstance(message, Doubt) else message

    def _contacts(self) -> list[Contact]:
        ours = self._fellows()
        return [Contact(peer.peer_id, (peer.addr,)) for peer in self.rng.sample(ours, min(len(ours), 20))]

    def _fellows(self) -> list[SimNode]:
        peers = self.cluster.peers if self.cluster is not None else [self]
        return [peer for peer in peers if isinstance(peer, Eclipse) and peer.up]

    def act(self) -> None:
        self.seek(4)
        for link in self.victims():
            self.push(link, Digest(reply=True))  # who opens an exchange wants to be a neighbour
            ours = [each.node.gossip.own(kind) for each in self._fellows() for kind in (1, 2)]
            known = tuple(each for each in ours if each is not None)
            if known:
                self.push(link, Records(known[:500]))
