"""The mock engine: honest timing on a virtual clock, the same words every time, OpenAI's forms, faults on demand."""

from __future__ import annotations

import base64
import json
import math
import struct
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from p2pnode.engine.base import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, EngineFailed, EngineJob, ModelSpec
from p2pnode.engine.mock import Faults, MockEngine
from protocol.perf.cost_model import predict
from protocol.perf.gpu_catalog import find_gpu, shape_of

CARD = find_gpu("RTX 4090")
SPEC = ModelSpec("m", params_b=8.0, context=1000)


def engine(**options: Any) -> MockEngine:
    return MockEngine([SPEC], CARD, **({"speed": math.inf, "wall": lambda: 1.0} | options))


def job(path: str = CHAT, **fields: Any) -> EngineJob:
    defaults = {CHAT: {"messages": [{"role": "user", "content": "hi"}]}, COMPLETIONS: {"prompt": "hi"}}
    body = {"model": "m"} | defaults.get(path, {"input": "hi"}) | fields
    return EngineJob(path, "m", json.dumps(body).encode(), stream=bool(fields.get("stream")))


async def pieces(mock: MockEngine, work: EngineJob) -> list[bytes]:
    said = []
    async with mock.open(work) as reply:
        assert reply.status == 200
        while batch := await reply.receive():
            said += batch
    return said


async def whole(mock: MockEngine, path: str = CHAT, **fields: Any) -> Any:
    return json.loads(b"".join(await pieces(mock, job(path, **fields))))


async def events(mock: MockEngine, path: str = CHAT, **fields: Any) -> list[Any]:
    return [json.loads(piece) for piece in await pieces(mock, job(path, stream=True, **fields))]


async def test_a_stream_says_what_the_whole_answer_says() -> None:
    answer = await whole(engine())
    chunks = await events(engine())
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert (
        "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
        == (answer["choices"][0]["message"]["content"])
    )
    assert [c["choices"][0]["finish_reason"] for c in chunks][-2:] == [None, "stop"]
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
    assert answer["system_fingerprint"] == "p2pnode-mock"
    assert answer["usage"]["completion_tokens"] == len(chunks) - 2


async def test_the_same_prompt_gets_the_same_words_whatever_the_temperature() -> None:
    first = await whole(engine(), temperature=0.0)
    again = await whole(engine(), temperature=1.5)
    other = await whole(engine(), seed=7)
    assert first["choices"] == again["choices"]
    assert first["choices"] != other["choices"]


async def test_usage_comes_last_and_only_when_it_is_wanted() -> None:
    plain = await events(engine())
    assert all("usage" not in chunk for chunk in plain)
    counted = await events(engine(), stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in counted[:-1])
    assert counted[-1]["choices"] == []
    assert counted[-1]["usage"]["completion_tokens"] == len(counted) - 3


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_a_limit_is_honoured_and_named_as_the_reason(field: str) -> None:
    answer = await whole(engine(), **{field: 5})
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 5


async def test_ignore_eos_gives_exactly_as_many_tokens_as_were_asked_for() -> None:
    answer = await whole(engine(), max_tokens=700, ignore_eos=True)
    assert answer["usage"]["completion_tokens"] == 700


async def test_stop_cuts_before_the_word() -> None:
    text = (await whole(engine()))["choices"][0]["message"]["content"]
    stop = text[20:26]
    answer = await whole(engine(), stop=["not said", stop])
    assert answer["choices"][0]["message"]["content"] == text[: text.index(stop)]
    assert answer["choices"][0]["finish_reason"] == "stop"
    chunks = await events(engine(), stop=stop)
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == text[: text.index(stop)]


async def test_n_choices_differ_and_are_told_apart_in_a_stream() -> None:
    answer = await whole(engine(), n=3)
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert len(set(texts)) == 3
    said = ["", "", ""]
    for chunk in await events(engine(), n=3):
        choice = chunk["choices"][0]
        said[choice["index"]] += choice["delta"].get("content", "")
    assert said == texts


async def test_a_forced_tool_is_called_with_arguments_of_its_schema() -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Oslo"]}, "days": {"type": "integer", "minimum": 1}}}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": schema}}]
    forced = {"tools": tools, "tool_choice": {"type": "function", "function": {"name": "weather"}}}
    choice = (await whole(engine(), **forced))["choices"][0]
    call = choice["message"]["tool_calls"][0]
    assert (choice["finish_reason"], call["function"]["name"]) == ("tool_calls", "weather")
    arguments = json.loads(call["function"]["arguments"])
    assert arguments["city"] == "Oslo"
    assert arguments["days"] >= 1
    deltas = [c["choices"][0]["delta"].get("tool_calls") for c in await events(engine(), **forced)]
    assert "".join(d[0]["function"]["arguments"] for d in deltas if d) == call["function"]["arguments"]
    required = await whole(engine(), tools=tools, tool_choice="required")
    assert required["choices"][0]["message"]["tool_calls"]
    free = await whole(engine(), tools=tools)
    assert "tool_calls" not in free["choices"][0]["message"]


async def test_an_unknown_tool_is_the_callers_fault() -> None:
    with pytest.raises(EngineFailed) as caught:
        await whole(engine(), tools=[], tool_choice={"type": "function", "function": {"name": "no"}})
    assert (caught.value.status, caught.value.param) == (400, "tool_choice")


async def test_json_is_json() -> None:
    answer = await whole(engine(), response_format={"type": "json_object"})
    assert set(json.loads(answer["choices"][0]["message"]["content"])) == {"answer"}
    schema = {
        "type": "object",
        "properties": {
            "on": {"type": "boolean"},
            "list": {"type": "array", "items": {"type": "number"}},
            "none": {"type": ["null", "string"]},
            "fixed": {"const": 3},
        },
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    value = json.loads((await whole(engine(), response_format=wanted))["choices"][0]["message"]["content"])
    assert isinstance(value["on"], bool)
    assert isinstance(value["list"][0], int)
    assert (value["none"], value["fixed"]) == (None, 3)


async def test_text_completions_and_logprobs() -> None:
    answer = await whole(engine(), COMPLETIONS, max_tokens=4, logprobs=1)
    choice = answer["choices"][0]
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    chunks = await events(engine(), COMPLETIONS, max_tokens=4)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == choice["text"]
    chat = await whole(engine(), max_tokens=2, logprobs=True)
    assert len(chat["choices"][0]["logprobs"]["content"]) == 2
    assert all(c["choices"][0].get("logprobs") for c in (await events(engine(), max_tokens=2, logprobs=True))[1:-1])


async def test_embeddings_as_floats_and_as_base64_are_the_same_unit_vectors() -> None:
    plain = await whole(engine(), EMBEDDINGS, input=["a", "b"], dimensions=8)
    packed = await whole(engine(), EMBEDDINGS, input=["a", "b"], dimensions=8, encoding_format="base64")
    vectors = [item["embedding"] for item in plain["data"]]
    assert vectors[0] != vectors[1]
    assert math.isclose(sum(x * x for x in vectors[0]), 1.0)
    unpacked = struct.unpack("<8f", base64.b64decode(packed["data"][0]["embedding"]))
    assert all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(unpacked, vectors[0], strict=True))
    assert len((await whole(engine(), EMBEDDINGS, input=[1, 2, 3]))["data"]) == 1


async def test_responses_events_name_themselves() -> None:
    answer = await whole(engine(), RESPONSES, max_output_tokens=6)
    text = answer["output"][0]["content"][0]["text"]
    assert answer["status"] == "incomplete"
    chunks = await events(engine(), RESPONSES, max_output_tokens=6)
    assert [c["type"] for c in (chunks[0], chunks[-1])] == ["response.created", "response.incomplete"]
    assert "".join(c["delta"] for c in chunks if c["type"] == "response.output_text.delta") == text
    assert [c["sequence_number"] for c in chunks] == list(range(len(chunks)))


async def test_an_answer_can_be_continued_where_another_engine_stopped() -> None:
    chunks = await events(engine())
    tokens = [c["choices"][0]["delta"].get("content", "") for c in chunks]
    text = "".join(tokens)
    said = "".join(tokens[:9])
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": said}]
    rest = await whole(engine(), messages=messages, continue_final_message=True)
    assert said + rest["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"messages": []}, 400, "messages"),
        ({"max_tokens": "many"}, 400, "max_tokens"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"n": 99}, 400, "n"),
        ({"model": "other"}, 404, "model"),
        ({"max_tokens": 5000}, 400, "messages"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], status: int, param: str) -> None:
    with pytest.raises(EngineFailed) as caught:
        await whole(engine(), **fields)
    assert (caught.value.status, caught.value.param) == (status, param)


async def test_a_body_that_is_no_json_and_a_path_that_is_not_served() -> None:
    for work, code in ((EngineJob(CHAT, "m", b"{"), "invalid_json"), (job("/v1/audio"), "unknown_url")):
        with pytest.raises(EngineFailed) as caught:
            await pieces(engine(), work)
        assert caught.value.code == code


async def test_tokens_come_at_the_pace_of_the_card(autojump_clock: MockClock) -> None:
    mock = engine(speed=1.0)
    begun = trio.current_time()
    arrivals = []
    async with mock.open(job(max_tokens=11, ignore_eos=True, stream=True)) as reply:
        while await reply.receive():
            arrivals.append(trio.current_time() - begun)
    steps = [later - earlier for earlier, later in pairwise(arrivals)]
    expected = predict(CARD, shape_of("m", 8.0), 5)
    assert arrivals[0] == pytest.approx(expected.ttft_s, rel=0.01)
    assert steps[2] == pytest.approx(expected.itl_s, rel=0.01)
    assert arrivals[-1] == pytest.approx(arrivals[0] + 10 * steps[2], rel=0.05)


async def test_a_shared_card_is_slower_for_each_and_faster_in_all(autojump_clock: MockClock) -> None:
    async def seconds(jobs: int) -> float:
        mock = engine(speed=1.0)
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(jobs):
                nursery.start_soon(pieces, mock, job(max_tokens=50, ignore_eos=True, stream=True))
        return trio.current_time() - begun

    alone, together = await seconds(1), await seconds(16)
    assert alone < together < 16 * alone


async def test_a_late_reader_gets_all_that_is_due_at_once(autojump_clock: MockClock) -> None:
    mock = engine(speed=1.0)
    async with mock.open(job(max_tokens=20, ignore_eos=True, stream=True)) as reply:
        await trio.sleep(60.0)
        assert len(await reply.receive()) == 22


async def test_jobs_beyond_the_slots_wait_and_a_cancelled_one_frees_its_slot(autojump_clock: MockClock) -> None:
    mock = engine(speed=1.0, slots=1)
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def first() -> None:
            with scope:
                await pieces(mock, job(max_tokens=900, ignore_eos=True, stream=True))

        nursery.start_soon(first)
        await trio.sleep(1.0)
        nursery.start_soon(pieces, mock, job(max_tokens=5))
        await trio.testing.wait_all_tasks_blocked()
        load = mock.load()
        assert (load.running, load.waiting, load.slots) == (1, 1, 1)
        assert load.tokens_s > 0
        scope.cancel()
    assert (mock.load().running, mock.load().waiting) == (0, 0)


async def test_an_answer_that_nobody_reads_is_made_all_the_same(autojump_clock: MockClock) -> None:
    mock = engine(speed=1.0, slots=1)
    async with mock.open(job(max_tokens=20, ignore_eos=True)) as reply:
        assert mock.load().running == 1
        await trio.sleep(60.0)
        assert mock.load().running == 0
        assert await reply.receive()
        assert await reply.receive() == []


async def test_two_models_take_turns(autojump_clock: MockClock) -> None:
    async def seconds(*models: str) -> float:
        mock = MockEngine([ModelSpec("m", params_b=8.0), ModelSpec("s", params_b=1.0)], CARD, wall=lambda: 1.0)
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            for model in models:
                nursery.start_soon(pieces, mock, job(model=model, max_tokens=200, ignore_eos=True))
        return trio.current_time() - begun

    large, small, both = await seconds("m"), await seconds("s"), await seconds("m", "s")
    assert both == pytest.approx(large + small, rel=0.05)


async def test_faults_strike_where_they_should(autojump_clock: MockClock) -> None:
    with pytest.raises(EngineFailed, match="refuse"):
        await whole(engine(faults=Faults(refuse=503)))
    with pytest.raises(EngineFailed, match="fail"):
        await whole(engine(faults=Faults(error_rate=1.0)))
    given = []
    async with engine(faults=Faults(crash_after=3)).open(job(stream=True)) as reply:
        assert len(await reply.receive()) == 3
        with pytest.raises(EngineFailed, match="break off"):
            await reply.receive()
    with trio.move_on_after(1000.0) as patience:
        async with engine(faults=Faults(hang_after=2)).open(job(stream=True)) as reply:
            while batch := await reply.receive():
                given += batch
    assert patience.cancelled_caught
    assert len(given) == 2


async def test_a_slow_drip_is_one_piece_at_a_time(autojump_clock: MockClock) -> None:
    begun = trio.current_time()
    said = await pieces(engine(faults=Faults(drip_s=2.0)), job(max_tokens=3, ignore_eos=True, stream=True))
    assert trio.current_time() - begun == pytest.approx(2.0 * (len(said) + 1))


async def test_it_says_what_it_is_and_when_that_changes(nursery: trio.Nursery) -> None:
    mock = engine()
    assert (mock.state, mock.simulated, mock.runtime) == ("starting", True, "simulated")
    await nursery.start(mock.run)
    assert await mock.wait_changed(0) == 1
    assert mock.state == "ready"
    (offer,) = mock.offers()
    assert (offer.name, offer.context, offer.warm) == ("m", 1000, True)
    assert mock.gpus() == (CARD,)
    assert 0 < mock.load().free_vram_mib < CARD.vram_mib
