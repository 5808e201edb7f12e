"""OpenAI's endpoints that run a model: they read a few fields, submit the job, and stream its answer to the client.

The head is sent with the first piece.  Before that a failure is an ordinary error answer; afterwards it is the last
event of the stream.  The job is cancelled when the request ends for any reason.  These endpoints bypass Quart, whose
request and response objects would cost more than all the rest.  The choice of a peer is not made here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import structlog
import trio

from p2pnode.http import sse
from p2pnode.http.body import Fields, prompt_tokens, read, without_provider
from p2pnode.http.errors import JSON, ApiError, Headers, of_job
from p2pnode.http.gate import check_content
from p2pnode.http.gateway import AnswerStream, Gateway
from p2pnode.http.preferences import job_query, milliseconds, unsupported
from p2pnode.http.request import Request
from p2pnode.jobs.records import JobFailed, JobSpec
from p2pnode.metrics import ModelMetrics
from protocol.ids import peer_text, short
from protocol.routing.ranking import JobQuery

#: Bytes of an answer that is not streamed (guess: 2,000 embeddings of 4,096 numbers as base64 are 44 MB).
MOST_ANSWER_BYTES: Final = 64 * 1024 * 1024
#: The label of requests for models that no peer offers: a caller must not be able to create labels.
UNKNOWN: Final = "unknown"

_log = structlog.get_logger("p2pnode.http")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A path, its required field, and the form of its streams."""

    path: str
    needed: str
    #: Events carry their type as a name, and no ``[DONE]`` follows the last one (``/v1/responses``).
    named_events: bool = False
    streams: bool = True


ENDPOINTS: Final = (
    Endpoint("/v1/chat/completions", "messages"),
    Endpoint("/v1/completions", "prompt"),
    Endpoint("/v1/embeddings", "input", streams=False),
    Endpoint("/v1/responses", "input", named_events=True),
)


class _Type(msgspec.Struct):
    type: str = "message"


_TYPE: Final = msgspec.json.Decoder(_Type)


async def read_query(request: Request, endpoint: Endpoint, usual_zone: str) -> tuple[bytes, Fields, JobQuery]:
    """The body of a request, its fields and its query; raises ``ApiError``."""
    check_content(request)
    body = await request.body()
    fields = read(body, endpoint.needed)
    if endpoint.named_events and (trouble := unsupported(fields)):
        raise trouble
    query = job_query(fields, request.headers, request.key, prompt_tokens(fields), usual_zone)
    return body, fields, replace(query, body_bytes=len(body))


class Completions:
    """One endpoint, as a function of a request."""

    def __init__(self, gateway: Gateway, endpoint: Endpoint) -> None:
        self._gateway = gateway
        self._endpoint = endpoint

    async def __call__(self, request: Request) -> None:
        started = trio.current_time()
        body, fields, query = await read_query(request, self._endpoint, self._gateway.zone)
        if fields.provider is not None and fields.provider.allow_fallbacks is False and not query.order:
            query = self._best_only(query)
        spec = self._spec(request, body, fields, query, started)
        progress = _StreamState(self._gateway, request, spec, started)
        try:
            async with self._gateway.dispatch.submit(spec) as answer:
                progress.committed(answer)
                headers = _headers(answer, progress.waited)
                if spec.stream:
                    await self._stream(request, answer, headers, progress)
                else:
                    await _whole(request, answer, headers)
                progress.outcome = "completed"
        except JobFailed as failed:
            progress.failed(failed)
            if request.begun:
                await request.end(sse.error(of_job(failed)))
            else:
                raise of_job(failed) from None
        finally:
            progress.end()

    def _best_only(self, query: JobQuery) -> JobQuery:
        """``allow_fallbacks: false``: only the first choice."""
        best = self._gateway.dispatch.explain(query).candidates[:1]
        return replace(query, only=tuple(peer_text(candidate.peer) for candidate in best) or query.only)

    def _spec(self, request: Request, body: bytes, fields: Fields, query: JobQuery, now: float) -> JobSpec:
        limit = milliseconds(request.headers, b"x-deadline-ms")
        options = fields.stream_options
        return JobSpec(
            job_id=os.urandom(16),
            request_id=request.id,
            path=self._endpoint.path,
            model=fields.model,
            body=body if fields.provider is None else without_provider(body),
            stream=bool(fields.stream) and self._endpoint.streams,
            usage=bool(options and options.include_usage),
            prompt_tokens=query.prompt_tokens,
            max_tokens=fields.tokens_out,
            deadline=None if limit is None else now + limit / 1000,
            query=query,
            client=request.key.name if request.key is not None else "",
        )

    async def _stream(self, request: Request, answer: AnswerStream, headers: Headers, progress: _StreamState) -> None:
        batch = await answer.receive()
        headers += [
            (b"content-type", sse.CONTENT_TYPE),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        named = self._endpoint.named_events
        await request.begin(200, headers)
        while batch:
            progress.pieces += len(batch)
            await request.piece(_named(batch) if named else sse.events(batch))
            while True:
                with trio.move_on_after(sse.KEEP_ALIVE_S) as quiet:
                    batch = await answer.receive()
                if not quiet.cancelled_caught:
                    break
                await request.piece(sse.KEEP_ALIVE)
        await request.end(b"" if named else sse.DONE)


async def _whole(request: Request, answer: AnswerStream, headers: Headers) -> None:
    pieces: list[bytes] = []
    length = 0
    while batch := await answer.receive():
        pieces += batch
        length += sum(map(len, batch))
        if length > MOST_ANSWER_BYTES:
            raise ApiError(502, "peer_failed", "The answer is longer than 64 MiB: ask for less at once.")
    await request.answer(b"".join(pieces), kind=JSON, headers=headers)


def _headers(answer: AnswerStream, waited: float) -> Headers:
    return [
        (b"x-p2pnode-peer", short(answer.peer).encode()),
        (b"x-p2pnode-attempts", b"%d" % answer.attempts),
        (b"x-p2pnode-route", answer.route.encode()),
        (b"server-timing", b"dispatch;dur=%.1f" % (waited * 1000)),
    ]


def _named(texts: list[bytes]) -> bytes:
    """Events of the Responses API: each carries the type in its data as its name."""
    return b"".join(b"event: %b\ndata: %b\n\n" % (_TYPE.decode(text).type.encode(), text) for text in texts)


class _StreamState:
    """Records one request for the metrics and the log."""

    def __init__(self, gateway: Gateway, request: Request, spec: JobSpec, started: float) -> None:
        self._gateway = gateway
        self._request = request
        self._spec = spec
        self._started = started
        self._numbers: ModelMetrics | None = None
        #: The outcome unless another one is set: the client left.
        self.outcome = "cancelled"
        self.waited = 0.0
        self.pieces = 0

    def committed(self, answer: AnswerStream) -> None:
        """A peer has begun to answer."""
        self.waited = trio.current_time() - self._started
        metrics = self._gateway.metrics
        metrics.cascades.labels(str(answer.attempts)).inc()
        self._numbers = metrics.of_model(self._spec.model)
        self._numbers.prompt_tokens.inc(self._spec.prompt_tokens)
        if self._spec.stream:
            self._numbers.first_token.observe(self.waited)

    def failed(self, failed: JobFailed) -> None:
        """The job failed."""
        self.outcome = "failed" if failed.status >= 500 else "refused"
        request, facts = self._request, {"model": self._spec.model, "code": failed.code, "reason": failed.message}
        _log.info("request_failed", request_id=request.id, status=failed.status, begun=request.begun, **facts)

    def end(self) -> None:
        """Count it."""
        seconds = trio.current_time() - self._started
        record = self._gateway.jobs.get(self._request.id)
        attempts = record.attempts if record is not None else []
        # An attempt proves that a peer offers the model, so the label is not the caller's invention.
        numbers = self._numbers or self._gateway.metrics.of_model(self._spec.model if attempts else UNKNOWN)
        numbers.ended(self.outcome, seconds)
        if self.pieces:
            numbers.generation_tokens.inc(self.pieces)
        if self.pieces > 1:
            numbers.inter_token.observe((seconds - self.waited) / (self.pieces - 1))
        for attempt in attempts:
            self._gateway.metrics.attempted(attempt.outcome, attempt.code)
