"""Networks of real processes on loopback: what users see when nodes come, answer, die, freeze and come back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from p2pnode.cli.client import ApiError
from p2pnode.cli.processes import Fleet, NodeProcess, NotYet, until

pytestmark = pytest.mark.slow

MODEL = "llama-3.1-8b-instruct"
#: Seconds for what takes a second or two on an idle machine.
PATIENCE_S = 30.0


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path) as nodes:
        yield nodes


def mock(fleet: Fleet, name: str, seed: NodeProcess, *flags: str) -> NodeProcess:
    """A node with a mock engine that offers MODEL."""
    return fleet.node(name, "--bootstrap", seed.address, "--engine", "mock", "--model", MODEL, *flags)


def sees(child: NodeProcess, peers: int, model: str = MODEL) -> None:
    """Wait until ``child`` knows so many peers that offer the model."""

    def look() -> bool:
        return any(
            entry["id"] == model and entry["p2pnode"]["peers"] == peers for entry in child.api.get("/v1/models")["data"]
        )

    until(look, f"{child.name} sees {model} on {peers} peers\n{child.tail()}", PATIENCE_S)


def body(tokens: int = 16, model: str = MODEL, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": tokens, **more}


def chat(child: NodeProcess, **more: Any) -> tuple[str, dict[str, str]]:
    """The whole answer, not streamed, and the headers."""
    answer, headers = child.api.post("/v1/chat/completions", body(**more), PATIENCE_S)
    return answer["choices"][0]["message"]["content"], headers


def first(*nodes: NodeProcess) -> dict[str, Any]:
    """The preference that asks these nodes in this order."""
    return {"order": [node.peer_id for node in nodes]}


def trio_of(fleet: Fleet) -> tuple[NodeProcess, NodeProcess, NodeProcess]:
    """A gateway and two workers that know each other."""
    gateway = fleet.node("gateway", "--engine", "none").wait_ready()
    workers = [mock(fleet, name, gateway) for name in ("ada", "grace")]
    for worker in workers:
        worker.wait_ready()
    sees(gateway, 2)
    return gateway, workers[0], workers[1]


def who(headers: dict[str, str], *nodes: NodeProcess) -> NodeProcess:
    """Whom the answer names."""
    return next(node for node in nodes if node.peer_id.endswith(headers["x-p2pnode-peer"]))


def test_a_node_without_gpu_answers_through_others_and_says_who(fleet: Fleet) -> None:
    gateway, ada, grace = trio_of(fleet)
    text, headers = chat(gateway)
    assert text
    assert headers["x-p2pnode-route"] == "direct"
    assert who(headers, ada, grace) in (ada, grace)
    run = [sys.executable, "-m", "p2pnode", "--home", str(gateway.home), "ask", MODEL, "hello", "--max-tokens", "8"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "served by" in done.stderr
    codes = fleet.stop_all()
    assert codes == {"gateway": 0, "ada": 0, "grace": 0}


def test_prometheus_sees_the_network_and_the_traffic(fleet: Fleet) -> None:
    gateway, _, grace = trio_of(fleet)
    chat(gateway)

    def numbers() -> dict[str, float]:
        families = text_string_to_metric_families(gateway.api.text("/metrics"))
        return {
            sample.name + "".join(f"|{value}" for value in sample.labels.values()): sample.value
            for family in families
            for sample in family.samples
        }

    assert numbers()["p2pnode_peers|alive"] == 2
    assert numbers()["p2pnode_peers|dead"] == 0
    sampled = ["p2pnode_view_age_seconds"]
    sampled += [f"p2pnode_gossip_messages_total|{direction}|records" for direction in ("in", "out")]
    sampled += [f"p2pnode_gossip_bytes_total|{direction}" for direction in ("in", "out")]
    until(lambda: all(numbers().get(name, 0) > 0 for name in sampled), f"all of {sampled}", PATIENCE_S)
    seen = numbers()
    assert seen[f"p2pnode_requests_total|{MODEL}|completed"] == 1
    assert {name for name in seen if name.startswith("p2pnode_jobs_")} == {
        "p2pnode_jobs_running",
        "p2pnode_jobs_waiting",
    }
    grace.kill()
    until(lambda: numbers()["p2pnode_peers|dead"] == 1, "grace counts as dead", PATIENCE_S)
    until(
        lambda: numbers()["p2pnode_gossip_bytes_total|out"] > seen["p2pnode_gossip_bytes_total|out"],
        "gossip goes on",
        PATIENCE_S,
    )
    state = [json.loads(line) for line in gateway.log.read_text().splitlines() if '"peer_state"' in line]
    assert {"peer": grace.peer_id[-8:], "state": "dead"}.items() <= state[-1].items()
    listed = gateway.api.get("/v1/models")["data"][0]["p2pnode"]
    promised = {"peers", "warm", "context_length", "quantization", "price_in", "price_out", "fingerprint"}
    assert promised <= set(listed)
    assert listed["expected_wait_s"] > 0


def test_the_bootstrap_node_may_die_after_joining(fleet: Fleet) -> None:
    seed = fleet.bootstrap().wait_ready()
    gateway = fleet.node("gateway", "--engine", "none", "--bootstrap", seed.address).wait_ready()
    ada, grace = (mock(fleet, name, seed).wait_ready() for name in ("ada", "grace"))
    sees(gateway, 2)
    seed.kill()
    time.sleep(3)  # more than the period in which liveness declares a peer dead under the test profile
    sees(gateway, 2)
    sees(ada, 2)
    assert chat(gateway)[0]
    assert chat(gateway, provider=first(grace))[0]


def test_a_peer_killed_before_the_first_byte_is_not_noticed(fleet: Fleet) -> None:
    gateway, ada, grace = trio_of(fleet)
    ada.kill()
    text, headers = chat(gateway, provider=first(ada, grace))
    assert text
    assert who(headers, ada, grace) is grace


def test_a_peer_killed_while_it_works_before_the_first_byte_is_not_noticed(fleet: Fleet) -> None:
    gateway, ada, grace = trio_of(fleet)
    # Not streamed: the first byte comes with the whole answer, so there is time to kill.
    killer = threading.Timer(0.5, ada.kill)
    killer.start()
    text, headers = chat(gateway, tokens=400, provider=first(ada, grace))
    killer.join()
    assert text
    assert who(headers, ada, grace) is grace
    assert headers["x-p2pnode-attempts"] == "2"


def broken_stream(
    gateway: NodeProcess, ada: NodeProcess, grace: NodeProcess, act: Callable[[NodeProcess], None], tokens: int = 4000
) -> tuple[int, ApiError]:
    """Do something to the server of a stream after its fifth event; how many came, and the error that ended it."""
    wish = body(tokens, provider=first(ada, grace), stream=True)
    count = 0
    with gateway.api.stream("/v1/chat/completions", wish, PATIENCE_S) as stream:
        try:
            for _ in stream:
                count += 1
                if count == 5:
                    act(who(stream.headers, ada, grace))
        except ApiError as error:
            assert not stream.done
            return count, error
    raise AssertionError(f"the stream ended after {count} events as if it were complete")


def test_a_peer_killed_in_mid_stream_gives_an_error_event_and_no_done(fleet: Fleet) -> None:
    gateway, ada, grace = trio_of(fleet)
    count, error = broken_stream(gateway, ada, grace, lambda server: server.send(signal.SIGKILL))
    assert count >= 5
    assert error.code == "peer_failed"
    assert chat(gateway)[0], "the next request is served by the other"


def test_a_frozen_peer_is_cut_at_the_deadline(fleet: Fleet) -> None:
    gateway, ada, grace = trio_of(fleet)
    ada.send(signal.SIGSTOP)
    started = time.monotonic()
    text, headers = chat(gateway, provider=first(ada, grace))
    assert text
    assert who(headers, ada, grace) is grace
    assert time.monotonic() - started < PATIENCE_S
    ada.send(signal.SIGCONT)


def test_a_peer_frozen_in_mid_stream_is_cut_at_the_deadline(fleet: Fleet) -> None:
    gateway, ada, grace = trio_of(fleet)
    _, error = broken_stream(gateway, ada, grace, lambda server: server.send(signal.SIGSTOP))
    assert error.code in ("peer_failed", "deadline_exceeded")


def test_a_node_comes_back_with_its_state(fleet: Fleet) -> None:
    gateway, ada, grace = trio_of(fleet)
    before, key = ada.peer_id, (ada.home / "api-key").read_text()
    assert ada.stop() == 0
    sees(gateway, 1)
    # Without --bootstrap: the addresses in its own database are enough.
    ada = fleet.node("ada", "--engine", "mock", "--model", MODEL).wait_ready()
    assert ada.peer_id == before
    assert (ada.home / "api-key").read_text() == key
    sees(gateway, 2)
    sees(ada, 2)
    assert who(chat(gateway, provider=first(ada))[1], ada, grace) is ada


def test_a_model_that_nobody_has_is_a_404_that_names_similar_ones(fleet: Fleet) -> None:
    gateway, _, _ = trio_of(fleet)
    with pytest.raises(ApiError) as caught:
        chat(gateway, model="llama-3.1-8b-instruckt")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    assert MODEL in caught.value.message
    assert caught.value.headers["x-should-retry"] == "false"


def test_an_engine_that_breaks_off_is_passed_over(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = fleet.node("gateway", "--engine", "none").wait_ready()
    grace = mock(fleet, "grace", gateway).wait_ready()
    # A port that nobody listens on: the engine is configured, and dead.
    dead = fleet.node(
        "ada",
        *("--bootstrap", gateway.address, "--engine", "openai", "--engine-url", "http://127.0.0.1:9/v1"),
        *("--model", MODEL),
    ).wait_ready()
    sees(gateway, 1)
    assert who(chat(gateway)[1], grace) is grace
    status = dead.api.get("/v1/p2p/status")
    assert status["engine"]["problem"]
    assert status["problems"]


def test_an_engine_that_dies_in_mid_stream_is_told_replaced_and_started_again(fleet: Fleet, tmp_path: Path) -> None:
    gateway, ada, _ = trio_of(fleet)
    source = Path(__file__).parents[1] / "p2pnode" / "engine" / "fake_vllm.py"
    script = Path(shutil.copy(source, tmp_path))
    (tmp_path / "vllm/entrypoints/openai").mkdir(parents=True)
    (tmp_path / "vllm/entrypoints/openai/api_server.py").touch()
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    python.chmod(0o755)
    home = tmp_path / "edsger"
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text(
        f'version = 1\n[[engine.models]]\nname = "{MODEL}"\nsource = "some/hub"\nrevision = "abc"\n'
    )
    join = ("--bootstrap", gateway.address, "--engine", "vllm")
    edsger = fleet.node("edsger", *join, env={"P2PNODE_VLLM_PYTHON": str(python)}).wait_ready()
    sees(gateway, 3)
    first_group = edsger.api.get("/v1/p2p/status")["engine"]["process_group"]
    fleet.children["edsger"].engine_group = first_group
    _, error = broken_stream(gateway, edsger, ada, lambda _: os.killpg(first_group, signal.SIGKILL), 16)
    assert error.code == "peer_failed"
    assert "the engine broke off" in error.message
    said = until(
        lambda: [each["what"] for each in edsger.api.get("/v1/p2p/status")["problems"]], "the problem is told", 30
    )
    assert any("signal 9" in what and "starting it again" in what for what in said), said
    assert who(chat(gateway, provider=first(edsger, ada))[1], ada, edsger) is ada, "the next request goes elsewhere"
    again = lambda: edsger.api.get("/v1/p2p/status")["engine"]["state"] == "ready"  # noqa: E731
    until(again, f"the engine is back\n{edsger.tail()}", PATIENCE_S)
    fleet.children["edsger"].engine_group = edsger.api.get("/v1/p2p/status")["engine"]["process_group"]
    sees(gateway, 3)


# --- what stops a node from starting: one line, the right exit code --------------------------------------------------


def refused(home: Path, *flags: str, **environment: str) -> tuple[int, str]:
    """The exit code and stderr of a ``run`` that should not start."""
    done = subprocess.run(
        [sys.executable, "-m", "p2pnode", "run", "--home", str(home), "--engine", "none", "--profile", "test", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("flag", ["--api", "--listen"])
def test_a_port_in_use_is_named(tmp_path: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = {"--api": "127.0.0.1:0", "--listen": "/ip4/127.0.0.1/tcp/0"}
        flags[flag] = f"127.0.0.1:{port}" if flag == "--api" else f"/ip4/127.0.0.1/tcp/{port}"
        code, said = refused(tmp_path / "home", *(part for pair in flags.items() for part in pair))
    assert code == 1
    assert str(port) in said
    assert flag in said


def test_a_key_that_others_can_read_is_refused_with_the_chmod_to_run(fleet: Fleet) -> None:
    node = fleet.node("ada", "--engine", "none").wait_ready()
    assert node.stop() == 0
    (node.home / "node.key").chmod(0o644)
    code, said = refused(node.home)
    assert code == 1
    assert f"chmod 600 {node.home / 'node.key'}" in said


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--engine", "mock", "--mock-gpu", "Voodoo 2"), "Voodoo 2"),
        (("--policy", "alphabetical"), "alphabetical"),
        (("--bootstrap", "somewhere:4411"), "somewhere:4411"),
        (("--api", "nonsense"), "nonsense"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(tmp_path: Path, flags: tuple[str, ...], named: str) -> None:
    code, said = refused(tmp_path / "home", *flags)
    assert code in (1, 2)
    assert named in said


def test_a_configuration_that_cannot_be_read_is_named_with_its_place(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text("version = 1\n[http]\napi = 7\n")
    code, said = refused(home)
    assert code in (1, 2)
    assert "config.toml" in said
    assert "api" in said


def test_two_daemons_of_one_home_are_not_possible(fleet: Fleet) -> None:
    node = fleet.node("ada", "--engine", "none").wait_ready()
    code, said = refused(node.home, "--api", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0")
    assert code == 1
    assert "another p2pnode runs" in said


# --- how a node ends ------------------------------------------------------------------------------------------------


def test_sigterm_lets_a_running_answer_finish(fleet: Fleet) -> None:
    gateway, ada, grace = trio_of(fleet)
    done = []
    wish = body(150, provider=first(ada, grace), stream=True)
    with gateway.api.stream("/v1/chat/completions", wish, PATIENCE_S) as stream:
        server = who(stream.headers, ada, grace)
        for event in stream:
            done.append(event)
            if len(done) == 3:
                server.send(signal.SIGTERM)
    assert stream.done
    assert server.process.wait(PATIENCE_S) == 0


def test_a_second_signal_ends_it_now(fleet: Fleet) -> None:
    gateway, ada, grace = trio_of(fleet)

    def insist(server: NodeProcess) -> None:
        server.send(signal.SIGTERM)
        time.sleep(0.3)
        assert server.process.poll() is None, "it finishes what runs"
        server.send(signal.SIGTERM)
        server.process.wait(5)

    broken_stream(gateway, ada, grace, insist)


def test_the_ready_line_is_one_json_object_and_the_next_command_works(fleet: Fleet) -> None:
    node = fleet.node("ada", "--engine", "mock").wait_ready()
    lines = node.log.read_text().splitlines()
    ready = next(json.loads(line) for line in lines if '"event": "ready"' in line or '"event":"ready"' in line)
    assert ready == node.ready
    assert set(ready) >= {"event", "peer_id", "listen", "api", "dashboard", "key_file", "engine", "models"}
    command = next(line for line in lines if "p2pnode run --bootstrap " in line)
    assert command.endswith(node.address)


def test_a_node_that_cannot_start_is_reported_by_the_fleet(fleet: Fleet) -> None:
    with pytest.raises(NotYet, match="alphabetical"):
        fleet.node("ada", "--policy", "alphabetical").wait_ready()


def test_ctrl_c_ends_an_ask_with_130_and_cancels_the_job_on_the_far_engine(fleet: Fleet) -> None:
    gateway, ada, grace = trio_of(fleet)
    command = [sys.executable, "-m", "p2pnode", "ask", MODEL, "tell me", "--home", str(gateway.home)]
    ask = subprocess.Popen(
        [*command, "--max-tokens", "8000"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert ask.stdout is not None
    assert ask.stdout.read(1)
    ask.send_signal(signal.SIGINT)
    assert ask.wait(PATIENCE_S) == 130
    ask.stdout.close()

    def idle() -> bool:
        loads = [node.api.get("/v1/p2p/status")["load"] for node in (ada, grace)]
        return all(load["running"] == 0 for load in loads)

    until(idle, "both engines are idle again", PATIENCE_S)
    states = {job["state"] for job in gateway.api.get("/v1/jobs")["data"]}
    assert states == {"cancelled"}


def test_signals_that_never_end_do_not_spoil_a_clean_end(fleet: Fleet) -> None:
    nodes = (fleet.node("gateway", "--engine", "none").wait_ready(), fleet.bootstrap().wait_ready())
    for node in nodes:
        deadline = time.monotonic() + PATIENCE_S
        while node.process.poll() is None and time.monotonic() < deadline:
            node.send(signal.SIGTERM)
            time.sleep(0.001)
        assert node.process.poll() == 0, node.tail()
