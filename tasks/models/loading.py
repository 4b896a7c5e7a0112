"""Loads a model for work: a native folder, a merged model, a checkpoint of this project, or a plain PEFT adapter.

A checkpoint's folder holds ``weitiao.json``: its method, its base model's content hash, where the base lay when the
checkpoint was written (a hint only: ``base`` says where it lies now), the layout of its dialogues and the quantisation
it was trained with. Torch side; imported by workers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import plugins
from tasks.errors import ModelError, ResourceError
from tasks.files import write_atomic
from tasks.models import architectures, families
from tasks.models.families import Layout
from tasks.models.quantizing import bitsandbytes_config, keep_packing
from tasks.models.rendering import Renderer

log = logging.getLogger(__name__)

DESCRIPTION = "weitiao.json"


@dataclass(frozen=True)
class Loaded:
    """A model ready for use, its tokenizer and the renderer of its dialogues."""

    model: Any
    tokenizer: Any
    renderer: Renderer
    layout: Layout
    device: str
    name: str


def load(
    path: Path,
    *,
    base: Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    layout: Layout | None = None,
    quantization: str | None = None,
    dequantized: bool = False,
    device_map: str = "none",
) -> Loaded:
    """Load the model or adapter in ``path`` in evaluation mode.

    Args:
        path: a native or merged model, a checkpoint of this project, or a PEFT adapter.
        base: the folder of the base model that an adapter needs; None takes the one it was trained on.
        device: "cpu" or "cuda".
        dtype: of the weights: "float32", "bfloat16" or "float16".
        layout: of dialogues; None takes what the folder says, else what its files look like.
        quantization: "none", "int8" or "nf4"; None takes the one that the checkpoint was trained with.
        dequantized: give quantised weights back in ``dtype``, as they are after quantisation: for merging into them.
        device_map: "auto" spreads the model over all GPUs and CPU memory.

    Raises:
        ModelError: the folder, or the base that it needs, is not there or does not fit.
    """
    description = read_description(path) if (path / DESCRIPTION).is_file() else {}
    adapter = path / "adapter_config.json"
    if description:
        folder = base_folder(base, description["base"]["path"], path)
        layout = layout or (Layout.from_json(description["layout"]) if description.get("layout") else None)
        quantization = quantization or description.get("quantization")
    elif adapter.is_file():
        hint = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
        folder = base_folder(base, hint, path)
    else:
        folder = path
    model = load_base(folder, device, dtype, quantization=quantization or "none", device_map=device_map)
    if dequantized and getattr(model, "is_quantized", False):
        model = model.dequantize().to(_dtype(dtype))
    if description:
        module = plugins.load("tasks.methods", description["method"]["name"], key="method")
        model = module.load(model, path, module.Config(**description["method"]), trainable=False)
    elif adapter.is_file():
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, path)
    tokenizer = load_tokenizer(folder)
    layout = layout or families.layout(folder)
    return Loaded(move(model, device).eval(), tokenizer, layout.renderer(tokenizer), layout, device, path.name)


def load_base(folder: Path, device: str, dtype: str, *, quantization: str = "none", device_map: str = "none") -> Any:
    """The plain transformers model in ``folder``; remote code is never run.

    Raises:
        ModelError: not a model, or tensors that its class needs are not in its files, or it cannot be quantised.
        ResourceError: the device or bitsandbytes is not there.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ResourceError("hardware.device=cuda: torch sees no GPU; use hardware.device=cpu or install a CUDA build")
    if (folder / "adapter_config.json").is_file():  # transformers would apply it, unseen or a second time
        raise ModelError(
            f"{folder}: holds an adapter beside the model; move its adapter_* files to a folder of their own"
        )
    kind = _register(folder)
    options: dict[str, Any] = {}
    if quantization != "none":
        options["quantization_config"] = bitsandbytes_config(quantization, dtype)
        options["device_map"] = {"": device}
    if device_map != "none":
        options["device_map"] = device_map
    model, found = kind.from_pretrained(
        folder,
        dtype=_dtype(dtype),
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        **options,
    )
    require_complete(model, found, folder)
    if quantization != "none":
        if all(parameter.is_floating_point() for parameter in model.parameters()):
            raise ModelError(
                f"model.quantization={quantization}: not on {type(model).__name__}: its linear layers are of a class "
                "of its own, which bitsandbytes passes over; use model.quantization=none"
            )
        keep_packing(model)
    return model if options else model.to(device)


def require_complete(model: Any, found: Mapping[str, Any], source: Path) -> None:
    """Refuse a model of which a tensor was not in its files: transformers draws it at random.

    Args:
        found: what ``from_pretrained`` says of its loading.

    Raises:
        ModelError: naming the tensor.
    """
    for key in ("missing_keys", "mismatched_keys"):
        lacking = sorted(map(str, found.get(key) or ()))
        if lacking:
            raise ModelError(
                f"{source}: {type(model).__name__} needs {lacking[0]} ({len(lacking)} such tensors), which its weight "
                "files do not hold in that shape: a shard is missing, or config.json belongs to another model"
            )


def move(model: Any, device: str) -> Any:
    """The model on ``device``; one that is quantised or spread stays where loading put it."""
    placed = getattr(model, "is_quantized", False) or getattr(model, "hf_device_map", None)
    return model if placed else model.to(device)


def load_tokenizer(folder: Path) -> Any:
    """The folder's fast tokenizer; SentencePiece models that transformers would read differently are read here.

    A tokenizer whose class is remote code is what its tokenizer.json says, without that code.

    Raises:
        ModelError: it cannot be loaded without remote code, or at all.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    from tasks.models.tokenizers import sentencepiece

    if sentencepiece.needed(folder):
        return sentencepiece.load(folder)
    _register(folder)
    try:
        # said in so many words: without it transformers asks on the terminal
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, ImportError) as error:
        if (folder / "tokenizer.json").is_file() and "trust_remote_code" in str(error):
            log.info("%s: the tokenizer's class is remote code, which is never run: tokenizer.json is used", folder)
            return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{folder}: its tokenizer cannot be loaded ({reason}); remote code is never run: add a tokenizer.json, or "
            "set model.family if this is the hub form of a family that can be converted"
        ) from error


def _register(folder: Path) -> Any:
    """The class of the model in ``folder``; transformers is made to know it if it is one of this project."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder}: no config.json: not a model folder") from None
    return architectures.register(str(config.get("model_type")))


def _dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)


def describe(
    folder: Path,
    *,
    method: dict[str, Any],
    base: Path,
    base_fingerprint: str,
    step: int,
    layout: Layout | None = None,
    quantization: str = "none",
) -> None:
    """Write the description that :func:`load` reads back."""
    value = {
        "format": 1,
        "method": method,
        "base": {"path": str(base), "fingerprint": base_fingerprint},
        "step": step,
        "layout": layout.to_json() if layout else None,
        "quantization": quantization,
    }
    write_atomic(folder / DESCRIPTION, json.dumps(value, ensure_ascii=False, indent=1))


def read_description(folder: Path) -> dict[str, Any]:
    try:
        value = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        assert isinstance(value["method"], dict) and isinstance(value["base"], dict)
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise ModelError(f"{folder / DESCRIPTION}: not a checkpoint's description ({error})") from error
    return dict(value)


def base_folder(given: Path | None, hint: str | None, adapter: Path) -> Path:
    """Where the base model of an adapter lies now: as given, else where it lay when the adapter was written."""
    folder = given if given is not None else Path(hint) if hint else None
    if folder is None or not folder.is_dir():
        from tasks.models.embedded import FOLDER

        if given is None and hint and Path(hint).parts[-4:] == FOLDER.parts[-4:]:
            return FOLDER  # the shipped model: another clone of the same project
        where = f"{folder}: no such folder" if folder else "it does not say which"
        raise ModelError(f"{adapter}: its base model is needed ({where}); set model.path to where it lies now")
    return folder
