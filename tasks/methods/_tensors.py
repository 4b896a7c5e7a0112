"""Saving and loading a subset of a model's parameters: its own, for methods that train them in place, or added ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.errors import ModelError

FILE = "trainable.safetensors"
#: Key of the file's metadata under which values of the tensors that were not trained stand.
_FROZEN = "frozen"
_SAMPLES = 4


def save(model: Any, folder: Path) -> None:
    """Write every parameter that requires a gradient, under its name in the model, and samples of the others."""
    from safetensors.torch import save_file

    tensors = {name: p.detach().contiguous().cpu() for name, p in model.named_parameters() if p.requires_grad}
    # empty here: spread over processes by ZeRO-3
    frozen = {name: _sample(p) for name, p in model.named_parameters() if not p.requires_grad and p.numel()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / FILE, metadata={"format": "pt", _FROZEN: json.dumps(frozen)})


def _sample(parameter: Any) -> list[float]:
    """A few values from all over a tensor: the same of the same base in any type, within that type's rounding."""
    import torch

    flat = parameter.detach().reshape(-1)
    places = torch.linspace(0, flat.numel() - 1, min(_SAMPLES, flat.numel()), dtype=torch.float64)
    return [float(value) for value in flat[places.round().long().to(flat.device)].float()]


def load_trainable(model: Any, folder: Path, *, exact: bool) -> None:
    """Overwrite the named parameters of ``model`` with the saved ones.

    Args:
        exact: keep the saved type (float32 while training goes on), else the model's.

    Raises:
        ModelError: a saved name or shape, or a value of what was not trained, is not the model's: another base model.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    own = dict(model.named_parameters())
    with safe_open(folder / FILE, framework="pt") as file:
        _require_same_base(own, json.loads((file.metadata() or {}).get(_FROZEN, "{}")), folder)
    with torch.no_grad():
        for name, tensor in load_file(folder / FILE).items():
            if name not in own or own[name].shape != tensor.shape:
                raise ModelError(f"{folder / FILE}: tensor {name} {tuple(tensor.shape)} does not fit the base model")
            own[name].data = tensor.to(own[name].device, None if exact else own[name].dtype)


def _require_same_base(own: Mapping[str, Any], frozen: Mapping[str, list[float]], folder: Path) -> None:
    for name, values in frozen.items():
        found = _sample(own[name]) if name in own else []
        # bf16 keeps 8 bits
        if len(found) != len(values) or any(
            abs(a - b) > 1e-5 + 2**-7 * abs(b) for a, b in zip(found, values, strict=True)
        ):
            raise ModelError(
                f"{folder / FILE}: was trained on another base model: {name} is not the tensor beside which it "
                "was trained; give the base model of that training"
            )


def read(folder: Path, module: str) -> dict[str, Any]:
    """The saved tensors of one module, by their names within it.

    Raises:
        ModelError: others were saved: by another method, or by a version of this project that saved them differently.
    """
    from safetensors.torch import load_file

    tensors = load_file(folder / FILE)
    strange = [name for name in tensors if not name.startswith(f"{module}.")]
    if strange or not tensors:
        raise ModelError(
            f"{folder / FILE}: {strange[0] if strange else 'no tensor'}: only tensors of {module} are expected; "
            "it was written by another method or an older version: train it again"
        )
    return {name.removeprefix(f"{module}."): tensor for name, tensor in tensors.items()}


def merge(model: Any) -> Any:
    """The trained parameters are the model's own: nothing to fold."""
    return model
