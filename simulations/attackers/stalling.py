"""Attackers that take or promise jobs and do not do them: black hole, slow drip, refuser."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from protocol.jobs.cascade_events import Completed, Progress, WasBusy
from protocol.statements.adverts import Load, Status
from simulations.attackers.attacker import Attacker, Pretender
from simulations.sim.jobs import END_BYTES, PIECE_BYTES, REFUSAL_BYTES, SimAttempt

#: Tokens per second of a slow drip: twice what an entry puts up with at least.
DRIP_PER_S: Final = 1.0


class BlackHoleWorker(Pretender):
    """Says that it takes the job and that it is alive, and nothing more.  ``amount``: the promise it makes, seconds."""

    def pretend(self, attempt: SimAttempt) -> None:
        self._accept(attempt, self.attacker.amount(0.0))


class BlackHole(Attacker):
    """Accepts, and never answers."""

    WORKS_AS = BlackHoleWorker


class SlowDripWorker(Pretender):
    """The right answer, one token per second; ``amount``: tokens per second."""

    def pretend(self, attempt: SimAttempt) -> None:
        self._accept(attempt, 0.0)
        self._drip(attempt)

    def _drip(self, attempt: SimAttempt) -> None:
        if not self.talks(attempt):
            return
        attempt.sent += 1
        if attempt.sent > attempt.truth.output_tokens:
            attempt.over = True
            self._say(attempt, END_BYTES, Completed(self.peer.peer_id))
            return
        if attempt.job.streamed or attempt.sent == attempt.truth.output_tokens:
            self._say(attempt, PIECE_BYTES, Progress(self.peer.peer_id, 1))
        self.loop.at(self.loop.now + 1 / self.attacker.amount(DRIP_PER_S), self._drip, attempt)


class SlowDrip(Attacker):
    """Slow enough to hurt, fast enough for every deadline."""

    WORKS_AS = SlowDripWorker


class LooksIdle(Attacker):
    """Says in its load that it has nothing to do and all memory free."""

    _last: Load | None = None

    def make_load(self) -> Load:
        """The true load without its burden; the same object as the last time if it says the same."""
        true, gpu = super().make_load(), self.machine.gpu
        if not self.active or gpu is None:
            return true
        load = msgspec.structs.replace(
            true,
            status=int(Status.ONLINE),
            free_vram_mib=gpu.vram_mib * gpu.count,
            running=0,
            waiting=0,
            kv_permille=0,
            queued_prefill_tokens=0,
            tokens_s=0,
            gpu_percent=0,
            throttled=False,
        )
        if self._last is None or load != self._last:
            self._last = load
        return self._last


class RefuserWorker(Pretender):
    """Has never time for the jobs of others."""

    def pretend(self, attempt: SimAttempt) -> None:
        attempt.over = True
        self._say(attempt, REFUSAL_BYTES, WasBusy(self.peer.peer_id, math.ceil(self.attacker.amount(1.0))))


class Refuser(LooksIdle):
    """A free rider: looks idle, refuses every job as busy, and has others do its own jobs."""

    WORKS_AS = RefuserWorker
