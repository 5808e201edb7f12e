"""The base of all attackers: the attack window, periodic actions, and raw bytes on a link.

An attacker pays for the bytes that it sends (its uplink).  It pays no processor time, because it runs its own program.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from protocol.statements.adverts import Advert, Gpu
from protocol.wire.messages import NodeMessage, encode, kind_of
from simulations.rng_streams import rng_stream
from simulations.scenario import Attack
from simulations.sim.cluster import Cluster
from simulations.sim.endpoint import SimLink
from simulations.sim.jobs import SimAttempt
from simulations.sim.message_sizes import message_bytes
from simulations.sim.node import SimNode
from simulations.sim.worker import Worker


class Attacker(SimNode):
    """Honest until its attack begins and after it has ended."""

    attack: ClassVar[Attack]
    window: ClassVar[tuple[float, float]]
    WORKS_AS: ClassVar[type[Worker]] = Worker
    #: Seconds between two of its acts; 0 if it only reacts.
    EVERY_S: ClassVar[float] = 0.0

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.honest = False
        self.rng = rng_stream(self.seed, "attack", self.index)
        self.cluster: Cluster | None = None

    @property
    def active(self) -> bool:
        """Whether the attack is on."""
        return self.window[0] <= self.loop.now < self.window[1]

    def make_advert(self) -> Advert:
        """Its advert, with GPUs that are ``claims`` times as fast as they are."""
        advert = super().make_advert()
        if not self.active or self.attack.claims == 1.0:
            return advert
        return msgspec.structs.replace(advert, gpus=tuple(boasted(gpu, self.attack.claims) for gpu in advert.gpus))

    def amount(self, usual: float) -> float:
        """The strength of the attack: the scenario's figure, or the default of the kind."""
        return self.attack.amount or usual

    def enlist(self, cluster: Cluster) -> None:
        """Schedule the attack."""
        self.cluster = cluster
        begins, ends = self.window
        self.loop.at(max(begins, self.loop.now), self.begin)
        if ends < cluster.scenario.duration_s:
            self.loop.at(ends, self.cease)

    def begin(self) -> None:
        """The attack begins; the node's own statements may differ from now on."""
        if self.up:
            self.advertise(self.make_advert())
        if self.EVERY_S:
            self.loop.at(self.loop.now + self.EVERY_S * self.rng.random(), self._again)

    def cease(self) -> None:
        """The attack is over."""
        if self.up:
            self.advertise(self.make_advert())

    def _again(self) -> None:
        if not self.active:
            return
        if self.up:
            self.act()
        self.loop.at(self.loop.now + self.EVERY_S * self.rng.uniform(0.9, 1.1), self._again)

    def act(self) -> None:
        """The action that it repeats every :attr:`EVERY_S` seconds of its attack."""

    # --- tools -----------------------------------------------------------------------------------------------------

    def victims(self) -> list[SimLink]:
        """The links to honest nodes."""
        return [link for link in self.links.values() if link.other(self).honest]

    def known(self) -> list[SimNode]:
        """Honest nodes that it has heard of, in the order in which it did."""
        peers = (self.network.by_peer.get(record.peer) for record in self.node.view.records()[1:])
        return [peer for peer in peers if isinstance(peer, SimNode) and peer.honest]

    def seek(self, count: int) -> None:
        """Dial so many honest nodes to which there is no link yet."""
        strangers = [peer for peer in self.known() if peer.peer_id not in self.links]
        for peer in self.rng.sample(strangers, min(count, len(strangers))):
            self.perform_dial(peer.peer_id, (peer.addr,))

    def push(self, link: SimLink, message: NodeMessage) -> None:
        """A message that its node has not made; well-formed, so nothing would be learnt from taking it apart."""
        size = message_bytes(message)
        self.network.carry(link, self, size, link.other(self).received, self.peer_id, message, size)

    def push_raw(self, link: SimLink, message: NodeMessage) -> None:
        """The same as bytes, which the other end has to read: they may be anything."""
        payload = encode(message)
        read = far_end(link, self).received_bytes
        self.network.carry(link, self, len(payload), read, self.peer_id, kind_of(message), payload)


def boasted(gpu: Gpu, times: float) -> Gpu:
    """The GPU with so many times its speed."""
    speeds = ("bandwidth_gb_s", "fp16_tflops", "bf16_tflops", "fp8_tflops", "int8_tops", "fp4_tflops")
    return msgspec.structs.replace(gpu, **{name: times * getattr(gpu, name) for name in speeds})


def far_end(link: SimLink, attacker: SimNode) -> SimNode:
    """The node at the other end of a link."""
    other = link.other(attacker)
    assert isinstance(other, SimNode), "every endpoint of a cluster is one"
    return other


class BadWorker(Worker):
    """A worker of an attacker."""

    @property
    def bad(self) -> bool:
        """Whether the next job is treated badly."""
        return self.attacker.active

    @property
    def attacker(self) -> Attacker:
        assert isinstance(self.peer, Attacker), "only attackers have such workers"
        return self.peer


class Pretender(BadWorker):
    """Takes every job at once and leaves the engine in peace."""

    def requested(self, attempt: SimAttempt) -> None:
        """A job came."""
        if not self.bad:
            super().requested(attempt)
            return
        self.arrivals += 1
        attempt.worker_life = self.peer.life
        self.pretend(attempt)

    def pretend(self, attempt: SimAttempt) -> None:
        """The action instead of the job."""
        raise NotImplementedError

    def talks(self, attempt: SimAttempt) -> bool:
        """Whether the attempt is open and this life of the worker is up."""
        return not attempt.over and attempt.worker_life == self.peer.life and self.peer.up
