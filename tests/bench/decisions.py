"""What it costs to decide among a thousand peers."""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path

from protocol.membership.peer_view import PeerView
from protocol.perf.gpu_catalog import find_gpu, gpu_names
from protocol.reputation.experience import Experience
from protocol.reputation.observation import Observation
from protocol.reputation.outcomes import Outcome
from protocol.routing.policies import DEFAULT, POLICIES
from protocol.routing.ranking import JobQuery, rank
from protocol.statements.adverts import Advert, Gpu, Load, ModelOffer
from protocol.statements.envelope import statement
from protocol.statements.keys import Ed25519Signer
from tests.bench.row import Row

PEERS = 1000
DECISIONS = 400
MODEL = "llama-3.1-8b-instruct"
#: The share of jobs that fail.
FAILED = 0.1


def table(peers: int) -> PeerView:
    """A view of that many peers, every GPU of the table, all of them with the model."""
    rng = random.Random(1)
    names = sorted(gpu_names())
    me = Ed25519Signer(bytes(32)).peer_id
    view = PeerView(me, 20 * PEERS, 20 * PEERS)
    for number in range(peers):
        signer = Ed25519Signer((number + 1).to_bytes(4, "big") * 8)
        gpu: Gpu = find_gpu(names[number % len(names)])
        offer = ModelOffer(MODEL, bytes(16), context=8192, price_out=rng.random(), params_b=8.0, vram_mib=16000)
        advert = Advert(1, gpus=(gpu,), models=(offer,), addrs=(f"/ip4/198.18.{number // 250}.{number % 250}/tcp/1",))
        load = Load(0, rng.randrange(8000, 24000), rng.randrange(8), rng.randrange(4), 8)
        view.put(statement(signer, advert, (1, 1), 1.0, 120), advert, 0.0, 1e9)
        view.put(statement(signer, load, (1, 1), 1.0, 20), load, 0.0, 1e9)
        view.observe_rtt(signer.peer_id, rng.uniform(0.001, 0.2))
    return view


def experienced(view: PeerView) -> Experience:
    """What a node has learned that sent eight jobs to every second peer of a view, of which a tenth failed."""
    experience, rng = Experience(view), random.Random(3)
    for record in view.records()[1::2]:
        for _ in range(8):
            failed = rng.random() < FAILED
            outcome = Outcome.FAILED if failed else Outcome.COMPLETED
            experience.attempted(record.peer, 0.5)
            experience.observed(Observation(record.peer, MODEL, outcome, failed, 0.5, 0.02, 200), 0.5)
    return experience


def milliseconds(view: PeerView, policy: str) -> float:
    """Median time of one decision, with everything that a node knows of its peers."""
    experience, rng, times = experienced(view), random.Random(2), []
    query = JobQuery(MODEL, prompt_tokens=500, max_tokens=200, body_bytes=2000)
    for _ in range(DECISIONS):
        began = time.perf_counter()
        ranking = rank(view, query, policy, rng, 1.0, experience=experience)
        times.append(time.perf_counter() - began)
        assert ranking.candidates
    return statistics.median(times) * 1000


def decide(_: Path) -> list[Row]:
    """Median time of one decision: of each policy among a thousand peers, of the default among ten thousand."""
    view = table(PEERS)
    medians = {policy: milliseconds(view, policy) for policy in POLICIES}
    how = ", ".join(f"{name} {value:.3f}" for name, value in medians.items())
    many = milliseconds(table(10 * PEERS), DEFAULT)
    return [
        _row(PEERS, 0.2, medians[DEFAULT], how),
        _row(10 * PEERS, 2.0, many, DEFAULT),
    ]


def _row(peers: int, target: float, measured: float, how: str) -> Row:
    return Row(f"deciding among {peers:,} peers", f"≤ {target:g} ms", f"{measured:.3f} ms", measured <= target, how)
