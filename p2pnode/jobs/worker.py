"""One job at the worker: it checks the request of a peer, waits for a slot of the engine, and sends the answer.

Each job has a nursery with four tasks, and any of them can end the job.  One *listens* to the channel (the body, then
a cancellation by the entry).  One *produces* (admission, engine).  One *sends*: only it writes to the channel, so it
also sends BEAT while there is no output.  The fourth waits for the job's deadline.  A bounded buffer between
producing and sending slows the engine down for a slow reader, and a stalled reader ends the job.

A guest's job can end only itself.  Not here: order and bounds (``engine_slots``), the request's fields
(``guest_policy``), tokens and engine errors (``execute``).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from p2pnode.engine.base import PATHS, EngineJob
from p2pnode.jobs.engine_slots import EngineSlots, Slot, TurnedAway
from p2pnode.jobs.execute import run_on_engine
from p2pnode.jobs.guest_policy import check_guest
from p2pnode.jobs.usage import Tally
from p2pnode.swarm import DEFECT
from p2pnode.swarm.net import NetError
from protocol.errors import BadFrame, RemoteProtocolError
from protocol.ids import JobId, PeerId, peer_text, short
from protocol.jobs.admission import NO_ENGINE, lacks_model
from protocol.jobs.job_dedup import TakenJobs
from protocol.settings import AdmissionSettings, NodeSettings
from protocol.statements.keys import Signer
from protocol.wire.end_signature import sign_end
from protocol.wire.messages import (
    ACCEPT,
    BEAT,
    BODY,
    DELTA,
    END,
    REQ,
    Accept,
    Busy,
    End,
    FreshLoad,
    JobMessage,
    JobRequest,
    Refuse,
    decode,
    encode,
    kind_of,
)
from protocol.wire.mux import ResetCode

if TYPE_CHECKING:
    from p2pnode.engine.base import Engine
    from p2pnode.swarm.peerlink import Channel

log = logging.getLogger(__name__)

Frames = list[tuple[int, bytes]]

#: Slowest tolerated upload of a body, bytes per second (DESIGN 2.7), and the seconds that every body gets.
LEAST_UPLOAD_BYTES_S: Final = 8 * 1024
BODY_S: Final = 10.0
#: Bytes of all waiting requests together (guess: eight of the longest).
BODIES_BYTES: Final = 64 * 1024 * 1024


class Worker:
    """Runs the jobs of peers.  It shares the engine's slots with ``dispatch``; by default it has its own."""

    def __init__(
        self,
        engine: Engine | None,
        signer: Signer,
        settings: NodeSettings,
        slots: EngineSlots | None = None,
        load_for: Callable[[PeerId], FreshLoad | None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._signer = signer
        self._settings = settings.admission
        self._most_s = settings.cascade.total_s
        self.slots = slots or (EngineSlots(engine, settings.admission) if engine is not None else None)
        self._running = 0
        self._bodies = 0
        self._taken = TakenJobs()
        self._load_for = load_for

    @property
    def running(self) -> int:
        """Jobs of peers, waiting ones included."""
        return self._running

    def drain(self) -> None:
        """Take no more jobs; present ones may finish."""
        if self.slots is not None:
            self.slots.drain()

    async def on_job(self, channel: Channel, frames: Frames) -> None:
        """One job from its first frames to its end; raises nothing but ``Cancelled``."""
        self._running += 1
        try:
            request = _read_request(frames)
            await self._take(channel, request, frames[1:])
        except RemoteProtocolError as error:
            log.info("bad_job", extra={"peer": short(channel.peer), "reason": str(error)})
            channel.reset(ResetCode.BAD_JOB)
        except NetError as error:
            log.debug("job_ended", extra={"peer": short(channel.peer), "reason": str(error)})
        except Exception:
            log.exception("job_defect", extra={"peer": short(channel.peer), "note": DEFECT})
            channel.reset(ResetCode.INTERNAL)
        finally:
            self._running -= 1

    async def _take(self, channel: Channel, request: JobRequest, frames: Frames) -> None:
        refuse = self._check(request)
        if refuse is not None or self._engine is None or self.slots is None:
            await _send_last(channel, refuse or NO_ENGINE)
            return
        if self._taken.known(channel.peer, request.job, trio.current_time()):
            await _send_last(channel, _TWICE)
            return
        if self._bodies + request.body_bytes > BODIES_BYTES:
            load = self._load_for(channel.peer)
            await _send_last(channel, Busy(1000, self.slots.running, self.slots.waiting, load))
            return
        try:
            slot = self.slots.arrive(channel.peer, request.prompt_tokens, request.stream, ready=False)
        except TurnedAway as away:
            message = msgspec.structs.replace(away.message, load=self._load_for(channel.peer))
            await _send_last(channel, message)
            return
        self._taken.note(channel.peer, request.job, trio.current_time())
        self._bodies += request.body_bytes
        try:
            await self._do(self._engine, channel, request, slot, frames)
        finally:
            self._bodies -= request.body_bytes

    async def _do(self, engine: Engine, channel: Channel, request: JobRequest, slot: Slot, frames: Frames) -> None:
        with slot:
            promise_ms = round(1000 * slot.promise_s)
            accept = Accept(request.job, slot.position, promise_ms, self._load_for(channel.peer))
            await channel.send(ACCEPT, encode(accept))
            await _Task(engine, self._signer, self._settings, channel, request, slot, self._most_s).run(frames)

    def _check(self, request: JobRequest) -> Refuse | None:
        """The refusal that follows from the REQ alone; None if there is none."""
        engine = self._engine
        if engine is None:
            return NO_ENGINE
        if request.path not in PATHS:
            return Refuse(404, "unknown_url", f"{request.path} is not served; the API has {', '.join(sorted(PATHS))}.")
        if request.body_bytes > self._settings.body_bytes:
            most = self._settings.body_bytes
            return Refuse(
                413, "request_too_large", f"The body has {request.body_bytes} bytes; send {most} at most.", "", True
            )
        if engine.state != "ready":
            return Refuse(503, "engine_not_ready", (engine.problem or "the engine is not ready")[:1000])
        if not any(offer.name == request.model for offer in engine.offers()):
            return lacks_model(request.model)
        return None


_TWICE: Final = Refuse(409, "duplicate_job", "this node has already taken this job")


def _read_request(frames: Frames) -> JobRequest:
    kind, payload = frames[0]
    request = decode(kind, payload) if kind == REQ else None
    if not isinstance(request, JobRequest):
        raise BadFrame(f"a job began with a frame of kind {kind}")
    return request


async def _send_last(channel: Channel, message: JobMessage) -> None:
    await channel.send(kind_of(message), encode(message))
    channel.close()


class _Output:
    """The buffer between engine and wire: at most ``most`` bytes of pieces, then the result."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._pieces: list[bytes] = []
        self._size = 0
        self._changed = trio.Event()
        self.over = False
        self.refuse: Refuse | None = None

    async def put(self, pieces: list[bytes]) -> None:
        """Add pieces; waits while the buffer is full."""
        while self._size >= self._most:
            await self._changed.wait()
        self._pieces += pieces
        self._size += sum(map(len, pieces))
        self._notify()

    def finish(self, refuse: Refuse | None) -> None:
        """The output is complete; ``refuse`` is the failure, if any."""
        self.over = True
        self.refuse = refuse
        self._notify()

    async def take(self) -> list[bytes]:
        """All buffered pieces; empty at the end."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._pieces and not self.over:
            await self._changed.wait()
        pieces, self._pieces, self._size = self._pieces, [], 0
        self._notify()
        return pieces

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class _Task:
    """One accepted job."""

    def __init__(
        self,
        engine: Engine,
        signer: Signer,
        settings: AdmissionSettings,
        channel: Channel,
        request: JobRequest,
        slot: Slot,
        most_s: float,
    ) -> None:
        self._most_s = most_s
        self._engine = engine
        self._signer = signer
        self._settings = settings
        self._channel = channel
        self._request = request
        self._slot = slot
        self._body: list[bytes] = []
        self._missing = request.body_bytes
        self._asked = trio.Event()
        self._output = _Output(settings.output_bytes)
        self._tally = Tally(request.path, request.stream, request.usage)
        self._nursery: trio.Nursery

    async def run(self, frames: Frames) -> None:
        """Run until END was sent or the job is cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._keep_deadline)
            self._nursery.start_soon(self._listen, frames)
            self._nursery.start_soon(self._produce)
            await self._send()

    def _stop(self, code: ResetCode | None = None) -> None:
        """End the job; a code also resets the channel, so that the entry does not take it for a complete answer."""
        if code is not None:
            self._channel.reset(code)
        self._nursery.cancel_scope.cancel()

    async def _keep_deadline(self) -> None:
        """No job holds a slot for longer than its entry waits, nor, if that does not say, than this node would."""
        asked_s = self._request.deadline_ms / 1000
        await trio.sleep(min(asked_s or self._most_s, self._most_s))
        self._stop(ResetCode.DEADLINE)

    # --- from the entry ------------------------------------------------------------------------------------------

    async def _listen(self, frames: Frames) -> None:
        """Collect the body; after it only a cancellation by the entry is expected."""
        try:
            with trio.move_on_after(BODY_S + self._missing / LEAST_UPLOAD_BYTES_S) as slow:
                while not self._take_in(frames):
                    frames = await self._channel.receive()
            if slow.cancelled_caught:
                self._output.finish(Refuse(408, "slow_body", "the body took too long to arrive"))
                return
            while True:
                self._take_in(await self._channel.receive())
        except BadFrame as error:
            log.info("bad_job", extra={"peer": short(self._channel.peer), "reason": str(error)})
            self._stop(ResetCode.BAD_JOB)
        except NetError:
            self._stop()

    def _take_in(self, frames: Frames) -> bool:
        """Add BODY frames; True once the body is complete."""
        for kind, payload in frames:
            if kind == BODY:
                self._missing -= len(payload)
                self._body.append(payload)
            elif kind <= END:
                raise BadFrame(f"a frame of kind {kind} from the entry")
        if self._missing < 0:
            raise BadFrame("a longer body than announced")
        if self._missing == 0:
            self._asked.set()
        return self._missing == 0

    # --- from the engine -----------------------------------------------------------------------------------------

    async def _produce(self) -> None:
        request = self._request
        await self._asked.wait()
        body = b"".join(self._body)
        self._body.clear()
        refuse = check_guest(request, body)
        if refuse is None:
            self._slot.ready()
            await self._slot.wait()
            client = peer_text(self._channel.peer)
            job = EngineJob(
                request.path, request.model, body, request.stream, client, request.prompt_tokens, request.max_tokens
            )
            refuse = await run_on_engine(self._engine, job, self._tally, self._put)
        self._slot.leave()
        self._output.finish(refuse)

    async def _put(self, pieces: list[bytes]) -> None:
        if self._request.stream:
            self._slot.first_output()
        await self._output.put(pieces)

    # --- to the entry --------------------------------------------------------------------------------------------

    async def _send(self) -> None:
        """Send the answer, BEATs while there is no output, and the END; then end the job."""
        digest, begun = hashlib.sha256(), False
        settings, channel, output = self._settings, self._channel, self._output
        try:
            while True:
                batch: list[bytes] | None = None
                with trio.move_on_after(settings.beat_s):
                    batch = await output.take()
                with trio.move_on_after(settings.stalled_reader_s) as stalled:
                    if batch is None:
                        await channel.send(BEAT, b"")
                    elif batch:
                        begun = True
                        for piece in batch:
                            await channel.send(DELTA, piece)
                        digest.update(b"".join(batch))
                    else:
                        await self._send_end(digest.digest(), begun)
                if stalled.cancelled_caught:
                    log.info("slow_reader", extra={"peer": short(channel.peer)})
                    self._stop(ResetCode.SLOW_READER)
                    return
                if batch is not None and not batch:
                    self._stop()
                    return
        except NetError:
            self._stop()

    async def _send_end(self, digest: bytes, begun: bool) -> None:
        refuse = self._output.refuse
        if refuse is not None and not begun:
            await _send_last(self._channel, refuse)
            return
        tokens_in, tokens_out = self._tally.tokens()
        finish, message = ("stop", "") if refuse is None else ("error", refuse.message)
        end = End(finish, tokens_in, tokens_out, digest, message)
        await self._channel.send(END, encode(sign_end(self._signer, JobId(self._request.job), end)))
        self._channel.close()
