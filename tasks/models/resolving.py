"""Finds the files of a base model: a folder, a Python package, or the hub. Reads headers, never weights."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from tasks.errors import ModelError
from tasks.models import hub
from tasks.models.config import ModelConfig
from tasks.models.importing import tensors

#: (name of a file with all weights, pattern of any), the preferred format first.
_WEIGHTS = (("model.safetensors", "*.safetensors"), ("pytorch_model.bin", "pytorch_model*.bin"))
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "ice_text.model", "vocab.txt")
#: What belongs to a model beside its weights; never code.
_OTHERS = ("*.json", "*.model", "*.txt", "*.jinja")


def locate(config: ModelConfig, *, download: bool = True) -> Path | None:
    """The folder, or the .gguf file, that holds the model; None where it would have to be downloaded first.

    Raises:
        ModelError: it is not there; the message says what to install, download or set.
    """
    if config.path is not None:
        path = config.path.expanduser()
        if not path.exists():
            raise ModelError(f"model.path={config.path}: no such file or folder")
        return path.resolve()
    if config.package:
        return _in_package(config)
    if config.hub_id or (config.modelscope_id and config.source == "modelscope"):
        return hub.locate(config, download=download)
    raise ModelError(f"model={config.name}: set model.path to the folder that holds it (no package or hub_id is given)")


def _in_package(config: ModelConfig) -> Path:
    try:
        spec = importlib.util.find_spec(str(config.package))
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        how = f"; install it with: {config.install}" if config.install else ""
        raise ModelError(f"model={config.name}: Python package {config.package} is not installed{how}")
    root = Path(spec.submodule_search_locations[0])
    for found in (*sorted(root.rglob("config.json")), *sorted(root.rglob("*.gguf"))):
        return found if found.suffix == ".gguf" else found.parent
    raise ModelError(f"model={config.name}: package {config.package} holds no config.json and no .gguf file")


def model_files(folder: Path) -> list[Path]:
    """The files that make the model: weights, configuration, tokenizer.

    Raises:
        ModelError: one is missing, is a git-lfs pointer, or is cut short.
    """
    read_json(folder / "config.json")
    weights = weight_files(folder)
    for file in weights:
        tensors.check(file)
    if not any((folder / name).is_file() for name in _TOKENIZER):
        raise ModelError(f"{folder}: no tokenizer file; one of these must be there: {', '.join(_TOKENIZER)}")
    others = [f for pattern in _OTHERS for f in sorted(folder.glob(pattern)) if f.name != "artifact.json"]
    return sorted({*weights, *others})


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers would load: one of safetensors, or its shards, or torch's, in this order.

    Raises:
        ModelError: there are none, or one that an index lists is missing.
    """
    for single, pattern in _WEIGHTS:
        if (folder / single).is_file():
            return [folder / single]
        if (folder / f"{single}.index.json").is_file():
            return _shards(folder / f"{single}.index.json")
        if found := [f for f in sorted(folder.glob(pattern)) if not f.name.startswith("adapter_")]:
            return found
    raise ModelError(f"{folder}: no *.safetensors and no pytorch_model*.bin: the weights are missing")


def _shards(index: Path) -> list[Path]:
    try:
        shards = sorted(set(read_json(index)["weight_map"].values()))
    except (KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index}: not an index of weight files (no weight_map)") from error
    for shard in shards:
        if not (index.parent / shard).is_file():
            raise ModelError(f"{index.parent / shard}: missing, although {index.name} lists it; download it again")
    return [index.parent / shard for shard in shards]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that belongs to a model.

    Raises:
        ModelError: it is not there, or is something else.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ModelError(f"{path.parent}: no {path.name}: not a model folder") from None
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON ({error})") from error


def shape_facts(folder: Path) -> dict[str, int]:
    """Parameters, bytes and the shape that memory estimates need, from config.json and the weights' headers.

    Both the native names of a configuration's keys and those of the hub's older forms are known.
    """
    config = read_json(folder / "config.json")
    weights = weight_files(folder)
    size = sum(f.stat().st_size for f in weights)
    safe = weights[0].suffix == ".safetensors"

    def first(*keys: str) -> int:
        return int(next((config[k] for k in keys if config.get(k)), 0))

    hidden, heads = first("hidden_size", "n_embd", "dim_model"), first("num_attention_heads", "n_head", "num_heads")
    return {
        # .bin files have no header that can be read at a glance: two bytes a parameter is the hub's habit
        "parameters": sum(map(tensors.parameters, weights)) if safe else size // 2,
        "bytes": size,
        "hidden_size": hidden,
        "layers": first("num_hidden_layers", "num_layers", "n_layer"),
        "vocabulary": first("vocab_size", "padded_vocab_size"),
        "context_tokens": first("max_position_embeddings", "seq_length", "model_max_length", "max_sequence_length")
        or 2048,
        "key_value_heads": first("num_key_value_heads", "multi_query_group_num") or heads,
        "head_size": first("head_dim", "kv_channels") or (hidden // heads if heads else 0),
    }
