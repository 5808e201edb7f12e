"""Jobs at the entry: the specification of a job, its record, and the book of recent records.

``/v1/jobs`` and ``why --request`` show the records: the attempts with their peers, times and outcomes.  A record never
contains a prompt or an answer.  Not here: running a job (``dispatch``).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
import trio

if TYPE_CHECKING:
    from protocol.routing.ranking import JobQuery

#: Most records, and their life after the end of the job, seconds (the API promises an hour).
MOST_RECORDS: Final = 10_000
KEPT_S: Final = 3600.0

PENDING: Final = "pending"
RUNNING: Final = "running"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
ENDED: Final = frozenset({COMPLETED, FAILED, CANCELLED})


@dataclass(frozen=True, slots=True)
class JobSpec:
    """The caller's request.  ``deadline`` is on trio's clock; with ``usage`` the stream ends with the usage event.

    ``prompt_tokens`` is an estimate, ``max_tokens`` is 0 if the caller set none; ``client`` names the caller's key.
    """

    job_id: bytes
    request_id: str
    path: str
    model: str
    body: bytes
    stream: bool
    usage: bool
    prompt_tokens: int
    max_tokens: int
    deadline: float | None
    query: JobQuery
    client: str = ""


class JobFailed(Exception):
    """The job failed; the fields are for the caller.

    ``retry_after`` is in seconds, ``should_retry`` is False if a retry cannot help; ``type`` is OpenAI's, empty for the
    usual one of the status.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str = "",
        retry_after: float | None = None,
        should_retry: bool | None = None,
        type: str = "",
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.should_retry = should_retry if should_retry is not None else retry_after is not None
        self.type = type


class AttemptRecord(msgspec.Struct):
    """One attempt at one peer.  Times in ``ms`` count from the request to the peer; ``started`` is Unix time."""

    peer: str
    started: float
    outcome: str = RUNNING
    code: str = ""
    ms: float | None = None
    accepted_ms: float | None = None
    first_ms: float | None = None
    pieces: int = 0
    blamed: bool = False


class Timings(msgspec.Struct):
    """Milliseconds since the arrival of the job until the entry committed to a peer, and until its end."""

    committed_ms: float | None = None
    total_ms: float | None = None


class JobRecord(msgspec.Struct):
    """The record of a job.  ``id`` is the request's, ``job`` is the id that peers see."""

    id: str
    job: str
    model: str
    path: str
    stream: bool
    created: float
    client: str = ""
    state: str = PENDING
    peer: str = ""
    route: str = ""
    attempts: list[AttemptRecord] = []
    timings: Timings = msgspec.field(default_factory=Timings)
    prompt_tokens: int = 0
    tokens_in: int | None = None
    tokens_out: int | None = None
    status: int | None = None
    code: str = ""
    message: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class JobBook:
    """Recent jobs by request id and by job id, the newest last; bounded, and emptied after an hour."""

    def __init__(
        self,
        most: int = MOST_RECORDS,
        kept_s: float = KEPT_S,
        clock: Callable[[], float] = trio.current_time,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._most = most
        self._kept_s = kept_s
        self._clock = clock
        self._wall = wall
        self._records: OrderedDict[str, tuple[JobRecord, float]] = OrderedDict()
        self._names: dict[str, str] = {}
        self._running: dict[str, Callable[[], None]] = {}

    @property
    def running(self) -> int:
        """The number of jobs that have not ended."""
        return len(self._running)

    def begin(self, spec: JobSpec, cancel: Callable[[], None]) -> JobRecord:
        """Open a record.  ``cancel`` ends the job without waiting."""
        record = JobRecord(
            id=spec.request_id,
            job=spec.job_id.hex(),
            model=spec.model,
            path=spec.path,
            stream=spec.stream,
            created=self._wall(),
            client=spec.client,
            prompt_tokens=spec.prompt_tokens,
        )
        self._forget(record.job)
        self._records[record.job] = (record, self._clock())
        self._names[record.id] = record.job
        self._running[record.job] = cancel
        self._tidy()
        return record

    def end(self, record: JobRecord) -> None:
        """The job ended; the record has its last state."""
        self._running.pop(record.job, None)
        if record.job in self._records:
            self._records[record.job] = (record, self._clock())

    def recent(self) -> Iterator[JobRecord]:
        """All records, the newest first."""
        self._tidy()
        return iter([record for record, _ in reversed(self._records.values())])

    def get(self, text: str) -> JobRecord | None:
        """The record of a request id or job id."""
        self._tidy()
        found = self._records.get(self._names.get(text, text))
        return found[0] if found is not None else None

    def cancel(self, text: str) -> bool:
        """Cancel a running job; False if it has ended or is unknown."""
        cancel = self._running.get(self._names.get(text, text))
        if cancel is None:
            return False
        cancel()
        return True

    def _tidy(self) -> None:
        """Drop the oldest records: those beyond the bound, and those that ended an hour ago."""
        while self._records:
            job, (record, at) = next(iter(self._records.items()))
            expired = record.ended and at <= self._clock() - self._kept_s
            if len(self._records) <= self._most and not expired:
                return
            self._forget(job)

    def _forget(self, job: str) -> None:
        record, _ = self._records.pop(job, (None, 0.0))
        if record is not None and self._names.get(record.id) == job:
            del self._names[record.id]
