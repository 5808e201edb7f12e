"""Attackers that fail a job in one plain way: refuse it, say nothing, promise much, hang up, flood, send no JSON.

Each looks idle, so that it is asked as often as an honest peer or more; ``claims`` of the attack makes it look fast.

Not here: answers that look right (``answers``), jobs that are done slowly or never (``stalling``).
"""

from __future__ import annotations

from typing import ClassVar, Final

from protocol.jobs.cascade_events import Accepted, AttemptFailed, Progress, Refused
from protocol.reputation.outcomes import Outcome
from protocol.wire.messages import Refuse
from simulations.attackers.answers import FIRST_S
from simulations.attackers.attacker import Pretender
from simulations.attackers.stalling import LooksIdle
from simulations.sim.jobs import ACCEPT_BYTES, FIRST_BYTES, PIECE_BYTES, REFUSAL_BYTES, SimAttempt

#: The longest promise that ACCEPT can carry, seconds.
PROMISE_S: Final = (2**31 - 1) / 1000
#: Bytes of a flooded piece, and pieces per second.
FLOODED_BYTES: Final = 20_000
FLOODED_PER_S: Final = 50.0


class RefusingWorker(Pretender):
    """Answers every request with the same refusal."""

    REFUSAL: ClassVar[Refuse]

    def pretend(self, attempt: SimAttempt) -> None:
        attempt.over = True
        self._say(attempt, REFUSAL_BYTES, Refused(self.peer.peer_id, self.REFUSAL))


class FinalRefusalWorker(RefusingWorker):
    """Says that the request itself is wrong, so that no other peer is asked."""

    REFUSAL = Refuse(400, "invalid_api_key", "this key is wrong", final=True)


class FinalRefuser(LooksIdle):
    """Blames the caller for what it does not want to do."""

    WORKS_AS = FinalRefusalWorker


class BreakdownWorker(RefusingWorker):
    """Says that its engine broke on the job."""

    REFUSAL = Refuse(500, "engine_error", "the engine broke down")


class Breakdown(LooksIdle):
    """500 for every job."""

    WORKS_AS = BreakdownWorker


class OverloadedWorker(RefusingWorker):
    """Says that it cannot serve now."""

    REFUSAL = Refuse(503, "overloaded", "not now")


class Overloaded(LooksIdle):
    """503 for every job."""

    WORKS_AS = OverloadedWorker


class MuteWorker(Pretender):
    """Takes the bytes of the request and says nothing at all."""

    def pretend(self, attempt: SimAttempt) -> None:
        """Nothing."""


class Mute(LooksIdle):
    """Never answers."""

    WORKS_AS = MuteWorker


class FallsSilentWorker(Pretender):
    """Accepts, and not even a BEAT follows."""

    def pretend(self, attempt: SimAttempt) -> None:
        self._say(attempt, ACCEPT_BYTES, Accepted(self.peer.peer_id))


class FallsSilent(LooksIdle):
    """Accepts, then silence."""

    WORKS_AS = FallsSilentWorker


class PromiserWorker(Pretender):
    """Promises the first token in weeks and shows every two seconds that it lives."""

    def pretend(self, attempt: SimAttempt) -> None:
        self._accept(attempt, self.attacker.amount(PROMISE_S))


class Promiser(LooksIdle):
    """A promise of 25 days, then BEATs.  ``amount``: the promise, seconds."""

    WORKS_AS = PromiserWorker


class ResetterWorker(Pretender):
    """Hangs up when a request comes."""

    def pretend(self, attempt: SimAttempt) -> None:
        self._hang_up(attempt)

    def _hang_up(self, attempt: SimAttempt) -> None:
        attempt.over = True
        link = self.peer.links.get(attempt.entry.peer_id)
        if link is not None:
            self.peer.network.break_link(link, "reset")


class Resetter(LooksIdle):
    """Hangs up before the first byte."""

    WORKS_AS = ResetterWorker


class HangerUpWorker(ResetterWorker):
    """One piece, so that the caller has its first byte, then it hangs up."""

    def pretend(self, attempt: SimAttempt) -> None:
        self._accept(attempt, 0.0)
        self.loop.at(self.loop.now + FIRST_S, self._first_piece, attempt)

    def _first_piece(self, attempt: SimAttempt) -> None:
        if self.talks(attempt):
            self._say(attempt, FIRST_BYTES + PIECE_BYTES, Progress(self.peer.peer_id, 1))
            self.loop.at(self.loop.now + FIRST_S, self._second_piece, attempt)

    def _second_piece(self, attempt: SimAttempt) -> None:
        if self.talks(attempt):
            self._hang_up(attempt)


class HangerUp(LooksIdle):
    """Hangs up after the first byte."""

    WORKS_AS = HangerUpWorker


class NoJsonWorker(Pretender):
    """Its first piece is no JSON, which the entry reads before a caller has anything."""

    def pretend(self, attempt: SimAttempt) -> None:
        self._accept(attempt, 0.0)
        self.loop.at(self.loop.now + FIRST_S, self._piece, attempt)

    def _piece(self, attempt: SimAttempt) -> None:
        if self.talks(attempt):
            attempt.over = True
            said = AttemptFailed(self.peer.peer_id, Outcome.MISBEHAVED, "a piece of the answer is no JSON")
            self._say(attempt, PIECE_BYTES, said)


class NoJson(LooksIdle):
    """Sends pieces that are not JSON."""

    WORKS_AS = NoJsonWorker


class PieceFloodWorker(Pretender):
    """Pieces of 20 KB without an end, until the entry hangs up or the answer would be over."""

    def pretend(self, attempt: SimAttempt) -> None:
        self._accept(attempt, 0.0)
        self.loop.at(self.loop.now + FIRST_S, self._flood, attempt)

    def _flood(self, attempt: SimAttempt) -> None:
        if not self.talks(attempt):
            return
        attempt.sent += 1
        if attempt.sent > attempt.job.max_tokens:
            attempt.over = True
            said = AttemptFailed(self.peer.peer_id, Outcome.MISBEHAVED, "more pieces than the caller allowed tokens")
            self._say(attempt, FLOODED_BYTES, said)
            return
        self._say(attempt, FLOODED_BYTES, Progress(self.peer.peer_id, 1))
        self.loop.at(self.loop.now + 1 / self.attacker.amount(FLOODED_PER_S), self._flood, attempt)


class PieceFlood(LooksIdle):
    """Floods of 20 KB pieces.  ``amount``: pieces per second."""

    WORKS_AS = PieceFloodWorker
