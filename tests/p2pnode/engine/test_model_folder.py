"""What a model's folder tells: name, size, and a fingerprint that does not depend on where it lies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from p2pnode.engine import tiny_model
from p2pnode.engine.base import ModelSpec
from p2pnode.engine.model_folder import NotAModel, described


@pytest.fixture
def tiny(tmp_path: Path) -> ModelSpec:
    return ModelSpec("tiny", str(tiny_model.make(tmp_path / "tiny")))


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
