"""Attackers that make identities: on paper alone, and new ones every minute.

A paper identity is an advert with an address at which nothing listens.  One attacker signs them all and tells their
loads, so that they look alive; a dial is refused.

Not here: sybils and whitewashers, whose identities come with a machine (``crowding``, ``traitors``).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from protocol.statements.adverts import Advert, Load
from protocol.statements.envelope import Envelope, statement
from protocol.statements.versions import next_incarnation
from protocol.wire.messages import Records
from simulations.attackers.attacker import Attacker
from simulations.attackers.crowding import address_in
from simulations.attackers.liars import claimed_models
from simulations.attackers.stalling import BlackHoleWorker
from simulations.sim.node import SimNode

#: Identities with an address in one /24.
PER_GROUP: Final = 16
#: Names per minute of a whole family of newcomers, and the groups that their addresses are in.
NEW_PER_MIN: Final = 5.0
GROUPS: Final = 4
#: Statements in one message, and the links that the attacker tells them over.
_BATCH: Final = 40
_TOLD: Final = 4


class Paper(Attacker):
    """``identities`` adverts of machines that do not exist, from one attacker, with a fresh load every few seconds."""

    EVERY_S = 5.0

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._twins: list[SimNode] = []
        self._said = 0

    def begin(self) -> None:
        assert self.cluster is not None, "attackers are enlisted before they attack"
        for number in range(self.attack.identities):
            group = (self.index << 8) + number // PER_GROUP
            twin = self.cluster.add(len(self.cluster.peers), address_in(group, number), of=self)
            twin.inc = next_incarnation(0, self.wall())
            self._twins.append(twin)
        super().begin()

    def act(self) -> None:
        self.seek(2)
        self._said += 1
        statements = [each for twin in self._twins for each in self._statements_of(twin)]
        for at in range(0, len(statements), _BATCH):
            message = Records(tuple(statements[at : at + _BATCH]))
            for link in self.victims()[:_TOLD]:
                self.push(link, message)

    def _statements_of(self, twin: SimNode) -> list[Envelope]:
        gossip, wall = self.settings.gossip, self.wall()
        ttl = round(gossip.load_period_s * gossip.load_ttl_periods)
        load = statement(twin.signer, Load(slots=64), (twin.inc, self._said), wall, ttl)
        if self._said % 12 != 1:
            return [load]
        return [statement(twin.signer, self._advert_of(twin), (twin.inc, self._said), wall, gossip.advert_ttl_s), load]

    def _advert_of(self, twin: SimNode) -> Advert:
        advert = self.make_advert()
        return msgspec.structs.replace(
            advert, name=f"node-{twin.index}", models=claimed_models(self, advert), addrs=twin.addrs
        )


class Newcomer(Attacker):
    """A machine that joins under ``amount`` new names a minute, in turn from four /24, and does no job of any.

    The names stay.  Each has a processor and a line of its own here.
    """

    WORKS_AS = BlackHoleWorker
    EVERY_S = 1.0

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._names = 0
        self._is_name = False

    def act(self) -> None:
        due = (self.loop.now - self.window[0]) * self.amount(NEW_PER_MIN) / 60
        while not self._is_name and self._names < due:
            self._join()

    def _join(self) -> None:
        cluster = self.cluster
        assert cluster is not None, "who acts is enlisted"
        self._names += 1
        group = (self.index << 8) + self._names % GROUPS
        twin = cluster.add(len(cluster.peers), address_in(group, self._names // GROUPS), of=self)
        assert isinstance(twin, Newcomer), "an identity is of its machine's kind"
        twin._is_name = True
        Attacker.enlist(twin, cluster)
        cluster.start(twin)
        if self.window[1] < cluster.scenario.duration_s:
            cluster.loop.at(self.window[1], twin.leave)
