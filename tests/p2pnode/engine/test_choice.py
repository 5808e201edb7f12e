"""From the configuration to an engine, or to a line that says what to do; and what a model's folder tells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from p2pnode.config import Config, EngineConfig, ModelConfig
from p2pnode.engine import tiny_model
from p2pnode.engine.base import ModelSpec
from p2pnode.engine.choice import (
    FAULTS_VARIABLE,
    KEY_FILE_VARIABLE,
    SPEED_VARIABLE,
    VLLM_PYTHON_VARIABLE,
    NoSuchEngine,
    choose_engine,
    chosen_kind,
)
from p2pnode.engine.mock import MockEngine
from p2pnode.engine.model_folder import NotAModel, described
from p2pnode.engine.openai import OpenAIEngine
from p2pnode.engine.vllm import VllmEngine


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


def test_a_folder_says_what_it_holds(tiny: ModelSpec) -> None:
    spec = described(tiny)
    assert (spec.family, spec.context, spec.quantization) == ("LlamaForCausalLM", tiny_model.CONTEXT, "float32")
    assert 0.001 < spec.params_b < 0.01
    assert spec.template_hash
    assert described(replace(tiny, context=64)).context == 64


def test_the_same_model_in_two_folders_has_one_fingerprint_and_another_seed_has_another(tmp_path: Path) -> None:
    def fingerprint(folder: str, seed: int = 0) -> bytes:
        return described(ModelSpec("x", str(tiny_model.make(tmp_path / folder, seed)))).offer().fingerprint

    assert fingerprint("a") == fingerprint("b") != fingerprint("c", seed=1)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAModel, match=r"config\.json"):
        described(ModelSpec("x", str(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(NotAModel):
        described(ModelSpec("x", str(tmp_path)))
    (tmp_path / "config.json").write_text('{"architectures": ["A"]}')
    with pytest.raises(NotAModel, match="not a safetensors file"):
        described(ModelSpec("x", str(tmp_path)))
