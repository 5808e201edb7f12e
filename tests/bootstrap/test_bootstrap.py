"""A bootstrap node as a real process: it introduces, remembers who it is, runs nothing, and ends cleanly."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootstrap.__main__ import command
from p2pnode.cli import app
from p2pnode.cli.exits import OK, USAGE
from p2pnode.cli.processes import Fleet, until


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path) as nodes:
        yield nodes


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--help"], command, "python -m bootstrap") == OK
    assert "python -m bootstrap --listen" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--engine", "--api", "--model"])
def test_it_has_no_engine_and_no_api(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([flag, "x"], command, "python -m bootstrap") == USAGE
    assert flag in capsys.readouterr().err


@pytest.mark.slow
def test_it_introduces_two_strangers_and_ends_with_zero(fleet: Fleet) -> None:
    seed = fleet.bootstrap().wait_ready()
    assert set(seed.ready) >= {"event", "peer_id", "listen"}
    assert "api" not in seed.ready
    for name in ("ada", "grace"):
        fleet.node(name, "--bootstrap", seed.address, "--engine", "none")
    nodes = [fleet.children[name].wait_ready() for name in ("ada", "grace")]

    def acquainted() -> bool:
        everybody = {seed.peer_id} | {node.peer_id for node in nodes}
        return all(
            {peer["id"] for peer in node.api.get("/v1/p2p/peers")["data"] if peer["state"] == "alive"} == everybody
            for node in nodes
        )

    until(acquainted, "both know all three", 30)
    assert seed.stop() == 0
    assert not (seed.home / "daemon.json").exists()


@pytest.mark.slow
def test_its_address_survives_a_restart(fleet: Fleet) -> None:
    first = fleet.bootstrap().wait_ready()
    peer_id = first.peer_id
    assert stat.S_IMODE((first.home / "node.key").stat().st_mode) == 0o600
    assert first.stop() == 0
    assert fleet.bootstrap().wait_ready().peer_id == peer_id


@pytest.mark.slow
def test_two_bootstrap_nodes_know_each_other(fleet: Fleet) -> None:
    first = fleet.bootstrap("first").wait_ready()
    second = fleet.bootstrap("second", "--bootstrap", first.address).wait_ready()
    node = fleet.node("node", "--bootstrap", second.address, "--engine", "none").wait_ready()

    def knows_both() -> bool:
        return {first.peer_id, second.peer_id} <= {peer["id"] for peer in node.api.get("/v1/p2p/peers")["data"]}

    until(knows_both, "the node hears of the first through the second", 30)


@pytest.mark.slow
def test_a_wrong_address_is_one_line(tmp_path: Path) -> None:
    wrong = [sys.executable, "-m", "bootstrap", "--home", str(tmp_path / "home"), "--listen", "port 4411"]
    done = subprocess.run(wrong, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "port 4411" in done.stderr
    assert "Traceback" not in done.stderr
