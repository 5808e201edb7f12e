"""What Prometheus sees."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from p2pnode import metrics as module
from p2pnode.metrics import Metrics


def values(metrics: Metrics) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.expose().decode())
    return {
        sample.name + "".join(f"|{value}" for value in sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_names_have_our_prefix_and_help() -> None:
    text = Metrics("1.2", process=False).expose().decode()
    names = {line.split(" ")[2] for line in text.splitlines() if line.startswith("# TYPE")}
    helped = {
        line.split(" ")[2] for line in text.splitlines() if line.startswith("# HELP") and len(line.split(" ")) > 3
    }
    assert names == helped
    assert all(name.startswith("p2pnode_") for name in names)
    assert "_created" not in text
    wanted = "requests_total request_duration_seconds time_to_first_token_seconds inter_token_latency_seconds"
    wanted += " prompt_tokens_total generation_tokens_total attempts_total cascades_total dispatch_seconds jobs_running"
    wanted += " jobs_waiting peers gossip_messages_total gossip_bytes_total view_age_seconds build_info"
    assert {f"p2pnode_{name}" for name in wanted.split()} <= names


def test_a_process_shows_its_own_numbers() -> None:
    assert any(name.startswith("process_") for name in values(Metrics()))


def test_two_nodes_in_one_process_do_not_mix() -> None:
    one, other = Metrics(process=False), Metrics(process=False)
    one.of_model("m").ended("completed", 1.0)
    assert values(one)["p2pnode_requests_total|m|completed"] == 1
    assert "p2pnode_requests_total|m|completed" not in values(other)


def test_labels_are_bounded(monkeypatch: object) -> None:
    metrics = Metrics(process=False)
    for number in range(200):
        metrics.of_model(f"model {number}").ended("completed", 0.1)
        metrics.attempted("lost", f"reason {number}")
    found = values(metrics)
    assert sum(name.startswith("p2pnode_requests_total|") for name in found) == module.MOST_MODELS + 1
    assert found["p2pnode_requests_total|other|completed"] == 200 - module.MOST_MODELS
    assert sum(name.startswith("p2pnode_attempts_total|") for name in found) == module.MOST_REASONS + 1


def test_a_reading_is_taken_when_it_is_scraped() -> None:
    metrics = Metrics(process=False)
    level = [1.0]
    metrics.watch("p2pnode_level", "A level.", lambda: level[0])
    assert values(metrics)["p2pnode_level"] == 1.0
    level[0] = 2.0
    assert values(metrics)["p2pnode_level"] == 2.0
