"""The worker, seen from the wire: what it says to good, odd, slow and vanishing entries."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import msgspec
import pytest
import trio

from p2pnode.engine.base import CHAT, EngineFailed, ModelSpec
from p2pnode.engine.mock import MockEngine
from p2pnode.jobs import worker as worker_module
from p2pnode.jobs.engine_slots import EngineSlots
from p2pnode.jobs.worker import Worker
from p2pnode.swarm.net import NetError
from protocol.ids import JobId, PeerId
from protocol.perf.gpu_catalog import find_gpu
from protocol.wire.end_signature import end_holds
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
    End,
    FreshLoad,
    JobRequest,
    Refuse,
    decode,
    encode,
)
from protocol.wire.mux import ResetCode
from tests.p2pnode.jobs.fake_workers import (
    CREDIT,
    MODEL,
    SETTINGS,
    Channel,
    Frames,
    Script,
    ScriptedEngine,
    channel_pair,
    chat,
    piece,
    signer,
)

A, B = piece("a"), piece("b")
JOB = JobId(bytes(range(16)))
ENTRY, WORKER = signer(1), signer(2)


def request(body: bytes, **changes: object) -> JobRequest:
    base = JobRequest(JOB, CHAT, MODEL, len(body), stream=True, prompt_tokens=5, max_tokens=16)
    return msgspec.structs.replace(base, **changes)


@dataclass
class Bench:
    """A worker, and the entry's end of a channel to it."""

    worker: Worker
    engine: ScriptedEngine
    nursery: trio.Nursery
    asked: int = 0

    async def ask(self, body: bytes | None = None, **changes: object) -> Channel:
        body = chat() if body is None else body
        near, far = channel_pair(ENTRY.peer_id, WORKER.peer_id)
        job = (int.from_bytes(JOB, "big") + self.asked).to_bytes(16, "big")  # the first is JOB
        self.asked += 1
        await near.send(REQ, encode(request(body, **{"job": job, **changes})))
        self.nursery.start_soon(self._serve, far)
        with suppress(NetError):  # the worker may have refused it by its REQ
            for start in range(0, len(body), 32768):
                await near.send(BODY, body[start : start + 32768])
        return near

    async def _serve(self, far: Channel) -> None:
        await self.worker.on_job(far, await far.receive())

    async def talk(self, body: bytes | None = None, **changes: object) -> Frames:
        return await all_of(await self.ask(body, **changes))


async def all_of(near: Channel) -> Frames:
    """Everything the worker says, until it has nothing more to say or resets."""
    frames: Frames = []
    with trio.move_on_after(100):
        try:
            while not frames or frames[-1][0] not in (END, BUSY, REFUSE):
                frames += await near.receive()
        except NetError:
            pass
    return frames


@asynccontextmanager
async def bench(script: Script | None = None, slots: int = 4) -> AsyncIterator[Bench]:
    engine = ScriptedEngine(script, slots)
    worker = Worker(engine, WORKER, SETTINGS)
    async with trio.open_nursery() as nursery:
        yield Bench(worker, engine, nursery)
        nursery.cancel_scope.cancel()
    assert worker.running == 0


def kinds(frames: Frames) -> list[int]:
    return [kind for kind, _ in frames]


def refusal(frames: Frames) -> Refuse:
    found = decode(*frames[-1])
    assert isinstance(found, Refuse)
    return found


# --- going well -------------------------------------------------------------------------------------------------------


async def test_accept_deltas_and_a_signed_end(autojump_clock: object) -> None:
    async with bench() as here:
        frames = await here.talk()
    assert kinds(frames) == [ACCEPT, DELTA, DELTA, END]
    end = decode(*frames[-1])
    assert isinstance(end, End)
    assert end_holds(WORKER.peer_id, JOB, end)
    assert (end.finish, end.tokens_in, end.tokens_out) == ("stop", 5, 2)
    assert end.sha256 == hashlib.sha256(A + B).digest()


async def test_beats_while_nothing_flows(autojump_clock: object) -> None:
    async with bench(Script([[A], [B]], first_s=6, pause_s=5)) as here:
        frames = await here.talk()
    assert kinds(frames) == [ACCEPT] + [BEAT] * 5 + [DELTA] + [BEAT] * 2 + [DELTA] + [BEAT] * 2 + [END]


async def test_an_answer_that_is_not_streamed_comes_in_pieces(autojump_clock: object) -> None:
    body = b'{"usage":{"prompt_tokens":1,"completion_tokens":2},"x":"' + b"y" * 100_000 + b'"}'
    async with bench(Script([[body]])) as here:
        frames = await here.talk(chat(stream=False), stream=False)
    assert kinds(frames) == [ACCEPT] + [DELTA] * 4 + [END]
    assert b"".join(payload for kind, payload in frames if kind == DELTA) == body
    end = decode(*frames[-1])
    assert isinstance(end, End)
    assert (end.tokens_in, end.tokens_out) == (1, 2)


async def test_jobs_wait_for_their_turn_and_hear_so(autojump_clock: object) -> None:
    async with bench(Script([[A]], first_s=4), slots=1) as here:
        await here.ask()
        await trio.sleep(0.1)
        second = await here.ask()
        (first,) = await second.receive()
        accept = decode(*first)
        assert accept.queue_position == 1
        assert accept.ttft_ms > 5000
        frames = await all_of(second)
        assert kinds(frames)[-2:] == [DELTA, END]
        assert BEAT in kinds(frames)


async def test_more_slots_at_the_engine_let_more_in(autojump_clock: object) -> None:
    async with bench(Script([[A]], first_s=100), slots=1) as here:
        for _ in range(2):
            await here.ask()
        await trio.sleep(0.1)
        assert here.engine.open_now == 1
        here.engine.slots = 8
        await here.ask()
        await trio.sleep(0.1)
        assert here.engine.open_now == 3


async def test_a_full_worker_says_busy_with_its_load(autojump_clock: object) -> None:
    async with bench(Script([[A]], first_s=1000), slots=1) as here:
        channels = [await here.ask() for _ in range(SETTINGS.admission.per_peer)]
        await trio.sleep(0.1)
        busy = decode(*(await here.talk())[0])
        assert (busy.running, busy.waiting) == (1, SETTINGS.admission.per_peer - 1)
        assert busy.retry_ms >= 250
        for channel in channels:
            channel.reset()
        await trio.sleep(0.1)
        assert (here.worker.slots.running, here.worker.slots.waiting, here.worker.running) == (0, 0, 0)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "status", "code", "final"),
    [
        ({"path": "/v1/load_lora_adapter"}, 404, "unknown_url", False),
        ({"model": "other"}, 404, "model_not_found", False),
        ({"body_bytes": 9 * 1024 * 1024}, 413, "request_too_large", True),
    ],
)
async def test_refused_by_its_request(
    autojump_clock: object, changes: dict[str, object], status: int, code: str, final: bool
) -> None:
    async with bench() as here:
        frames = await here.talk(**changes)
    assert kinds(frames) == [REFUSE]
    assert (refusal(frames).status, refusal(frames).code, refusal(frames).final) == (status, code, final)


DENIED = [
    ("chat_template", "{{ evil }}"),
    ("chat_template_kwargs", {}),
    ("lora_request", "x"),
    ("prompt_embeds", "x"),
    ("mm_processor_kwargs", {}),
    ("kv_transfer_params", {}),
    ("vllm_xargs", {}),
    ("logits_processors", []),
    ("priority", -1),
    ("request_id", "x"),
    ("prompt_logprobs", 1),
    ("n", 5),
    ("best_of", 5),
    ("top_logprobs", 6),
]


@pytest.mark.parametrize(("name", "value"), DENIED)
async def test_fields_that_reach_around_the_api_are_refused_by_name(
    autojump_clock: object, name: str, value: object
) -> None:
    async with bench() as here:
        frames = await here.talk(chat(**{name: value}))
        assert kinds(frames) == [ACCEPT, REFUSE]
        found = refusal(frames)
        assert (found.status, found.param, found.final) == (400, name, True)
        assert name in found.message
        assert not here.engine.jobs


async def test_escaped_names_are_names(autojump_clock: object) -> None:
    async with bench() as here:
        body = chat()[:-1] + b',"\\u0070riority":1}'
        assert refusal(await here.talk(body)).param == "priority"


def with_url(url: object) -> bytes:
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]
    return msgspec.json.encode({"model": MODEL, "stream": True, "messages": messages})


@pytest.mark.parametrize(
    "url",
    [
        {"url": "http://169.254.169.254/"},
        "https://x",
        {"url": "file:///etc/passwd"},
        {"url": "data:" + "x" * (4 << 20)},
    ],
)
async def test_nothing_is_fetched_for_guests(autojump_clock: object, url: object) -> None:
    async with bench() as here:
        found = refusal(await here.talk(with_url(url)))
        assert found.param == "messages[0].content[0].image_url"
        escaped = with_url(url).replace(b"image_url", b"image\\u005furl")
        assert refusal(await here.talk(escaped)).status == 400


async def test_what_is_in_the_request_is_fine(autojump_clock: object) -> None:
    async with bench() as here:
        assert kinds(await here.talk(with_url({"url": "data:image/png;base64,AAAA"})))[-1] == END
        assert kinds(await here.talk(chat(unknown_field=1, n=4, priority=None)))[-1] == END


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (chat(model="other"), "model"),
        (chat(stream=False), "stream"),
        (b"[]", ""),
        (b'{"model":', ""),
        (b'{"model":"m","stream":true,"messages":"\xff"}', ""),
        (b"", ""),
    ],
)
async def test_the_body_has_to_be_what_was_announced(autojump_clock: object, body: bytes, param: str) -> None:
    async with bench() as here:
        found = refusal(await here.talk(body))
        assert (found.status, found.param, found.final) == (400, param, True)


@pytest.mark.parametrize(
    ("failed", "final"),
    [
        (EngineFailed(400, "context_length_exceeded", "too long", "messages"), True),
        (EngineFailed(404, "model_not_found", "gone"), False),
        (EngineFailed(429, "engine_busy", "later"), False),
        (EngineFailed(408, "x", "slow"), False),
        (EngineFailed(502, "engine_failed", "bang"), False),
        (EngineFailed(200, "odd", "what"), False),
    ],
)
async def test_an_engine_that_refuses(autojump_clock: object, failed: EngineFailed, final: bool) -> None:
    async with bench(Script(refuse=failed)) as here:
        frames = await here.talk()
    assert kinds(frames) == [ACCEPT, REFUSE]
    assert (refusal(frames).code, refusal(frames).final) == (failed.code, final)


@pytest.mark.parametrize("error", [EngineFailed(502, "engine_failed", "it crashed"), RuntimeError("a bug")])
async def test_an_engine_that_breaks_off_is_told_in_the_end(autojump_clock: object, error: Exception) -> None:
    async with bench(Script([[A]], end=error)) as here:
        frames = await here.talk()
    assert kinds(frames) == [ACCEPT, DELTA, END]
    end = decode(*frames[-1])
    assert isinstance(end, End)
    assert end.finish == "error"
    assert end.message
    assert "a bug" not in end.message
    assert end_holds(WORKER.peer_id, JOB, end)


@pytest.mark.parametrize("event", [b"[1]", b"{" + b"x" * 70_000 + b"}"])
async def test_events_that_cannot_travel_end_the_job(autojump_clock: object, event: bytes) -> None:
    async with bench(Script([[A], [event]], pause_s=0.1)) as here:
        frames = await here.talk()
    end = decode(*frames[-1])
    assert isinstance(end, End)
    assert end.finish == "error"


async def test_events_are_made_to_fit_on_a_line(autojump_clock: object) -> None:
    async with bench(Script([[b' {"a":\r\n1} ']])) as here:
        frames = await here.talk()
    assert frames[1] == (DELTA, b'{"a":1}')


async def test_no_engine_and_an_engine_that_is_not_ready(autojump_clock: object) -> None:
    async with bench() as here:
        here.engine.state, here.engine.problem = "failed", "out of memory"
        assert (refusal(await here.talk()).status, refusal(await here.talk()).message) == (503, "out of memory")
        here.worker = Worker(None, WORKER, SETTINGS)
        here.worker.drain()
        assert refusal(await here.talk()).status == 503


async def test_a_draining_worker_finishes_and_takes_no_more(autojump_clock: object) -> None:
    async with bench(Script([[A]], first_s=3)) as here:
        first = await here.ask()
        await trio.sleep(0.1)
        here.worker.drain()
        assert refusal(await here.talk()).status == 503
        assert kinds(await all_of(first))[-1] == END


async def test_the_bodies_of_all_jobs_together_are_bounded(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "BODIES_BYTES", 2 * len(chat()))
    async with bench(Script([[A]], first_s=10)) as here:
        for _ in range(2):
            await here.ask()
        await trio.sleep(0.1)
        assert kinds(await here.talk()) == [BUSY]


# --- entries that go away, or do not keep to it -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reset", "break"])
@pytest.mark.parametrize("when_s", [0.0, 1.0, 4.5])
async def test_an_entry_that_goes_away_frees_the_engine(autojump_clock: object, how: str, when_s: float) -> None:
    async with bench(Script([[A]] * 100, first_s=3, pause_s=1)) as here:
        near = await here.ask()
        await trio.sleep(when_s)
        near.reset() if how == "reset" else near.break_link()
        await trio.sleep(0.01)
        assert here.engine.open_now == 0
        assert here.worker.running == 0
        assert here.worker.slots.running == 0


async def test_a_reader_that_has_stopped_frees_the_engine(autojump_clock: object) -> None:
    big = piece("x" * 30_000)
    async with bench(Script([[big]] * 1000)) as here:
        near = await here.ask()
        await trio.sleep(SETTINGS.admission.stalled_reader_s - 1)
        assert here.engine.open_now == 1
        assert here.engine.given * len(big) <= CREDIT + SETTINGS.admission.output_bytes + 5 * len(big)
        await trio.sleep(2)
        assert here.engine.open_now == 0
        assert near.reset_code == ResetCode.SLOW_READER


async def test_the_deadline_of_the_caller(autojump_clock: object) -> None:
    async with bench(Script([[A]] * 100, pause_s=1)) as here:
        near = await here.ask(deadline_ms=2500)
        await trio.sleep(2.6)
        assert near.reset_code == ResetCode.DEADLINE
        assert here.engine.open_now == 0
        assert here.worker.slots.running == 0


@pytest.mark.parametrize("deadline_ms", [0, 2**31])
async def test_no_job_holds_a_slot_for_ever(autojump_clock: object, deadline_ms: int) -> None:
    async with bench(Script(first_s=1e9)) as here:
        near = await here.ask(deadline_ms=deadline_ms)
        with trio.move_on_after(SETTINGS.cascade.total_s - 1), suppress(NetError):
            while True:
                await near.receive()
        assert here.worker.slots.running == 1
        await trio.sleep(2)
        assert near.reset_code == ResetCode.DEADLINE
        assert (here.worker.slots.running, here.engine.open_now) == (0, 0)


@pytest.mark.parametrize("stream", [True, False])
async def test_the_simulated_gpu_is_free_within_a_second_of_the_deadline(autojump_clock: object, stream: bool) -> None:
    engine = MockEngine([ModelSpec(MODEL, params_b=8.0, context=8192)], find_gpu("RTX 4090"), wall=lambda: 1.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        here = Bench(Worker(engine, WORKER, SETTINGS), engine, nursery)
        body = chat(stream=stream, max_tokens=4000, ignore_eos=True)
        near = await here.ask(body, stream=stream, max_tokens=4000, deadline_ms=2500)
        with trio.move_on_after(2), suppress(NetError):
            while True:
                await near.receive()
        assert engine.load().running == 1
        await trio.sleep(1.5)
        assert near.reset_code == ResetCode.DEADLINE
        assert (here.worker.slots.running, engine.load().running) == (0, 0)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("frame", [(BODY, b"more"), (DELTA, b"{}"), (REQ, b"")])
async def test_frames_that_an_entry_does_not_send(autojump_clock: object, frame: tuple[int, bytes]) -> None:
    async with bench(Script([[A]], first_s=5)) as here:
        near = await here.ask()
        await trio.sleep(0.1)
        await near.send(*frame)
        await trio.sleep(0.1)
        assert near.reset_code == ResetCode.BAD_JOB
        assert here.engine.open_now == 0


async def test_unknown_frames_are_passed_over(autojump_clock: object) -> None:
    async with bench(Script([[A]], first_s=5)) as here:
        near = await here.ask()
        await near.send(99, b"from a newer version")
        assert kinds(await all_of(near))[-1] == END


@pytest.mark.parametrize("first", [(BODY, b"x"), (REQ, b"\xff"), (REQ, encode(JobRequest(JOB, CHAT, "x" * 200, 0)))])
async def test_a_job_that_cannot_be_read(autojump_clock: object, first: tuple[int, bytes]) -> None:
    async with bench() as here:
        near, far = channel_pair(ENTRY.peer_id, WORKER.peer_id)
        await here.worker.on_job(far, [first])
        assert near.reset_code == ResetCode.BAD_JOB


async def test_a_body_that_does_not_come(autojump_clock: object) -> None:
    async with bench() as here:
        near, far = channel_pair(ENTRY.peer_id, WORKER.peer_id)
        here.nursery.start_soon(here.worker.on_job, far, [(REQ, encode(request(b"x" * 100)))])
        found = refusal(await all_of(near))
        assert (found.status, found.code, found.final) == (408, "slow_body", False)


async def test_announced_requests_that_do_not_come_hold_nobody_up(autojump_clock: object) -> None:
    async with bench(slots=2) as here:
        for number in range(10):
            _, far = channel_pair(signer(number + 10).peer_id, WORKER.peer_id)
            here.nursery.start_soon(here.worker.on_job, far, [(REQ, encode(request(b"x" * 100)))])
        await trio.sleep(1)
        assert (here.worker.running, here.worker.slots.running, here.worker.slots.waiting) == (10, 0, 0)
        began = trio.current_time()
        assert kinds(await here.talk())[-1] == END
        assert trio.current_time() == began


async def test_a_job_is_taken_once(autojump_clock: object) -> None:
    async with bench() as here:
        assert kinds(await here.talk(job=JOB))[-1] == END
        again = refusal(await here.talk(job=JOB))
        assert (again.status, again.code, again.final) == (409, "duplicate_job", False)
        assert len(here.engine.jobs) == 1


async def test_a_defect_ends_the_job_and_nothing_else(autojump_clock: object) -> None:
    async with bench() as here:
        here.engine.offers = lambda: 1 / 0
        near = await here.ask()
        await trio.sleep(0.1)
        assert near.reset_code == ResetCode.INTERNAL


async def test_each_answer_tells_the_load(autojump_clock: object) -> None:
    load = FreshLoad(2, 1, 4, yours=1)
    engine = ScriptedEngine(Script(), 1)
    worker = Worker(engine, WORKER, SETTINGS, load_for={ENTRY.peer_id: load}.get)
    async with trio.open_nursery() as nursery:
        here = Bench(worker, engine, nursery)
        kind, payload = (await here.talk())[0]
        assert kind == ACCEPT
        assert decode(kind, payload) == Accept(JOB, 0, decode(kind, payload).ttft_ms, load)  # type: ignore[union-attr]
        assert worker.slots is not None
        worker.drain()
        ((kind, payload),) = await here.talk()
        refuse = decode(kind, payload)
        assert isinstance(refuse, Refuse)
        assert refuse.load == load


async def test_the_slots_say_when_something_changes_and_whose_jobs_are_here() -> None:
    slots = EngineSlots(ScriptedEngine(None, 2), SETTINGS.admission)
    seen: list[dict[PeerId, int]] = []
    slots.changed = lambda: seen.append(slots.jobs_of_peers())
    with slots.arrive(ENTRY.peer_id, 5, True), slots.arrive(None, 5, True):
        assert seen == [{ENTRY.peer_id: 1}, {ENTRY.peer_id: 1}]
    assert seen[-1] == {}
