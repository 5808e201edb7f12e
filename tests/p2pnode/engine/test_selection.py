"""From the configuration to an engine, or to a line that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from p2pnode.config import Config, EngineConfig, ModelConfig, load_config
from p2pnode.engine import tiny_model
from p2pnode.engine.base import ModelSpec
from p2pnode.engine.mock import MockEngine
from p2pnode.engine.openai import OpenAIEngine
from p2pnode.engine.selection import (
    FAULTS_VARIABLE,
    KEY_FILE_VARIABLE,
    MOCK_MODEL,
    SPEED_VARIABLE,
    VLLM_PYTHON_VARIABLE,
    NoSuchEngine,
    choose_engine,
    chosen_kind,
)
from p2pnode.engine.vllm_supervisor import VllmEngine


@pytest.fixture
def tiny(tmp_path: Path) -> ModelSpec:
    return ModelSpec("tiny", str(tiny_model.make(tmp_path / "tiny")))


def config(kind: str = "auto", *models: ModelConfig, **engine: str) -> Config:
    return Config(engine=EngineConfig(kind=kind, models=models, **engine))  # type: ignore[arg-type]


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter beside which vLLM is installed."""
    for name in ("python", "vllm"):
        (tmp_path / name).touch(mode=0o755)
    return tmp_path / "python"


def test_each_kind_by_name(tmp_path: Path, tiny: ModelSpec, python: Path) -> None:
    assert choose_engine(config("none"), tmp_path, {}) is None
    mock = choose_engine(config("mock", mock_gpu="H100 SXM"), tmp_path, {SPEED_VARIABLE: "inf"})
    assert isinstance(mock, MockEngine)
    assert mock.gpus()[0].model.startswith("H100")
    assert mock.offers()
    assert isinstance(choose_engine(config("openai", url="http://127.0.0.1:1"), tmp_path, {}), OpenAIEngine)
    environ = {VLLM_PYTHON_VARIABLE: str(python)}
    engine = choose_engine(config("vllm", ModelConfig("tiny", tiny.source)), tmp_path, environ)
    assert isinstance(engine, VllmEngine)


def test_auto_takes_vllm_only_where_it_can_run(tiny: ModelSpec, python: Path) -> None:
    def chosen(*, gpu: bool = True, model: bool = True, vllm: bool = True, url: str = "") -> str:
        models = (ModelConfig("tiny", tiny.source),) if model else ()
        environ = {VLLM_PYTHON_VARIABLE: str(python if vllm else python.parent / "elsewhere" / "python")}
        return chosen_kind(config("auto", *models, url=url), (str(python),) if gpu else (), environ)

    assert chosen() == "vllm"
    assert chosen(gpu=False) == chosen(model=False) == chosen(vllm=False) == "none"
    assert chosen(vllm=False, url="http://127.0.0.1:1") == "openai"


@pytest.mark.parametrize(
    ("kind", "models", "environ", "words"),
    [
        ("vllm", (), {}, "needs a model"),
        ("vllm", (ModelConfig("a"), ModelConfig("b")), {}, "one model"),
        ("vllm", (ModelConfig("m"),), {VLLM_PYTHON_VARIABLE: "/no/python"}, "P2PNODE_VLLM_PYTHON"),
        ("vllm", (ModelConfig("m", "org/m"),), {}, "pinned revision"),
        ("vllm", (ModelConfig("m", "./missing"),), {}, "no folder ./missing"),
        ("mock", (), {FAULTS_VARIABLE: '{"explode": true}'}, "no fault explode"),
        ("openai", (), {KEY_FILE_VARIABLE: "/no/key"}, "cannot be read"),
    ],
)
def test_what_is_missing_is_said(
    tmp_path: Path, kind: str, models: tuple[ModelConfig, ...], environ: dict[str, str], words: str
) -> None:
    with pytest.raises(NoSuchEngine, match=words):
        choose_engine(config(kind, *models, url="http://127.0.0.1:1"), tmp_path, environ)


def test_an_unknown_card_is_answered_with_known_ones(tmp_path: Path) -> None:
    with pytest.raises(NoSuchEngine, match="RTX"):
        choose_engine(config("mock", mock_gpu="RTX 9999"), tmp_path, {})


def test_faults_of_the_mock_come_from_the_environment(tmp_path: Path) -> None:
    engine = choose_engine(config("mock"), tmp_path, {FAULTS_VARIABLE: '{"crash_after": 3}'})
    assert isinstance(engine, MockEngine)
    assert engine.faults.crash_after == 3


# --- from flags and the environment -----------------------------------------------------------------------------------


def from_flags(**flags: Any) -> Config:
    """What the command line and nothing else makes of the configuration."""
    return load_config(None, flags, {})


def test_auto_takes_no_engine_that_was_not_named(tmp_path: Path) -> None:
    assert chosen_kind(from_flags(), devices=()) == "none"
    assert chosen_kind(from_flags(engine_url="http://127.0.0.1:1/v1"), devices=()) == "openai"
    assert chosen_kind(from_flags(engine="mock"), devices=()) == "mock"
    assert choose_engine(from_flags(engine="none"), tmp_path, {}) is None


def test_the_mock_engine_comes_with_a_model_a_gpu_and_faults_on_demand(tmp_path: Path) -> None:
    faults = {"P2PNODE_MOCK_FAULTS": '{"crash_after_chunks": 5}', "P2PNODE_MOCK_SPEED": "10"}
    engine: Any = choose_engine(from_flags(engine="mock", mock_gpu="RTX 3090", price_out=2.0), tmp_path, faults)
    assert engine.simulated
    assert [offer.name for offer in engine.offers()] == [MOCK_MODEL.name]
    assert "3090" in engine.gpus()[0].model
    assert engine.faults.crash_after == 5
    priced: Any = choose_engine(from_flags(engine="mock", model=("m",), price_out=2.0), tmp_path, {})
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
        choose_engine(from_flags(**flags), tmp_path, environ)
    assert "\n" not in str(caught.value)
