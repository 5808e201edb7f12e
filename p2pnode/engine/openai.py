"""An engine that is a running OpenAI-compatible server: vLLM, SGLang, llama.cpp, Ollama, LM Studio.

Bodies and events pass through as bytes.  A body is re-encoded only if the operator offers the model under another
name.  The engine asks the server for its models until it answers, and every second for its load if it publishes one.
Not here: starting a server (``vllm_supervisor``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import msgspec
import trio

from p2pnode.engine import gauges, refusals
from p2pnode.engine.base import (
    RESPONSES,
    Changes,
    EngineFailed,
    EngineJob,
    EngineReply,
    EngineState,
    ModelSpec,
)
from p2pnode.engine.sse import Events, EventTooLong
from p2pnode.engine.upstream import Upstream, UpstreamBroken, UpstreamResponse
from p2pnode.json_types import JsonObject
from protocol.statements.adverts import Gpu, Load, ModelOffer, Status

#: Seconds between requests for the server's load (fast enough for a load period of 2 s), and for its models.
LOAD_S: Final = 1.0
MODELS_S: Final = 15.0
#: First and longest pause before a silent server is asked again, seconds, doubling (guess).
RETRY_FIRST_S: Final = 0.5
RETRY_MOST_S: Final = 10.0
#: Time limit of one such request, seconds.
POLL_LIMIT_S: Final = 5.0
#: Parallel jobs of a server that does not tell (guess: llama.cpp has 4, Ollama 4, vLLM 256).
DEFAULT_SLOTS: Final = 4
#: Most bytes of an error's body.
MOST_ERROR_BYTES: Final = 64 * 1024
#: Most bytes of a piece of an answer.
MOST_PIECE_BYTES: Final = 32 * 1024
#: Seconds between the last event and the end of the HTTP message.
DRAIN_S: Final = 1.0
_DONE: Final = b"[DONE]"
#: The last events of ``/v1/responses``, which has no ``[DONE]``; in the text of an answer the quotes are escaped.
_LAST_EVENTS: Final = (b'"response.completed"', b'"response.incomplete"', b'"response.failed"')


class _Listed(msgspec.Struct):
    id: str
    max_model_len: int | None = None
    root: str | None = None


class _Models(msgspec.Struct):
    data: list[_Listed] = []


class OpenAIEngine:
    """See the module's docstring.  ``key`` is the server's API key, from the environment or a file."""

    name = "openai"
    simulated = False

    def __init__(
        self,
        url: str,
        models: Sequence[ModelSpec] = (),
        *,
        gpus: tuple[Gpu, ...] = (),
        runtime: str = "none",
        key: str = "",
        slots: int = DEFAULT_SLOTS,
        salt: Callable[[str], str] | None = None,
    ) -> None:
        self._upstream = Upstream(url, key)
        self._specs = tuple(models)
        self._gpus = gpus
        self._slots = slots
        self._salt = salt
        self._offers: dict[str, ModelOffer] = {}
        self._upstream_names: dict[str, str] = {}
        self._running = 0
        self._gauges: gauges.Gauges | None = None
        self._tokens_s = 0.0
        self._changes = Changes()
        self.runtime = runtime
        self.state: EngineState = "starting"
        self.problem = f"waiting for the engine at {self._upstream.url}"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        pause = RETRY_FIRST_S
        try:
            while True:
                if await self.poll_models():
                    pause = RETRY_FIRST_S
                    await self._follow_load()
                else:
                    await trio.sleep(pause)
                    pause = min(2 * pause, RETRY_MOST_S)
        finally:
            self._become("stopped", "")
            self.close()

    def close(self) -> None:
        """Close the idle connections; ``run`` does it at its end."""
        self._upstream.close()

    async def poll_models(self) -> bool:
        """Ask for the models once, and set state, problem and offers."""
        try:
            status, body = await self._upstream.get("/v1/models", POLL_LIMIT_S)
            if status != 200:
                raise refusals.from_answer(status, body)
            listed = msgspec.json.decode(body, type=_Models).data
        except (UpstreamBroken, trio.TooSlowError) as error:
            why = str(error) or f"no answer within {POLL_LIMIT_S:.0f} s"
            self._lost(f"no engine answers at {self._upstream.url}; start it or correct the URL ({why})")
        except EngineFailed as error:
            self._lost(f"the engine at {self._upstream.url} does not list its models: {error.message}")
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._lost(f"the server at {self._upstream.url} is not OpenAI-compatible; correct the URL")
        else:
            self._found(listed)
            return self.state == "ready"
        return False

    def _lost(self, problem: str) -> None:
        self._offers = {}
        self._become("failed", problem)

    def _found(self, listed: list[_Listed]) -> None:
        by_id = {model.id: model for model in listed}
        specs = self._specs or tuple(ModelSpec(name) for name in by_id)
        offers, names, missing = {}, {}, []
        for spec in specs:
            model = by_id.get(spec.name) or by_id.get(spec.source)
            if model is None:
                missing.append(spec.name)
                continue
            offers[spec.name] = spec.offer(context=model.max_model_len or 0)
            names[spec.name] = model.id
        changed = offers != self._offers
        self._offers, self._upstream_names = offers, names
        problem = ""
        if missing:
            problem = f"the engine does not have {', '.join(missing)}; it has {', '.join(by_id) or 'no models'}"
        self._become("ready" if offers else "failed", problem, changed)

    def _become(self, state: EngineState, problem: str, changed: bool = False) -> None:
        changed = changed or (state, problem) != (self.state, self.problem)
        self.state, self.problem = state, problem
        if changed:
            self._changes.announce()

    async def _follow_load(self) -> None:
        """Poll the load until it is time to list the models again, or the server is gone."""
        for _ in range(round(MODELS_S / LOAD_S)):
            try:
                status, body = await self._upstream.get("/metrics", POLL_LIMIT_S)
            except (UpstreamBroken, trio.TooSlowError):
                return
            self._note(gauges.read(body) if status == 200 else None)
            await trio.sleep(LOAD_S)

    def _note(self, new: gauges.Gauges | None) -> None:
        old, self._gauges = self._gauges, new
        if old is not None and new is not None:
            self._tokens_s = max(0.0, new.generated - old.generated) / LOAD_S

    def offers(self) -> tuple[ModelOffer, ...]:
        return tuple(self._offers.values())

    def gpus(self) -> tuple[Gpu, ...]:
        return self._gpus

    def load(self) -> Load:
        """The server's gauges if it publishes them; in any case at least this node's own jobs."""
        running, waiting, kv = self._running, max(0, self._running - self._slots), 0.0
        if self._gauges is not None:
            running = max(running - self._gauges.waiting, self._gauges.running)
            waiting, kv = self._gauges.waiting, self._gauges.kv
        return Load(
            status=int(Status.BUSY if waiting else Status.ONLINE),
            running=running,
            waiting=waiting,
            slots=self._slots if self.state == "ready" else 0,
            kv_permille=round(1000 * kv),
            tokens_s=round(self._tokens_s),
        )

    async def wait_changed(self, seen: int | None = None) -> int:
        return await self._changes.wait(seen)

    def open(self, job: EngineJob) -> AbstractAsyncContextManager[EngineReply]:
        return self._open(job)

    @asynccontextmanager
    async def _open(self, job: EngineJob) -> AsyncIterator[EngineReply]:
        if self.state != "ready":
            await trio.lowlevel.checkpoint()
            raise EngineFailed(503, "engine_not_ready", self.problem or "the engine is not ready; try again shortly")
        self._running += 1
        try:
            async with self._upstream.ask("POST", job.path, self._body(job)) as answer:
                if answer.status >= 400:
                    raise refusals.from_answer(answer.status, await answer.body(MOST_ERROR_BYTES))
                yield _StreamReply(answer, job.path) if job.stream else _WholeReply(answer)
        except UpstreamBroken as error:
            raise _broken(error) from error
        finally:
            self._running -= 1

    def _body(self, job: EngineJob) -> bytes:
        """The caller's bytes, with the engine's own name for the model, and a cache salt for a guest."""
        body = job.body
        name = self._upstream_names.get(job.model, job.model)
        if name != job.model:
            try:
                fields: JsonObject = msgspec.json.decode(body, type=JsonObject)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise EngineFailed(400, "invalid_json", f"the body is not a JSON object: {error}") from error
            body = msgspec.json.encode(fields | {"model": name})
        if self._salt is not None and job.client and b"}" in body:
            # Of two equal keys the last one wins, so the salt goes to the end.
            end = body.rindex(b"}")
            comma = b"," if body[:end].rstrip()[-1:] != b"{" else b""
            body = body[:end] + comma + b'"cache_salt":' + msgspec.json.encode(self._salt(job.client)) + b"}"
        return body


def _broken(error: UpstreamBroken) -> EngineFailed:
    return EngineFailed(502, "engine_failed", f"the engine broke off ({error}); another node may have the model")


class _WholeReply:
    """The body, piece by piece.  If the server does not declare its length, the body must be complete JSON."""

    status = 200

    def __init__(self, answer: UpstreamResponse) -> None:
        self._answer = answer
        self._unframed: list[bytes] | None = None if answer.framed else []
        self.content_type = answer.content_type

    async def receive(self) -> list[bytes]:
        try:
            data = await self._answer.receive()
        except UpstreamBroken as error:
            raise _broken(error) from error
        if self._unframed is not None:
            self._unframed.append(data)
            if not data:
                self._check(b"".join(self._unframed))
        return [data[start : start + MOST_PIECE_BYTES] for start in range(0, len(data), MOST_PIECE_BYTES)]

    def _check(self, body: bytes) -> None:
        try:
            msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _broken(UpstreamBroken("its answer is incomplete")) from error


class _StreamReply:
    """The events of a stream.  It is complete after ``[DONE]``, or in ``/v1/responses`` after its last event."""

    status = 200

    def __init__(self, answer: UpstreamResponse, path: str) -> None:
        self._answer = answer
        self._events = Events()
        self._done = False
        self._failure: EngineFailed | None = None
        self._named = path == RESPONSES
        self.content_type = answer.content_type

    async def receive(self) -> list[bytes]:
        while self._failure is None and not self._answer.complete:
            # After [DONE] only the end of the HTTP message is missing; the connection is reused only if it comes.
            with trio.move_on_after(DRAIN_S if self._done else float("inf")) as drain:
                pieces = self._pieces(await self._more())
            if drain.cancelled_caught:
                break
            if pieces:
                return pieces
        await trio.lowlevel.checkpoint()
        if self._failure is not None:
            raise self._failure
        if not self._done:
            raise _broken(UpstreamBroken("its stream ended too early"))
        return []

    async def _more(self) -> list[bytes]:
        try:
            return self._events.feed(await self._answer.receive())
        except (UpstreamBroken, EventTooLong) as error:
            raise _broken(UpstreamBroken(str(error))) from error

    def _pieces(self, events: list[bytes]) -> list[bytes]:
        pieces: list[bytes] = []
        for data in events:
            if data == _DONE:
                self._done = True
                continue
            self._failure = refusals.from_event(data)
            if self._failure is not None:
                break
            self._done = self._done or (self._named and any(name in data for name in _LAST_EVENTS))
            pieces.append(data if b"\n" not in data else data.replace(b"\n", b""))
        return pieces
