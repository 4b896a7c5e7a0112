"""Finds the files of a base model: a folder, a Python package, or the hub. Reads headers, never weights."""

from __future__ import annotations

import importlib.util
import json
import math
import struct
from pathlib import Path
from typing import Any

from tasks.errors import ModelError
from tasks.models.config import ModelConfig

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json")
_LFS = b"version https://git-lfs"
#: Files of a hub model that are fetched; never code, never a second copy of the weights in another format.
HUB_PATTERNS = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]


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
    if config.hub_id:
        return _from_hub(config, download)
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


def _from_hub(config: ModelConfig, download: bool) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    options: dict[str, Any] = {"revision": config.revision, "allow_patterns": HUB_PATTERNS}
    try:
        return Path(snapshot_download(str(config.hub_id), local_files_only=True, **options))
    except LocalEntryNotFoundError:
        if config.offline:
            raise ModelError(
                f"model.hub_id={config.hub_id}: not downloaded before, and model.offline=true; "
                "set model.path to a local folder"
            ) from None
    if not download:
        return None
    try:
        return Path(snapshot_download(str(config.hub_id), **options))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise ModelError(
            f"model.hub_id={config.hub_id}: cannot be downloaded ({reason}); "
            "set model.path to a local folder, or HF_ENDPOINT to a mirror"
        ) from error


def model_files(folder: Path) -> list[Path]:
    """The files that make the model: weights, configuration, tokenizer.

    Raises:
        ModelError: one is missing, is a git-lfs pointer, or the model would need its own remote code.
    """
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise ModelError(f"{folder}: no config.json: not a model folder")
    config = read_json(config_path)
    weights = [f for f in sorted(folder.glob(_WEIGHTS[0])) if f.name != "adapter_model.safetensors"]
    weights = weights or sorted(folder.glob(_WEIGHTS[1]))
    if not weights:
        raise ModelError(f"{folder}: no *.safetensors and no pytorch_model*.bin: the weights are missing")
    if not any((folder / name).is_file() for name in _TOKENIZER):
        raise ModelError(f"{folder}: no tokenizer file ({', '.join(_TOKENIZER)})")
    for file in weights:
        with file.open("rb") as stream:
            if stream.read(len(_LFS)) == _LFS:
                raise ModelError(f"{file}: a git-lfs pointer, not weights; run 'git lfs pull' in that folder")
    _check_index(folder)
    if "auto_map" in config and not _native(config):
        raise ModelError(
            f"{config_path}: model_type {config.get('model_type')!r} needs remote code, which is never run; "
            "convert the model to its native transformers class first"
        )
    others = [f for pattern in HUB_PATTERNS[1:] for f in sorted(folder.glob(pattern)) if f.name != "artifact.json"]
    return sorted({*weights, *others})


def _check_index(folder: Path) -> None:
    """Every shard that an index names must be there."""
    for index in folder.glob("*.index.json"):
        for shard in sorted(set(read_json(index).get("weight_map", {}).values())):
            if not (folder / shard).is_file():
                raise ModelError(f"{folder / shard}: missing, although {index.name} lists it")


def _native(config: dict[str, Any]) -> bool:
    from transformers import CONFIG_MAPPING

    return config.get("model_type") in CONFIG_MAPPING


def read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON ({error})") from error


def shape_facts(folder: Path) -> dict[str, int]:
    """Parameters, bytes and the shape that memory estimates need, from config.json and the weights' headers."""
    config = read_json(folder / "config.json")
    weights = [f for f in sorted(folder.glob("*.safetensors")) if f.name != "adapter_model.safetensors"]
    size = sum(f.stat().st_size for f in weights or folder.glob("pytorch_model*.bin"))
    return {
        # .bin files have no readable header: two bytes a parameter is the hub's habit
        "parameters": sum(map(_parameters, weights)) if weights else size // 2,
        "bytes": size,
        "hidden_size": int(config.get("hidden_size") or config.get("n_embd") or 0),
        "layers": int(config.get("num_hidden_layers") or config.get("n_layer") or 0),
        "vocabulary": int(config.get("vocab_size", 0)),
        "context_tokens": int(config.get("max_position_embeddings") or config.get("seq_length") or 2048),
    }


def _parameters(file: Path) -> int:
    with file.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= 100_000_000 or length + 8 > file.stat().st_size:
            raise ModelError(f"{file}: not a safetensors file, or cut short")
        header = json.loads(stream.read(length))
    tensors = [t for name, t in header.items() if name != "__metadata__"]
    if tensors and 8 + length + max(t["data_offsets"][1] for t in tensors) != file.stat().st_size:
        raise ModelError(f"{file}: its size is not the one that its header states: cut short or damaged")
    return sum(math.prod(t["shape"]) for t in tensors)
