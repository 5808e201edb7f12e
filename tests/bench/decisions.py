"""What it costs to decide among a thousand peers."""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path

from protocol.membership.peer_view import PeerView
from protocol.perf.gpu_catalog import find_gpu, gpu_names
from protocol.routing.policies import POLICIES
from protocol.routing.ranking import JobQuery, rank
from protocol.statements.adverts import Advert, Gpu, Load, ModelOffer
from protocol.statements.envelope import statement
from protocol.statements.keys import Ed25519Signer
from tests.bench.row import Row

PEERS = 1000
DECISIONS = 400
MODEL = "llama-3.1-8b-instruct"


def table(peers: int) -> PeerView:
    """A view of that many peers, every GPU of the table, all of them with the model."""
    rng = random.Random(1)
    names = sorted(gpu_names())
    me = Ed25519Signer(bytes(32)).peer_id
    view = PeerView(me, 4096, 4096)
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


def decide(_: Path) -> list[Row]:
    """Median time of one decision, the slowest policy quoted."""
    view, rng = table(PEERS), random.Random(2)
    query = JobQuery(MODEL, prompt_tokens=500, max_tokens=200)
    medians = {}
    for policy in POLICIES:
        times = []
        for _ in range(DECISIONS):
            began = time.perf_counter()
            ranking = rank(view, query, policy, rng, 1.0)
            times.append(time.perf_counter() - began)
            assert ranking.candidates
        medians[policy] = statistics.median(times) * 1000
    worst = max(medians, key=medians.__getitem__)
    how = ", ".join(f"{name} {value:.3f}" for name, value in medians.items())
    return [Row(f"deciding among {PEERS:,} peers", "≤ 0.3 ms", f"{medians[worst]:.3f} ms", medians[worst] <= 0.3, how)]
