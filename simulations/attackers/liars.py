"""Liars sign false statements about themselves: about their load, their hardware and their models."""

from __future__ import annotations

from typing import Final

import msgspec

from protocol.jobs.admission import AdmissionEvent, Arrived
from protocol.perf.gpu_catalog import find_gpu
from protocol.statements.adverts import Advert, ModelOffer
from simulations.attackers.attacker import Attacker, BadWorker
from simulations.attackers.stalling import LooksIdle
from simulations.sim.jobs import Job, SimAttempt
from simulations.sim.machines import bare_offer

#: How much slower the machine of a liar about its load is than it looks.
SLOWER: Final = 5.0
#: A GPU that is in no table, so that no table bounds the claim by its name.
UNKNOWN: Final = "Prototype X"
#: The GPU that a liar about its specs claims: its name in the table of GPUs, and the count.
CLAIMED: Final = ("H100 SXM5 80GB", 8)


class LiarLoadWorker(BadWorker):
    """Takes every job at once, without a queue and without BUSY; the engine does as much as it can."""

    def __init__(self, *args: object, **named: object) -> None:
        super().__init__(*args, **named)  # type: ignore[arg-type]
        self._taken: dict[int, None] = {}

    def _feed(self, event: AdmissionEvent) -> None:
        if isinstance(event, Arrived) and self.bad:
            self._stale = True
            self._taken[event.job] = None
            attempt = self._tasks[event.job]
            self._accept(attempt, 0.0)
            self._begin(attempt)
        elif getattr(event, "job", None) not in self._taken:
            super()._feed(event)

    def crashed(self) -> None:
        super().crashed()
        self._taken.clear()


class LiarLoad(LooksIdle):
    """Always idle, takes everything, and is slow.  ``amount``: how many times slower than its GPU."""

    WORKS_AS = LiarLoadWorker

    def begin(self) -> None:
        super().begin()
        self._throttle(1 / self.amount(SLOWER))

    def cease(self) -> None:
        super().cease()
        self._throttle(1.0)

    def _throttle(self, share: float) -> None:
        if self.worker is not None:
            self.worker.throttle(share, self)


class Boaster(Attacker):
    """Claims unknown GPUs that are ``claims`` times as fast as its own, and does every job as well as it can."""

    def make_advert(self) -> Advert:
        advert = super().make_advert()
        if not self.active or self.attack.claims == 1.0:
            return advert
        return msgspec.structs.replace(
            advert, gpus=tuple(msgspec.structs.replace(gpu, model=UNKNOWN) for gpu in advert.gpus)
        )


class LiarSpecsWorker(BadWorker):
    """Answers for every model with the one that it has."""

    def __init__(self, *args: object, **named: object) -> None:
        super().__init__(*args, **named)  # type: ignore[arg-type]
        self._swapped: dict[int, None] = {}

    def runs_as(self, job: Job) -> str | None:
        own = super().runs_as(job)
        return next(iter(self.timings)) if own is None and self.bad else own

    def _begin(self, attempt: SimAttempt) -> None:
        if attempt.job.model not in self.timings:
            self._swapped[attempt.number] = None
        super()._begin(attempt)

    def finish(self, attempt: SimAttempt, rest: int) -> None:
        if attempt.number in self._swapped:
            del self._swapped[attempt.number]
            self.peer.job_log.lied(attempt)
        super().finish(attempt, rest)


class LiarSpecs(Attacker):
    """Claims eight of the best GPUs and every model of the catalogue, at its own price for the model that it has."""

    WORKS_AS = LiarSpecsWorker

    def make_advert(self) -> Advert:
        advert = super().make_advert()
        if not self.active or not advert.models:
            return advert
        gpu = find_gpu(CLAIMED[0])
        assert gpu is not None, "the table has what is claimed"
        return msgspec.structs.replace(
            advert, gpus=(msgspec.structs.replace(gpu, count=CLAIMED[1]),), models=claimed_models(self, advert)
        )


def claimed_models(peer: Attacker, advert: Advert) -> tuple[ModelOffer, ...]:
    """Every model of the catalogue, resident and at the price of the first own one; the own ones as they are."""
    assert peer.cluster is not None or peer.active, "attackers are enlisted before they attack"
    own = {offer.name: offer for offer in advert.models}
    catalogue = peer.cluster.scenario.models.catalogue if peer.cluster is not None else ()
    first = advert.models[0] if advert.models else None
    price_in, price_out = (0.0, 0.0) if first is None else (first.price_in, first.price_out)
    others = [
        msgspec.structs.replace(bare_offer(model), price_in=price_in, price_out=price_out)
        for model in catalogue
        if model.name not in own
    ]
    return (*own.values(), *others)
