"""Finds the files of a base model: a folder, a Python package, or the hub. Reads headers, never weights."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tasks.errors import ModelError
from tasks.models import hub
from tasks.models.config import ModelConfig
from tasks.models.hub import selection
from tasks.models.importing import tensors

#: (name of a file with all weights, pattern of its shards), the preferred format first.
_WEIGHTS = (("model.safetensors", "model*.safetensors"), ("pytorch_model.bin", "pytorch_model*.bin"))
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "ice_text.model", "vocab.txt")
#: What belongs to a model beside its weights; never code.
_OTHERS = ("*.json", "*.model", "*.txt", "*.jinja")


def locate(config: ModelConfig, *, download: bool = True) -> Path | None:
    """The folder, or the .gguf file, that holds the model; None where it would have to be downloaded first.

    Raises:
        ModelError: it is not there; the message says what to install, download or set.
    """
    if config.path is not None:
        try:
            path = config.path.expanduser()
            path.stat()
            if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except (FileNotFoundError, NotADirectoryError):
            raise ModelError(f"model.path={config.path}: no such file or folder") from None
        except OSError as error:
            raise ModelError(f"model.path={config.path}: cannot be read ({error.strerror})") from error
        except RuntimeError as error:  # the home of an unknown user
            raise ModelError(f"model.path={config.path}: {error}") from error
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
        ModelError: one is missing, is a git-lfs pointer, is cut short, or cannot be read.
    """
    read_json(folder / "config.json")
    weights = weight_files(folder)
    if not any((folder / name).is_file() for name in _TOKENIZER):
        raise ModelError(f"{folder}: no tokenizer file; one of these must be there: {', '.join(_TOKENIZER)}")
    _check(weights, tensors.check)
    return sorted({*weights, *other_files(folder)})


def other_files(folder: Path) -> list[Path]:
    """What belongs to a model beside its weights.

    Raises:
        ModelError: one is a git-lfs pointer, or cannot be read.
    """
    files = [f for pattern in _OTHERS for f in sorted(folder.glob(pattern)) if f.name != "artifact.json"]
    _check(files, tensors.refuse_pointer)
    return files


def _check(files: Sequence[Path], check: Callable[[Path], None]) -> None:
    for file in files:
        try:
            check(file)
        except OSError as error:
            raise ModelError(f"{file}: cannot be read ({error.strerror})") from error


def refuse_adapter(folder: Path) -> None:
    """Refuse an adapter where a base model is asked for, also one that lies beside a model: it would be applied unseen.

    Raises:
        ModelError: what to set instead.
    """
    if (folder / "weitiao.json").is_file():
        raise ModelError(
            f"{folder}: a checkpoint of this project, not a base model: flows.merge makes one of it, "
            f"python -m flows.serve path={folder} answers with it as it is"
        )
    if not (folder / "adapter_config.json").is_file():
        return
    if (folder / "config.json").is_file():
        raise ModelError(
            f"{folder}: holds an adapter (adapter_config.json) beside the model, which transformers would apply to it; "
            "move the adapter's files to a folder of their own"
        )
    base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    raise ModelError(
        f"{folder}: an adapter, not a base model; set model.path to the model that it was trained on"
        f"{f' ({base})' if base else ''}; python -m flows.serve path={folder} answers with the adapter"
    )


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
        if found := sorted(folder.glob(pattern)):
            return found
    raise ModelError(f"{folder}: no model*.safetensors and no pytorch_model*.bin: the weights are missing")


def _shards(index: Path) -> list[Path]:
    shards = sorted(selection.indexed(index))
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
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path.parent}: no {path.name}: not a model folder") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: a JSON {type(value).__name__}, not an object of keys and values")
    return value


def shape_facts(folder: Path) -> dict[str, int]:
    """Parameters, bytes and the shape that memory estimates need, from config.json and the weights' headers.

    Both the native names of a configuration's keys and those of the hub's older forms are known.
    """
    config = read_json(folder / "config.json")
    config |= config.get("text_config") or {}  # of a model that also sees
    weights = weight_files(folder)
    size = sum(f.stat().st_size for f in weights)
    safe = weights[0].suffix == ".safetensors"

    def first(*keys: str) -> int:
        return int(next((config[k] for k in keys if config.get(k)), 0))

    hidden = first("hidden_size", "n_embd", "n_embed", "dim_model")
    heads = first("num_attention_heads", "n_head", "num_heads")
    return {
        # .bin files have no header that can be read at a glance: two bytes a parameter is the hub's habit
        "parameters": sum(map(tensors.parameters, weights)) if safe else size // 2,
        "bytes": size,
        "hidden_size": hidden,
        "layers": first("num_hidden_layers", "num_layers", "n_layer"),
        "vocabulary": first("vocab_size", "padded_vocab_size"),
        "context_tokens": first(
            "max_position_embeddings", "n_positions", "seq_length", "model_max_length", "max_sequence_length"
        )
        or 2048,
        "key_value_heads": first("num_key_value_heads", "multi_query_group_num") or heads,
        "head_size": first("head_dim", "kv_channels") or (hidden // heads if heads else 0),
    }
