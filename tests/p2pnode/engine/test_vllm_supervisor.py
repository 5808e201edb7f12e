"""The supervisor of vLLM, against a stand-in that is a real process, and against the real thing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pnode.engine import vllm_supervisor
from p2pnode.engine.base import CHAT, Engine, EngineFailed, EngineJob, EngineReply, ModelSpec
from p2pnode.engine.gauges import Gauges
from p2pnode.engine.gauges import read as read_gauges
from p2pnode.engine.openai import OpenAIEngine
from p2pnode.engine.upstream import Upstream
from p2pnode.engine.vllm_supervisor import VllmEngine, child_arguments, child_environment
from tests.vllm_fixture import MODEL, VllmHost, start_host

#: Seconds for anything that a healthy process does at once.
SOON_S = 20.0


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """An "interpreter" whose vLLM is the stand-in; returns it, its folder is its parent."""
    (tmp_path / "vllm/entrypoints/openai").mkdir(parents=True)
    (tmp_path / "vllm/entrypoints/openai/api_server.py").touch()
    script = tmp_path / "fake_vllm.py"
    script.write_text((Path(__file__).parent / "fake_vllm.py").read_text())
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    python.chmod(0o755)
    return python


def group_members(group: int) -> list[int]:
    """Live processes of a group (a zombie is only a name that nobody asked for yet)."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(pgrp) == group and state != "Z":
            members.append(int(stat.parent.name))
    return members


def wait_until(condition: Callable[[], object], seconds: float = SOON_S) -> None:
    """Also after SIGKILL: a process takes a moment to vanish."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def supervised(python: Path) -> VllmEngine:
    return VllmEngine(ModelSpec("m"), str(python), python.parent / "logs", runtime="cpu")


async def until(engine: Engine, state: str) -> None:
    with trio.fail_after(SOON_S):
        seen = None
        while engine.state != state:
            with trio.move_on_after(0.1):
                seen = await engine.wait_changed(seen)


async def to_the_end(reply: EngineReply) -> None:
    while await reply.receive():
        pass


def lives(python: Path) -> list[dict[str, Any]]:
    path = python.parent / "lives"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def job(stream: bool = True, **fields: Any) -> EngineJob:
    body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hello"}]} | fields
    return EngineJob(CHAT, body["model"], json.dumps(body).encode(), stream=stream)


# --- against the stand-in -------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_killed_child_fails_its_jobs_is_restarted_and_leaves_nobody(
    fake: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_supervisor, "RESTART_FIRST_S", 0.05)
    engine = supervised(fake)
    await nursery.start(engine.run)
    assert engine.state == "starting"
    await until(engine, "ready")
    assert [offer.name for offer in engine.offers()] == ["m"]
    first = engine.group
    async with engine.open(job()) as reply:
        assert await reply.receive()
        os.killpg(first, signal.SIGKILL)
        with trio.fail_after(SOON_S), pytest.raises(EngineFailed):
            await to_the_end(reply)
    await until(engine, "failed")
    with trio.fail_after(SOON_S):  # a look at its health may have failed before its end is known
        while "signal 9" not in engine.problem:  # noqa: ASYNC110
            await trio.sleep(0.005)
    assert "starting it again" in engine.problem
    with pytest.raises(EngineFailed, match="engine_not_ready"):
        engine.open(job())
    await until(engine, "ready")
    wait_until(lambda: not group_members(first))
    second = engine.group
    nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        await until(engine, "stopped")
    wait_until(lambda: not group_members(second))


@pytest.mark.slow
async def test_a_child_that_cannot_start_is_tried_again_ever_more_rarely(
    fake: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_supervisor, "RESTART_FIRST_S", 0.01)
    (fake.parent / "behaviour").write_text("die")
    engine = supervised(fake)
    await nursery.start(engine.run)
    with trio.fail_after(SOON_S):
        while engine.restarts < 3:
            await engine.wait_changed()
    await until(engine, "failed")
    assert "RuntimeError: no memory left" in engine.problem
    assert "code 3" in engine.problem
    (fake.parent / "behaviour").write_text("ok")
    await until(engine, "ready")
    nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_child_that_no_longer_answers_is_replaced(
    fake: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WATCH_S": 0.05, "HEALTH_LIMIT_S": 0.1, "WATCH_MISSES": 2, "RESTART_FIRST_S": 0.01}.items():
        monkeypatch.setattr(vllm_supervisor, name, value)
    engine = supervised(fake)
    await nursery.start(engine.run)
    await until(engine, "ready")
    (fake.parent / "behaviour").write_text("hang")
    with trio.fail_after(SOON_S):
        while len(lives(fake)) < 2:  # noqa: ASYNC110 - another process writes it
            await trio.sleep(0.02)
    (fake.parent / "behaviour").write_text("ok")
    await until(engine, "ready")
    nursery.cancel_scope.cancel()


async def test_an_interpreter_without_vllm_says_what_to_do(tmp_path: Path, nursery: trio.Nursery) -> None:
    for python, words in ((Path(sys.executable), "has no vLLM; install it"), (tmp_path / "no", "cannot be run")):
        engine = supervised(python)
        await nursery.start(engine.run)
        await until(engine, "failed")
        assert words in engine.problem
    nursery.cancel_scope.cancel()


PARENT = """
import sys, trio
from pathlib import Path
from p2pnode.engine.base import ModelSpec
from p2pnode.engine.vllm_supervisor import VllmEngine

async def main():
    engine = VllmEngine(ModelSpec("m"), sys.argv[1], Path(sys.argv[1]).parent / "logs", runtime="cpu")
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        while engine.state != "ready":
            await trio.sleep(0.02)
        print(engine.group, flush=True)

trio.run(main)
"""


@pytest.mark.slow
def test_nobody_outlives_a_node_that_is_killed(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(fake)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        group = int(parent.stdout.readline())
        # The reaper, the stand-in, and a child of it that ignores SIGTERM.
        wait_until(lambda: len(group_members(group)) >= 3)
        parent.send_signal(signal.SIGKILL)
        wait_until(lambda: not group_members(group))


def test_what_the_child_is_told() -> None:
    environment = child_environment({"VLLM_SERVER_DEV_MODE": "1", "HOME": "/h", "P2PNODE_KEY": "k"}, "secret", True)
    assert environment["HOME"] == "/h"
    assert not {"VLLM_SERVER_DEV_MODE", "P2PNODE_KEY"} & set(environment)
    assert (environment["VLLM_NO_USAGE_STATS"], environment["HF_HUB_OFFLINE"]) == ("1", "1")
    spec = ModelSpec("m", "org/model", revision="abc", context=99, options={"enforce-eager": "", "max-num-seqs": "3"})
    arguments = " ".join(child_arguments(spec, 1234, 8))
    for part in (
        "--model org/model --served-model-name m",
        "--host 127.0.0.1 --port 1234",
        "--revision abc",
        "--max-model-len 99",
        "--max-num-seqs 3",
        "--no-enable-log-requests",
        "--enforce-eager",
    ):
        assert part in arguments
    assert "secret" not in arguments
    with pytest.raises(ValueError, match="not allowed"):
        child_arguments(ModelSpec("m", options={"trust-remote-code": ""}), 1, 1)


# --- against the real thing -----------------------------------------------------------------------------------------


async def said(engine: Engine, work: EngineJob) -> str:
    """The words of an answer, streamed or whole."""
    pieces = []
    async with engine.open(work) as reply:
        while batch := await reply.receive():
            pieces += batch
    if not work.stream:
        return json.loads(b"".join(pieces))["choices"][0]["message"]["content"]
    chunks = [json.loads(piece) for piece in pieces]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"])


async def directly(host: VllmHost, work: EngineJob) -> str:
    with closing(Upstream(host.url, host.key)) as upstream:
        async with upstream.ask("POST", CHAT, work.body) as answer:
            return json.loads(await answer.body(1 << 20))["choices"][0]["message"]["content"]


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_real_tokens_streamed_and_not_are_those_of_vllm_itself(vllm_host: VllmHost) -> None:
    with closing(OpenAIEngine(vllm_host.url, key=vllm_host.key, runtime="cpu")) as engine:
        assert await engine.poll_models(), engine.problem
        (offer,) = engine.offers()
        assert (offer.name, offer.context) == (MODEL, 2048)
        for prompt in ("hello", "Tell me a story about a node."):
            fields = {"model": MODEL, "temperature": 0, "messages": [{"role": "user", "content": prompt}]}
            streamed, whole = await said(engine, job(**fields)), await said(engine, job(False, **fields))
            assert streamed == whole == await directly(vllm_host, job(False, **fields))
            assert len(set(streamed.split())) > 10
        with pytest.raises(EngineFailed) as caught:
            await said(engine, job(model=MODEL, max_tokens=100_000))
        assert caught.value.code == "context_length_exceeded"
        wrong = OpenAIEngine(vllm_host.url, key="wrong")
        with closing(wrong):
            assert not await wrong.poll_models()


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_leaving_a_real_stream_stops_the_generation(vllm_host: VllmHost) -> None:
    async def gauges() -> Gauges:
        status, text = await upstream.get("/metrics", SOON_S, 1 << 22)
        found = read_gauges(text)
        assert status == 200
        assert found is not None
        return found

    fields = {"model": MODEL, "temperature": 0, "ignore_eos": True, "max_tokens": 1900}
    with (
        closing(OpenAIEngine(vllm_host.url, key=vllm_host.key)) as engine,
        closing(Upstream(vllm_host.url)) as upstream,
    ):
        assert await engine.poll_models(), engine.problem
        made = [1900.0]
        # On a busy machine vLLM may hear late that the client has left.  If leaving stopped nothing, no try would.
        while made[-1] >= 950 and len(made) <= 10:
            before = await gauges()
            async with engine.open(job(**fields)) as reply:
                assert await reply.receive()
            with trio.fail_after(SOON_S):
                while (after := await gauges()).running:  # noqa: ASYNC110 - a gauge announces nothing
                    await trio.sleep(0.05)
            made.append(after.generated - before.generated)
        assert made[-1] < 950, made  # nearly all of it was never made


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_vllm_comes_back(vllm_host: VllmHost) -> None:
    before = vllm_host.status()
    os.killpg(before["group"], signal.SIGKILL)
    wait_until(lambda: not group_members(before["group"]))
    after = vllm_host.wait(restarts=before["restarts"] + 1)
    assert after["group"] != before["group"]
    assert not after["problem"]


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_vllm_does_not_outlive_a_killed_node(tmp_path: Path) -> None:
    host = start_host(tmp_path)
    try:
        # While it loads there are already processes that it started itself.
        wait_until(lambda: host.status().get("group") and len(group_members(host.group)) >= 3, 120.0)
        group = host.group
        host.process.kill()
        wait_until(lambda: not group_members(group))
    finally:
        host.process.kill()
        host.process.wait()
