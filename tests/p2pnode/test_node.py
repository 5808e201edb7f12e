"""The parts of the composition root that can be looked at alone: home, statements, engine choice, ready line, seeds."""

from __future__ import annotations

import importlib.resources
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

import p2pnode
from p2pnode.advert_builder import NodeSpecs, advert_of, described, load_of
from p2pnode.announce import announce, next_command, write_json
from p2pnode.config import load_config
from p2pnode.engine.choice import MOCK_MODEL, NoSuchEngine, choose_engine, chosen_kind
from p2pnode.hardware.probe import GpuReading, Survey
from p2pnode.lifecycle import PARENT_VARIABLE, SIGNALS, CannotStart, Stopping, WrongFlag, watch_parent, watch_signals
from p2pnode.seeds import check_listen, grouped, listed_seeds
from p2pnode.state import home as home_module
from p2pnode.state.home import open_home
from p2pnode.state.ledger import Ledger
from p2pnode.state.paths import find_paths
from protocol.ids import PeerId, peer_text
from protocol.node import NodeSnapshot
from protocol.statements.adverts import Gpu, Load, ModelOffer, Status

PEER = PeerId(bytes(range(32)))
ADDRESS = f"/ip4/203.0.113.7/tcp/4411/p2p/{peer_text(PEER)}"


def config(**flags: Any) -> Any:
    return load_config(None, flags, {})


# --- the sibling -----------------------------------------------------------------------------------------------------


def test_versions_of_the_packages_agree() -> None:
    assert p2pnode.__version__ == p2pnode.protocol.__version__


@pytest.mark.parametrize(
    "stranger",
    [
        SimpleNamespace(__version__="0.37", __file__=p2pnode.protocol.__file__, PROTOCOL_VERSION=1),
        SimpleNamespace(
            __version__=p2pnode.__version__, __file__="/elsewhere/protocol/__init__.py", PROTOCOL_VERSION=1
        ),
        SimpleNamespace(__file__=None),
    ],
)
def test_a_stranger_called_protocol_is_refused_with_the_fix(stranger: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2pnode, "protocol", stranger)
    with pytest.raises(ImportError, match="pip uninstall -y protocol"):
        p2pnode._check_sibling()


# --- home ------------------------------------------------------------------------------------------------------------


def test_a_home_keeps_its_identity_and_its_incarnation_rises(tmp_path: Path) -> None:
    paths = find_paths(tmp_path / "home")
    with open_home(paths) as first:
        peer, inc = first.signer.peer_id, first.inc
        first.ledger.remember_peers([(PEER, (ADDRESS,), 1.0)])
        first.ledger.save_marks({(PEER, 1): (3, 4, 5.0)})
    with open_home(paths) as second:
        assert second.signer.peer_id == peer
        assert second.inc > inc
        assert second.snapshot == NodeSnapshot(((PEER, (ADDRESS,)),), {(PEER, 1): (3, 4, 5.0)})
    assert paths.home.stat().st_mode & 0o077 == 0
    assert paths.node_key.stat().st_mode & 0o077 == 0


async def test_marks_are_remembered_until_their_time_is_over(tmp_path: Path) -> None:
    now = time.time()
    marks = {(PEER, 1): (3, 4, now + 60.0), (PEER, 2): (3, 4, now - 60.0)}
    machine: Any = SimpleNamespace(snapshot=lambda: NodeSnapshot(marks=marks), view=SimpleNamespace(records=tuple))
    with open_home(find_paths(tmp_path / "home")) as home:
        await home_module._remember(home, machine, now)
        assert home.ledger.marks() == {(PEER, 1): (3, 4, now + 60.0)}


def test_a_home_is_for_one_daemon(tmp_path: Path) -> None:
    paths = find_paths(tmp_path / "home")
    with open_home(paths), pytest.raises(CannotStart, match="another p2pnode runs"), open_home(paths):
        pass


def test_wrong_modes_are_refused_with_the_chmod_to_run(tmp_path: Path) -> None:
    paths = find_paths(tmp_path / "home")
    with open_home(paths):
        pass
    paths.node_key.chmod(0o640)
    with pytest.raises(CannotStart, match=f"chmod 600 {paths.node_key}"), open_home(paths):
        pass
    paths.node_key.chmod(0o600)
    paths.home.chmod(0o755)
    with pytest.raises(CannotStart, match=f"chmod 700 {paths.home}"), open_home(paths):
        pass


def test_what_the_daemon_said_of_itself_goes_with_it(tmp_path: Path) -> None:
    paths = find_paths(tmp_path / "home")
    with open_home(paths):
        write_json(paths.daemon, {"api": "x"})
    assert not paths.daemon.exists()
    ledger = Ledger(paths.database)
    assert ledger.peers() == []
    ledger.close()


# --- statements ------------------------------------------------------------------------------------------------------


class FakeEngine:
    """An engine with one model; ``simulated`` as told."""

    name = "fake"
    state = "ready"
    problem = ""

    def __init__(self, simulated: bool, gpus: tuple[Gpu, ...] = ()) -> None:
        self.simulated = simulated
        self._gpus = gpus

    def offers(self) -> tuple[ModelOffer, ...]:
        return (ModelOffer("m", b"\0" * 16),)

    def gpus(self) -> tuple[Gpu, ...]:
        return self._gpus

    def load(self) -> Load:
        return Load(running=2, free_vram_mib=7 if self.simulated else 0)


CARD = GpuReading("NVIDIA H100 PCIe", 81559, 60000, 9.0, 63.0, 2039.0, 70, 83, True, 75)
MACHINE = NodeSpecs(Survey("cuda", "580.1", (CARD, replace(CARD, free_mib=1))), (CARD, replace(CARD, temperature_c=90)))


def test_an_advert_says_what_is_there() -> None:
    advert = advert_of(config(name="ada", region="eu"), FakeEngine(False), MACHINE, [ADDRESS] * 9)
    assert (advert.name, advert.region, advert.engine, advert.runtime, advert.driver) == (
        "ada",
        "eu",
        "fake",
        "cuda",
        "580.1",
    )
    assert len(advert.gpus) == 1
    assert (advert.gpus[0].count, advert.gpus[0].vram_mib, advert.gpus[0].bandwidth_gb_s) == (2, 81559, 2000.0)
    assert len(advert.addrs) == 4
    assert [offer.name for offer in advert.models] == ["m"]


def test_a_simulated_engine_speaks_of_its_simulated_gpu_and_of_nothing_else() -> None:
    simulated = Gpu("RTX 4090", vram_mib=24564)
    advert = advert_of(config(), FakeEngine(True, (simulated,)), MACHINE, [])
    assert advert.gpus == (simulated,)
    assert advert.runtime == "simulated"
    assert advert.driver == ""
    load = load_of(FakeEngine(True), MACHINE, draining=False)
    assert (load.temperature_c, load.free_vram_mib) == (0, 7)


def test_a_load_joins_engine_and_driver() -> None:
    load = load_of(FakeEngine(False), MACHINE, draining=False)
    assert (load.running, load.free_vram_mib, load.gpu_percent, load.temperature_c) == (2, 120000, 70, 90)
    assert load.throttled
    assert load.clock_percent == 75
    assert load.status == Status.ONLINE
    assert load_of(None, NodeSpecs(), draining=True).status == Status.DRAINING
    full = load_of(FakeEngine(False), MACHINE, draining=False, queued=3)
    assert (full.running, full.waiting, full.status) == (2, load.waiting + 3, Status.BUSY)


def test_different_cards_are_different_entries() -> None:
    cards = described([CARD, replace(CARD, model="NVIDIA L4", vram_mib=23034), replace(CARD, gpu_percent=0)])
    assert [(card.model, card.count) for card in cards] == [("NVIDIA H100 PCIe", 2), ("NVIDIA L4", 1)]


# --- which engine ----------------------------------------------------------------------------------------------------


def test_auto_takes_no_engine_that_was_not_named(tmp_path: Path) -> None:
    assert chosen_kind(config(), devices=()) == "none"
    assert chosen_kind(config(engine_url="http://127.0.0.1:1/v1"), devices=()) == "openai"
    assert chosen_kind(config(engine="mock"), devices=()) == "mock"
    assert choose_engine(config(engine="none"), tmp_path, {}) is None


def test_the_mock_engine_comes_with_a_model_a_gpu_and_faults_on_demand(tmp_path: Path) -> None:
    faults = {"P2PNODE_MOCK_FAULTS": '{"crash_after_chunks": 5}', "P2PNODE_MOCK_SPEED": "10"}
    engine: Any = choose_engine(config(engine="mock", mock_gpu="RTX 3090", price_out=2.0), tmp_path, faults)
    assert engine.simulated
    assert [offer.name for offer in engine.offers()] == [MOCK_MODEL.name]
    assert "3090" in engine.gpus()[0].model
    assert engine.faults.crash_after == 5
    priced: Any = choose_engine(config(engine="mock", model=("m",), price_out=2.0), tmp_path, {})
    assert priced.offers()[0].price_out == 2.0


@pytest.mark.parametrize(
    ("flags", "environ", "said"),
    [
        ({"engine": "mock", "mock_gpu": "Voodoo 2"}, {}, "Voodoo 2"),
        ({"engine": "mock"}, {"P2PNODE_MOCK_FAULTS": '{"explode": 1}'}, "explode"),
        ({"engine": "vllm"}, {}, "--model"),
        ({"engine": "vllm", "model": ("a", "b")}, {}, "one model"),
    ],
)
def test_an_engine_that_cannot_be_had_is_refused_in_one_line(
    flags: dict[str, Any], environ: dict[str, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(NoSuchEngine, match=said) as caught:
        choose_engine(config(**flags), tmp_path, environ)
    assert "\n" not in str(caught.value)


# --- the ready line --------------------------------------------------------------------------------------------------

FACTS = {"peer_id": "12D3", "listen": [ADDRESS], "api": "http://127.0.0.1:8411/v1", "models": ["m"]}


def test_ready_is_one_json_line_and_the_files_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ready, daemon = tmp_path / "ready.json", tmp_path / "daemon.json"
    announce(FACTS, as_json=True, ready_file=str(ready), daemon_file=daemon)
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"event": "ready", **FACTS} == json.loads(ready.read_text())
    assert json.loads(daemon.read_text()).items() >= FACTS.items()
    assert f"p2pnode run --bootstrap {ADDRESS}" in shown.err
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_ready_for_people_is_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    announce(FACTS, as_json=False, ready_file="", daemon_file=tmp_path / "daemon.json")
    assert capsys.readouterr().out.splitlines()[2] == "api      http://127.0.0.1:8411/v1"


def test_the_next_machine_is_given_an_address_that_it_can_reach() -> None:
    loopback = ADDRESS.replace("203.0.113.7", "127.0.0.1")
    assert next_command([loopback, ADDRESS]).endswith(ADDRESS)
    assert next_command([loopback]).endswith(loopback)
    assert "not listening" in next_command([])


# --- seeds and signals -----------------------------------------------------------------------------------------------


def test_the_seed_list_is_data_and_well_formed() -> None:
    assert importlib.resources.files("bootstrap").joinpath("seeds.toml").is_file()
    assert all(peer is not None for peer, _ in grouped(listed_seeds()))


def test_addresses_of_one_seed_belong_together() -> None:
    other = ADDRESS.replace("203.0.113.7", "198.51.100.1")
    unnamed = "/ip4/192.0.2.1/tcp/1"
    assert grouped((ADDRESS, unnamed, other)) == ((PEER, (ADDRESS, other)), (None, (unnamed,)))


@pytest.mark.parametrize("wrong", ["somewhere:4411", "/ip4/1.2.3.4/tcp/1/p2p/12D3KooWnonsense", "/ip4/1.2.3/tcp/1"])
def test_a_wrong_bootstrap_address_is_named(wrong: str) -> None:
    with pytest.raises(WrongFlag, match="bootstrap") as caught:
        grouped((wrong,))
    assert wrong in str(caught.value)


def test_a_wrong_place_to_listen_is_named_with_its_flag() -> None:
    check_listen(("/ip4/0.0.0.0/tcp/4411", "/ip6/::/tcp/0"))
    with pytest.raises(WrongFlag, match="--listen 'port 4411'"):
        check_listen(("port 4411",))


async def test_one_signal_asks_and_two_insist() -> None:
    stopping = Stopping()
    async with trio.open_nursery() as nursery:
        await nursery.start(watch_signals, stopping)
        signal.raise_signal(signal.SIGTERM)
        with trio.fail_after(5):
            await stopping.asked.wait()
        assert not stopping.now.is_set()
        signal.raise_signal(signal.SIGINT)
        with trio.fail_after(5):
            await stopping.now.wait()
        nursery.cancel_scope.cancel()


async def watched(stopping: Stopping) -> dict[int, Any]:
    """What signals mean after a life of ``watch_signals``."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(watch_signals, stopping)
            nursery.cancel_scope.cancel()
        return {number: signal.getsignal(number) for number in SIGNALS}
    finally:
        for number, action in before.items():
            signal.signal(number, action)


async def test_afterwards_signals_mean_what_they_meant_unless_the_end_is_settled() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    stopping = Stopping()
    assert await watched(stopping) == before
    stopping.settled = True
    assert set((await watched(stopping)).values()) == {signal.SIG_IGN}
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


async def test_a_node_ends_with_its_parent_only_where_that_is_wanted() -> None:
    reading, writing = os.pipe()
    stopping = Stopping()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_parent, stopping, {PARENT_VARIABLE: "1"}, reading)
            await trio.testing.wait_all_tasks_blocked()
            assert not stopping.asked.is_set()
            os.close(writing)
            with trio.fail_after(5):
                await stopping.asked.wait()
        other = Stopping()
        await watch_parent(other, {}, reading)
        assert not other.asked.is_set()
    finally:
        os.close(reading)
