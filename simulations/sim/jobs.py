"""A job as the simulated network passes it around, and the data that only its engine may know.

Oracle boundary: an entry, a ranking or an admission sees only :class:`Job`, which has no field for the real length of
the answer.  :class:`Truth` goes to the engine alone.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from protocol.ids import JOB_ID_BYTES, JobId
from protocol.jobs.cascade_events import CascadeEvent
from simulations.sim.endpoint import Endpoint
from simulations.workload.workload import Arrival

#: Bytes of a body per token of its text, and beside them (four characters a token, JSON around it): of a request, and
#: of an answer that is not streamed.
BODY_TOKEN_BYTES: Final = 4
BODY_BYTES: Final = 256
#: Bytes of a REQ, an ACCEPT, a BUSY or REFUSE, a BEAT, an END, an RST on the wire (by ``protocol.wire.messages``).
REQ_BYTES: Final = 96
ACCEPT_BYTES: Final = 24
REFUSAL_BYTES: Final = 48
BEAT_BYTES: Final = 0
END_BYTES: Final = 110
RST_BYTES: Final = 4
#: More of them with the load of the worker.
FRESH_BYTES: Final = 13
#: Bytes of one streamed piece with its frame's head: the JSON of a chunk with one token, usage asked for (measured on
#: the mock engine's answers); what comes before the first, the role; and after the last, the reason and the usage.
PIECE_BYTES: Final = 250
FIRST_BYTES: Final = 266
LAST_BYTES: Final = 474


#: The stages of the time to the first token.  ``choice`` ends with the first attempt, ``retries`` with the attempt that
#: answers.  The others belong to that attempt: the dial, the way of the request, the queue of the worker, the queue of
#: its engine (loading a model, other prompts), the prompt up to the first token, the rest of an answer that is not
#: streamed, and the way back.
STAGES: Final = ("choice", "retries", "dial", "way_there", "admission", "engine", "prompt", "answer", "way_back")


@dataclass(frozen=True, slots=True)
class Job:
    """The data about a job that is known before it is done."""

    number: int
    model: str
    prompt_tokens: int
    max_tokens: int
    streamed: bool
    blocks: tuple[int, ...]
    session: int
    asked_at: float

    @property
    def body_bytes(self) -> int:
        return BODY_BYTES + BODY_TOKEN_BYTES * self.prompt_tokens


@dataclass(frozen=True, slots=True)
class Truth:
    """The number of tokens of the answer, which is secret until the job is done."""

    output_tokens: int


def job_of(number: int, arrival: Arrival) -> tuple[Job, Truth]:
    """An arrival, cut at the oracle boundary."""
    job = Job(
        number,
        arrival.model,
        arrival.prompt_tokens,
        arrival.max_tokens,
        arrival.streamed,
        arrival.blocks,
        arrival.session,
        arrival.at,
    )
    return job, Truth(arrival.output_tokens)


def job_id(job: Job) -> JobId:
    """The id that stands in REQ and under the signature of END."""
    return JobId(job.number.to_bytes(JOB_ID_BYTES, "big"))


class SimAttempt:
    """One attempt of a job at one worker: the channel between the two.  Each end uses its own half."""

    __slots__ = (
        "aborted",
        "accepted_at",
        "arrived_at",
        "begun_at",
        "entry",
        "entry_life",
        "first_at",
        "gpu_from",
        "gpu_s",
        "heard",
        "heard_end",
        "job",
        "linked_at",
        "model",
        "number",
        "over",
        "read_at",
        "said_at",
        "sent",
        "tried_at",
        "truth",
        "worker",
        "worker_life",
    )

    def __init__(
        self,
        number: int,
        job: Job,
        truth: Truth,
        entry: Endpoint,
        worker: Endpoint,
        heard: Callable[[SimAttempt, CascadeEvent], object],
        heard_end: Callable[[SimAttempt, bytes, bytes], object],
    ) -> None:
        self.number = number
        self.job = job
        self.truth = truth
        self.entry = entry
        self.worker = worker
        #: At the entry: takes what the worker says of it; takes the bytes of END, and what was said before it.
        self.heard = heard
        self.heard_end = heard_end
        self.entry_life = self.worker_life = 0
        #: At the entry: when it began, and when its link stood.
        self.tried_at: float | None = None
        self.linked_at: float | None = None
        #: At the worker: when it had come, was accepted, was given to the engine, its prompt began to be read, its
        #: first token was there, and the answer or its first piece was sent; pieces sent so far.
        self.arrived_at: float | None = None
        self.accepted_at: float | None = None
        #: At the worker: the model that answers, as it was when the request came.
        self.model: str | None = None
        self.begun_at: float | None = None
        self.read_at: float | None = None
        self.first_at: float | None = None
        self.said_at: float | None = None
        self.sent = 0
        #: At the worker: the state of ``GpuShare`` when the attempt began, and the GPU seconds that it took.
        self.gpu_from = self.gpu_s = 0.0
        #: At the entry: nothing that still comes counts.
        self.aborted = False
        #: At the worker: done with it.
        self.over = False

    def stages(self, asked_at: float, first_try_at: float, now: float) -> array[float]:
        """Seconds of each of ``STAGES`` if the caller gets the first piece now.

        A stage that did not happen, such as a dial over a standing link, has no seconds.  The worker of an attacker may
        record nothing; its time then counts as the way back.
        """
        stamps = (
            first_try_at,
            self.tried_at,
            self.linked_at,
            self.arrived_at,
            self.begun_at,
            self.read_at,
            self.first_at,
            self.said_at,
            now,
        )
        seconds, before = array("d"), asked_at
        for stamp in stamps:
            after = before if stamp is None else stamp
            seconds.append(after - before)
            before = after
        return seconds


class GpuShare:
    """The seconds of one GPU, divided evenly among the jobs that are in its engine."""

    __slots__ = ("_at", "_jobs", "_seconds")

    def __init__(self) -> None:
        #: GPU seconds of a job that was there from the start, the time of that figure, and the number of jobs now.
        self._seconds = self._at = 0.0
        self._jobs = 0

    def begin(self, attempt: SimAttempt, now: float) -> None:
        """An attempt enters the engine."""
        self._pass(now)
        self._jobs += 1
        attempt.gpu_from = self._seconds

    def end(self, attempt: SimAttempt, now: float) -> None:
        """It leaves."""
        self._pass(now)
        self._jobs -= 1
        attempt.gpu_s = self._seconds - attempt.gpu_from

    def _pass(self, now: float) -> None:
        self._seconds += (now - self._at) / max(1, self._jobs)
        self._at = now
