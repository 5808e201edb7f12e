"""The admission of one job at its worker: the job runs now, waits, or is turned away.

Not here: the execution of a job, and whether its request is allowed at all (``p2pnode.jobs.worker``).

Theory of operation
-------------------
The engine has ``slots``.  A job holds one from ``Admit`` until ``Left``.  Jobs beyond the slots wait in one of two
queues, each first come, first served and each at most ``queue`` long: one for this node's own jobs, one for those of
guests.  Guests wait until no own job waits.  A job whose request is still on its way (*coming*) is counted, but holds
neither a slot nor a turn, so a peer that announces requests and never sends them delays no other job.  A guest peer may
have ``per_peer`` jobs here in all, so that one peer cannot fill the queue.  Beyond these bounds a job is turned away
with the figures from which its entry knows when to come back.

Running means of the durations of past jobs give the promise in ACCEPT (seconds to the first token) and the ``retry_ms``
in BUSY.  A promise is kept low, because an entry gives up at three times the promise.

======== ================ ============================================== ========
job is   event            effects                                        then is
======== ================ ============================================== ========
unknown  Arrived          Admit, Queue, Expect or TurnAway               running, waiting, coming, unknown
coming   Ready            Admit, or none                                 running, waiting
waiting  a slot is free   Admit                                          running
running  FirstOutput      none                                           running
either   Left             Admit for the next job                         unknown
either   Drain            none: the jobs that are here may finish        unchanged
======== ================ ============================================== ========
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

import msgspec

from protocol.ids import PeerId
from protocol.settings import AdmissionSettings
from protocol.wire.messages import Busy, Refuse

#: Assumed until the first jobs have been measured: seconds to a first token, seconds per token of the prompt
#: (guess: a slow GPU), seconds of a whole job (guess: 250 tokens at 50/s).
FIRST_S: Final = 0.5
PROMPT_TOKEN_S: Final = 1 / 1000
JOB_S: Final = 5.0
#: The most that a job which left too early can make us promise for the next ones, seconds (guess).
FIRST_MOST_S: Final = 60.0
#: Weight of the newest measurement in a running mean (guess).
NEWEST: Final = 0.2
#: Prompts from this length on tell how long a token of the prompt takes; shorter ones how long everything else does.
LONG_PROMPT: Final = 512
#: Bounds of the wait that a busy worker asks of the entry, milliseconds (guess; clients obey up to 120 s).
RETRY_LEAST_MS: Final = 250
RETRY_MOST_MS: Final = 60_000
#: The answer of a node without an engine to a job.
NO_ENGINE: Final = Refuse(503, "no_capacity", "this node has no engine")


def lacks_model(model: str) -> Refuse:
    """The refusal of a job for a model that this node lacks; an older advert of it may still name the model."""
    return Refuse(404, "model_not_found", f"this node does not have the model {model!r} now", "model")


class Arrived(msgspec.Struct, frozen=True, gc=False):
    """A job came.  ``peer`` is None for this node's own; ``job`` is any name that is not in use.

    ``ready``: its request is here whole, so that it could run.
    """

    job: int
    peer: PeerId | None
    prompt_tokens: int = 0
    stream: bool = False
    ready: bool = True


class Ready(msgspec.Struct, frozen=True, gc=False):
    """The request of a job that came without it is here."""

    job: int


class FirstOutput(msgspec.Struct, frozen=True, gc=False):
    """The engine produced a piece of a stream; only the first counts."""

    job: int


class Left(msgspec.Struct, frozen=True, gc=False):
    """The job is over, or its caller went away; harmless if the job is unknown."""

    job: int


class SlotsAre(msgspec.Struct, frozen=True, gc=False):
    """How many jobs the engine works on at once."""

    slots: int


class Drain(msgspec.Struct, frozen=True, gc=False):
    """Take no more jobs of guests."""


AdmissionEvent = Arrived | Ready | FirstOutput | Left | SlotsAre | Drain


class Admit(msgspec.Struct, frozen=True, gc=False):
    """Run the job now.  ``promise_s``: seconds to its first token."""

    job: int
    promise_s: float


class Queue(msgspec.Struct, frozen=True, gc=False):
    """The job waits; ``position`` is how many are before it."""

    job: int
    position: int
    promise_s: float


class Expect(msgspec.Struct, frozen=True, gc=False):
    """There would be a slot for the job if its request were here."""

    job: int
    promise_s: float


class TurnAway(msgspec.Struct, frozen=True, gc=False):
    """The job is not taken; send this to the peer that brought it."""

    job: int
    message: Busy | Refuse


AdmissionEffect = Admit | Queue | Expect | TurnAway


@dataclass(slots=True)
class _Job:
    number: int
    peer: PeerId | None
    prompt_tokens: int
    unsaid: bool  # a stream without output so far
    admitted_at: float = 0.0


class Admission:
    """See the module's docstring."""

    def __init__(self, settings: AdmissionSettings, slots: int = 1) -> None:
        self._settings = settings
        self._slots = slots
        self._draining = False
        self._running: dict[int, _Job] = {}
        # Dictionaries, because they keep their order and a job may leave from the middle.
        self._own: dict[int, _Job] = {}
        self._guests: dict[int, _Job] = {}
        self._coming: dict[int, _Job] = {}
        self._of_peer: Counter[PeerId] = Counter()
        self._first_s, self._prompt_token_s, self._job_s = FIRST_S, PROMPT_TOKEN_S, JOB_S

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._own) + len(self._guests)

    def jobs_of_peers(self) -> dict[PeerId, int]:
        """How many jobs of each peer run or wait here."""
        here = (*self._running.values(), *self._guests.values())
        return Counter(job.peer for job in here if job.peer is not None)

    def handle(self, event: AdmissionEvent, now: float) -> list[AdmissionEffect]:
        """The effects of an event, in their order."""
        match event:
            case Arrived():
                return self._arrived(event, now)
            case Ready(job):
                return self._ready(job, now)
            case FirstOutput(job):
                self._measure_first(job, now)
            case Left(job):
                return self._left(job, now)
            case SlotsAre(slots):
                self._slots = slots
                return self._fill(now)
            case _:
                self._draining = True
        return []

    def _arrived(self, event: Arrived, now: float) -> list[AdmissionEffect]:
        message = self._bar(event)
        if message is not None:
            return [TurnAway(event.job, message)]
        job = _Job(event.job, event.peer, event.prompt_tokens, event.stream)
        if event.peer is not None:
            self._of_peer[event.peer] += 1
        position = len(self._own) if event.peer is None else self.waiting
        self._coming[job.number] = job
        if event.ready and (admitted := self._ready(job.number, now)):
            return admitted
        if not event.ready and len(self._running) < self._slots:
            return [Expect(job.number, self._promise_s(job, 0))]
        return [Queue(job.number, position, self._promise_s(job, position + 1))]

    def _ready(self, number: int, now: float) -> list[AdmissionEffect]:
        job = self._coming.pop(number, None)
        if job is None:
            return []
        queue = self._guests if job.peer is not None else self._own
        queue[number] = job
        return self._fill(now)

    def _bar(self, event: Arrived) -> Busy | Refuse | None:
        """Why the job cannot come in."""
        settings = self._settings
        if event.peer is not None and self._draining:
            return Refuse(503, "no_capacity", "this node is stopping; ask another one")
        if event.peer is not None:
            # Coming jobs count as arrived, because all of them may arrive at once.
            full = len(self._running) + len(self._guests) + len(self._coming) >= self._slots + settings.queue
        else:
            full = len(self._running) >= self._slots and len(self._own) >= settings.queue
        if full or (event.peer is not None and self._of_peer[event.peer] >= settings.per_peer):
            wait_ms = round(1000 * self._wait_s(1 if not full else self.waiting + 1))
            return Busy(min(max(wait_ms, RETRY_LEAST_MS), RETRY_MOST_MS), self.running, self.waiting)
        return None

    def _left(self, number: int, now: float) -> list[AdmissionEffect]:
        job = self._running.pop(number, None)
        if job is not None:
            self._job_s += NEWEST * (now - job.admitted_at - self._job_s)
            if job.unsaid:
                # The caller left before the first output: promise the next caller at least that much.
                self._first_s = min(max(self._first_s, now - job.admitted_at), FIRST_MOST_S)
        queues = (self._own, self._guests, self._coming)
        job = job or next((queue.pop(number) for queue in queues if number in queue), None)
        if job is None:
            return []
        if job.peer is not None:
            self._of_peer[job.peer] -= 1
            if not self._of_peer[job.peer]:
                del self._of_peer[job.peer]
        return self._fill(now)

    def _fill(self, now: float) -> list[AdmissionEffect]:
        """Admit as many as there are slots for, own jobs first."""
        effects: list[AdmissionEffect] = []
        while len(self._running) < self._slots and (queue := self._own or self._guests):
            number = next(iter(queue))
            job = self._running[number] = queue.pop(number)
            job.admitted_at = now
            effects.append(Admit(number, self._promise_s(job, 0)))
        return effects

    # --- durations -------------------------------------------------------------------------------------------------

    def _measure_first(self, number: int, now: float) -> None:
        job = self._running.get(number)
        if job is None or not job.unsaid:
            return
        job.unsaid = False
        took = now - job.admitted_at
        if job.prompt_tokens >= LONG_PROMPT:
            per_token = max(0.0, took - self._first_s) / job.prompt_tokens
            self._prompt_token_s += NEWEST * (per_token - self._prompt_token_s)
        else:
            self._first_s += NEWEST * (took - self._first_s)

    def _wait_s(self, places: int) -> float:
        """Until so many jobs have left."""
        return places * self._job_s / max(1, self._slots)

    def _promise_s(self, job: _Job, places: int) -> float:
        return self._wait_s(places) + self._first_s + job.prompt_tokens * self._prompt_token_s
