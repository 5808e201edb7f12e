"""From what the operator configured to an engine, or to one line that says what is missing.

Who calls it: ``node``, once at the start.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from p2pnode.engine import mock, modelfolder, openai, vllm
from p2pnode.engine.base import Engine, ModelSpec
from protocol.adverts import Gpu

Kind = Literal["auto", "vllm", "openai", "mock", "none"]

#: The interpreter that has vLLM, if it is not the node's own.
VLLM_PYTHON: Final = "P2PNODE_VLLM_PYTHON"
#: The API key of the server to attach to: the key itself, or the file that holds it.
ENGINE_KEY: Final = "P2PNODE_ENGINE_KEY"
ENGINE_KEY_FILE: Final = "P2PNODE_ENGINE_KEY_FILE"


class EngineUnavailable(Exception):  # noqa: N818 - says what is wrong
    """The engine that was asked for cannot be had; the message says what to do."""


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """What the operator asked for.  ``vllm_python`` "" is: the environment's, then the node's own interpreter."""

    kind: Kind = "auto"
    url: str = ""
    models: tuple[ModelSpec, ...] = ()
    mock_gpu: Gpu | None = None
    mock_speed: float = 1.0
    slots: int = 0
    vllm_python: str = ""


def build(
    choice: EngineChoice,
    folder: Path,
    *,
    gpus: tuple[Gpu, ...] = (),
    runtime: str = "none",
    environment: Mapping[str, str] = os.environ,
    has_vllm: Callable[[str], bool] | None = None,
) -> Engine | None:
    """The engine, or ``None`` for a node without one.  ``folder`` is where a child's log goes.

    Raises:
      EngineUnavailable: what was asked for by name is not there.
    """
    python = choice.vllm_python or environment.get(VLLM_PYTHON) or sys.executable
    kind = choice.kind
    if kind == "auto":
        kind = _automatic(choice, python, gpus, has_vllm or has_vllm_beside)
    if kind == "none":
        return None
    if kind == "mock":
        return _mock(choice)
    if kind == "openai":
        key = _key(environment)
        slots = choice.slots or openai.DEFAULT_SLOTS
        return openai.OpenAIEngine(choice.url, choice.models, gpus=gpus, runtime=runtime, key=key, slots=slots)
    return _vllm(choice, python, folder, gpus, runtime if runtime != "none" else "cpu")


def _automatic(choice: EngineChoice, python: str, gpus: Sequence[Gpu], has_vllm: Callable[[str], bool]) -> Kind:
    """vLLM where it is installed, has a GPU and a model; a server that the configuration names; else none."""
    if gpus and choice.models and has_vllm(python):
        return "vllm"
    return "openai" if choice.url else "none"


def has_vllm_beside(python: str) -> bool:
    """Whether that interpreter's environment has vLLM: its own modules, or the script that every wheel of it brings."""
    if python == sys.executable:
        return importlib.util.find_spec("vllm") is not None
    return (Path(python).parent / "vllm").exists()


def _mock(choice: EngineChoice) -> Engine:
    models = choice.models or (ModelSpec("mock-8b", params_b=8.0, family="mock"),)
    gpu = choice.mock_gpu or Gpu("simulated", 1, 24576, 1008.0, 165.0, 165.0)
    models = tuple(replace(spec, family=spec.family or "mock") for spec in models)
    return mock.MockEngine(models, gpu, speed=choice.mock_speed, slots=choice.slots or mock.DEFAULT_SLOTS)


def _vllm(choice: EngineChoice, python: str, folder: Path, gpus: tuple[Gpu, ...], runtime: str) -> Engine:
    if len(choice.models) != 1:
        names = ", ".join(spec.name for spec in choice.models) or "none"
        raise EngineUnavailable(f"vLLM serves one model per node, --model names {names}; run one node for each")
    if shutil.which(python) is None:
        raise EngineUnavailable(f"there is no Python at {python}; set {VLLM_PYTHON} to the one that has vLLM")
    spec = choice.models[0]
    if spec.source and Path(spec.source).expanduser().is_dir():
        try:
            spec = modelfolder.described(spec)
        except modelfolder.NotAModel as error:
            raise EngineUnavailable(str(error)) from error
    elif spec.source.startswith(("/", ".", "~")):
        raise EngineUnavailable(f"there is no folder {spec.source}; correct --model {spec.name}=FOLDER")
    elif not spec.revision:
        raise EngineUnavailable(
            f"{spec.source or spec.name} comes from a hub and needs a pinned revision: set revision = in the model's "
            "table in config.toml, or give a local folder with --model NAME=FOLDER"
        )
    return vllm.VllmEngine(spec, python, folder, gpus=gpus, runtime=runtime, slots=choice.slots or vllm.DEFAULT_SLOTS)


def _key(environment: Mapping[str, str]) -> str:
    file = environment.get(ENGINE_KEY_FILE)
    if not file:
        return environment.get(ENGINE_KEY, "")
    try:
        return Path(file).expanduser().read_text("utf-8").strip()
    except OSError as error:
        raise EngineUnavailable(f"{ENGINE_KEY_FILE}: {file} cannot be read ({error.strerror})") from error
