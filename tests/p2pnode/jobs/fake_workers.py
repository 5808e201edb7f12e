"""Where the tests of jobs happen: channels in memory with credit and faults, a swarm of workers, an engine by script.

Time is the test's (``autojump_clock``); nothing is random and nothing leaves the process.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import msgspec
import trio

from p2pnode.engine.base import CHAT, EngineFailed, EngineJob
from p2pnode.jobs.dispatch import Dispatch
from p2pnode.jobs.records import JobBook, JobSpec
from p2pnode.jobs.worker import Worker
from p2pnode.swarm.net import LinkBroken, NetError, PeerUnreachable
from p2pnode.swarm.peerlink import ChannelReset
from protocol import PROTOCOL_VERSION
from protocol.effects import Found
from protocol.ids import PeerId, model_id
from protocol.membership.peer_view import PeerView
from protocol.routing.ranking import JobQuery
from protocol.settings import PROFILES, NodeSettings
from protocol.statements.adverts import Advert, Gpu, Load, ModelOffer
from protocol.statements.envelope import statement
from protocol.statements.keys import Ed25519Signer
from protocol.wire.messages import FreshLoad

SETTINGS = PROFILES["wan"]
MODEL = "m"
CREDIT = 256 * 1024
#: What the peers say that they have; a token of the model takes about 0.02 s on it.
CARD = Gpu("NVIDIA GeForce RTX 4090", vram_mib=24_564, bandwidth_gb_s=1008, fp16_tflops=165)
Frames = list[tuple[int, bytes]]


def signer(number: int) -> Ed25519Signer:
    return Ed25519Signer(number.to_bytes(32, "big"))


def piece(text: str, finish: str | None = None) -> bytes:
    delta = {"content": text}
    return msgspec.json.encode({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def whole(text: str) -> bytes:
    """An answer that is not streamed."""
    return msgspec.json.encode({"choices": [{"index": 0, "message": {"content": text}}]})


def usage_piece(tokens_in: int, tokens_out: int) -> bytes:
    return b'{"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d}}' % (tokens_in, tokens_out)


def chat(*, stream: bool = True, model: str = MODEL, **more: object) -> bytes:
    fields = {"model": model, "messages": [{"role": "user", "content": "hello"}], "stream": stream, **more}
    return msgspec.json.encode(fields)


def spec(number: int = 1, **changes: object) -> JobSpec:
    stream = bool(changes.get("stream", True))
    base = JobSpec(
        job_id=number.to_bytes(16, "big"),
        request_id=f"req_{number}",
        path=CHAT,
        model=MODEL,
        body=chat(stream=stream),
        stream=stream,
        usage=False,
        prompt_tokens=5,
        max_tokens=16,
        deadline=None,
        query=JobQuery(MODEL, prompt_tokens=5, max_tokens=16),
    )
    return replace(base, **changes)


# --- channels ---------------------------------------------------------------------------------------------------------


class Channel:
    """One end of a job's channel, like ``p2pnode.swarm.peerlink.Channel``."""

    def __init__(self, peer: PeerId) -> None:
        self.peer = peer
        self.other: Channel
        self.sent = 0
        self.tap: Callable[[int, int, bytes], Frames] = lambda index, kind, payload: [(kind, payload)]
        self.reset_code: int | None = None
        self._frames: Frames = []
        self._unread = 0
        self._ended: NetError | None = None
        self._changed = trio.Event()

    async def send(self, kind: int, payload: bytes) -> None:
        await trio.lowlevel.checkpoint()
        while self._ended is None and self.other._unread >= CREDIT:
            await self._changed.wait()
        if self._ended is not None:
            raise self._ended
        self.sent += 1
        for frame in self.tap(self.sent - 1, kind, payload):
            self.other.put(*frame)

    def put(self, kind: int, payload: bytes) -> None:
        if self._ended is None:
            self._frames.append((kind, payload))
            self._unread += len(payload) + 8
            self.notify()

    async def receive(self) -> Frames:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._frames:
            if self._ended is not None:
                raise self._ended
            await self._changed.wait()
        frames, self._frames, self._unread = self._frames, [], 0
        self.other.notify()
        return frames

    def reset(self, code: int = 0) -> None:
        if self._ended is None:
            self.end(ChannelReset("this node cancelled the job", code))
            self.other.was_reset(code)

    def was_reset(self, code: int) -> None:
        if self._ended is None:
            self.reset_code = code
            self.end(ChannelReset("the peer cancelled the job", code))

    def close(self) -> None:
        self.end(ChannelReset("the job is over"))

    def break_link(self) -> None:
        for end in (self, self.other):
            end.end(LinkBroken("the link broke"))

    def end(self, reason: NetError) -> None:
        if self._ended is None:
            self._ended = reason
            self.notify()

    def notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def channel_pair(entry: PeerId, worker: PeerId) -> tuple[Channel, Channel]:
    """The entry's end and the worker's."""
    near, far = Channel(worker), Channel(entry)
    near.other, far.other = far, near
    return near, far


# --- an engine --------------------------------------------------------------------------------------------------------


@dataclass
class Script:
    """What the engine does with a job: batches with the pause before each, and how it ends."""

    batches: list[list[bytes]] = field(default_factory=list)
    pause_s: float = 0.0
    first_s: float = 0.0
    refuse: EngineFailed | None = None
    end: Exception | None = None


class ScriptedEngine:
    """An ``Engine`` that does as it is told and notes what was asked of it."""

    name = "scripted"
    runtime = "simulated"
    simulated = True
    problem = ""

    def __init__(self, script: Script | None = None, slots: int = 4) -> None:
        self.script = script or Script([[piece("a")], [piece("b")], [usage_piece(5, 2)]])
        self.slots = slots
        self.state = "ready"
        self.jobs: list[EngineJob] = []
        self.open_now = 0
        self.given = 0
        self.models = (MODEL,)

    def offers(self) -> tuple[ModelOffer, ...]:
        return tuple(ModelOffer(name, model_id(name, "", "", "", 8192), context=8192) for name in self.models)

    def load(self) -> Load:
        return Load(slots=self.slots)

    @asynccontextmanager
    async def open(self, job: EngineJob) -> AsyncIterator[ScriptedEngine]:
        self.jobs.append(job)
        self.open_now += 1
        try:
            await trio.sleep(self.script.first_s)
            if self.script.refuse is not None:
                raise self.script.refuse
            yield Reply(self)
        finally:
            self.open_now -= 1


class Reply:
    status = 200
    content_type = "text/event-stream"

    def __init__(self, engine: ScriptedEngine) -> None:
        self._engine = engine
        self._rest = list(engine.script.batches)

    async def receive(self) -> list[bytes]:
        await trio.sleep(self._engine.script.pause_s)
        if self._rest:
            self._engine.given += 1
            return self._rest.pop(0)
        if self._engine.script.end is not None:
            raise self._engine.script.end
        return []


# --- a swarm ----------------------------------------------------------------------------------------------------------

OnJob = Callable[[Channel, Frames], Awaitable[None]]


class JobSwarm:
    """What ``Dispatch`` sees of a swarm: a real peer view, and channels to workers in the same process."""

    def __init__(self, nursery: trio.Nursery, me: PeerId) -> None:
        self.me = me
        self.view = PeerView(me, 4096, 64)
        self.workers: dict[PeerId, OnJob] = {}
        self.channels: list[Channel] = []
        self.asked: list[PeerId] = []
        self.found: dict[bytes, tuple[object, ...]] = {}
        self.lookups = 0
        #: Models that peers were ranked for, and loads that came with the answers to jobs.
        self.wanted: list[str] = []
        self.loads: list[tuple[PeerId, FreshLoad]] = []
        self.lookup_s = 0.1
        #: Whether the hosts of peers that cannot be reached refuse the connection, or nothing comes back.
        self.answers = False
        #: Called with the worker's end of each new channel, to arrange for trouble.
        self.arrange: Callable[[Channel], None] = lambda channel: None
        self._nursery = nursery

    def add(self, number: int, on_job: OnJob | None, *, order: str = "", model: str = MODEL) -> PeerId:
        """A peer that offers the model; without ``on_job`` it cannot be reached."""
        key = signer(number)
        name = order or f"w{number}"
        offer = ModelOffer(model, model_id(model, "", "", "", 8192), context=8192)
        addrs = (f"/ip4/10.0.{number}.1/tcp/1",)
        advert = Advert(PROTOCOL_VERSION, name=name, models=(offer,), addrs=addrs, gpus=(CARD,))
        now = trio.current_time()
        for value in (advert, Load(slots=4)):
            envelope = statement(key, value, (1, 1), 1e9, 120)
            self.view.put(envelope, value, now, now + 1e6)
        if on_job is not None:
            self.workers[key.peer_id] = on_job
        return key.peer_id

    def routed(self, query: JobQuery) -> None:
        self.wanted.append(query.model)

    def told(self, peer: PeerId, load: FreshLoad | None) -> None:
        if load is not None:
            self.loads.append((peer, load))

    async def open_job(
        self, peer: PeerId, addrs: object = (), *, last: bool = True, searching: object = None
    ) -> Channel:
        self.asked.append(peer)
        await trio.lowlevel.checkpoint()
        if peer not in self.workers:
            raise PeerUnreachable("connection refused", answered=self.answers)
        near, far = channel_pair(self.me, peer)
        self.channels.append(near)
        self.arrange(far)
        self._nursery.start_soon(self._serve, peer, far)
        return near

    async def _serve(self, peer: PeerId, channel: Channel) -> None:
        try:
            await self.workers[peer](channel, await channel.receive())
            channel.reset()
        except NetError:
            pass

    def seek_providers(self, model: bytes, told: Callable[[Found], None]) -> None:
        self.lookups += 1
        self._nursery.start_soon(self._seek, model, told)

    async def _seek(self, model: bytes, told: Callable[[Found], None]) -> None:
        await trio.sleep(self.lookup_s)
        told(Found(1, self.found.get(model, ()), (), 1))


@dataclass
class Site:
    """An entry, its swarm and book."""

    swarm: JobSwarm
    book: JobBook
    dispatch: Dispatch
    seen: list[object]

    def worker(self, number: int, script: Script | None = None, **more: object) -> ScriptedEngine:
        """A real worker on a scripted engine, as a peer of the entry."""
        engine = ScriptedEngine(script, **more)
        self.swarm.add(number, Worker(engine, signer(number), SETTINGS).on_job)
        return engine


@asynccontextmanager
async def site(
    engine: ScriptedEngine | None = None,
    settings: NodeSettings = SETTINGS,
    policy: str = "least-loaded",
    trusted: frozenset[PeerId] = frozenset(),
) -> AsyncIterator[Site]:
    """An entry that knows nobody yet."""
    async with trio.open_nursery() as nursery:
        me = signer(100).peer_id
        swarm = JobSwarm(nursery, me)
        if engine is not None:
            advert = Advert(PROTOCOL_VERSION, name="me", models=engine.offers())
            swarm.view.put_self(advert, engine.load(), trio.current_time())
        book, seen = JobBook(), []
        rng, observe = random.Random(1), seen.append
        dispatch = Dispatch(swarm, engine, policy, settings, rng, book, observe=observe, trusted=trusted)
        yield Site(swarm, book, dispatch, seen)
        nursery.cancel_scope.cancel()


def ordered(*names: str, **changes: object) -> JobSpec:
    """A job for the peers of these names, in this order."""
    number = int(changes.pop("number", 1))
    return spec(number, query=JobQuery(MODEL, prompt_tokens=5, max_tokens=16, order=names), **changes)


async def everything(answer: object) -> bytes:
    pieces: list[bytes] = []
    while batch := await answer.receive():
        pieces += batch
    return b"|".join(pieces)
