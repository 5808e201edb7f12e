"""What a lying worker does with a job: one coroutine for each kind.  The claims of a liar are in ``liar``.

A kind is told by what the caller's node sees, because that decides what it can learn.  ``TEXT`` are the kinds that a
node cannot tell from an honest answer without an audit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio

from p2pnode.swarm.peerlink import Channel
from protocol.ids import JobId
from protocol.statements.keys import Signer
from protocol.wire.end_signature import sign_end
from protocol.wire.messages import ACCEPT, BEAT, BUSY, DELTA, END, REFUSE, Accept, Busy, End, JobRequest, Refuse, encode

#: Seconds between BEATs, as a patient worker sends them.
BEAT_S: Final = 0.5
#: Seconds between the pieces of the slow kind: a little more than half a piece a second.
SLOW_S: Final = 1.9
#: Bytes of a piece of a flood.
FLOOD_BYTES: Final = 20_000
#: The longest promise that ACCEPT can carry, milliseconds.
LONGEST_MS: Final = (1 << 31) - 1


@dataclass
class LiedTo:
    """One job of a victim, and the frames that a lie sends."""

    channel: Channel
    request: JobRequest
    signer: Signer

    def __post_init__(self) -> None:
        self._digest = hashlib.sha256()

    async def accept(self, ttft_ms: int = 0) -> None:
        await self.channel.send(ACCEPT, encode(Accept(self.request.job, 0, ttft_ms)))

    async def beat(self) -> None:
        await self.channel.send(BEAT, b"")

    async def say(self, text: str) -> None:
        """A well-formed event of a stream, or a well-formed whole answer."""
        kind = {"chat.completion.chunk": "delta"} if self.request.stream else {"chat.completion": "message"}
        ((name, part),) = kind.items()
        choice = {"index": 0, part: {"role": "assistant", "content": text}, "finish_reason": None}
        body = {"id": "chatcmpl-1", "object": name, "created": 1, "model": self.request.model, "choices": [choice]}
        await self.piece(json.dumps(body).encode())

    async def piece(self, payload: bytes) -> None:
        self._digest.update(payload)
        await self.channel.send(DELTA, payload)

    async def end(self, *, sha256: bytes = b"", forged: bool = False) -> None:
        end = sign_end(self.signer, JobId(self.request.job), End("stop", 10, 10, sha256 or self._digest.digest()))
        payload = encode(end)
        await self.channel.send(END, payload[:-1] + bytes([payload[-1] ^ 1]) if forged else payload)
        self.channel.close()

    async def refuse(self, status: int, code: str, *, final: bool = False) -> None:
        await self.channel.send(REFUSE, encode(Refuse(status, code, "The liar refuses.", "", final)))
        self.channel.close()


Lie = Callable[[LiedTo], Awaitable[None]]


async def _garbage(job: LiedTo) -> None:
    await job.accept()
    for _ in range(max(1, job.request.max_tokens) if job.request.stream else 1):
        await job.say("garbage ")
    await job.end()


async def _early_end(job: LiedTo) -> None:
    await job.accept()
    for _ in range(3 if job.request.stream else 1):
        await job.say("the ")
    await job.end()


async def _final_refusal(job: LiedTo) -> None:
    await job.refuse(400, "invalid_api_key", final=True)


async def _endless_promise(job: LiedTo) -> None:
    await job.accept(LONGEST_MS)
    while True:
        await job.beat()
        await trio.sleep(BEAT_S)


async def _slow(job: LiedTo) -> None:
    await job.accept()
    while True:
        await job.say("slow ")
        await trio.sleep(SLOW_S)


async def _flood(job: LiedTo) -> None:
    await job.accept()
    while True:
        await job.say("x" * FLOOD_BYTES)


async def _no_json(job: LiedTo) -> None:
    await job.accept()
    for _ in range(3):
        await job.piece(b"{never json}")
    await job.end()


async def _hang_up(job: LiedTo) -> None:
    await job.accept()
    await job.say("a")
    await trio.sleep(0.05)  # so that the first byte is on its way
    job.channel.reset()


async def _wrong_hash(job: LiedTo) -> None:
    await job.accept()
    await job.say("a")
    await job.end(sha256=bytes(32))


async def _bad_signature(job: LiedTo) -> None:
    await job.accept()
    await job.say("a")
    await job.end(forged=True)


async def _status_500(job: LiedTo) -> None:
    await job.refuse(500, "engine_failed")


async def _status_503(job: LiedTo) -> None:
    await job.refuse(503, "engine_not_ready")


async def _busy(job: LiedTo) -> None:
    await job.channel.send(BUSY, encode(Busy(1000, 0, 0)))
    job.channel.close()


async def _reset_first(job: LiedTo) -> None:
    await job.accept()
    job.channel.reset()


async def _mute(job: LiedTo) -> None:
    del job
    await trio.sleep_forever()


async def _silent(job: LiedTo) -> None:
    await job.accept()
    await trio.sleep_forever()


LIES: Final[dict[str, Lie]] = {
    "garbage": _garbage,
    "early-end": _early_end,
    "final-refusal": _final_refusal,
    "endless-promise": _endless_promise,
    "slow": _slow,
    "flood": _flood,
    "no-json": _no_json,
    "hang-up": _hang_up,
    "wrong-hash": _wrong_hash,
    "bad-signature": _bad_signature,
    "status-500": _status_500,
    "status-503": _status_503,
    "busy": _busy,
    "reset-first": _reset_first,
    "mute": _mute,
    "silent": _silent,
}
#: Answers that only an audit can tell from honest ones.
TEXT: Final = frozenset({"garbage", "early-end"})
