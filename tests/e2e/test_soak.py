"""Mixed traffic on three real nodes while one of them is killed and comes back: nothing is cut, nothing is leaked."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from p2pnode.cli.client import ApiError
from p2pnode.cli.exits import Exit
from p2pnode.cli.processes import Fleet, NodeProcess, until

pytestmark = pytest.mark.slow

MODEL = "llama-3.1-8b-instruct"
PATIENCE_S = 60.0
AT_ONCE = 32
#: Real time is spent on what is tested, not on the simulated cards.
FAST = {"P2PNODE_MOCK_SPEED": "8"}
#: What a request may end with, besides a whole answer, while a peer dies: each says that, and what to do.
FAILURES = {"peer_failed", "no_capacity", "queue_full", "model_not_found", "starting"}
#: Nothing that a user is to read, or to report.
UNWANTED = ("Traceback", "defect", "exception", '"level": "error"', '"level":"error"')


@dataclass
class Soak:
    """The traffic, and what came of it."""

    gateway: NodeProcess
    workers: list[NodeProcess]
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def request(self, number: int) -> None:
        """One request of a kind that its number decides."""
        dice = random.Random(number)
        kind = dice.choices(
            (self._stream, self._whole, self._left, self._embedding, self._unknown, self._impatient, self._withdrawn),
            (8, 6, 6, 2, 1, 2, 1),
        )[0]
        name = kind.__name__.strip("_")
        try:
            self.outcomes[f"{name}: {kind(dice)}"] += 1
        except ApiError as error:
            self.outcomes[f"{name}: {error.code}"] += 1
            if error.code not in FAILURES or not error.message:
                self.wrong.append(f"{number} {name}: {error.status} {error.code}: {error.message}")
        except Exception as error:
            self.wrong.append(f"{number} {name}: {error!r}")

    def _body(self, dice: random.Random, **more: Any) -> dict[str, Any]:
        said = "hello " * dice.randrange(1, 200)
        tokens = dice.randrange(1, 60)
        wish = {"model": MODEL, "messages": [{"role": "user", "content": said}], "max_tokens": tokens}
        return wish | more

    def _stream(self, dice: random.Random) -> str:
        body = self._body(dice, stream=True, stream_options={"include_usage": True}, ignore_eos=True)
        with self.gateway.api.stream("/v1/chat/completions", body, PATIENCE_S) as stream:
            events = list(stream)
        pieces = [choice["delta"].get("content") for event in events for choice in event["choices"]]
        said = sum(bool(piece) for piece in pieces)
        assert stream.done
        assert said == events[-1]["usage"]["completion_tokens"] == body["max_tokens"], (said, events[-1])
        return "whole"

    def _whole(self, dice: random.Random) -> str:
        body = self._body(dice, ignore_eos=True)
        answer, _ = self.gateway.api.post("/v1/chat/completions", body, PATIENCE_S)
        assert answer["usage"]["completion_tokens"] == body["max_tokens"], answer
        return "whole"

    def _left(self, dice: random.Random) -> str:
        """The client goes away in the middle of a long stream."""
        body = self._body(dice, stream=True) | {"max_tokens": 4000, "ignore_eos": True}
        last = dice.randrange(1, 20)
        with self.gateway.api.stream("/v1/chat/completions", body, PATIENCE_S) as stream:
            for count, _ in enumerate(stream, 1):
                if count == last:
                    return "left"
        raise AssertionError("a stream of 4,000 tokens was over at once")

    def _impatient(self, dice: random.Random) -> str:
        """The client goes away before anything has come."""
        body = self._body(dice) | {"max_tokens": 4000, "ignore_eos": True}
        try:
            self.gateway.api.post("/v1/chat/completions", body, dice.uniform(0.005, 0.2))
        except Exit:  # the time of the client was over
            return "left"
        raise AssertionError("4,000 tokens came at once")

    def _withdrawn(self, dice: random.Random) -> str:
        """Somebody cancels the job in the middle."""
        body = self._body(dice, stream=True) | {"max_tokens": 4000, "ignore_eos": True}
        with self.gateway.api.stream("/v1/chat/completions", body, PATIENCE_S) as stream:
            self.gateway.api.delete(f"/v1/jobs/{stream.headers['x-request-id']}")
            try:
                list(stream)
            except ApiError as error:
                if error.code == "cancelled":
                    return "cancelled"
                raise
        raise AssertionError("a cancelled job ended as if nothing had happened")

    def _embedding(self, dice: random.Random) -> str:
        answer, _ = self.gateway.api.post("/v1/embeddings", {"model": MODEL, "input": ["one", "two"]}, PATIENCE_S)
        assert len(answer["data"]) == 2
        return "whole"

    def _unknown(self, dice: random.Random) -> str:
        wish = self._body(dice, model="no-such-model")
        with pytest.raises(ApiError) as caught:
            self.gateway.api.post("/v1/chat/completions", wish, PATIENCE_S)
        assert caught.value.code == "model_not_found"
        return "refused"


def start(fleet: Fleet, name: str, gateway: NodeProcess) -> NodeProcess:
    flags = ("--bootstrap", gateway.address, "--engine", "mock", "--model", MODEL)
    return fleet.node(name, *flags, env=FAST).wait_ready()


def sees(gateway: NodeProcess, peers: int) -> None:
    def look() -> bool:
        models = gateway.api.get("/v1/models")["data"]
        return any(entry["id"] == MODEL and entry["p2pnode"]["peers"] == peers for entry in models)

    until(look, f"{gateway.name} sees {peers} peers\n{gateway.tail()}", PATIENCE_S)


@pytest.fixture
def soak(tmp_path: Path) -> Iterator[tuple[Fleet, Soak]]:
    with Fleet(tmp_path) as fleet:
        gateway = fleet.node("gateway", "--engine", "none").wait_ready()
        workers = [start(fleet, name, gateway) for name in ("ada", "grace")]
        sees(gateway, 2)
        yield fleet, Soak(gateway, workers)


def resident_mib(child: NodeProcess) -> float:
    """Memory in use; 0 where nobody tells."""
    try:
        text = Path(f"/proc/{child.process.pid}/status").read_text()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS"))


def at_rest(child: NodeProcess) -> bool:
    """Whether no job is left anywhere in this node."""
    status = child.api.get("/v1/p2p/status")
    load, jobs = status["load"], status["jobs"]
    busy = 0 if load is None else load["running"] + load["waiting"] + load["queued_prefill_tokens"]
    channels = sum(link["channels"] for link in status["links"])
    inflight = sum(peer["inflight"] for peer in child.api.get("/v1/p2p/peers")["data"])
    return not (busy or channels or inflight or jobs.get("running", 0) or jobs.get("pending", 0))


def endure(fleet: Fleet, traffic: Soak, requests: int) -> list[float]:
    """Send them, kill and restart a worker on the way; the gateway's memory at a third and at the end, MiB."""
    third = requests // 3
    memory: list[float] = []

    def trouble() -> None:
        ada = traffic.workers[0]
        while sum(traffic.outcomes.values()) + len(traffic.wrong) < third:
            time.sleep(0.05)
        memory.append(resident_mib(traffic.gateway))
        ada.kill()
        while sum(traffic.outcomes.values()) + len(traffic.wrong) < 2 * third:
            time.sleep(0.05)
        traffic.workers[0] = start(fleet, "ada", traffic.gateway)

    troubler = threading.Thread(target=trouble)
    troubler.start()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(traffic.request, range(requests)))
    troubler.join()
    sees(traffic.gateway, 2)
    nodes = [traffic.gateway, *traffic.workers]
    for node in nodes:
        until(lambda node=node: at_rest(node), f"{node.name} is at rest\n{node.tail()}", PATIENCE_S)
    return [*memory, resident_mib(traffic.gateway)]


def test_mixed_traffic_while_a_worker_is_killed_and_comes_back(soak: tuple[Fleet, Soak]) -> None:
    fleet, traffic = soak
    memory = endure(fleet, traffic, 300)
    assert memory[-1] < memory[0] + 32
    assert not traffic.wrong, "\n".join(traffic.wrong[:20])
    outcomes = traffic.outcomes
    for kind in ("stream: whole", "whole: whole", "left: left", "impatient: left", "withdrawn: cancelled"):
        assert outcomes[kind], outcomes
    said = [line for node in fleet.children.values() for line in node.log.read_text().splitlines()]
    assert [line for line in said if any(word in line for word in UNWANTED)] == []
    assert set(fleet.stop_all().values()) == {0}
