"""The Prometheus metrics of a node; their help texts are the documentation.

Metrics have base units and bounded labels, and no label names a peer, a request or a prompt (figures per peer are in
``/v1/p2p/peers``).  The buckets are vLLM's, so that both fit on one panel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def _seconds(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split()))


#: vllm/v1/metrics/loggers.py: end-to-end latency, time to first token, inter-token latency; seconds.
REQUEST_BUCKETS: Final = _seconds("0.3 0.5 0.8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680")
FIRST_TOKEN_BUCKETS: Final = _seconds(
    "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 20 40 80 160 640 2560"
)
TOKEN_BUCKETS: Final = _seconds("0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1 2.5 5 7.5 10 20 40 80")
#: A decision takes a fraction of a millisecond, so vLLM's lists would put all of them into one bucket (guess).
DECIDE_BUCKETS: Final = _seconds("0.0001 0.0002 0.0005 0.001 0.002 0.005 0.01 0.05 0.1 0.5")
#: Models with their own label; requests for further ones count as ``other``.
MOST_MODELS: Final = 64
#: Reasons of an attempt's end with their own label (guess: this node has a dozen).
MOST_REASONS: Final = 32

# The library would add a ``_created`` series to each counter.
disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client has no types for it


class Metrics:
    """The metrics of one node, in a registry of their own, so that one process can run several nodes."""

    def __init__(self, version: str = "", *, process: bool = True) -> None:
        self.registry = registry = CollectorRegistry()
        if process:
            ProcessCollector(registry=registry)
            GCCollector(registry=registry)
        build = Gauge("p2pnode_build_info", "Always 1; the version is in the label.", ["version"], registry=registry)
        build.labels(version).set(1)

        by_model = ["model"]
        self.requests = Counter(
            "p2pnode_requests", "Requests for a completion that ended.", ["model", "outcome"], registry=registry
        )
        self.duration = Histogram(
            "p2pnode_request_duration_seconds",
            "From the request to the end of its answer.",
            by_model,
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self.first_token = Histogram(
            "p2pnode_time_to_first_token_seconds",
            "From the request to the first piece of its answer.",
            by_model,
            buckets=FIRST_TOKEN_BUCKETS,
            registry=registry,
        )
        self.inter_token = Histogram(
            "p2pnode_inter_token_latency_seconds",
            "Mean time between the pieces of one streamed answer.",
            by_model,
            buckets=TOKEN_BUCKETS,
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "p2pnode_prompt_tokens", "Tokens in prompts, estimated.", by_model, registry=registry
        )
        self.generation_tokens = Counter(
            "p2pnode_generation_tokens", "Pieces of streamed answers, about a token each.", by_model, registry=registry
        )
        self.attempts = Counter(
            "p2pnode_attempts", "Tries at one peer for a job.", ["outcome", "reason"], registry=registry
        )
        self.cascades = Counter(
            "p2pnode_cascades", "Jobs by the number of tries they took.", ["depth"], registry=registry
        )
        self.dispatch = Histogram(
            "p2pnode_dispatch_seconds", "Time to decide who gets a job.", buckets=DECIDE_BUCKETS, registry=registry
        )
        self.refused = Counter("p2pnode_http_refused", "Requests refused at the gate.", ["reason"], registry=registry)
        self.connections = Gauge("p2pnode_http_connections", "Open connections of the API.", registry=registry)
        self.jobs_running = Gauge("p2pnode_jobs_running", "Jobs that the engine here works on.", registry=registry)
        self.jobs_waiting = Gauge("p2pnode_jobs_waiting", "Jobs that wait for the engine here.", registry=registry)
        self.peers = Gauge("p2pnode_peers", "Peers in the view.", ["state"], registry=registry)
        #: Counters of the swarm, read at each scrape.
        self.gossip_messages: Mapping[tuple[str, ...], int] = {}
        self.gossip_bytes: Mapping[tuple[str, ...], int] = {}
        registry.register(_Gossip(self))
        self.view_age = Gauge("p2pnode_view_age_seconds", "Median age of what is known of peers.", registry=registry)
        self._reasons: set[str] = set()
        self._by_model: dict[str, ModelMetrics] = {}

    def of_model(self, model: str) -> ModelMetrics:
        """The metrics of one model, cached because the lookup of labels costs more than counting."""
        found = self._by_model.get(model)
        if found is None:
            label = model if len(self._by_model) < MOST_MODELS else "other"
            found = self._by_model.get(label)
            if found is None:
                found = self._by_model[label] = ModelMetrics(self, label)
        return found

    def attempted(self, outcome: str, reason: str) -> None:
        """Count the end of an attempt.  Peers choose their reasons, so only ``MOST_REASONS`` get a label."""
        if reason not in self._reasons:
            if len(self._reasons) >= MOST_REASONS:
                reason = "other"
            self._reasons.add(reason)
        self.attempts.labels(outcome, reason).inc()

    def watch(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read at each scrape."""
        self.registry.register(_Reading(name, help_text, read))

    def expose(self) -> bytes:
        """The whole registry in Prometheus's text format."""
        return generate_latest(self.registry)


class ModelMetrics:
    """The children of the per-model metrics for one model."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self.model = model
        self.duration = metrics.duration.labels(model)
        self.first_token = metrics.first_token.labels(model)
        self.inter_token = metrics.inter_token.labels(model)
        self.prompt_tokens = metrics.prompt_tokens.labels(model)
        self.generation_tokens = metrics.generation_tokens.labels(model)
        self._requests = metrics.requests
        self._outcomes: dict[str, Counter] = {}

    def ended(self, outcome: str, seconds: float) -> None:
        """A request ended: ``completed``, ``failed``, ``refused`` or ``cancelled``."""
        counter = self._outcomes.get(outcome)
        if counter is None:
            counter = self._outcomes[outcome] = self._requests.labels(self.model, outcome)
        counter.inc()
        self.duration.observe(seconds)


class _Gossip:
    """A collector of the swarm's counters."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        messages = CounterMetricFamily("p2pnode_gossip_messages", "Gossip messages.", labels=["kind", "direction"])
        sizes = CounterMetricFamily("p2pnode_gossip_bytes", "Bytes of gossip.", labels=["direction"])
        for family, counted in ((messages, self._metrics.gossip_messages), (sizes, self._metrics.gossip_bytes)):
            for labels, count in counted.items():
                family.add_metric(labels, count)
            yield family


class _Reading:
    """A collector of one gauge."""

    def __init__(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        self._name = name
        self._help = help_text
        self._read = read

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(self._name, self._help)
        family.add_metric([], self._read())
        yield family
