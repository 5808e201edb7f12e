"""Builds the objects of ``/v1/p2p/status`` and ``/v1/p2p/peers``, which the verbs show as well.

They are plain dictionaries; fields are only ever added, and no name changes its meaning.  Nothing here decides or
waits: it reads the peer view, the engine and the job records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING, Final, cast

import trio

from p2pnode import __version__
from p2pnode.advert_builder import NodeSpecs as Hardware
from p2pnode.json_types import JsonObject
from protocol.ids import peer_text, short
from protocol.jobs.load import with_queue
from protocol.membership.peer_view import STATES
from protocol.reputation.words import Seen, in_words, seen_of
from protocol.statements.adverts import Advert, Gpu, Load, ModelOffer, ModelState, Status

if TYPE_CHECKING:
    from p2pnode.config import Config
    from p2pnode.engine.base import Engine
    from p2pnode.http.gateway import Dispatching, Jobs
    from p2pnode.jobs.dispatch import Dispatch
    from p2pnode.jobs.records import JobBook
    from p2pnode.metrics import Metrics
    from p2pnode.state.home import Home
    from p2pnode.state.keys import Keyring
    from p2pnode.swarm.swarm import Swarm
    from protocol.membership.peer_record import PeerRecord
    from protocol.node import Node

#: Seconds over which the upload of gossip is averaged.
SAMPLE_S: Final = 5.0

_STATES = {
    ModelState.RESIDENT: "resident",
    ModelState.SLEEPING: "sleeping",
    ModelState.ON_DISK: "on disk",
}
_STATUS = {Status.ONLINE: "online", Status.BUSY: "busy", Status.DRAINING: "draining", Status.LEFT: "left"}


class StatusView:
    """The node as the API sees it (``http.gateway.Gateway``)."""

    def __init__(
        self,
        config: Config,
        home: Home,
        engine: Engine | None,
        machine: Node,
        swarm: Swarm,
        dispatch: Dispatch,
        jobs: JobBook,
        keys: Keyring,
        metrics: Metrics,
    ) -> None:
        self.config = config
        self.zone: str = config.routing.zone
        self.dispatch = cast("Dispatching", dispatch)  # mypy wants writable attributes; the API only reads them
        self.jobs: Jobs = jobs
        self._dispatch = dispatch
        self.keys = keys
        self.metrics = metrics
        self.api = ""
        self.draining = False
        self.hardware = Hardware()
        self._home = home
        self._engine = engine
        self._machine = machine
        self._swarm = swarm
        self._started = trio.current_time()
        self._sampled = (self._started, 0)
        self._out_bytes_s = 0.0
        metrics.gossip_messages, metrics.gossip_bytes = swarm.gossip_messages, swarm.gossip_bytes
        metrics.view_age.set_function(self._view_age)  # a median over all peers, computed only at a scrape

    def sample(self) -> None:
        """Measure the upload of gossip; the daemon calls it regularly."""
        now = trio.current_time()
        then, before = self._sampled
        if now - then >= SAMPLE_S:
            sent = self._machine.gossip.counts.bytes_out
            self._out_bytes_s = (sent - before) / (now - then)
            self._sampled = (now, sent)

    def _view_age(self) -> float:
        """Median seconds since the last statement of each live peer; 0 without peers."""
        now = trio.current_time()
        received = [
            max(record.advert_at, record.load_at)
            for record in self._swarm.view.records()
            if record.state == "alive" and not record.is_self and (record.advert or record.load)
        ]
        return now - median(received) if received else 0.0

    def ready(self) -> tuple[bool, list[str]]:
        """Whether some node can serve a request, and the reasons if not."""
        reasons = []
        if self.draining:
            reasons.append("this node is stopping")
        if not self._dispatch.anything():
            reasons.append("no model is offered, neither here nor by a peer")
        return not reasons, reasons

    def models(self) -> list[JsonObject]:
        """The models on offer (``/v1/models``)."""
        return self._dispatch.models()

    def peers(self) -> list[JsonObject]:
        """All nodes of the view, this one included (``/v1/p2p/peers``)."""
        now, histories = trio.current_time(), self._dispatch.entry_state.experience.histories
        return [
            peer_of(record, now, seen_of(record, histories.get(record.peer), now))
            for record in self._swarm.view.records()
        ]

    def status(self) -> JsonObject:
        """This node (``/v1/p2p/status``)."""
        ready, reasons = self.ready()
        engine = self._engine
        own = self._swarm.view.get(self._swarm.me)
        advert = own.advert if own is not None else None
        return {
            "peer_id": peer_text(self._swarm.me),
            "short": short(self._swarm.me),
            "name": self.config.node.name,
            "version": __version__,
            "network": self.config.network.name,
            "profile": self.config.node.profile,
            "policy": self.config.node.policy,
            "zone": self.zone,
            "uptime_s": round(trio.current_time() - self._started, 1),
            "ready": ready,
            "reasons": reasons,
            "draining": self.draining,
            "listen": list(self._swarm.addrs),
            "observed": sorted(set(self._swarm.observed())),
            "api": self.api,
            "auth": "API key" if self.keys.required else "no key, loopback only",
            "key_file": str(self._home.paths.api_key) if self.keys.required else None,
            "engine": {
                "name": engine.name if engine is not None else "none",
                "state": engine.state if engine is not None else "gateway",
                "problem": engine.problem if engine is not None else "",
                "runtime": advert.runtime if advert is not None else "none",
                "simulated": engine is not None and engine.simulated,
                "process_group": getattr(engine, "group", 0),
            },
            "gpus": [gpu_of(gpu) for gpu in advert.gpus] if advert is not None else [],
            "cpu": self.hardware.survey.cpu,
            "models": [model_of(offer) for offer in engine.offers()] if engine is not None else [],
            "load": load_view(self._load(engine)) if engine is not None else None,
            "peers": self._count_peers(),
            "links": self._swarm.links(),
            "jobs": dict(Counter(record.state for record in self.jobs.recent())),
            "gossip": {
                "out_bytes_s": round(self._out_bytes_s, 1),
                "budget_bytes_s": self.config.settings.gossip.budget_bytes_s,
                **self._machine.stats(),
            },
            "problems": self.problems(),
        }

    def _load(self, engine: Engine) -> Load:
        """The engine's load, plus the jobs that wait for a slot."""
        slots = self._dispatch.slots
        return with_queue(engine.load(), slots.waiting if slots is not None else 0)

    def _count_peers(self) -> dict[str, int]:
        others = [record for record in self._swarm.view.records() if not record.is_self]
        states = Counter(record.state for record in others)
        linked = sum(record.linked for record in others)
        return {"known": len(others), "linked": linked, **{state: states[state] for state in STATES}}

    def problems(self) -> list[dict[str, str]]:
        """The problems of this node, each with its fix; the kind is ``wait`` for one that ends by itself."""
        engine = self._engine
        loading = [_loading(engine)] if engine is not None and engine.state == "starting" else []
        return loading + [{"what": what, "fix": fix, "kind": "wrong"} for what, fix in self._problems()]

    def _problems(self) -> Iterator[tuple[str, str]]:
        engine, ledger = self._engine, self._home.ledger
        if engine is not None and engine.problem and engine.state != "starting":
            yield f"engine {engine.name}: {engine.problem}", f"its log is in {self._home.paths.logs}, if it has one"
        seeds = len(self.config.network.bootstrap)
        if not self._swarm.linked and seeds:
            known = "the bootstrap peer does not answer" if seeds == 1 else f"none of {seeds} bootstrap peers answers"
            yield f"{known}: no links yet, retrying", "is the address right, and its port open? p2pnode doctor"
        elif not self.draining and not (engine is not None and engine.offers()) and not self._dispatch.anything():
            fix = "offer one (--engine), or join a network that does (--bootstrap)"
            yield "no peer offers a model, so no request can be served", fix
        for problem in self.hardware.survey.problems:
            if "did not answer" in problem:
                yield problem, "look at nvidia-smi and dmesg; a reboot usually brings the driver back"
        if any(reading.throttled for reading in self.hardware.readings):
            yield (
                "a GPU is slowed down by heat or power",
                "look at its cooling and power limit (nvidia-smi -q -d CLOCK)",
            )
        if ledger.problem:
            yield ledger.problem, "this node goes on, but forgets its peers at its end"
        if ledger.set_aside is not None:
            yield f"the database was damaged and put aside: {ledger.set_aside}", "make lost API keys anew: p2pnode keys"
        if self._swarm.faults:
            yield f"{self._swarm.faults} events could not be handled: a defect", "please report the log of this node"


def _loading(engine: Engine) -> dict[str, str]:
    what = f"engine {engine.name}: {engine.problem or 'starting'}"
    return {"what": what, "fix": "a large model takes minutes to load", "kind": "wait"}


def model_of(offer: ModelOffer) -> JsonObject:
    """One model of one node."""
    return {
        "name": offer.name,
        "state": _STATES[ModelState(offer.state)],
        "context_length": offer.context,
        "quantization": offer.quantization,
        "capabilities": list(offer.capabilities),
        "price_in": offer.price_in,
        "price_out": offer.price_out,
        "fingerprint": offer.fingerprint.hex(),
    }


def gpu_of(gpu: Gpu) -> JsonObject:
    """One kind of card."""
    return {
        "model": gpu.model,
        "count": gpu.count,
        "vram_mib": gpu.vram_mib,
        "bandwidth_gb_s": gpu.bandwidth_gb_s,
        "bf16_tflops": gpu.bf16_tflops or gpu.fp16_tflops,
    }


def load_view(load: Load) -> JsonObject:
    """The load of a node, by its own claim."""
    return {
        "status": _STATUS[Status(load.status)],
        "running": load.running,
        "waiting": load.waiting,
        "slots": load.slots,
        "kv_permille": load.kv_permille,
        "queued_prefill_tokens": load.queued_prefill_tokens,
        "tokens_s": load.tokens_s,
        "gpu_percent": load.gpu_percent,
        "temperature_c": load.temperature_c,
        "throttled": load.throttled,
    }


def peer_of(record: PeerRecord, now: float, seen: Seen) -> JsonObject:
    """One peer in the view; ``state``, the times and ``evidence`` are ours, the rest is the peer's claim."""
    advert, load = record.advert or Advert(protocol=1), record.load
    total = advert.vram_mib
    return {
        "id": peer_text(record.peer),
        "short": short(record.peer),
        "name": advert.name,
        "region": advert.region,
        "owner": advert.owner,
        "self": record.is_self,
        "state": record.state,
        "route": "self" if record.is_self else "direct" if record.linked else "-",
        "linked": record.linked,
        "address": record.address,
        "addresses": list(advert.addrs),
        "rtt_ms": None if record.rtt_s is None else round(record.rtt_s * 1000, 3),
        "engine": advert.engine,
        "runtime": advert.runtime,
        "simulated": advert.runtime == "simulated",
        "version": advert.version,
        "gpus": [gpu_of(gpu) for gpu in advert.gpus],
        "vram_total_mib": total,
        "vram_free_mib": min(load.free_vram_mib, total) if load else None,
        "models": [model_of(offer) for offer in advert.models],
        "load": load_view(load) if load else None,
        "inflight": record.inflight,
        "advert_age_s": _age(record.advert_at if record.advert else None, now, record.is_self),
        "load_age_s": _age(record.load_at if load else None, now, record.is_self),
        "evidence": None if record.is_self else evidence_of(seen),
    }


def evidence_of(seen: Seen) -> JsonObject:
    """What this node has observed of a peer, in words and in figures."""
    return {
        "words": in_words(seen),
        "completed": seen.completed,
        "failed": seen.failed,
        "slower": None if seen.slower is None else round(seen.slower, 3),
        "breaker": seen.breaker,
        "barred_s": round(seen.barred_s, 1),
        "failed_dials": seen.misses,
        "implausible": seen.absurd,
    }


def _age(at: float | None, now: float, mine: bool) -> float | None:
    if at is None:
        return None
    return 0.0 if mine else round(max(0.0, now - at), 2)
