"""The engine as the rest of the daemon sees it: what it offers, how busy it is, and how a job is run on it.

Not here: any engine.  An engine's own trouble never raises out of ``run``: it shows as ``state`` and ``problem``, and
as ``EngineFailed`` on the jobs it could not do.
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
#: What a job may ask of an engine.
PATHS: Final = frozenset({CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES})


class EngineFailed(Exception):
    """The engine could not do a job.  ``status`` is the HTTP status it means, ``message`` one line for the user.

    A status below 500 means that the request itself is at fault, so that another engine would refuse it as well;
    ``param`` then names the field.
    """

    def __init__(self, status: int, code: str, message: str, param: str = "") -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.param = param


@dataclass(frozen=True, slots=True)
class EngineJob:
    """One request of the OpenAI API, as its body came.

    ``client`` names who asked: jobs of different clients share no prefix cache.  ``prompt_tokens`` is an estimate and
    ``max_tokens`` 0 if the caller set none.
    """

    path: str
    model: str
    body: bytes
    stream: bool = False
    client: str = ""
    prompt_tokens: int = 0
    max_tokens: int = 0


class EngineReply(Protocol):
    """The answer as it comes.  Only ``status`` 200 is an answer; an engine raises ``EngineFailed`` for the rest."""

    status: int
    content_type: str

    async def receive(self) -> list[bytes]:
        """All that waits, at least one piece; an empty list at the end, which is proof that the answer is complete.

        In a stream a piece is the JSON text of one server-sent event (``[DONE]`` removed), else a part of the body.

        Raises:
          EngineFailed: the engine broke off, after whatever was received so far.
        """
        ...


class Engine(Protocol):
    """What runs models.  The attributes may be read at any time and never wait."""

    name: str
    runtime: str
    simulated: bool

    @property
    def state(self) -> EngineState: ...

    @property
    def problem(self) -> str:
        """One line that says what is wrong and what to do; empty if nothing is."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Live until cancelled.  ``started`` comes at once: models load while the node is already answering."""
        ...

    def offers(self) -> tuple[ModelOffer, ...]:
        """The models that can be asked for now."""
        ...

    def gpus(self) -> tuple[Gpu, ...]: ...

    def load(self) -> Load:
        """How busy it is: the newest snapshot."""
        ...

    async def wait_changed(self, seen: int | None = None) -> int:
        """Wait until offers, state or problem change; returns a count to pass as ``seen`` next time."""
        ...

    def open(self, job: EngineJob) -> AbstractAsyncContextManager[EngineReply]:
        """Run a job.  Leaving the block stops the generation at once.

        Raises:
          EngineFailed: the engine refused or broke off before the first piece.
        """
        ...


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as the operator offers it: ``name`` to the network, ``source`` is a folder or a hub id.

    ``revision`` pins a hub id.  Prices are USD per million tokens, ``context`` in tokens; 0 and "" mean: ask the
    engine.
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
        """What the advert says of it; ``context`` is what the engine reported, which the operator may only lower."""
        known = min(context, self.context) if context and self.context else context or self.context
        # Two nodes may keep the same model in different folders: a path is no part of what it is.
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
    """A counter that can be waited for: how an engine tells that it should be advertised anew."""

    def __init__(self) -> None:
        self._count = 0
        self._event = trio.Event()

    def announce(self) -> None:
        """Wake everybody who waits."""
        self._count += 1
        self._event.set()
        self._event = trio.Event()

    async def wait(self, seen: int | None = None) -> int:
        """Return at once if something changed since ``seen``, else at the next change."""
        if seen is None or seen == self._count:
            await self._event.wait()
        return self._count
