"""The figures of the CPU model that are shipped: whole, plausible, and what the file says is what is loaded."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from simulations.sim.cpu_costs import FILE, Costs, load_costs, read_costs
from tests.bench.costs import text_of


def test_the_shipped_figures_say_where_they_come_from_and_are_seconds_of_work() -> None:
    measured = read_costs(FILE)
    assert measured.costs == load_costs()
    assert "tests.bench costs" in measured.provenance.command
    assert measured.provenance.machine
    for name in Costs.__struct_fields__:
        assert 0 <= getattr(measured.costs, name) < 0.1, name


def test_their_proportions_are_those_of_the_daemon() -> None:
    costs = load_costs()
    assert costs.known_record_s < costs.new_record_s / 5, "what is known is not verified again"
    assert costs.new_record_s < costs.message_s < costs.dial_s
    assert costs.decision_peer_s < costs.decision_s
    assert costs.job_entry_s > costs.decision_s


def test_a_file_survives_being_written(tmp_path: Path) -> None:
    measured = read_costs(FILE)
    path = tmp_path / "costs.toml"
    path.write_text(text_of(measured), encoding="utf-8")
    assert read_costs(path) == measured


def test_a_wrong_file_is_told_by_the_name_of_the_figure(tmp_path: Path) -> None:
    path = tmp_path / "costs.toml"
    path.write_text(FILE.read_text(encoding="utf-8").replace("dial_s", "dail_s"), encoding="utf-8")
    with pytest.raises(msgspec.ValidationError, match="dail_s"):
        read_costs(path)
