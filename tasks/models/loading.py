"""Loads a model for work: a native folder, a merged model, a checkpoint of this project, or a plain PEFT adapter.

A checkpoint's folder holds ``weitiao.json``: its method, its base model's content hash, and where the base lay when the
checkpoint was written (a hint only: ``base`` says where it lies now). Torch side; imported by workers.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import plugins
from tasks.errors import ModelError, ResourceError
from tasks.files import write_atomic
from tasks.models import families
from tasks.models.rendering import Renderer

log = logging.getLogger(__name__)

DESCRIPTION = "weitiao.json"


@dataclass(frozen=True)
class Loaded:
    """A model ready for use, its tokenizer and the renderer of its dialogues."""

    model: Any
    tokenizer: Any
    renderer: Renderer
    device: str
    name: str


def load(path: Path, *, base: Path | None = None, device: str = "cpu", dtype: str = "float32") -> Loaded:
    """Load the model or adapter in ``path`` in evaluation mode.

    Args:
        path: a native or merged model, a checkpoint of this project, or a PEFT adapter.
        base: the folder of the base model that an adapter needs; None takes the one it was trained on.
        device: "cpu" or "cuda".
        dtype: of the weights: "float32", "bfloat16" or "float16".

    Raises:
        ModelError: the folder, or the base that it needs, is not there or does not fit.
    """
    if (path / DESCRIPTION).is_file():
        description = read_description(path)
        folder = base_folder(base, description["base"]["path"], path)
        module = plugins.load("tasks.methods", description["method"]["name"], key="method")
        model = module.load(
            load_base(folder, device, dtype), path, module.Config(**description["method"]), trainable=False
        )
    elif (path / "adapter_config.json").is_file():
        from peft import PeftModel

        adapter = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
        folder = base_folder(base, adapter.get("base_model_name_or_path"), path)
        model = PeftModel.from_pretrained(load_base(folder, device, dtype), path)
    else:
        folder = path
        model = load_base(folder, device, dtype)
    tokenizer = load_tokenizer(folder)
    renderer = families.recognise(folder).renderer(tokenizer)
    return Loaded(model.to(device).eval(), tokenizer, renderer, device, path.name)


def load_base(folder: Path, device: str, dtype: str) -> Any:
    """The plain transformers model in ``folder``; remote code is never run."""
    import torch
    from transformers import AutoModelForCausalLM

    if device == "cuda" and not torch.cuda.is_available():
        raise ResourceError("hardware.device=cuda: torch sees no GPU; use hardware.device=cpu or install a CUDA build")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json: not a model folder")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True).to(device)


def load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def describe(folder: Path, *, method: dict[str, Any], base: Path, base_fingerprint: str, step: int) -> None:
    """Write the description that :func:`load` reads back."""
    value = {
        "format": 1,
        "method": method,
        "base": {"path": str(base), "fingerprint": base_fingerprint},
        "step": step,
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
