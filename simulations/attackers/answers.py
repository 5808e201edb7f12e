"""Attackers that return bad answers: garbage, truncated answers, wrong answers that look right."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from protocol.ids import JobId
from protocol.jobs.cascade_events import Completed, Progress
from protocol.statements.keys import Ed25519Signer
from protocol.wire.end_signature import sign_end
from protocol.wire.messages import End, encode
from simulations.attackers.attacker import Attacker, Pretender
from simulations.sim.jobs import END_BYTES, PIECE_BYTES, SimAttempt, job_id

#: Seconds until such a worker says its first word, and tokens per second after it: like a good and idle machine.
FIRST_S: Final = 0.2
TOKENS_S: Final = 100.0
#: Pieces in one message of them.
_BATCH: Final = 20
_SAID: Final = b'{"choices":[{"delta":{"content":"lorem ipsum"}}]}'


class GarbageWorker(Pretender):
    """A word, and an END that does not hold; which way it does not, is drawn."""

    def pretend(self, attempt: SimAttempt) -> None:
        self._accept(attempt, 0.0)
        self.loop.at(self.loop.now + FIRST_S, self._answer, attempt)

    def _answer(self, attempt: SimAttempt) -> None:
        if not self.talks(attempt):
            return
        attempt.over = True
        form = self.attacker.rng.randrange(len(FORMS))
        said = b"" if FORMS[form] == "nothing said" else _SAID
        if said:
            self._say(attempt, PIECE_BYTES, Progress(self.peer.peer_id, 1))
        payload = forged_end(self.attacker, attempt, FORMS[form], said)
        link = self.peer.links.get(attempt.entry.peer_id)
        if link is not None:
            self.peer.network.carry(link, self.peer, len(payload), attempt.heard_end, attempt, payload, said)


#: The ways in which the END of an answer is wrong.
FORMS: Final = ("another key", "another job", "another answer", "no message", "nothing said")


def forged_end(attacker: Attacker, attempt: SimAttempt, form: str, said: bytes) -> bytes:
    """The bytes of an END that an entry must not take for the end of ``attempt``."""
    job = job_id(attempt.job)
    end = End("stop", attempt.job.prompt_tokens, attempt.truth.output_tokens, sha256(said).digest())
    if form == "another key":
        return encode(sign_end(Ed25519Signer(attacker.rng.randbytes(32)), job, end))
    if form == "another job":
        return encode(sign_end(attacker.signer, JobId(job[::-1]), end))
    if form == "another answer":
        other = End("stop", 0, attempt.truth.output_tokens, sha256(b"something else").digest())
        return encode(sign_end(attacker.signer, job, other))
    if form == "no message":
        return attacker.rng.randbytes(END_BYTES)
    assert form == "nothing said", "all forms are told apart"
    return encode(sign_end(attacker.signer, job, end))


class Garbage(Attacker):
    """Answers at once, with an END that does not prove the answer."""

    WORKS_AS = GarbageWorker


class WrongAnswersWorker(Pretender):
    """Well-formed nonsense at a good pace, its END in order: only reading the answer reveals it."""

    def pretend(self, attempt: SimAttempt) -> None:
        self._accept(attempt, 0.0)
        self.loop.at(self.loop.now + FIRST_S, self._go_on, attempt)

    def _go_on(self, attempt: SimAttempt) -> None:
        if not self.talks(attempt):
            return
        left = attempt.truth.output_tokens - attempt.sent
        if left <= 0:
            attempt.over = True
            self.peer.job_log.lied(attempt)
            if not attempt.job.streamed:
                self._say(attempt, PIECE_BYTES, Progress(self.peer.peer_id, 1))
            self._say(attempt, END_BYTES, Completed(self.peer.peer_id))
            return
        pieces = min(_BATCH, left) if attempt.sent else 1
        attempt.sent += pieces
        if attempt.job.streamed:
            self._say(attempt, pieces * PIECE_BYTES, Progress(self.peer.peer_id, pieces))
        self.loop.at(self.loop.now + pieces / TOKENS_S, self._go_on, attempt)


class WrongAnswers(Attacker):
    """Does no work and is paid for it."""

    WORKS_AS = WrongAnswersWorker


class TruncationWorker(WrongAnswersWorker):
    """Half of an answer; then it is silent, or its link breaks."""

    def _go_on(self, attempt: SimAttempt) -> None:
        if not self.talks(attempt):
            return
        if 2 * attempt.sent < attempt.truth.output_tokens:
            super()._go_on(attempt)
            return
        attempt.over = True
        link = self.peer.links.get(attempt.entry.peer_id)
        if link is not None and self.attacker.rng.random() < 0.5:
            self.peer.network.break_link(link, "reset")


class Truncation(Attacker):
    """Never ends an answer that it begins."""

    WORKS_AS = TruncationWorker
