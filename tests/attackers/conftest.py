"""One network of honest workers for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from p2pnode.cli.processes import Fleet
from tests.attackers.nodes import model_of
from tests.attackers.test_liars import RUNS
from tests.attackers.test_paper import KINDS
from tests.attackers.victims import Network


@pytest.fixture(scope="package")
def network() -> Iterator[Network]:
    """Four honest workers that offer the models of all tests."""
    with Fleet() as fleet:
        workers = Network(fleet, [model_of(name) for name in (*RUNS, *KINDS)])
        workers.start()
        yield workers
