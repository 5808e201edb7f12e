"""Real processes are told to change their adverts, and say when they got each other's changes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.fullstack.figures import Run
from tests.fullstack.observed_daemon import FILE, changes_of, owner_of
from tests.fullstack.real import measure


def test_what_a_node_wrote_down_is_read(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('["node1 1", 2.5]\n["node2 1", 3.5]\n')
    assert changes_of(tmp_path) == {owner_of("node1", 1): 2.5, owner_of("node2", 1): 3.5}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGUSR1")
def test_two_processes_in_figures() -> None:
    found = measure(Run(nodes=2, warm_s=0.5, time_s=10.0, change_s=2.5, jobs_per_s=1.0, output_tokens=10))
    assert found["gossip_changes"] == 3
    assert 0 < found["gossip_t50_s"] == found["gossip_t99_s"] < 4
    assert found["jobs_failed"] == 0
    assert found["jobs_completed"] > 0
    assert found["gossip_bytes_per_node_s"] > 0
