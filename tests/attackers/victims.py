"""Networks of honest processes and one attacker, and what the callers of a gateway notice.

Not here: what an attacker does (``lies``, ``paper``) and the table (``__main__``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from p2pnode.cli.client import Api, ApiError
from p2pnode.cli.exits import Exit
from p2pnode.cli.processes import Fleet, NodeProcess, until
from tests.attackers.nodes import JOBS, PROGRAM

#: The honest workers' simulated cards.
CARDS: Final = {"ada": "RTX 4090", "grace": "RTX 3090", "alan": "RTX 4090", "edsger": "RTX 3090"}
#: Requests after which a gateway is expected to know.
LEARNT: Final = 20
#: Seconds for what takes a few on an idle machine.
PATIENCE_S: Final = 60.0
#: A caller notices an answer that took longer than the slowest without the attacker by this factor (guess: the
#: target of the 95th percentile).
LATE: Final = 1.3


@dataclass
class Heard:
    """What one caller got."""

    seconds: float
    #: The last characters of the id of the peer that answered; empty if there was an error before the first byte.
    peer: str = ""
    #: The error before or inside the answer.
    error: str = ""
    status: int = 200
    pieces: int = 0
    attempts: int = 0
    honest: bool = False


@dataclass
class Network:
    """Honest workers in a process each."""

    fleet: Fleet
    models: Sequence[str]
    profile: str = "wan"
    workers: dict[str, NodeProcess] = field(default_factory=dict)

    def start(self) -> None:
        """Start the workers, which join through the first one, and wait until they are ready."""
        for name, card in CARDS.items():
            flags = ["--engine", "mock", "--mock-gpu", card, "--profile", self.profile]
            flags += [part for model in self.models for part in ("--model", model)]
            flags += ["--bootstrap", self.seed] if self.workers else ["--bootstrap", "/ip4/127.0.0.1/tcp/1"]
            self.workers[name] = self.fleet.node(name, *flags)
            if len(self.workers) == 1:
                self.workers[name].wait_ready(PATIENCE_S)
        for worker in self.workers.values():
            worker.wait_ready(PATIENCE_S)

    @property
    def seed(self) -> str:
        return next(iter(self.workers.values())).address

    @property
    def peers(self) -> list[str]:
        """The ids of the workers."""
        return [worker.peer_id for worker in self.workers.values()]

    def gateway(self, name: str = "gateway") -> Api:
        """Start a node without an engine."""
        flags = ("--engine", "none", "--profile", self.profile, "--bootstrap", self.seed)
        return self.fleet.node(name, *flags).wait_ready(PATIENCE_S).api

    def run(self, name: str, roles: dict[str, str], *more: str) -> dict[str, Member]:
        """Start a process with these daemons by their names."""
        flags = [part for pair in roles.items() for part in ("--as", "=".join(pair))]
        process = self.fleet.node(
            name, "--profile", self.profile, "--bootstrap", self.seed, *flags, *more, program=PROGRAM
        )
        process.wait_ready(PATIENCE_S)
        return {key: Member(process.home / key, facts) for key, facts in process.ready["nodes"].items()}

    def served_by_equals(self, heard: Sequence[Heard]) -> float:
        """How many of these callers an honest RTX 4090 served, on average."""
        equals = [self.workers[name].peer_id for name, card in CARDS.items() if card == "RTX 4090"]
        return sum(bool(one.peer) and peer.endswith(one.peer) for one in heard for peer in equals) / len(equals)

    def honest(self, peer: str) -> bool:
        """Whether a name in an answer is that of an honest worker."""
        return bool(peer) and any(worker.peer_id.endswith(peer) for worker in self.workers.values())


@dataclass
class Member:
    """A daemon that shares its process with others."""

    home: Path
    facts: dict[str, Any]

    @property
    def peer_id(self) -> str:
        return str(self.facts["peer_id"])

    @property
    def api(self) -> Api:
        key = Path(self.facts["key_file"]).read_text().strip()
        return Api(str(self.facts["api"]).removesuffix("/v1"), key, self.home.name)

    @property
    def jobs(self) -> int:
        """Jobs that it got, if it is a liar."""
        return len((self.home / JOBS).read_text().splitlines())


def knows(api: Api, peers: Sequence[str], within_s: float = PATIENCE_S) -> None:
    """Wait until a gateway has heard of these peers, and of the models that they offer."""

    def look() -> bool:
        known = {peer["id"] for peer in api.get("/v1/p2p/peers")["data"] if peer["models"]}
        return known.issuperset(peers)

    until(look, f"{api.where} knows {len(peers)} peers", within_s)


def ask(network: Network, api: Api, model: str, tokens: int, *, stream: bool = True, limit_s: float = 30.0) -> Heard:
    """One caller: a short conversation, which gives up after ``limit_s``."""
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": tokens}
    body |= {"ignore_eos": True, "stream": stream}
    began = time.monotonic()
    heard = Heard(0.0)
    try:
        if stream:
            with api.stream("/v1/chat/completions", body, limit_s) as answer:
                _headers(heard, answer.headers)
                for _ in answer:
                    heard.pieces += 1
                    if time.monotonic() > began + limit_s:
                        raise TimeoutError
        else:
            answer, headers = api.post("/v1/chat/completions", body, limit_s)
            _headers(heard, headers)
            heard.pieces = len(answer["choices"][0]["message"]["content"])
    except ApiError as error:
        heard.error, heard.status = error.code or error.message, error.status
    except TimeoutError:
        heard.error = "the caller's patience"
    except (ValueError, KeyError, TypeError):
        heard.error = "no JSON"
    except Exit as error:
        heard.error = str(error)
    heard.seconds = time.monotonic() - began
    heard.honest = not heard.error and network.honest(heard.peer)
    return heard


def _headers(heard: Heard, headers: dict[str, str]) -> None:
    heard.peer = headers.get("x-p2pnode-peer", "")
    heard.attempts = int(headers.get("x-p2pnode-attempts", "0"))


def ask_many(
    network: Network, api: Api, model: str, requests: int, at_once: int, tokens: int, *, stream: bool = True
) -> list[Heard]:
    """What so many callers heard, in the order in which they asked."""
    with ThreadPoolExecutor(at_once) as threads:
        tasks = [threads.submit(ask, network, api, model, tokens, stream=stream) for _ in range(requests)]
        return [task.result() for task in tasks]


def percentile(values: Sequence[float], share: float) -> float:
    """By the nearest rank; not a number without values."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)] if ranked else math.nan


@dataclass
class Figures:
    """What the callers of one run noticed; seconds are those of whole answers, whoever gave them."""

    requests: int
    #: Shares of the callers served by an honest peer, from the first and from the 20th request on.
    honest: float
    honest_learnt: float
    #: Of the first 20 callers: failed, or served later than the slowest of the run without the attacker by ``LATE``.
    noticed: int
    failed: int
    #: Jobs at the liar as a share of the requests, of all and from the 20th on.
    share: float
    p50: float
    p95: float
    p50_learnt: float
    p95_learnt: float
    errors: dict[str, int]
    #: The share of the liar over that of an honest worker with an RTX 4090, which the liar has as well.
    times_equal: float


def figures(network: Network, heard: Sequence[Heard], liar_jobs: int, slowest: float = math.inf) -> Figures:
    """Sum up a run."""
    first, rest = heard[:LEARNT], heard[LEARNT:]
    errors: dict[str, int] = {}
    for one in heard:
        if not one.honest:
            cause = one.error or f"answered by {one.peer}"
            errors[cause] = errors.get(cause, 0) + 1
    return Figures(
        requests=len(heard),
        honest=_share(heard),
        honest_learnt=_share(rest),
        noticed=sum(not one.honest or one.seconds > LATE * slowest for one in first),
        failed=sum(not one.honest for one in first),
        share=liar_jobs / len(heard),
        p50=percentile([one.seconds for one in heard], 0.5),
        p95=percentile([one.seconds for one in heard], 0.95),
        p50_learnt=percentile([one.seconds for one in rest], 0.5),
        p95_learnt=percentile([one.seconds for one in rest], 0.95),
        errors=errors,
        times_equal=liar_jobs / equal if (equal := network.served_by_equals(heard)) else math.inf,
    )


def _share(heard: Sequence[Heard]) -> float:
    return sum(one.honest for one in heard) / len(heard) if heard else math.nan
