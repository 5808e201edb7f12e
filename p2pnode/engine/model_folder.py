"""Describes a model from its folder, so that a node can advertise it and two nodes can tell whether theirs are equal.

It reads config, tokenizer settings and the headers of the weights.  It loads no weights or pickles, and runs no code.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Final

from p2pnode.engine.base import ModelSpec
from p2pnode.json_types import JsonObject

#: Longest header of a safetensors file, bytes (the format's own limit is 100 MB).
MOST_HEADER_BYTES: Final = 64 * 1024 * 1024
#: Bytes of each weight file, after its header, that go into the revision: different weights differ there.
SAMPLE_BYTES: Final = 64 * 1024


class NotAModel(ValueError):
    """The folder has no model that an engine can serve."""


def resolved(spec: ModelSpec) -> ModelSpec:
    """The spec with a definite source: a described folder, or a pinned hub id."""
    if spec.source and Path(spec.source).expanduser().is_dir():
        return described(spec)
    if spec.source.startswith(("/", ".", "~")):
        raise NotAModel(f"there is no folder {spec.source}; correct --model {spec.name}=FOLDER")
    if not spec.revision:
        raise NotAModel(
            f"{spec.source or spec.name} comes from a hub and needs a pinned revision: set revision = in the model's "
            "table in config.toml, or give a local folder with --model NAME=FOLDER"
        )
    return spec


def described(spec: ModelSpec) -> ModelSpec:
    """The spec, completed from its folder; values of the operator win."""
    folder = Path(spec.source).expanduser()
    config = _json(folder / "config.json")
    weights = sorted(folder.glob("*.safetensors"))
    if not config or not weights:
        raise NotAModel(f"{folder} is not a model: it needs config.json and *.safetensors; give another SOURCE")
    headers = [_header(path) for path in weights]
    context = spec.context or int(config.get("max_position_embeddings") or 0)
    quantization = (config.get("quantization_config") or {}).get("quant_method", "")
    return replace(
        spec,
        source=str(folder),
        family=spec.family or str((config.get("architectures") or ["unknown"])[0]),
        revision=spec.revision or _revision(folder, weights),
        quantization=spec.quantization or str(quantization or config.get("torch_dtype") or config.get("dtype") or ""),
        context=context,
        params_b=spec.params_b or round(sum(map(_parameters, headers)) / 1e9, 4),
        vram_mib=spec.vram_mib or math.ceil(sum(path.stat().st_size for path in weights) / (1 << 20)),
        template_hash=spec.template_hash or _template_hash(folder),
    )


def _json(path: Path) -> JsonObject:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _header(path: Path) -> JsonObject:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MOST_HEADER_BYTES:
            raise NotAModel(f"{path} is not a safetensors file")
        try:
            value = json.loads(file.read(length))
        except ValueError as error:
            raise NotAModel(f"{path} is not a safetensors file") from error
    return value if isinstance(value, dict) else {}


def _parameters(header: JsonObject) -> int:
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _revision(folder: Path, weights: list[Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        path = folder / name
        digest.update(name.encode() + (path.read_bytes() if path.exists() else b""))
    for path in weights:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            digest.update(path.name.encode() + path.stat().st_size.to_bytes(8, "big") + file.read(length))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _template_hash(folder: Path) -> str:
    jinja = folder / "chat_template.jinja"
    template = (
        jinja.read_text("utf-8") if jinja.exists() else _json(folder / "tokenizer_config.json").get("chat_template")
    )
    return hashlib.sha256(json.dumps(template).encode()).hexdigest()[:16] if template else ""
