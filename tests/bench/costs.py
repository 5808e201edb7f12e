"""The constants of the simulator's CPU model, measured on the daemon's own code (``simulations/sim/cpu_costs.py``).

``python -m tests.bench costs [--write simulations/costs.toml]``.  Each figure is the median of several rounds.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from p2pnode.cli.processes import Fleet, NodeProcess
from protocol.events import LinkUp, Received
from protocol.node import Node
from protocol.routing.policies import DEFAULT
from protocol.routing.ranking import JobQuery, rank
from protocol.settings import PROFILES
from protocol.statements.adverts import Load
from protocol.statements.envelope import Envelope, statement
from protocol.wire.messages import RECORDS, Digest, NodeMessage, Records, decode, encode, kind_of
from simulations.sim.cpu_costs import Costs, Measured, Provenance
from tests.bench.decisions import MODEL, table
from tests.bench.load import Target, read_head, read_rest
from tests.bench.network import ROOT, cpu_seconds, target_of, wait_for_model
from tests.bench.row import Row
from tests.bench.upstream import MODEL as SERVED
from tests.protocol.harness import Member, MemoryNetwork, advert_of, signer_of

COMMAND = "python -m tests.bench costs --write simulations/costs.toml"
ROUNDS = 7
#: Authors known before the count, statements in a message, links of a node, seconds between two messages (virtual).
AUTHORS, BATCH, LINKS = 300, 5, 8
WALL, NOW = 1_800_000_000.0, 1000.0


def timed(act: Callable[[], object]) -> float:
    began = time.process_time()
    act()
    return time.process_time() - began


def node_with_links() -> Node:
    """A node with neighbours, who stand, and a view of all authors."""
    node = Node(signer_of(0), PROFILES["wan"], random.Random(1), 1, ())
    node.start(NOW, WALL)
    for number in range(1, LINKS + 1):
        peer = signer_of(number).peer_id
        node.handle(LinkUp(peer, True, f"198.18.{number}.1"), NOW, WALL)
        assert node.overlay.asked(peer), "there is room for as many"
    node.gossip.stand(node.overlay.standing())
    first = [statement(signer_of(i), advert_of(i, ""), (1, 1), WALL, 3600) for i in range(1, AUTHORS + 1)]
    node.gossip.learn(first, NOW)
    return node


def loads(round_: int) -> list[Envelope]:
    return [
        statement(signer_of(i), Load(slots=8, running=round_ % 7), (1, 2 + round_), WALL, 600)
        for i in range(1, AUTHORS + 1)
    ]


def records() -> tuple[float, float]:
    """``(new, known)``: seconds for one statement in a message, from the bytes of the frame to the effects."""
    node, news, knowns = node_with_links(), [], []
    peers = [signer_of(number).peer_id for number in range(1, LINKS + 1)]
    for number in range(ROUNDS):
        batches = [loads(number)[start : start + BATCH] for start in range(0, AUTHORS, BATCH)]
        payloads = [encode(Records(tuple(batch))) for batch in batches]
        for source, times in ((0, news), (1, knowns)):

            def feed(source: int = source, payloads: list[bytes] = payloads, number: int = number) -> None:
                for payload in payloads:
                    message = decode(RECORDS, payload)
                    node.handle(Received(peers[source], message), NOW + 10 * number, WALL + 10 * number)  # type: ignore[arg-type]

            times.append(timed(feed) / AUTHORS)
    assert node.gossip.counts.records_new == AUTHORS * (ROUNDS + 1)
    assert not node.gossip.counts.shed
    return statistics.median(news), statistics.median(knowns)


class _Timed(MemoryNetwork):
    """Counts what each kind of message costs its receiver, decoding included."""

    def __init__(self) -> None:
        super().__init__()
        self.spent: dict[str, list[float]] = {}

    def _arrive(self, source: Member, target: Member, message: NodeMessage) -> None:
        payload, kind = encode(message), kind_of(message)
        if not isinstance(message, Records) and target.up and source.peer in target.links:
            began = time.perf_counter()
            event = Received(source.peer, decode(kind, payload))  # type: ignore[arg-type]
            effects = target.node.handle(event, self.now, self.wall(target))
            name = "digest" if isinstance(message, Digest) else "other"
            self.spent.setdefault(name, []).append(time.perf_counter() - began)
            self.perform(target, effects)
        else:
            super()._arrive(source, target, message)


def other_messages() -> tuple[float, float]:
    """``(digest, other)``: means over a network of 60 that joins and settles."""
    network = _Timed()
    network.grow(60)
    network.run(100)
    kinds = {name: statistics.fmean(spent) for name, spent in network.spent.items()}
    return kinds["digest"], kinds["other"]


def decisions() -> tuple[float, float]:
    """``(fixed, per peer)``: a line through the medians at 10 and at 1,000 peers."""
    query, rng, medians = JobQuery(MODEL, prompt_tokens=500, max_tokens=200), random.Random(2), []
    for peers in (10, 1000):
        decide = functools.partial(rank, table(peers), query, DEFAULT, rng, 1.0)
        medians.append(statistics.median(timed(decide) for _ in range(400)))
    slope = max(0.0, (medians[1] - medians[0]) / 990)
    return medians[0] - 10 * slope, slope


async def _ask(target: Target, count: int, clients: int, max_tokens: int) -> int:
    """So many streamed answers; gives the number of their tokens."""
    request, left, tokens = target.request(stream=True, max_tokens=max_tokens), count, 0

    async def client() -> None:
        nonlocal left, tokens
        reader, writer = await target.connect()
        while left > 0:
            left -= 1
            writer.write(request)
            status, length = await read_head(reader)
            body = await read_rest(reader, length)
            assert status == 200, body[:300]
            tokens += body.count(b'"content":')
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return tokens


def jobs(folder: Path) -> dict[str, float]:
    """What a job costs entry and worker, and each of its tokens: short answers against long ones."""
    with Fleet(folder) as fleet:
        fast = {"P2PNODE_MOCK_SPEED": "100000"}
        worker = fleet.node("worker", "--engine", "mock", "--model", SERVED, env=fast).wait_ready()
        entry = fleet.node("entry", "--engine", "none", "--bootstrap", worker.address).wait_ready()
        wait_for_model(entry)
        target = target_of(entry)
        asyncio.run(_ask(target, 50, 8, 8))
        found = {"entry": _job_and_token(target, entry), "worker": _job_and_token(target, worker)}
    return {
        "job_entry_s": found["entry"][0],
        "token_entry_s": found["entry"][1],
        "job_worker_s": found["worker"][0],
        "token_worker_s": found["worker"][1],
    }


def _job_and_token(target: Target, node: NodeProcess) -> tuple[float, float]:
    """Seconds of one process for a job without tokens and for a token: two points and the line through them."""
    lines = []
    for _ in range(3):
        points = []
        for count, most in ((200, 2), (60, 200)):
            before = cpu_seconds(node)
            tokens = asyncio.run(_ask(target, count, 8, most))
            points.append((tokens / count, (cpu_seconds(node) - before) / count))
        (few, short), (many, long) = points
        slope = max(0.0, (long - short) / (many - few))
        lines.append((short - few * slope, slope))
    return statistics.median(line[0] for line in lines), statistics.median(line[1] for line in lines)


def machine() -> str:
    """What kind of machine this is, in general words."""
    return f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, Python {platform.python_version()}"


def measure(folder: Path) -> Measured:
    """All figures."""
    out = subprocess.run(
        [sys.executable, "-m", "tests.bench.link_costs"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    link: dict[str, float] = json.loads(out.splitlines()[-1])
    new, known = records()
    digest, other = other_messages()
    fixed, per_peer = decisions()
    costs = Costs(
        **link,
        new_record_s=new,
        known_record_s=known,
        digest_s=digest,
        other_message_s=other,
        decision_s=fixed,
        decision_peer_s=per_peer,
        **jobs(folder),
    )
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Measured(provenance=Provenance(command=COMMAND, date=today, machine=machine()), costs=costs)


def costs(folder: Path) -> list[Row]:
    """One row per figure; with ``--write FILE`` on the command line the file is written, too."""
    measured = measure(folder)
    for path in _written_to(sys.argv):
        path.write_text(text_of(measured), encoding="utf-8")
    return [
        Row(
            f"CPU model: {name}",
            "",
            f"{getattr(measured.costs, name) * 1e6:,.2f} µs",
            None,
            "simulations/sim/cpu_costs.py",
        )
        for name in measured.costs.__struct_fields__
    ]


def _written_to(arguments: list[str]) -> Iterator[Path]:
    for option, value in itertools.pairwise(arguments):
        if option == "--write":
            yield Path(value)


def text_of(measured: Measured) -> str:
    """The file that says this."""
    origin, costs = measured.provenance, measured.costs
    lines = [
        "# CPU seconds of the daemon's own code; made by the command below, not by hand (see costs.py).",
        "",
        "[provenance]",
        *(f"{name} = {msgspec.json.encode(getattr(origin, name)).decode()}" for name in origin.__struct_fields__),
        "",
        "[costs]",
        *(f"{name} = {getattr(costs, name):.3e}" for name in costs.__struct_fields__),
    ]
    return "\n".join(lines) + "\n"
