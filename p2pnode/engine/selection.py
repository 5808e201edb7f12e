"""Chooses the engine of a node from its configuration: one engine or none.

It starts nothing and asks no driver, so it returns at once.  A problem that shows only later is the engine's own
``problem``.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from p2pnode.engine.base import Engine, ModelSpec
from protocol.perf.gpu_catalog import find_gpu, gpu_names

if TYPE_CHECKING:
    from p2pnode.config import Config, ModelConfig
    from p2pnode.engine.mock import Faults

#: The mock engine's model if none is configured: its size fits every card of the table.
MOCK_MODEL: Final = ModelSpec("mock-8b", context=8192, params_b=8.0, vram_mib=16 * 1024, quantization="bf16")
#: Device files that exist when a driver is loaded: NVIDIA, AMD, and NVIDIA under WSL.
_RUNTIMES: Final = (("/dev/nvidiactl", "cuda"), ("/dev/kfd", "rocm"), ("/dev/dxg", "cuda"))
_GPU_DEVICES: Final = tuple(device for device, _ in _RUNTIMES)
#: Environment of tests and benches for the mock engine: its speed, and its faults as JSON.
SPEED_VARIABLE: Final = "P2PNODE_MOCK_SPEED"
FAULTS_VARIABLE: Final = "P2PNODE_MOCK_FAULTS"
#: The API key of the server behind ``--engine openai``, or the file that holds it; a secret, so never a flag.
KEY_VARIABLE: Final = "P2PNODE_ENGINE_KEY"
KEY_FILE_VARIABLE: Final = "P2PNODE_ENGINE_KEY_FILE"
#: The interpreter that has vLLM, if it is not the node's own.
VLLM_PYTHON_VARIABLE: Final = "P2PNODE_VLLM_PYTHON"


class NoSuchEngine(ValueError):
    """The configured engine is not available; the message says what to do."""


def chosen_kind(
    config: Config, devices: tuple[str, ...] = _GPU_DEVICES, environ: Mapping[str, str] = os.environ
) -> str:
    """Resolve ``auto``: vLLM if it is installed and a GPU is present, else the server of ``engine.url``, else none."""
    if config.engine.kind != "auto":
        return config.engine.kind
    if any(Path(device).exists() for device in devices) and config.engine.models and _has_vllm(vllm_python(environ)):
        return "vllm"
    return "openai" if config.engine.url else "none"


def choose_engine(config: Config, logs: Path, environ: Mapping[str, str] = os.environ) -> Engine | None:
    """The engine, not yet running; raises ``NoSuchEngine``."""
    models = [_spec(config, model) for model in config.engine.models]
    kind = chosen_kind(config, environ=environ)
    if kind == "mock":
        return _mock(config, models or [MOCK_MODEL], environ)
    if kind == "openai":
        from p2pnode.engine.openai import OpenAIEngine  # noqa: PLC0415 - brings the HTTP client

        return OpenAIEngine(config.engine.url, models, key=_key(environ))
    if kind == "vllm":
        return _vllm(models, logs, environ)
    return None


def _vllm(models: list[ModelSpec], logs: Path, environ: Mapping[str, str]) -> Engine:
    from p2pnode.engine.model_folder import NotAModel, resolved  # noqa: PLC0415
    from p2pnode.engine.vllm_supervisor import VllmEngine  # noqa: PLC0415

    if not models:
        raise NoSuchEngine("vLLM needs a model: --model NAME=FOLDER, or a hub id with its revision in config.toml")
    if len(models) > 1:
        raise NoSuchEngine("one vLLM serves one model: give one --model, and run a node for each further one")
    python = vllm_python(environ)
    if shutil.which(python) is None:
        raise NoSuchEngine(f"there is no Python at {python}; set {VLLM_PYTHON_VARIABLE} to the one that has vLLM")
    try:
        spec = resolved(models[0])
    except NotAModel as error:
        raise NoSuchEngine(str(error)) from error
    runtime = next((name for device, name in _RUNTIMES if Path(device).exists()), "cpu")
    return VllmEngine(spec, python, logs, runtime=runtime, environment=environ)


def vllm_python(environ: Mapping[str, str]) -> str:
    """The interpreter that runs vLLM."""
    return environ.get(VLLM_PYTHON_VARIABLE) or sys.executable


def _has_vllm(python: str) -> bool:
    """Whether an environment has vLLM: in our own we look for the module, in another for the script."""
    if python == sys.executable:
        return importlib.util.find_spec("vllm") is not None
    return (Path(python).parent / "vllm").exists()


def _key(environ: Mapping[str, str]) -> str:
    file = environ.get(KEY_FILE_VARIABLE)
    if not file:
        return environ.get(KEY_VARIABLE, "")
    try:
        return Path(file).expanduser().read_text("utf-8").strip()
    except OSError as error:
        raise NoSuchEngine(f"{KEY_FILE_VARIABLE}: {file} cannot be read ({error.strerror}); correct it") from error


def _mock(config: Config, models: list[ModelSpec], environ: Mapping[str, str]) -> Engine:
    from p2pnode.engine.mock import MockEngine  # noqa: PLC0415

    name = config.engine.mock_gpu
    gpu = find_gpu(name)
    if gpu is None:
        near = difflib.get_close_matches(name, gpu_names(), n=3, cutoff=0.3) or gpu_names()[:8]
        raise NoSuchEngine(f"--mock-gpu {name!r} is not in the table of GPUs; it knows for example: {', '.join(near)}")
    speed = float(environ.get(SPEED_VARIABLE, "1"))
    return MockEngine(models, gpu, speed=speed, faults=_faults(environ.get(FAULTS_VARIABLE, "")))


def _faults(text: str) -> Faults | None:
    from p2pnode.engine.mock import Faults  # noqa: PLC0415

    if not text:
        return None
    known = {field.name for field in fields(Faults)}
    given = {name.removesuffix("_chunks"): value for name, value in msgspec.json.decode(text, type=dict).items()}
    if unknown := set(given) - known:
        raise NoSuchEngine(f"{FAULTS_VARIABLE}: no fault {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    return Faults(**given)


def _spec(config: Config, model: ModelConfig) -> ModelSpec:
    engine = config.engine
    return ModelSpec(
        name=model.name,
        source=model.source,
        revision=model.revision,
        quantization=model.quantization,
        context=model.context,
        price_in=engine.price_in if model.price_in is None else model.price_in,
        price_out=engine.price_out if model.price_out is None else model.price_out,
        params_b=model.params_b,
        vram_mib=model.vram_mib,
        capabilities=model.capabilities,
        options=model.options,
    )
