"""One attempt at a peer or at this node's own engine, which turns its progress into events of the cascade.

Both kinds have the same interface: ``run`` is a task, ``next_update`` waits for progress and can be cancelled at any
point without loss, and ``abort`` ends the attempt at once without waiting.  Only this module checks the frames of a
worker: their order, and the signature and hash of END.  Not here: the shape of an answer (``answer_check``), the
reaction to it all (``cascade``).
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import trio

from p2pnode.engine.base import EngineJob
from p2pnode.jobs.engine_slots import TurnedAway
from p2pnode.jobs.execute import run_on_engine
from p2pnode.jobs.guest_policy import check_guest
from p2pnode.jobs.records import JobSpec
from p2pnode.jobs.usage import Tally
from p2pnode.swarm import DEFECT
from p2pnode.swarm.net import NetError, PeerUnreachable
from p2pnode.swarm.peerlink import ChannelReset
from protocol.errors import BadFrame, RemoteProtocolError
from protocol.ids import JobId, PeerId, short
from protocol.jobs.answer_check import AnswerCheck
from protocol.jobs.cascade_events import (
    Accepted,
    Attempt,
    AttemptFailed,
    CascadeEvent,
    Completed,
    Keepalive,
    Progress,
    Refused,
    Searching,
    WasBusy,
)
from protocol.jobs.entry import EntryEvent
from protocol.reputation.outcomes import Outcome
from protocol.wire.end_signature import read_end
from protocol.wire.messages import (
    ACCEPT,
    BEAT,
    BODY,
    BUSY,
    DELTA,
    END,
    REFUSE,
    REQ,
    Accept,
    Busy,
    JobRequest,
    Refuse,
    decode,
    encode,
)
from protocol.wire.mux import ResetCode

if TYPE_CHECKING:
    from p2pnode.engine.base import Engine
    from p2pnode.jobs.engine_slots import EngineSlots
    from p2pnode.swarm.peerlink import Channel
    from p2pnode.swarm.swarm import Swarm

log = logging.getLogger(__name__)

#: Bytes of a request's body in one frame.
BODY_FRAME_BYTES: Final = 32 * 1024
#: Batches of the own engine that may wait for the caller.
LOCAL_BATCHES: Final = 4
#: Seconds without output of the own engine after which a keep-alive is reported (guess).
LOCAL_BEAT_S: Final = 1.0
#: Most characters of a peer's text that reach the caller.
_TEXT: Final = 300


@dataclass(slots=True)
class AttemptUpdate:
    """Progress since the last update: events for the entry's machine, and pieces for the caller."""

    events: list[EntryEvent] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    #: How many of the pieces were checked (while the update is being made).
    counted: int = 0


class Attempting(Protocol):
    """The interface of an attempt."""

    tokens: tuple[int, int] | None

    async def run(self) -> None: ...

    async def next_update(self) -> AttemptUpdate: ...

    def abort(self, code: int) -> None: ...


def plain(text: str) -> str:
    """A peer's text for display: bounded, and without control characters."""
    return "".join(character if character.isprintable() else " " for character in text)[:_TEXT]


class RemoteAttempt:
    """An attempt at a peer, over one channel of its link.  ``end``: when the job's time is over, trio's clock."""

    def __init__(self, swarm: Swarm, attempt: Attempt, spec: JobSpec, end: float, most_bytes: int) -> None:
        self.tokens: tuple[int, int] | None = None
        self._swarm = swarm
        self._peer = peer = attempt.peer
        self._attempt = attempt
        self._spec = spec
        self._end = end
        self._scope = trio.CancelScope()
        self._reached = False
        #: Set when there is something to say: a look-up goes on, or the peer was reached or not.
        self._news = trio.Event()
        self._channel: Channel | None = None
        self._problem = AttemptFailed(peer, Outcome.UNREACHABLE)
        self._accepted = False
        self._check = AnswerCheck(
            spec.path, spec.body, stream=spec.stream, max_tokens=spec.max_tokens, most_bytes=most_bytes
        )
        self._digest = hashlib.sha256()

    async def run(self) -> None:
        """Reach the peer and send the job; :meth:`next_update` returns the answer."""
        with self._scope:
            try:
                addrs, last = self._attempt.addrs, self._attempt.last
                channel = await self._swarm.open_job(self._peer, addrs, last=last, searching=self._news.set)
                if self._scope.cancel_called:
                    channel.reset(ResetCode.CANCELLED)
                    return
                self._channel = channel
                self._arrive()
                await self._send(channel)
            except PeerUnreachable as error:
                self._problem = AttemptFailed(self._peer, Outcome.UNREACHABLE, str(error), error.answered, error.tried)
            except NetError as error:
                self._problem = AttemptFailed(self._peer, Outcome.BROKEN, str(error))
            except Exception as error:
                log.exception("attempt_defect", extra={"peer": short(self._peer), "note": DEFECT})
                self._problem = AttemptFailed(self._peer, Outcome.DEFECT, repr(error))
            finally:
                self._arrive()

    async def _send(self, channel: Channel) -> None:
        body = self._spec.body
        await channel.send(REQ, encode(self._request()))
        for start in range(0, len(body), BODY_FRAME_BYTES):
            await channel.send(BODY, body[start : start + BODY_FRAME_BYTES])

    def _request(self) -> JobRequest:
        spec = self._spec
        left_ms = max(1, round(1000 * (self._end - trio.current_time())))
        return JobRequest(
            job=spec.job_id,
            path=spec.path,
            model=spec.model,
            body_bytes=len(spec.body),
            stream=spec.stream,
            usage=spec.usage,
            prompt_tokens=spec.prompt_tokens,
            max_tokens=spec.max_tokens,
            deadline_ms=left_ms,
        )

    def _arrive(self) -> None:
        self._reached = True
        self._news.set()

    async def next_update(self) -> AttemptUpdate:
        await self._news.wait()
        if not self._reached:
            self._news = trio.Event()
            return AttemptUpdate([Searching(self._peer)])
        channel = self._channel
        if channel is None:
            return AttemptUpdate([self._problem])
        try:
            return self._read(await channel.receive())
        except ChannelReset as reset:
            outcomes = {ResetCode.SLOW_READER: Outcome.STALLED, ResetCode.DEADLINE: Outcome.DEADLINE}
            outcome = outcomes.get(ResetCode(reset.code) if reset.code in _CODES else ResetCode.CANCELLED)
            # A reset came over the link, so this node's own network works.
            return AttemptUpdate([AttemptFailed(self._peer, outcome or Outcome.BROKEN, str(reset), answered=True)])
        except PeerUnreachable as error:  # its key was proven, but no HELLO came
            return AttemptUpdate([AttemptFailed(self._peer, Outcome.UNREACHABLE, str(error), answered=True)])
        except NetError as error:
            return AttemptUpdate([AttemptFailed(self._peer, Outcome.BROKEN, str(error))])

    def abort(self, code: int) -> None:
        self._scope.cancel()
        if self._channel is not None:
            self._channel.reset(code)

    # --- from the peer -------------------------------------------------------------------------------------------

    def _read(self, frames: list[tuple[int, bytes]]) -> AttemptUpdate:
        update = AttemptUpdate()
        try:
            for kind, payload in frames:
                if kind == DELTA:
                    update.pieces.append(payload)
                    continue
                self._note(update, kind, payload)
                if kind in _LAST_KINDS and self._channel is not None:
                    self._channel.close()
                    return update  # frames after the last one are ignored
            self._take(update, len(update.pieces))
        except RemoteProtocolError as error:
            del update.pieces[update.counted :]  # these were not checked, and one of them may be the wrong one
            update.events.append(AttemptFailed(self._peer, Outcome.MISBEHAVED, str(error)))
        return update

    def _note(self, update: AttemptUpdate, kind: int, payload: bytes) -> None:
        """Handle a frame that is not a DELTA; the DELTAs before it are in ``update``."""
        peer = self._peer
        if kind == END:
            self._take(update, len(update.pieces))
            update.events.append(self._ended(payload))
        elif kind == BEAT:
            if not self._accepted:
                raise BadFrame("BEAT before ACCEPT")
            update.events.append(Keepalive(peer))
        elif kind == ACCEPT:
            message = decode(kind, payload)
            if self._accepted or not isinstance(message, Accept) or message.job != self._spec.job_id:
                raise BadFrame("ACCEPT twice or of another job")
            self._accepted = True
            self._swarm.told(peer, message.load)
            update.events.append(Accepted(peer, message.ttft_ms / 1000))
        elif kind == BUSY:
            message = decode(kind, payload)
            if self._accepted or not isinstance(message, Busy):
                raise BadFrame("BUSY after ACCEPT")
            self._swarm.told(peer, message.load)
            update.events.append(WasBusy(peer, message.retry_ms / 1000))
        elif kind == REFUSE:
            message = decode(kind, payload)
            if self._check.begun or update.pieces or not isinstance(message, Refuse):
                raise BadFrame("REFUSE after a part of the answer")
            self._swarm.told(peer, message.load)
            refuse = Refuse(
                message.status, plain(message.code), plain(message.message), plain(message.param), message.final
            )
            # Our own check of the request costs time, so only a refusal leads to it.
            own = check_guest(self._request(), self._spec.body) if refuse.final else None
            update.events.append(Refused(peer, own or refuse, checked=own is not None))
        elif kind in _ENTRY_KINDS:
            raise BadFrame(f"a frame of kind {kind} from a worker")

    def _take(self, update: AttemptUpdate, count: int) -> None:
        """Check and count the DELTAs that were not checked yet."""
        fresh = count - update.counted
        if not fresh:
            return
        pieces = update.pieces[update.counted :]
        if not self._accepted:
            raise BadFrame("DELTA before ACCEPT")
        self._digest.update(self._check.take(pieces))
        update.counted = count
        update.events.append(Progress(self._peer, fresh))

    def _ended(self, payload: bytes) -> CascadeEvent:
        if not self._accepted:
            raise BadFrame("END before ACCEPT")
        end = read_end(self._peer, JobId(self._spec.job_id), payload, self._digest.digest())
        self.tokens = (end.tokens_in, end.tokens_out)
        if end.finish == "stop":
            self._check.end()
            return Completed(self._peer, end.tokens_out)
        return AttemptFailed(self._peer, Outcome.FAILED, plain(end.message) or "its engine broke off")


_CODES: Final = frozenset(int(code) for code in ResetCode)
_ENTRY_KINDS: Final = frozenset({REQ, BODY})
#: The last frames of a job from a worker.
_LAST_KINDS: Final = frozenset({BUSY, REFUSE, END})


class LocalAttempt:
    """An attempt at this node's own engine: the same events without a wire, and without the limits for guests."""

    def __init__(self, engine: Engine, slots: EngineSlots, me: PeerId, spec: JobSpec) -> None:
        self.tokens: tuple[int, int] | None = None
        self._engine = engine
        self._slots = slots
        self._me = me
        self._spec = spec
        self._scope = trio.CancelScope()
        self._tally = Tally(spec.path, spec.stream, spec.usage)
        self._begun = False
        self._send, self._receive = trio.open_memory_channel[AttemptUpdate](LOCAL_BATCHES)

    async def run(self) -> None:
        """Wait for a slot, then run the job."""
        with self._scope:
            try:
                end = await self._run()
            except TurnedAway as away:
                end = self._turned_away(away.message)
            except Exception as error:
                log.exception("attempt_defect", extra={"peer": short(self._me), "note": DEFECT})
                end = AttemptFailed(self._me, Outcome.DEFECT, repr(error))
            await self._send.send(AttemptUpdate([end]))

    async def _run(self) -> CascadeEvent:
        with self._slots.arrive(None, self._spec.prompt_tokens, self._spec.stream) as slot:
            await self._send.send(AttemptUpdate([Accepted(self._me, slot.promise_s)]))
            await slot.wait()
            begun = False

            async def sink(pieces: list[bytes]) -> None:
                nonlocal begun
                begun = True
                if self._spec.stream:
                    slot.first_output()
                await self._send.send(AttemptUpdate([Progress(self._me, len(pieces))], pieces))

            refuse = await run_on_engine(self._engine, self._job(), self._tally, sink)
        self.tokens = self._tally.tokens()
        return self._ended(refuse, begun)

    def _job(self) -> EngineJob:
        spec = self._spec
        return EngineJob(
            spec.path, spec.model, spec.body, spec.stream, spec.client, spec.prompt_tokens, spec.max_tokens
        )

    def _turned_away(self, message: Busy | Refuse) -> CascadeEvent:
        if isinstance(message, Busy):
            return WasBusy(self._me, message.retry_ms / 1000)
        return Refused(self._me, message, checked=True)

    def _ended(self, refuse: Refuse | None, begun: bool) -> CascadeEvent:
        if refuse is None:
            return Completed(self._me, self._tally.tokens()[1])
        if not begun:
            return Refused(self._me, refuse, checked=True)
        return AttemptFailed(self._me, Outcome.FAILED, refuse.message)

    async def next_update(self) -> AttemptUpdate:
        with trio.move_on_after(LOCAL_BEAT_S):
            update: AttemptUpdate = await self._receive.receive()
            self._begun = True
            return update
        return AttemptUpdate([Keepalive(self._me)] if self._begun else [])

    def abort(self, code: int) -> None:  # noqa: ARG002 - no peer needs the reason
        self._scope.cancel()
