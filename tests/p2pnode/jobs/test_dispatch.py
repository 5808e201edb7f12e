"""Jobs from entry to worker and back: an answer is complete or reported as failed, whatever happens on the way."""

from __future__ import annotations

import hashlib

import pytest
import trio

from p2pnode.engine.base import CHAT, EngineFailed
from p2pnode.jobs.dispatch import Answer, Dispatch
from p2pnode.jobs.records import JobFailed, JobSpec
from p2pnode.jobs.worker import Worker
from protocol import PROTOCOL_VERSION
from protocol.ids import JobId, name_key, peer_text
from protocol.reputation.outcomes import Outcome
from protocol.routing.ranking import JobQuery
from protocol.statements.adverts import Advert, Provider
from protocol.statements.envelope import statement
from protocol.wire.end_signature import sign_end
from protocol.wire.messages import (
    ACCEPT,
    BEAT,
    BUSY,
    DELTA,
    END,
    REFUSE,
    Accept,
    Busy,
    End,
    FreshLoad,
    JobRequest,
    Refuse,
    decode,
    encode,
)
from protocol.wire.mux import ResetCode
from tests.p2pnode.jobs.fake_workers import (
    MODEL,
    SETTINGS,
    Channel,
    Frames,
    Script,
    ScriptedEngine,
    chat,
    everything,
    ordered,
    piece,
    signer,
    site,
    spec,
    usage_piece,
    whole,
)

A, B, C = piece("a"), piece("b"), piece("c", "stop")


async def ask(dispatch: Dispatch, job: JobSpec) -> tuple[bytes, Answer]:
    async with dispatch.submit(job) as answer:
        return await everything(answer), answer


async def fails(dispatch: Dispatch, job: JobSpec) -> JobFailed:
    with pytest.raises(JobFailed) as caught:
        await ask(dispatch, job)
    return caught.value


# --- going well -------------------------------------------------------------------------------------------------------


async def test_a_stream_comes_from_a_peer_and_the_usage_event_stays_behind(autojump_clock: object) -> None:
    async with site() as here:
        engine = here.worker(1)
        said, answer = await ask(here.dispatch, spec())
        assert said == A + b"|" + B
        assert (answer.attempts, answer.route, answer.status) == (1, "direct", 200)
        assert answer.peer == signer(1).peer_id
        assert b'"include_usage":true' in engine.jobs[0].body
        assert engine.jobs[0].client == peer_text(here.swarm.me)
        record = here.book.get("req_1")
        assert (record.state, record.tokens_in, record.tokens_out) == ("completed", 5, 2)
        assert [attempt.outcome for attempt in record.attempts] == ["completed"]
        peer = here.swarm.view.get(signer(1).peer_id)
        assert (peer.inflight, peer.successes) == (0, 1)


async def test_the_usage_event_comes_through_when_it_was_asked_for(autojump_clock: object) -> None:
    async with site() as here:
        here.worker(1)
        assert (await ask(here.dispatch, spec(usage=True)))[0].endswith(usage_piece(5, 2))


async def test_a_whole_answer_is_given_when_its_end_has_proved_good(autojump_clock: object) -> None:
    body = b'{"choices":[{"message":{}}],"usage":{"prompt_tokens":3,"completion_tokens":7}}' + b" " * 100_000
    async with site() as here:
        here.worker(1, Script([[body]], first_s=30))
        async with here.dispatch.submit(spec(stream=False, max_tokens=1000)) as answer:
            assert here.book.get("req_1").timings.committed_ms >= 30_000
            assert b"".join(await answer.receive()) == body
            assert await answer.receive() == []
            assert await answer.receive() == []
        assert here.book.get("req_1").tokens_out == 7


async def test_the_own_engine_is_a_candidate_like_any_other(autojump_clock: object) -> None:
    engine = ScriptedEngine(Script([[A], [B], [usage_piece(1, 2)]], first_s=4))
    async with site(engine) as here:
        said, answer = await ask(here.dispatch, spec(client="laptop"))
        assert (said, answer.route, answer.peer) == (A + b"|" + B, "local", here.swarm.me)
        assert engine.jobs[0].client == "laptop"
        assert here.book.get("req_1").tokens_out == 2


async def test_a_long_body_arrives_whole(autojump_clock: object) -> None:
    async with site() as here:
        engine = here.worker(1)
        body = spec().body[:-1] + b',"user":"' + b"x" * 2_000_000 + b'"}'
        await ask(here.dispatch, spec(body=body))
        assert len(engine.jobs[0].body) == len(body) + len(b',"stream_options":{"include_usage":true}')


# --- nothing is cut silently ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
async def test_a_link_that_breaks_at_any_frame_never_gives_a_short_answer(autojump_clock: object, stream: bool) -> None:
    pieces = [A, B, C] if stream else [whole("a" * 10)[start : start + 25] for start in (0, 25, 50)]
    for at in range(6):  # ACCEPT, three DELTAs, END, and none
        async with site() as here:
            here.worker(1, Script([[each] for each in pieces], pause_s=0.1))

            def cut(channel: Channel, at: int = at) -> None:
                def tap(index: int, kind: int, payload: bytes) -> Frames:
                    if index == at:
                        channel.break_link()
                        return []
                    return [(kind, payload)]

                channel.tap = tap

            here.swarm.arrange = cut
            if at == 5:
                assert (await ask(here.dispatch, spec(stream=stream)))[0] == b"|".join(pieces)
            else:
                failed = await fails(here.dispatch, spec(stream=stream))
                assert (failed.status, failed.code, failed.should_retry) == (502, "peer_failed", False)
                assert here.book.get("req_1").state == "failed"
            assert here.swarm.view.get(signer(1).peer_id).inflight == 0


async def test_a_failure_before_the_first_byte_is_not_noticed_and_after_it_is(autojump_clock: object) -> None:
    async with site() as here:
        here.worker(1, Script(refuse=EngineFailed(502, "engine_failed", "out of memory")))
        here.worker(2, Script([[A]], end=EngineFailed(502, "engine_failed", "it crashed"), pause_s=0.1))
        here.worker(3, Script([[whole("c")]]))
        async with here.dispatch.submit(ordered("w1", "w2")) as answer:
            assert (answer.peer, answer.attempts) == (signer(2).peer_id, 2)
            with pytest.raises(JobFailed, match="it crashed"):
                await everything(answer)
        record = here.book.get("req_1")
        assert [attempt.outcome for attempt in record.attempts] == ["failed", "failed"]
        assert record.state == "failed"
        # Where nothing has been given away yet, the whole answer of another is better.
        said, answer = await ask(here.dispatch, ordered("w1", "w2", "w3", number=2, stream=False))
        assert (said, answer.attempts) == (whole("c"), 3)


async def test_an_engine_that_breaks_with_the_first_batch_is_passed_over(autojump_clock: object) -> None:
    async with site() as here:
        here.swarm.add(1, raw(lambda job: [(ACCEPT, accept(job)), (DELTA, A), (END, end(1, job, [A], finish="error"))]))
        here.worker(2, Script([[B]]))
        said, answer = await ask(here.dispatch, ordered("w1", "w2"))
        assert (said, answer.attempts) == (B, 2)


# --- peers that do not keep to it -------------------------------------------------------------------------------------


def accept(job: JobRequest, ttft_ms: int = 0) -> bytes:
    return encode(Accept(job.job, 0, ttft_ms))


def end(number: int, job: JobRequest, pieces: list[bytes], finish: str = "stop") -> bytes:
    plain = End(finish, 1, len(pieces), hashlib.sha256(b"".join(pieces)).digest(), "its engine\nbroke")
    return encode(sign_end(signer(number), JobId(job.job), plain))


def raw(frames: object, then_s: float = 0.0):
    """A peer that answers with exactly these frames, all at once, and then does nothing for a while."""

    async def on_job(channel: Channel, first: Frames) -> None:
        job = decode(*first[0])
        for kind, payload in frames(job):
            channel.other.put(kind, payload)
        await trio.sleep(then_s or 1000)

    return on_job


BAD = {
    "DELTA before ACCEPT": lambda job: [(DELTA, A)],
    "BEAT before ACCEPT": lambda job: [(BEAT, b"")],
    "END before ACCEPT": lambda job: [(END, end(1, job, []))],
    "two ACCEPTs": lambda job: [(ACCEPT, accept(job))] * 2,
    "ACCEPT of another job": lambda job: [(ACCEPT, encode(Accept(bytes(16))))],
    "BUSY after ACCEPT": lambda job: [(ACCEPT, accept(job)), (BUSY, encode(Busy()))],
    "a frame of the entry's": lambda job: [(32, b"")],
    "garbage": lambda job: [(ACCEPT, b"\xff")],
    "a line break": lambda job: [(ACCEPT, accept(job)), (DELTA, b'{"a":\n1}')],
    "a carriage return": lambda job: [(ACCEPT, accept(job)), (DELTA, b'{"a":\r1}')],
    "no object": lambda job: [(ACCEPT, accept(job)), (DELTA, b"[1]")],
    "half an object": lambda job: [(ACCEPT, accept(job)), (DELTA, b'{"a":')],
    "an object in braces only": lambda job: [(ACCEPT, accept(job)), (DELTA, b"{not JSON}")],
    "no choices": lambda job: [(ACCEPT, accept(job)), (DELTA, b'{"a":1}')],
    "a flood": lambda job: [(ACCEPT, accept(job)), (DELTA, piece("x" * 20_000))],
    "a false hash": lambda job: [(ACCEPT, accept(job)), (DELTA, A), (END, end(1, job, [B]))],
    "a false signature": lambda job: [(ACCEPT, accept(job)), (DELTA, A), (END, end(2, job, [A]))],
    "REFUSE after DELTA": lambda job: [(ACCEPT, accept(job)), (DELTA, A), (REFUSE, encode(Refuse(500, "x", "y")))],
    "nothing at all": lambda job: [(ACCEPT, accept(job)), (END, end(1, job, []))],
}


@pytest.mark.parametrize("what", BAD)
async def test_a_peer_that_breaks_the_rules_is_blamed_and_passed_over(autojump_clock: object, what: str) -> None:
    async with site() as here:
        here.swarm.add(1, raw(BAD[what]))
        here.worker(2)
        said, answer = await ask(here.dispatch, ordered("w1", "w2"))
        assert (said, answer.attempts) == (A + b"|" + B, 2)
        first = here.seen[0]
        assert (first.outcome, first.blame) == (Outcome.MISBEHAVED, True)


@pytest.mark.parametrize("poison", [b'{"a":1}\n\ndata: [DONE]\n\n{}', b'{"a":1}\r\rdata: [DONE]\r\r{}', b"[DONE]"])
async def test_nothing_that_breaks_the_rules_reaches_the_caller_in_mid_stream(
    autojump_clock: object, poison: bytes
) -> None:
    async def on_job(channel: Channel, first: Frames) -> None:
        await channel.send(ACCEPT, accept(decode(*first[0])))
        await channel.send(DELTA, A)
        await trio.sleep(1)
        channel.other.put(DELTA, B)
        channel.other.put(DELTA, poison)
        await trio.sleep_forever()

    async with site() as here:
        here.swarm.add(1, on_job)
        async with here.dispatch.submit(spec()) as answer:
            assert await answer.receive() == [A]
            with pytest.raises(JobFailed, match="broke off"):
                await answer.receive()


async def test_what_a_peer_says_after_its_end_reaches_nobody(autojump_clock: object) -> None:
    frames = lambda job: [(ACCEPT, accept(job)), (DELTA, A), (END, end(1, job, [A])), (DELTA, B)]  # noqa: E731
    async with site() as here:
        here.swarm.add(1, raw(frames))
        assert (await ask(here.dispatch, spec()))[0] == A


async def test_unknown_kinds_are_passed_over(autojump_clock: object) -> None:
    frames = lambda job: [(ACCEPT, accept(job)), (77, b"?"), (DELTA, A), (END, end(1, job, [A]))]  # noqa: E731
    async with site() as here:
        here.swarm.add(1, raw(frames))
        assert (await ask(here.dispatch, spec()))[0] == A


@pytest.mark.parametrize("body", [b"garbage", b'{"choices":[]}', b'{"error":{"code":"invalid_api_key"}}'])
async def test_a_whole_answer_that_is_none_is_passed_over(autojump_clock: object, body: bytes) -> None:
    frames = lambda job: [(ACCEPT, accept(job)), (DELTA, body), (END, end(1, job, [body]))]  # noqa: E731
    async with site() as here:
        here.swarm.add(1, raw(frames))
        here.worker(2, Script([[whole("a")]]))
        said, answer = await ask(here.dispatch, ordered("w1", "w2", stream=False))
        assert (said, answer.attempts) == (whole("a"), 2)
        assert (here.seen[0].outcome, here.seen[0].blame) == (Outcome.MISBEHAVED, True)


async def test_a_whole_answer_is_bounded(autojump_clock: object) -> None:
    frames = lambda job: [(ACCEPT, accept(job)), *[(DELTA, bytes(32768))] * 520]  # noqa: E731
    async with site() as here:
        here.swarm.add(1, raw(frames))
        failed = await fails(here.dispatch, spec(stream=False))
        assert "more than 16777216 bytes" in failed.message


# --- deadlines --------------------------------------------------------------------------------------------------------


async def beating(channel: Channel, first: Frames) -> None:
    """Accepts, says it is alive, and never answers."""
    await channel.send(ACCEPT, accept(decode(*first[0])))
    while True:
        await channel.send(BEAT, b"")
        await trio.sleep(1)


async def silent(channel: Channel, first: Frames) -> None:
    await trio.sleep_forever()


async def frozen(channel: Channel, first: Frames) -> None:
    await channel.send(ACCEPT, accept(decode(*first[0])))
    await channel.send(DELTA, A)
    await trio.sleep_forever()


async def dripping(channel: Channel, first: Frames) -> None:
    await channel.send(ACCEPT, accept(decode(*first[0])))
    while True:
        await channel.send(DELTA, A)
        await trio.sleep(5)


@pytest.mark.parametrize(
    ("peer", "outcome", "seconds"),
    [(silent, Outcome.NO_ACCEPT, 3), (beating, Outcome.NO_ANSWER, 5)],
)
async def test_a_peer_that_does_not_begin_is_passed_over(
    autojump_clock: object, peer: object, outcome: Outcome, seconds: float
) -> None:
    async with site() as here:
        here.swarm.add(1, peer)
        here.worker(2)
        began = trio.current_time()
        _, answer = await ask(here.dispatch, ordered("w1", "w2"))
        assert answer.attempts == 2
        assert here.seen[0].outcome is outcome
        assert trio.current_time() - began == pytest.approx(seconds, abs=0.2)
        assert here.swarm.channels[0].other.reset_code == ResetCode.CANCELLED


@pytest.mark.parametrize(("peer", "outcome"), [(frozen, Outcome.SILENT), (dripping, Outcome.SLOW)])
async def test_a_peer_that_stops_is_cut_with_an_error(autojump_clock: object, peer: object, outcome: Outcome) -> None:
    async with site() as here:
        here.swarm.add(1, peer)
        failed = await fails(here.dispatch, spec())
        assert (failed.status, failed.code) == (502, "peer_failed")
        assert here.seen[0].outcome is outcome
        assert here.seen[0].blame


async def test_the_callers_deadline_ends_the_job_without_blame(autojump_clock: object) -> None:
    async with site() as here:
        here.swarm.add(1, beating)
        failed = await fails(here.dispatch, spec(deadline=trio.current_time() + 2))
        assert (failed.status, failed.code, failed.should_retry) == (504, "deadline_exceeded", False)
        assert not here.seen[0].blame


async def test_the_callers_deadline_holds_while_the_dht_is_asked(autojump_clock: object) -> None:
    async with site() as here:
        began = trio.current_time()
        failed = await fails(here.dispatch, spec(model="x", query=JobQuery("x"), deadline=began + 0.05))
        assert (failed.status, failed.code) == (504, "deadline_exceeded")
        assert trio.current_time() - began == pytest.approx(0.05)


async def test_the_worker_keeps_the_callers_deadline_too(autojump_clock: object) -> None:
    async with site() as here:
        engine = here.worker(1, Script([[A]] * 100, pause_s=1))
        failed = await fails(here.dispatch, spec(deadline=trio.current_time() + 3.5))
        assert failed.code == "deadline_exceeded"
        await trio.sleep(1)
        assert engine.open_now == 0


async def test_the_worker_is_told_the_deadline_of_every_job(autojump_clock: object) -> None:
    told: list[float] = []

    async def tells(channel: Channel, first: Frames) -> None:
        request = decode(*first[0])
        told.append(request.deadline_ms / 1000)
        await busy(channel, first)

    async with site() as here:
        here.swarm.add(1, tells)
        await fails(here.dispatch, spec())
        await fails(here.dispatch, spec(2, deadline=trio.current_time() + 20))
        assert told == [pytest.approx(SETTINGS.cascade.total_s), pytest.approx(20)]


async def test_a_caller_that_reads_slowly_is_not_the_peers_fault(autojump_clock: object) -> None:
    async with site() as here:
        here.worker(1, Script([[each] for each in (A, B, C)], pause_s=1))
        async with here.dispatch.submit(spec()) as answer:
            said = []
            while batch := await answer.receive():
                said += batch
                await trio.sleep(25)
        assert said == [A, B, C]


async def test_a_caller_that_stops_reading_ends_the_engine_and_is_told(autojump_clock: object) -> None:
    big = piece("x" * 15_000)
    async with site() as here:
        engine = here.worker(1, Script([[big]] * 1000))
        async with here.dispatch.submit(spec()) as answer:
            await trio.sleep(SETTINGS.admission.stalled_reader_s + 1)
            assert engine.open_now == 0
            # Back-pressure: about the credit, the buffer and what is under way, not all of it.
            assert engine.given * len(big) < 900_000
            with pytest.raises(JobFailed) as caught:
                await everything(answer)
        assert (caught.value.status, caught.value.code) == (408, "slow_reader")
        assert not here.seen[0].blame


# --- cancelling -------------------------------------------------------------------------------------------------------


async def test_leaving_the_block_cancels_on_the_far_engine(autojump_clock: object) -> None:
    async with site() as here:
        engine = here.worker(1, Script([[A]] * 1000, pause_s=0.5))
        async with here.dispatch.submit(spec()) as answer:
            await answer.receive()
            assert engine.open_now == 1
        await trio.sleep(0.01)
        assert engine.open_now == 0
        assert here.book.get("req_1").state == "cancelled"
        assert here.seen[0].outcome is Outcome.CANCELLED


async def test_leaving_the_block_cancels_the_own_engine(autojump_clock: object) -> None:
    engine = ScriptedEngine(Script([[A]] * 1000, pause_s=0.5))
    async with site(engine) as here:
        async with here.dispatch.submit(spec()) as answer:
            await answer.receive()
        assert engine.open_now == 0
        assert here.dispatch.slots.running == 0


async def test_cancelling_while_nothing_has_come_yet(autojump_clock: object) -> None:
    async with site() as here:
        engine = here.worker(1, Script([[A]], first_s=4))
        with trio.move_on_after(2) as scope:
            await ask(here.dispatch, spec())
        assert scope.cancelled_caught
        await trio.sleep(0.1)
        assert engine.open_now == 0
        assert here.book.get("req_1").state == "cancelled"
        assert here.book.running == 0


async def test_a_receive_may_be_cancelled_and_called_again(autojump_clock: object) -> None:
    async with site() as here:
        here.worker(1, Script([[A], [B], [C]], pause_s=1))
        async with here.dispatch.submit(spec()) as answer:
            said: list[bytes] = []
            while True:
                with trio.move_on_after(0.3) as scope:
                    batch = await answer.receive()
                if scope.cancelled_caught:
                    continue
                if not batch:
                    break
                said += batch
        assert said == [A, B, C]


@pytest.mark.parametrize("first_s", [0.0, 4.0])
async def test_the_book_can_cancel(autojump_clock: object, first_s: float) -> None:
    async with site() as here, trio.open_nursery() as nursery:
        engine = here.worker(1, Script([[A]] * 100, first_s=first_s, pause_s=1))

        async def cancel() -> None:
            await trio.sleep(2)
            assert here.book.running == 1
            assert here.book.cancel("req_1")

        nursery.start_soon(cancel)
        failed = await fails(here.dispatch, spec())
        assert (failed.code, failed.should_retry) == ("cancelled", False)
        await trio.sleep(0.1)
        assert engine.open_now == 0
        assert here.book.get("req_1").state == "cancelled"
        assert not here.book.cancel("req_1")


async def test_what_the_caller_raises_comes_out_as_it_is(autojump_clock: object) -> None:
    async with site() as here:
        here.worker(1, Script([[A]] * 100, pause_s=1))

        async def caller() -> None:
            async with here.dispatch.submit(spec()) as answer:
                await answer.receive()
                raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            await caller()


# --- who is asked, and what is said when nobody can -------------------------------------------------------------------


async def test_a_mistake_that_two_peers_name_goes_to_no_third(autojump_clock: object) -> None:
    async with site() as here:
        refuse = EngineFailed(400, "context_length_exceeded", "too long", "messages")
        for number in (1, 2):
            here.worker(number, Script(refuse=refuse))
        here.worker(3)
        failed = await fails(here.dispatch, ordered("w1", "w2", "w3"))
        assert (failed.status, failed.code, failed.param) == (400, "context_length_exceeded", "messages")
        assert failed.should_retry is False
        assert len(here.swarm.asked) == 2
        assert not here.seen[0].blame


async def test_a_mistake_that_this_nodes_own_check_finds_goes_to_no_second_peer(autojump_clock: object) -> None:
    async with site() as here:
        for number in (1, 2):
            here.worker(number)
        failed = await fails(here.dispatch, spec(body=chat(priority=1)))
        assert (failed.status, failed.code, failed.param) == (400, "unsupported_parameter", "priority")
        assert len(here.swarm.asked) == 1


async def blames_the_request(channel: Channel, first: Frames) -> None:
    await channel.send(REFUSE, encode(Refuse(401, "invalid_api_key", "your key is wrong\n", "", True)))
    channel.close()


async def test_one_peer_cannot_end_a_request(autojump_clock: object) -> None:
    async with site() as here:
        here.swarm.add(1, blames_the_request)
        failed = await fails(here.dispatch, spec())
        assert (failed.status, failed.code) == (400, "invalid_parameter"), "a peer cannot make a caller doubt its key"
        assert 'It says: "your key is wrong ". No other peer could be asked' in failed.message
        here.worker(2)
        said, answer = await ask(here.dispatch, ordered("w1", "w2", number=2))
        assert (said, answer.attempts) == (A + b"|" + B, 2)


async def test_the_same_mistake_on_the_own_engine(autojump_clock: object) -> None:
    engine = ScriptedEngine(Script(refuse=EngineFailed(400, "invalid_parameter", "temperature", "temperature")))
    async with site(engine) as here:
        assert (await fails(here.dispatch, spec())).param == "temperature"


async def busy(channel: Channel, first: Frames) -> None:
    await channel.send(BUSY, encode(Busy(retry_ms=4000)))
    channel.close()


async def test_each_answer_to_a_job_brings_the_load_of_its_peer(autojump_clock: object) -> None:
    async def full(channel: Channel, first: Frames) -> None:
        await channel.send(BUSY, encode(Busy(load=FreshLoad(4, 1, 4))))
        channel.close()

    async def refuses(channel: Channel, first: Frames) -> None:
        await channel.send(REFUSE, encode(Refuse(503, "no_capacity", "later", load=FreshLoad(4, 2, 4))))
        channel.close()

    async def accepts(channel: Channel, first: Frames) -> None:
        job = decode(*first[0])
        assert isinstance(job, JobRequest)
        await channel.send(ACCEPT, encode(Accept(job.job, load=FreshLoad(1, 0, 4, yours=1))))
        await channel.send(DELTA, piece("a"))
        await trio.sleep_forever()

    async with site() as here:
        peers = [here.swarm.add(number, each) for number, each in enumerate((full, refuses, accepts), 1)]
        async with here.dispatch.submit(ordered("w1", "w2", "w3")):
            assert here.swarm.wanted == [MODEL]
            loads = [FreshLoad(4, 1, 4), FreshLoad(4, 2, 4), FreshLoad(1, 0, 4, yours=1)]
            assert here.swarm.loads == list(zip(peers, loads, strict=True))


async def test_everybody_busy_is_429_with_the_wait(autojump_clock: object) -> None:
    async with site() as here:
        for number in (1, 2, 3, 4):
            here.swarm.add(number, busy)
        failed = await fails(here.dispatch, spec())
        assert (failed.status, failed.code, failed.retry_after) == (429, "queue_full", 4.0)
        assert len(here.swarm.asked) == 4
        assert not any(seen.blame for seen in here.seen)


async def test_busy_peers_do_not_use_up_the_attempts(autojump_clock: object) -> None:
    async with site() as here:
        for number in (1, 2, 3, 4):
            here.swarm.add(number, busy)
        here.worker(5)
        _, answer = await ask(here.dispatch, ordered("w1", "w2", "w3", "w4", "w5"))
        assert answer.attempts == 5


async def test_some_busy_and_some_failed_is_503(autojump_clock: object) -> None:
    async with site() as here:
        here.swarm.add(1, busy)
        here.swarm.add(2, None)
        failed = await fails(here.dispatch, spec())
        assert (failed.status, failed.code, failed.retry_after) == (503, "no_capacity", 4.0)


async def test_three_attempts_and_no_more(autojump_clock: object) -> None:
    async with site() as here:
        engines = [here.worker(n, Script(refuse=EngineFailed(500, "engine_failed", "bang"))) for n in (1, 2, 3, 4)]
        failed = await fails(here.dispatch, spec())
        assert (failed.status, failed.code) == (502, "peer_failed")
        assert sum(len(engine.jobs) for engine in engines) == 3


async def test_our_own_network_is_suspected_when_all_fail_at_once(autojump_clock: object) -> None:
    async with site() as here:
        for number in range(1, 6):
            here.swarm.add(number, None)
        failed = await fails(here.dispatch, spec())
        assert "own network" in failed.message
        assert [seen.blame for seen in here.seen] == [True, True, False, False, False]


async def test_a_full_own_engine_passes_the_job_on(autojump_clock: object) -> None:
    engine = ScriptedEngine(slots=1)
    async with site(engine) as here:
        here.worker(1)
        held = [here.dispatch.slots.arrive(None, 0, False) for _ in range(1 + SETTINGS.admission.queue)]
        _, answer = await ask(here.dispatch, ordered("me", "w1"))
        assert (answer.route, answer.attempts) == ("direct", 2)
        for place in held:
            place.leave()


async def test_an_unknown_model_is_404_and_names_similar_ones(autojump_clock: object) -> None:
    async with site() as here:
        here.swarm.add(1, busy, model="llama-3.1-8b")
        wanted = "llama-3.1-9b"
        job = spec(model=wanted, query=JobQuery(wanted))
        failed = await fails(here.dispatch, job)
        assert (failed.status, failed.code, failed.param) == (404, "model_not_found", "model")
        assert "llama-3.1-8b" in failed.message
        assert here.swarm.lookups == 1
        await fails(here.dispatch, job)
        assert here.swarm.lookups == 1, "a name that nobody knows is not looked up again at once"


async def test_a_model_beyond_the_view_is_found_in_the_dht(autojump_clock: object) -> None:
    async with site() as here:
        here.worker(1)
        far = signer(2)
        here.swarm.workers[far.peer_id] = here.swarm.workers[signer(1).peer_id]
        engine = ScriptedEngine()
        engine.models = ("rare",)
        here.swarm.workers[far.peer_id] = Worker(engine, far, SETTINGS).on_job
        provider = statement(far, Provider(name_key("rare")), (1, 1), 1e9, 3600)
        here.swarm.found[name_key("rare")] = (provider,)
        said, answer = await ask(here.dispatch, spec(model="rare", body=chat(model="rare"), query=JobQuery("rare")))
        assert (said, answer.peer) == (A + b"|" + B, far.peer_id)
        failed = await fails(here.dispatch, spec(2, model="rare", query=JobQuery("rare", zone="local")))
        assert failed.status == 404, "nothing is known of it that a wish could be checked against"


async def test_an_unknown_model_is_answered_within_a_second_and_the_look_up_goes_on(autojump_clock: object) -> None:
    async with site() as here:
        here.worker(1)
        here.swarm.lookup_s = 5.0
        began = trio.current_time()
        failed = await fails(here.dispatch, spec(model="x", query=JobQuery("x")))
        assert failed.code == "model_not_found"
        assert trio.current_time() - began < 1
        peer = signer(1)
        here.swarm.found[name_key("x")] = (statement(peer, Provider(name_key("x")), (1, 1), 1e9, 3600),)
        await trio.sleep(5)
        assert here.swarm.lookups == 1
        engine = here.worker(1)
        engine.models = ("x",)
        assert (await ask(here.dispatch, spec(2, model="x", body=chat(model="x"), query=JobQuery("x"))))[
            1
        ].attempts == 1
        assert here.swarm.lookups == 1, "the answer that came late was kept"


async def test_a_model_whose_peers_refuse_the_connection_is_unknown(autojump_clock: object) -> None:
    async with site() as here:
        here.swarm.answers = True
        for number in range(1, 5):
            here.swarm.add(number, None)
        failed = await fails(here.dispatch, spec())
        assert (failed.status, failed.code) == (404, "model_not_found")
        assert "No peer that offers the model 'm' can be reached now." in failed.message
        assert len(here.swarm.asked) == 4
        assert {each.reason for each in here.dispatch.explain(JobQuery(MODEL)).excluded} == {"unreachable", "model"}
        assert not here.dispatch.models()
        assert (await fails(here.dispatch, spec(2))).code == "model_not_found"
        assert len(here.swarm.asked) == 4, "nobody is dialled again at once"


async def test_identities_on_paper_cost_a_caller_nothing(autojump_clock: object) -> None:
    async with site() as here:
        here.swarm.answers = True
        names = [f"w{here.swarm.add(number, None) and number}" for number in range(1, 16)]
        here.worker(20)
        began = trio.current_time()
        _, answer = await ask(here.dispatch, ordered(*names, "w20"))
        assert answer.attempts == 16
        assert trio.current_time() - began < 0.1


async def test_a_young_node_says_that_it_is_starting(autojump_clock: object) -> None:
    async with site() as here:
        failed = await fails(here.dispatch, spec())
        assert (failed.status, failed.code, failed.retry_after) == (503, "starting", 1.0)
        await trio.sleep(6)
        assert (await fails(here.dispatch, spec(2))).status == 404
    engine = ScriptedEngine()
    engine.models, engine.state = (), "starting"
    async with site(engine) as here:
        assert (await fails(here.dispatch, spec())).code == "starting"


async def test_offered_but_filtered_out(autojump_clock: object) -> None:
    async with site() as here:
        peer = here.swarm.add(1, busy)
        failed = await fails(here.dispatch, spec(query=JobQuery(MODEL, only=("somebody",))))
        assert (failed.status, failed.code, failed.should_retry) == (503, "no_capacity", False)
        assert "1 not_named" in failed.message
        failed = await fails(here.dispatch, spec(query=JobQuery(MODEL, prompt_tokens=20_000)))
        assert (failed.status, failed.code, failed.param) == (400, "context_length_exceeded", "messages")
        here.swarm.view.set_state(peer, "dead", trio.current_time())
        failed = await fails(here.dispatch, spec())
        assert (failed.status, failed.retry_after) == (503, 1.0)


async def test_a_prompt_that_may_be_too_long_is_left_to_the_engine_to_count(autojump_clock: object) -> None:
    async with site() as here:
        here.worker(1)
        said, _ = await ask(here.dispatch, spec(query=JobQuery(MODEL, prompt_tokens=9000)))
        assert said == A + b"|" + B


async def test_only_trusted_peers_are_asked_where_that_is_wanted(autojump_clock: object) -> None:
    async with site(trusted=frozenset((signer(2).peer_id,))) as here:
        for number in (1, 2, 3):
            here.worker(number)
        for number, zone in enumerate(("trusted", "mine")):
            _, answer = await ask(here.dispatch, spec(number, query=JobQuery(MODEL, order=("w1",), zone=zone)))
            assert answer.peer == signer(2).peer_id
        failed = await fails(here.dispatch, spec(9, query=JobQuery(MODEL, zone="local")))
        assert (failed.code, failed.should_retry) == ("no_capacity", False)
        assert "3 zone" in failed.message


async def test_a_stopping_node_takes_nothing_more(autojump_clock: object) -> None:
    async with site() as here:
        here.worker(1)
        here.dispatch.drain()
        assert (await fails(here.dispatch, spec())).status == 503


async def test_models_and_explain_show_what_is_there(autojump_clock: object) -> None:
    async with site() as here:
        here.worker(1)
        (model,) = here.dispatch.models()
        assert (model["id"], model["object"], model["p2pnode"]["peers"]) == (MODEL, "model", 1)
        ranking = here.dispatch.explain(JobQuery(MODEL))
        assert [candidate.peer for candidate in ranking.candidates] == [signer(1).peer_id]
        assert ranking.candidates[0].terms


async def test_a_defect_on_the_way_is_an_outcome(autojump_clock: object) -> None:
    async with site() as here:

        async def broken(peer: object) -> Channel:
            raise RuntimeError("bug")

        here.swarm.add(1, busy)
        here.swarm.open_job = broken
        failed = await fails(here.dispatch, spec())
        assert (failed.status, here.seen[0].outcome, here.seen[0].blame) == (502, Outcome.DEFECT, False)
    engine = ScriptedEngine()
    async with site(engine) as here:
        engine.load = lambda: 1 / 0
        failed = await fails(here.dispatch, spec())
        assert here.seen[0].outcome is Outcome.DEFECT


async def test_a_node_without_an_engine_does_not_ask_itself(autojump_clock: object) -> None:
    async with site() as here:
        engine = ScriptedEngine()
        here.swarm.view.put_self(Advert(PROTOCOL_VERSION, models=engine.offers()), engine.load(), 0.0)
        assert (await fails(here.dispatch, spec())).status == 503
        assert not here.swarm.asked


async def test_embeddings_and_long_answers_get_the_time_they_need(autojump_clock: object) -> None:
    async with site() as here:
        here.worker(1, Script([[whole("a")]], first_s=100))
        said, _ = await ask(here.dispatch, spec(stream=False, max_tokens=0, path=CHAT))
        assert said == whole("a")
        here.worker(2, Script([[b'{"data":[{}]}']], first_s=10))
        body = b'{"model":"m","input":"hello"}'
        job = ordered("w2", number=2, stream=False, path="/v1/embeddings", body=body, prompt_tokens=200)
        assert (await ask(here.dispatch, job))[0] == b'{"data":[{}]}'


async def test_an_answer_without_a_bound_is_not_waited_for_without_end(autojump_clock: object) -> None:
    async with site() as here:
        here.swarm.add(1, beating)
        began = trio.current_time()
        failed = await fails(here.dispatch, spec(stream=False, max_tokens=0))
        assert (failed.status, failed.code) == (502, "peer_failed")
        assert trio.current_time() - began < 0.5 * SETTINGS.cascade.total_s
        assert [seen.outcome for seen in here.seen] == [Outcome.NO_ANSWER]


async def trickling(channel: Channel, first: Frames) -> None:
    """Legal by half a piece a second, and forty times slower than its card."""
    await channel.send(ACCEPT, accept(decode(*first[0])))
    while True:
        await channel.send(DELTA, A)
        await trio.sleep(1.9)


async def test_a_pace_far_below_the_prediction_is_a_failure_within_seconds(autojump_clock: object) -> None:
    async with site() as here:
        here.swarm.add(1, trickling)
        began = trio.current_time()
        assert (await fails(here.dispatch, spec())).code == "peer_failed"
        assert trio.current_time() - began == pytest.approx(SETTINGS.cascade.pace_window_s)
        assert here.seen[0].outcome is Outcome.SLOW
        # A model may keep a call of a tool back until it is whole, so the pace tells nothing.
        async with here.dispatch.submit(spec(2, body=chat(tools=[]))) as answer:
            with trio.move_on_after(30) as watched:
                await everything(answer)
        assert watched.cancelled_caught


async def promising(channel: Channel, first: Frames) -> None:
    await channel.send(ACCEPT, accept(decode(*first[0]), 2**31 - 1))
    while True:
        await channel.send(BEAT, b"")
        await trio.sleep(1)


async def test_a_promise_beyond_reason_costs_the_caller_nothing(autojump_clock: object) -> None:
    async with site() as here:
        here.swarm.add(1, promising)
        began = trio.current_time()
        assert (await fails(here.dispatch, spec())).code == "peer_failed"
        assert trio.current_time() - began == pytest.approx(SETTINGS.cascade.promise_most_s, abs=0.01)
        here.worker(2)
        began = trio.current_time()
        assert (await ask(here.dispatch, ordered("w1", "w2", number=2)))[1].attempts == 2
        assert trio.current_time() - began < 0.1
