"""The interface of the node that the API uses.

``status_view`` implements it, and so does a scripted fake in the tests.  Not here: any behaviour.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from p2pnode.jobs.records import JobRecord, JobSpec
from p2pnode.json_types import JsonObject
from p2pnode.metrics import Metrics
from p2pnode.state.keys import Keyring
from protocol.ids import PeerId
from protocol.routing.ranking import JobQuery, Ranking


class AnswerStream(Protocol):
    """A job that has begun to answer."""

    peer: PeerId
    attempts: int
    route: str

    async def receive(self) -> list[bytes]:
        """All pieces that have arrived; an empty list when the answer is complete.  Raises ``JobFailed``."""
        ...


class Dispatching(Protocol):
    """The part of ``dispatch.Dispatch`` that the API uses."""

    def submit(self, spec: JobSpec) -> AbstractAsyncContextManager[AnswerStream]:
        """Entering returns once the first piece has arrived, or raises ``JobFailed``; leaving cancels the job."""
        ...

    def explain(self, query: JobQuery) -> Ranking: ...


class Jobs(Protocol):
    """The book of recent jobs."""

    def recent(self) -> Iterable[JobRecord]: ...

    def get(self, text: str) -> JobRecord | None: ...

    def cancel(self, text: str) -> bool: ...


class Gateway(Protocol):
    """The node behind the API."""

    dispatch: Dispatching
    jobs: Jobs
    keys: Keyring
    metrics: Metrics
    #: The zone of a request that names none.
    zone: str

    def status(self) -> JsonObject: ...

    def peers(self) -> list[JsonObject]: ...

    def models(self) -> list[JsonObject]: ...

    def ready(self) -> tuple[bool, list[str]]:
        """Whether requests can be served, and why not."""
        ...
