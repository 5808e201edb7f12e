"""Traces are as documented, are replayed as recorded, and bad files are answered with where and what."""

from __future__ import annotations

import gzip
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulations.scenario import EngineModel, Model, Models, Scenario, Workload
from simulations.workload.traces import BadTrace, Trace, engine_blocks, load, parse
from simulations.workload.workload import Arrival, arrivals

WIDE = Models(catalogue=(Model(name="a-8b", context=1 << 20),))
TWO = Models(catalogue=(Model(name="a-8b"), Model(name="b-8b")))


def scenario(
    trace: str, duration_s: float, models: Models = WIDE, engine: EngineModel | None = None, **rest: Any
) -> Scenario:
    return Scenario(
        name="x",
        duration_s=duration_s,
        models=models,
        engine=engine or EngineModel(),
        workload=Workload(kind="trace", trace=trace, **rest),
    )


def jobs(given: Scenario, rate_per_s: float = 0.0, seed: int = 1) -> list[Arrival]:
    return list(arrivals(given, seed, rate_per_s))


# --- what came along -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "requests", "minutes", "inputs", "outputs"),
    [
        ("azure-code", 8819, 57, (1469, 5188, 7436), (13, 55, 251)),
        ("azure-conv", 19366, 58, (1020, 2735, 4142), (129, 424, 601)),
        ("servegen", 18223, 30, (160, 720, 3478), (27, 121, 716)),
    ],
)
def test_traces_without_blocks_are_as_documented(
    name: str, requests: int, minutes: int, inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> None:
    trace = load(name)
    assert len(trace.at) == requests
    assert trace.span_s / 60 == pytest.approx(minutes, abs=1)
    assert np.percentile(trace.prompt, [50, 90, 99]) == pytest.approx(inputs, abs=1)
    assert np.percentile(trace.output, [50, 90, 99]) == pytest.approx(outputs, abs=1)
    assert len(trace.began) == requests


def ideal_hit(blocks: list[tuple[int, ...]]) -> float:
    seen: set[int] = set()
    hits = 0
    for ids in blocks:
        hits += sum(block in seen for block in ids)
        seen.update(ids)
    return hits / sum(map(len, blocks))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "requests", "minutes", "hit"),
    [("mooncake-conversation", 12031, 59, 0.366), ("mooncake-synthetic", 3993, 17, 0.640)],
)
def test_mooncake_is_as_documented(name: str, requests: int, minutes: int, hit: float) -> None:
    trace = load(name)
    assert len(trace.at) == requests
    assert trace.span_s / 60 == pytest.approx(minutes, abs=1)
    assert ideal_hit(list(trace.blocks)) == pytest.approx(hit, abs=0.0005)
    assert all(len(ids) == -(-tokens // 512) for ids, tokens in zip(trace.blocks, trace.prompt.tolist(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "hit"), [("mooncake-conversation", 0.366), ("mooncake-synthetic", 0.640)])
def test_replaying_keeps_the_ideal_hit_in_engine_blocks(name: str, hit: float) -> None:
    trace = load(name)
    found = jobs(scenario(name, float(trace.at[-1]) + 0.01, engine=EngineModel(block_tokens=128)))
    assert len(found) == len(trace.at)
    assert ideal_hit([job.blocks for job in found]) == pytest.approx(hit, abs=0.02)
    assert all(len(job.blocks) == job.prompt_tokens // 128 for job in found)


@pytest.mark.slow
def test_conversations_of_mooncake_go_on_where_they_were() -> None:
    trace = load("mooncake-conversation")
    users = Counter(block for ids in trace.blocks for block in ids)
    system = {block for block, count in users.items() if count > 0.05 * len(trace.at)}
    assert system == {0}
    owner: dict[int, int] = {}
    for ids, number in zip(trace.blocks, trace.conversation.tolist(), strict=True):
        for block in ids:
            if block not in system:
                assert owner.setdefault(block, number) == number
    turns = np.bincount(trace.conversation)
    assert 1.4 < turns.mean() < 2
    assert turns.max() > 10


# --- replaying -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["azure-code", "azure-conv", "servegen"])
def test_at_its_own_rate_a_trace_is_what_was_recorded(name: str) -> None:
    trace = load(name)
    found = jobs(scenario(name, 60.0))
    many = int(np.searchsorted(trace.at, 60.0))
    assert [job.at for job in found] == pytest.approx(trace.at[:many].tolist())
    assert [job.prompt_tokens for job in found] == np.maximum(1, trace.prompt[:many]).tolist()
    assert [job.output_tokens for job in found] == np.maximum(1, trace.output[:many]).tolist()


def test_time_may_be_compressed() -> None:
    plain, fast = jobs(scenario("azure-code", 100.0)), jobs(scenario("azure-code", 10.0, time_scale=0.1))
    assert [job.at / 10 for job in plain] == pytest.approx([job.at for job in fast])


@pytest.mark.parametrize("rate", [0.8, 2.57, 10.0, 100.0])
def test_copies_reach_the_rate_that_is_wanted(rate: float) -> None:
    trace = load("azure-code")
    found = jobs(scenario("azure-code", trace.span_s), rate)
    assert len(found) / trace.span_s == pytest.approx(rate, rel=0.05)
    times = [job.at for job in found]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] < trace.span_s


def test_a_short_trace_begins_again() -> None:
    text = "arrival_s,input_tokens,output_tokens,block_ids\n0,600,10,0-1\n1,700,20,0-1\n2,800,30,2-3\n"
    trace = parse(text, "t")
    assert trace.span_s == 3.0
    assert trace.rate_per_s == 1.0


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_rounds_and_copies_are_other_people(tmp_path: Path) -> None:
    text = "arrival_s,input_tokens,output_tokens,block_ids\n0,600,10,0-1\n1,700,20,0-1\n2,800,30,5-6\n"
    given = scenario(write(tmp_path / "t.csv", text), 8.5)
    found = jobs(given)
    assert [job.prompt_tokens for job in found] == [600, 700, 800] * 3
    assert [job.at for job in found] == pytest.approx(list(range(9)))
    assert found[0].session == found[1].session != found[2].session
    assert found[0].entry == found[1].entry != found[3].entry
    assert found[0].blocks == found[1].blocks[: len(found[0].blocks)]
    assert not set(found[0].blocks) & set(found[3].blocks)
    doubled = jobs(given, 2.0)
    owners = defaultdict(set)
    for job in doubled:
        for block in job.blocks:
            owners[block].add(job.session)
    assert len(doubled) in (17, 18)
    assert all(len(sessions) == 1 for sessions in owners.values())


def test_thinning_takes_whole_conversations(tmp_path: Path) -> None:
    rows = [f"{number / 100},600,10,{number % 200 * 2}-{number % 200 * 2 + 1}" for number in range(1000)]
    text = "\n".join(["arrival_s,input_tokens,output_tokens,block_ids", *rows])
    found = jobs(scenario(write(tmp_path / "t.csv", text), 10.0), 50.0)
    turns = Counter(job.session for job in found)
    assert set(turns.values()) == {5}
    assert len(turns) == pytest.approx(100, abs=30)


def test_a_conversation_keeps_its_model_over_a_shift(tmp_path: Path) -> None:
    rows = [f"{number / 10},600,10,{number % 50 * 2}-{number % 50 * 2 + 1}" for number in range(1000)]
    text = "\n".join(["arrival_s,input_tokens,output_tokens,block_ids", *rows])
    models = Models(catalogue=TWO.catalogue, shift_at_s=50.0, zipf=3.0)
    models_of = defaultdict(set)
    for job in jobs(scenario(write(tmp_path / "t.csv", text), 99.9, models)):
        models_of[job.session].add(job.model)
    assert len(models_of) == 50
    assert all(len(names) == 1 for names in models_of.values())


@pytest.mark.parametrize("block_tokens", [16, 24, 512, 700, 1024])
def test_engine_blocks_are_equal_as_far_as_the_prompts_are(block_tokens: int) -> None:
    one = engine_blocks((0, 7, 8, 9), 0, 2000, block_tokens)
    two = engine_blocks((0, 7, 20, 21), 0, 2048, block_tokens)
    assert (len(one), len(two)) == (2000 // block_tokens, 2048 // block_tokens)
    assert len(set(one)) == len(one)
    same = sum(a == b for a, b in zip(one, two, strict=False))
    assert same == 1024 // block_tokens
    assert one[:same] == two[:same]


# --- a trace of one's own --------------------------------------------------------------------------------------------


def test_a_users_file_is_replayed(tmp_path: Path) -> None:
    text = (
        "\ufeffmodel,output_tokens, input_tokens,arrival_ms\r\n"
        "b-8b,7,100,2500\r\n"
        "\r\n"
        "a-8b,9,200,1000\r\n"  # out of order
        ",0,0,4000\r\n"
    )
    found = jobs(scenario(write(tmp_path / "mine.csv", text), 4.0, TWO))
    assert [(job.at, job.prompt_tokens, job.output_tokens) for job in found] == [(0, 200, 9), (1.5, 100, 7), (3, 1, 1)]
    assert [job.model for job in found[:2]] == ["a-8b", "b-8b"]
    assert all(job.session == 0 and job.blocks == () for job in found)


def test_a_users_file_may_be_compressed(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv.gz"
    path.write_bytes(gzip.compress(b"arrival_s,input_tokens,output_tokens\n0,5,6\n"))
    assert len(jobs(scenario(str(path), 1.0))) == 1


HEAD = "arrival_s,input_tokens,output_tokens,block_ids\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "",
            "t.csv:1: the columns are missing, wrong in input_tokens, output_tokens, arrival_ms or arrival_s;",
        ),
        (
            "arrival_s,arrival_ms,input_tokens,output_tokens\n",
            "wrong in arrival_s, arrival_ms; needed",
        ),
        ("arrival_s,input_tokens\n", "wrong in output_tokens; needed are"),
        ("arrival_s,input_tokens,output_tokens,colour\n", "wrong in colour; needed are"),
        ("arrival_s,input_tokens,output_tokens,input_tokens\n", "wrong in input_tokens; needed are"),
        (HEAD, "no requests below the heading"),
        (HEAD + "0,1,2,\n1,2\n", "t.csv:3: 2 cells under 4 columns"),
        (HEAD + "soon,1,2,\n", "t.csv:2: arrival_s is 'soon'"),
        (HEAD + "nan,1,2,\n", "t.csv:2: arrival_s is 'nan'"),
        (HEAD + "-1,1,2,\n", "t.csv:2: arrival_s is '-1'"),
        (HEAD + "0,1.5,2,\n", "t.csv:2: input_tokens is '1.5': Expected `int`"),
        (HEAD + "0,1,2,\n\n0,1,-2,\n", "t.csv:4: output_tokens is '-2'"),
        (HEAD + "0,1,2,a\n", "t.csv:2: block_ids has 'a'"),
        (HEAD + "0,1,2,9-3\n", "t.csv:2: block_ids has '9-3'"),
        (HEAD + "0,1024,2,0-2\n", "t.csv:2: block_ids names more than the 2 blocks of 512"),
        (HEAD + "0,1024,2,0-99999999999\n", "t.csv:2: block_ids names more than"),
    ],
)
def test_a_bad_file_is_answered_with_where_and_what(text: str, said: str) -> None:
    with pytest.raises(BadTrace) as error:
        parse(text, "t.csv")
    assert said in str(error.value)


def test_a_model_that_nobody_serves_is_named(tmp_path: Path) -> None:
    text = "arrival_s,input_tokens,output_tokens,model\n0,5,6,gpt-9\n"
    with pytest.raises(BadTrace, match=r"'gpt-9' is not in the catalogue .*a-8b, b-8b"):
        arrivals(scenario(write(tmp_path / "t.csv", text), 1.0, TWO), 1, 0.0)


def test_a_trace_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(BadTrace, match=r"azure-code, azure-conv, .*servegen"):
        arrivals(scenario("azure", 1.0), 1, 0.0)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    for number, raw in enumerate((b"\x1f\x8b broken", b"\xff\xfe\x00")):
        path = tmp_path / f"{number}.csv"
        path.write_bytes(raw)
        with pytest.raises(BadTrace, match="not a CSV file"):
            load(str(path))


def test_one_request_is_a_trace() -> None:
    trace = parse("arrival_ms,input_tokens,output_tokens\n500,1,2\n", "t")
    assert isinstance(trace, Trace)
    assert (trace.rate_per_s, trace.at.tolist()) == (1.0, [0.0])


def test_servegen_bursts_as_documented() -> None:
    counts = np.bincount(load("servegen").at.astype(int))
    assert counts.var() / counts.mean() == pytest.approx(31, abs=1)
    at = np.array([job.at for job in jobs(scenario("servegen", 100.0), 50.0)])
    counts = np.histogram(at, bins=400)[0]
    assert counts.var() / counts.mean() > 1.3
