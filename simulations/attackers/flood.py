"""A flooder sends every message that the protocol allows, at a hundred times the normal rate."""

from __future__ import annotations

from typing import Any, Final

from protocol.dht.routing_table import model_key
from protocol.ids import model_id
from protocol.statements.adverts import Load, Provider
from protocol.statements.envelope import statement
from protocol.wire.messages import DhtQuery, DhtStore, Digest, Records
from simulations.attackers.attacker import Attacker, far_end
from simulations.sim.endpoint import SimLink
from simulations.sim.jobs import REQ_BYTES, Job, SimAttempt, Truth

#: Messages per second and link, and jobs per second in all.
MESSAGES_PER_S: Final = 100.0
JOBS_PER_S: Final = 2.0
#: The tokens of its jobs.
PROMPT_TOKENS: Final = 2000
OUTPUT_TOKENS: Final = 500
#: Numbers of its jobs: none that a real job has.
_FIRST_JOB: Final = 1 << 40


class Flooder(Attacker):
    """Digests, questions, things to keep, statements of its own, jobs.  ``amount``: messages per second and link."""

    EVERY_S = 0.5

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._made = 0

    def act(self) -> None:
        self.seek(2)
        count = round(self.amount(MESSAGES_PER_S) * self.EVERY_S)
        for link in self.victims():
            for number in range(count):
                self._send_one(link, number % 4)
            self._send_jobs(link)

    def _send_one(self, link: SimLink, form: int) -> None:
        self._made += 1
        rng, wall = self.rng, self.wall()
        if form == 0:
            self.push(link, Digest(buckets=rng.randbytes(8 * 256), reply=True))
        elif form == 1:
            self.push(link, DhtQuery(rng.getrandbits(32), rng.randbytes(32), values=True))
        elif form == 2:
            model = model_id(f"flood-{self._made}", "", "", "", 1)
            provider = statement(self.signer, Provider(model, (self.addr,)), (self.life, self._made), wall, 3600)
            self.push(link, DhtStore(model_key(model), provider.wire))
        else:
            load = Load(running=self._made % 1000, slots=1000)
            self.push(link, Records((statement(self.signer, load, (self.life, 1000 + self._made), wall, 60),)))

    def _send_jobs(self, link: SimLink) -> None:
        """Send jobs to a linked worker without waiting for the answers."""
        worker = far_end(link, self).worker
        if worker is None or self.rng.random() >= JOBS_PER_S * self.EVERY_S / len(self.links):
            return
        self._made += 1
        number = _FIRST_JOB + (self.index << 24) + self._made
        model = self.rng.choice(worker.peer.machine.offers).name
        job = Job(number, model, PROMPT_TOKENS, OUTPUT_TOKENS, True, (), 0, self.loop.now)
        attempt = SimAttempt(number, job, Truth(OUTPUT_TOKENS), self, worker.peer, _not_heard, _not_heard)
        attempt.entry_life = self.life
        self.network.carry(link, self, REQ_BYTES + job.body_bytes, worker.requested, attempt)


def _not_heard(*_said: object) -> None:
    """The flooder does not read answers."""
