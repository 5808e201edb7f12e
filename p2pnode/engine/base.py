"""The interface of an engine: its offers, its load, and how it runs a job.

Not here: any engine.  A failing engine does not raise out of ``run``: the failure shows in ``state`` and ``problem``,
and as ``EngineFailed`` on its jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import trio

from protocol.ids import model_id
from protocol.statements.adverts import Gpu, Load, ModelOffer, ModelState

EngineState = Literal["starting", "ready", "failed", "stopped"]

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
EMBEDDINGS: Final = "/v1/embeddings"
RESPONSES: Final = "/v1/responses"
#: The endpoints that an engine may serve.
PATHS: Final = frozenset({CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES})


class EngineFailed(Exception):
    """The engine failed or refused a job.  ``status`` is an HTTP status, ``message`` one line for the user.

    A status below 500 means that the request itself is wrong, so another engine would refuse it as well; ``param``
    then names the field.
    """

    def __init__(self, status: int, code: str, message: str, param: str = "") -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.param = param


@dataclass(frozen=True, slots=True)
class EngineJob:
    """One request of the OpenAI API with its unchanged body.

    ``client`` names the requester: jobs of different clients share no prefix cache.  ``prompt_tokens`` is an estimate.
    ``max_tokens`` is 0 if the caller set none.
    """

    path: str
    model: str
    body: bytes
    stream: bool = False
    client: str = ""
    prompt_tokens: int = 0
    max_tokens: int = 0


class EngineReply(Protocol):
    """A streamed answer.  ``status`` is always 200; an engine raises ``EngineFailed`` for every other status."""

    status: int
    content_type: str

    async def receive(self) -> list[bytes]:
        """All pieces that have arrived, at least one; an empty list proves that the answer is complete.

        In a stream a piece is the JSON text of one server-sent event (``[DONE]`` removed), else a part of the body.

        Raises:
          EngineFailed: the engine broke off; the pieces received before stay valid.
        """
        ...


class Engine(Protocol):
    """Runs models.  Its attributes may be read at any time and never wait."""

    name: str
    runtime: str
    simulated: bool

    @property
    def state(self) -> EngineState: ...

    @property
    def problem(self) -> str:
        """One line with the problem and its remedy; empty if there is no problem."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled.  ``started`` is called at once: models load while the node already answers."""
        ...

    def offers(self) -> tuple[ModelOffer, ...]:
        """The models that the engine serves now."""
        ...

    def gpus(self) -> tuple[Gpu, ...]: ...

    def load(self) -> Load:
        """The newest load figures."""
        ...

    async def wait_changed(self, seen: int | None = None) -> int:
        """Wait until offers, state or problem change; returns a version to pass as ``seen`` in the next call."""
        ...

    def open(self, job: EngineJob) -> AbstractAsyncContextManager[EngineReply]:
        """Run a job.  Leaving the block stops its generation at once.

        Raises:
          EngineFailed: the engine refused or broke off before the first piece.
        """
        ...


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as the operator configures it: ``name`` in the network, ``source`` a folder or a hub id.

    ``revision`` pins a hub id.  Prices are in USD per million tokens, ``context`` is in tokens; 0 and "" mean that the
    engine decides.
    """

    name: str
    source: str = ""
    revision: str = ""
    quantization: str = ""
    context: int = 0
    price_in: float = 0.0
    price_out: float = 0.0
    params_b: float = 0.0
    vram_mib: int = 0
    capabilities: tuple[str, ...] = ()
    family: str = ""
    template_hash: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def offer(self, *, context: int = 0, state: ModelState = ModelState.RESIDENT) -> ModelOffer:
        """Its entry in the advert; ``context`` is the engine's limit, which the operator may only lower."""
        known = min(context, self.context) if context and self.context else context or self.context
        # Two nodes may keep the same model in different folders, so the path is not part of its fingerprint.
        family = self.family or self.source.rstrip("/").rsplit("/", 1)[-1] or self.name
        return ModelOffer(
            name=self.name,
            fingerprint=model_id(family, self.revision, self.quantization, self.template_hash, known),
            state=int(state),
            context=known,
            quantization=self.quantization,
            capabilities=self.capabilities,
            price_in=self.price_in,
            price_out=self.price_out,
            vram_mib=self.vram_mib,
            params_b=self.params_b,
        )


class Changes:
    """A version counter with a wait: an engine raises it when its advert is out of date."""

    def __init__(self) -> None:
        self._count = 0
        self._event = trio.Event()

    def announce(self) -> None:
        """Wake all waiting tasks."""
        self._count += 1
        self._event.set()
        self._event = trio.Event()

    async def wait(self, seen: int | None = None) -> int:
        """Return the version; wait for a change unless the version already differs from ``seen``."""
        if seen is None or seen == self._count:
            await self._event.wait()
        return self._count
