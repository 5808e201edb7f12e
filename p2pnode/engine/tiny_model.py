"""Writes a two-layer Llama with random weights, which any real engine loads: ``make(folder)``.

Its answers have no meaning.  With it, tests and the demo run a real engine, with a real tokenizer, chat template and
attention, on a machine that cannot download a model.  It needs no torch: it writes safetensors and tokenizer files
itself.  Equal seeds give equal bytes on every machine, so two nodes that made it offer the same model.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from p2pnode.engine.words import WORDS
from p2pnode.json_types import JsonObject

NAME: Final = "p2pnode-tiny"
#: Tokens: enough for a demo's chat, with a KV cache of a few MB.
CONTEXT: Final = 2048

_HIDDEN: Final = 256
_LAYERS: Final = 2
_HEADS: Final = 4
_KV_HEADS: Final = 2
#: A head size that every attention backend of vLLM supports, CPU included.
_HEAD: Final = 64
_INNER: Final = 512

_PAD, _START, _END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

_TEMPLATE: Final = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] or [] %}{{ part.get('text', '') }}{% endfor %}{% endif %}"
    "<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _byte_alphabet() -> list[str]:
    """GPT-2's printable replacement of each of the 256 bytes, in the order of the bytes."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    extra = 0
    alphabet = []
    for byte in range(256):
        if byte in plain:
            alphabet.append(chr(byte))
        else:
            alphabet.append(chr(256 + extra))
            extra += 1
    return alphabet


def _vocabulary() -> tuple[dict[str, int], list[list[str]]]:
    """Tokens and merges: the bytes, the specials, then for each word the chain of merges that builds it."""
    vocabulary = {token: number for number, token in enumerate(_byte_alphabet())}
    for special in (_PAD, _START, _END):
        vocabulary[special] = len(vocabulary)
    merges = []
    for word in WORDS:
        left = "Ġ"
        for letter in word:
            if left + letter not in vocabulary:
                vocabulary[left + letter] = len(vocabulary)
                merges.append([left, letter])
            left += letter
    return vocabulary, merges


def _tokenizer() -> JsonObject:
    vocabulary, merges = _vocabulary()
    added = [
        {
            "id": vocabulary[special],
            "content": special,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for special in (_PAD, _START, _END)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    bpe = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocabulary,
        "merges": merges,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": bpe,
    }


def _output_scale(vocabulary: dict[str, int]) -> NDArray[np.float32]:
    """The scale of each token's output row: words, then punctuation; 0 for bytes and parts of words."""
    scale = np.zeros(len(vocabulary), np.float32)
    for word in WORDS:
        scale[vocabulary["Ġ" + word]] = 1.0
    for mark in ",.;\n":
        scale[vocabulary[_byte_alphabet()[ord(mark)]]] = 0.8
    scale[vocabulary[_END]] = _END_SCALE
    return scale


#: Tuned by hand: an answer ends by itself after some dozens of tokens, and not with the first ones.
_END_SCALE: Final = 1.25
#: Tuned by hand: sharp attention over large values keeps greedy decoding from repeating itself.
_ATTENTION: Final = 3.0
_VALUES: Final = 4.0


def _tensors(seed: int) -> dict[str, NDArray[np.float32]]:
    """The weights.  numpy guarantees the stream of ``RandomState`` for ever, but not that of ``default_rng``."""
    vocabulary, _ = _vocabulary()
    random = np.random.RandomState(seed)

    def matrix(rows: int, columns: int, scale: float) -> NDArray[np.float32]:
        return np.asarray(random.standard_normal((rows, columns)) * (scale / columns**0.5), np.float32)

    tensors = {"model.embed_tokens.weight": matrix(len(vocabulary), _HIDDEN, _HIDDEN**0.5)}
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}."
        tensors |= {
            prefix + "input_layernorm.weight": np.ones(_HIDDEN, np.float32),
            prefix + "self_attn.q_proj.weight": matrix(_HEADS * _HEAD, _HIDDEN, _ATTENTION),
            prefix + "self_attn.k_proj.weight": matrix(_KV_HEADS * _HEAD, _HIDDEN, 1.0),
            prefix + "self_attn.v_proj.weight": matrix(_KV_HEADS * _HEAD, _HIDDEN, _VALUES),
            prefix + "self_attn.o_proj.weight": matrix(_HIDDEN, _HEADS * _HEAD, 1.0),
            prefix + "post_attention_layernorm.weight": np.ones(_HIDDEN, np.float32),
            prefix + "mlp.gate_proj.weight": matrix(_INNER, _HIDDEN, 1.0),
            prefix + "mlp.up_proj.weight": matrix(_INNER, _HIDDEN, 1.0),
            prefix + "mlp.down_proj.weight": matrix(_HIDDEN, _INNER, 2.0),
        }
    tensors["model.norm.weight"] = np.ones(_HIDDEN, np.float32)
    tensors["lm_head.weight"] = matrix(len(vocabulary), _HIDDEN, 4.0) * _output_scale(vocabulary)[:, None]
    return tensors


def _safetensors(tensors: dict[str, NDArray[np.float32]]) -> bytes:
    """The safetensors format: length of the header as u64 little-endian, JSON header, raw tensors."""
    header: JsonObject = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(t.astype("<f4").tobytes() for t in tensors.values())


def _config() -> JsonObject:
    vocabulary, _ = _vocabulary()
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": _HIDDEN,
        "intermediate_size": _INNER,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HEAD,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "vocab_size": len(vocabulary),
        "bos_token_id": None,
        "eos_token_id": vocabulary[_END],
        "pad_token_id": vocabulary[_PAD],
        "torch_dtype": "float32",
    }


def make(folder: Path, seed: int = 0) -> Path:
    """Write the model into ``folder`` (6 MB, about a tenth of a second) and return it; each file appears whole."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, _ = _vocabulary()
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": _END,
        "pad_token": _PAD,
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": _TEMPLATE,
    }
    generation = {"eos_token_id": vocabulary[_END], "pad_token_id": vocabulary[_PAD]}
    files: dict[str, bytes] = {
        "model.safetensors": _safetensors(_tensors(seed)),
        "tokenizer.json": json.dumps(_tokenizer()).encode(),
        "tokenizer_config.json": json.dumps(tokenizer_config).encode(),
        "generation_config.json": json.dumps(generation).encode(),
        # The last file: without config.json no engine takes the folder for a model.
        "config.json": json.dumps(_config()).encode(),
    }
    for name, content in files.items():
        partial = folder / (name + ".part")
        partial.write_bytes(content)
        partial.replace(folder / name)
    return folder


if __name__ == "__main__":
    print(make(Path(sys.argv[1])))  # noqa: T201 - the path is the output of this command
