"""Runs one job on the engine, for the worker (jobs of guests) and for ``dispatch`` (this node's own jobs).

A failure is returned as a ``Refuse``, whose status says whether the request or the node is at fault; only
``Cancelled`` is raised.  Not here: admission (``engine_slots``), frames (``worker``).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from p2pnode.engine.base import EngineFailed, EngineJob
from p2pnode.jobs.usage import Tally, asking_for_usage
from protocol.wire.messages import Refuse

if TYPE_CHECKING:
    from p2pnode.engine.base import Engine, EngineReply

log = logging.getLogger(__name__)

#: Bytes of one piece of an answer that is not streamed.
PIECE_BYTES: Final = 32 * 1024
#: Bytes of one event of a stream: the size of a frame.
MOST_EVENT_BYTES: Final = 64 * 1024
#: Most characters of a code and of a message.
_CODE: Final = 64
_MESSAGE: Final = 1000

Sink = Callable[[list[bytes]], Awaitable[None]]


async def run_on_engine(engine: Engine, job: EngineJob, tally: Tally, sink: Sink) -> Refuse | None:
    """Pass every piece to ``sink``; returns None when the answer is complete, else the failure."""
    if job.stream:
        body = asking_for_usage(job.path, job.body)
        job = EngineJob(job.path, job.model, body, True, job.client, job.prompt_tokens, job.max_tokens)
    try:
        async with engine.open(job) as reply:
            await _pass_on(reply, job.stream, tally, sink)
    except EngineFailed as failed:
        return refusal_of(failed)
    except Exception:
        log.exception(
            "engine_defect", extra={"note": "a defect of p2pnode or of its engine adapter; please report this"}
        )
        return Refuse(500, "engine_failed", "the serving node has a defect; its log says more")
    return None


async def _pass_on(reply: EngineReply, stream: bool, tally: Tally, sink: Sink) -> None:
    while batch := await reply.receive():
        pieces = tally.pass_on(batch)
        pieces = [_event(piece) for piece in pieces] if stream else _cut(pieces)
        if pieces:
            await sink(pieces)


def _event(piece: bytes) -> bytes:
    """One event in the form for the wire: one JSON object on one line."""
    if b"\n" in piece or b"\r" in piece:
        piece = piece.replace(b"\r", b"").replace(b"\n", b"")
    if len(piece) > MOST_EVENT_BYTES:
        raise EngineFailed(
            502, "engine_failed", f"the engine made an event of {len(piece)} bytes; ask for less at once"
        )
    if piece[:1] != b"{" or piece[-1:] != b"}":
        piece = piece.strip()
        if not (piece.startswith(b"{") and piece.endswith(b"}")):
            raise EngineFailed(502, "engine_failed", "the engine made an event that is not a JSON object")
    return piece


def _cut(pieces: list[bytes]) -> list[bytes]:
    return [
        piece[start : start + PIECE_BYTES] for piece in pieces for start in range(0, len(piece), PIECE_BYTES) if piece
    ]


def refusal_of(failed: EngineFailed) -> Refuse:
    """The refusal for an engine's failure.

    It is ``final`` if every other peer would refuse as well, and not if only this engine lacks the model or the time.
    """
    status = failed.status if 400 <= failed.status < 600 else 502
    final = status < 500 and status not in (408, 429) and failed.code != "model_not_found"
    return Refuse(status, failed.code[:_CODE], failed.message[:_MESSAGE], failed.param[:_CODE], final)
