"""A checkpoint of ChatGLM3-6B's size (12.5 GB, mostly sparse) is converted within 4 GB of memory."""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import pytest

#: ChatGLM3-6B's published configuration.
CONFIG = {
    "architectures": ["ChatGLMModel"],
    "model_type": "chatglm",
    "_name_or_path": "THUDM/chatglm3-6b",
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "ffn_hidden_size": 13696,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "original_rope": True,
    "padded_vocab_size": 65024,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 8192,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
}
_SHARDS = 7
_LIMIT_BYTES = 4 << 30


def tensors() -> dict[str, tuple[int, ...]]:
    """The hub's tensor names and shapes."""
    found: dict[str, tuple[int, ...]] = {
        "transformer.embedding.word_embeddings.weight": (65024, 4096),
        "transformer.rotary_pos_emb.inv_freq": (32,),
    }
    for layer in range(28):
        name = f"transformer.encoder.layers.{layer}"
        found |= {
            f"{name}.input_layernorm.weight": (4096,),
            f"{name}.self_attention.query_key_value.weight": (4608, 4096),
            f"{name}.self_attention.query_key_value.bias": (4608,),
            f"{name}.self_attention.dense.weight": (4096, 4096),
            f"{name}.post_attention_layernorm.weight": (4096,),
            f"{name}.mlp.dense_h_to_4h.weight": (27392, 4096),
            f"{name}.mlp.dense_4h_to_h.weight": (4096, 13696),
        }
    return found | {
        "transformer.encoder.final_layernorm.weight": (4096,),
        "transformer.output_layer.weight": (65024, 4096),
    }


def make(folder: Path) -> int:
    """Write the checkpoint as sparse safetensors files; returns its bytes."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    items, index, total = list(tensors().items()), {}, 0
    for shard in range(_SHARDS):
        name = f"model-{shard + 1:05d}-of-{_SHARDS:05d}.safetensors"
        header, place = {}, 0
        for tensor, shape in items[shard * len(items) // _SHARDS : (shard + 1) * len(items) // _SHARDS]:
            size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
            header[tensor] = {"dtype": "F16", "shape": list(shape), "data_offsets": [place, place + size]}
            index[tensor], place = name, place + size
        text = json.dumps(header).encode()
        with (folder / name).open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text + bytes(b & 0x3F for b in os.urandom(64)))
            file.truncate(8 + len(text) + place)
        total += place
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}), encoding="utf-8")
    return total


@pytest.mark.slow
def test_conversion_of_a_6b_checkpoint_stays_under_4_gb(shared: Path, tmp_path: Path) -> None:
    source, job = tmp_path / "chatglm3-6b", tmp_path / "job"
    assert make(source) == 12_487_168_064  # 6,243,584,000 parameters of 2 bytes, and 32 rotary frequencies
    (source / "tokenizer.model").write_bytes((shared / "data/tokenizers/chatglm3/tokenizer.model").read_bytes())
    job.mkdir()
    (job / "job.json").write_text(
        json.dumps({"source": str(source), "kind": "convert", "family": "chatglm3"}), encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-m", "tasks.models.importing.worker", str(job)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (job / "error.json").read_text(encoding="utf-8")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"peak memory {peak / (1 << 30):.2f} GiB")
    assert peak < _LIMIT_BYTES
    written = json.loads((job / "model/model.safetensors.index.json").read_text(encoding="utf-8"))
    assert written["metadata"]["total_size"] == 12_487_168_000
