"""Traitors behave well until they are trusted.  Whitewashers drop a bad reputation with a new identity."""

from __future__ import annotations

from typing import Final

from simulations.attackers.attacker import Attacker
from simulations.attackers.stalling import BlackHoleWorker
from simulations.sim.jobs import SimAttempt

#: Jobs that a traitor does well, and then as many that it does not, in turn.
TURN: Final = 20
#: Jobs that a whitewasher fails before it takes a new name, and how long that takes, seconds.
WASHED_AFTER: Final = 10
WASH_S: Final = 2.0


class TraitorWorker(BlackHoleWorker):
    """Good, bad, good, bad; ``amount``: jobs in each phase."""

    @property
    def bad(self) -> bool:
        phase = (self.arrivals if self.attacker.active else 0) // self.attacker.amount(TURN)
        return self.attacker.active and phase % 2 == 1

    def pretend(self, attempt: SimAttempt) -> None:
        self._accept(attempt, 0.0)


class Traitor(Attacker):
    """On and off: it earns trust in one phase and spends it in the next."""

    WORKS_AS = TraitorWorker


class WhitewasherWorker(BlackHoleWorker):
    """Fails every job, and counts them."""

    failed = 0

    def pretend(self, attempt: SimAttempt) -> None:
        self.failed += 1
        self._accept(attempt, 0.0)


class Whitewasher(Attacker):
    """Leaves when it has done badly, and comes back under a new key, with nothing held against it.

    The machine and its address stay the same; only what is known of the key is lost.
    """

    WORKS_AS = WhitewasherWorker
    EVERY_S = 1.0
    #: How many names the machine had before this one.
    lives = 0

    def act(self) -> None:
        worker = self.worker
        if isinstance(worker, WhitewasherWorker) and worker.failed >= self.amount(WASHED_AFTER):
            self._wash()

    def _wash(self) -> None:
        cluster = self.cluster
        assert cluster is not None, "who acts is enlisted"
        self.stop(silently=False, forgets=True)
        again = cluster.add(len(cluster.peers), self.address, of=self)
        assert isinstance(again, Whitewasher), "an identity is of its machine's kind"
        again.lives = self.lives + 1
        again.enlist(cluster)
        self.loop.at(self.loop.now + WASH_S, cluster.start, again)
