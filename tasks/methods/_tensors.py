"""Saving and loading a subset of a model's parameters: its own, for methods that train them in place, or added ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.errors import ModelError

FILE = "trainable.safetensors"


def save(model: Any, folder: Path) -> None:
    """Write every parameter that requires a gradient, under its name in the model."""
    from safetensors.torch import save_file

    tensors = {name: p.detach().contiguous().cpu() for name, p in model.named_parameters() if p.requires_grad}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / FILE, metadata={"format": "pt"})


def load_trainable(model: Any, folder: Path, *, exact: bool) -> None:
    """Overwrite the named parameters of ``model`` with the saved ones.

    Args:
        exact: keep the saved type (float32 while training goes on), else the model's.

    Raises:
        ModelError: a saved name or shape is not the model's: another base model.
    """
    import torch
    from safetensors.torch import load_file

    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in load_file(folder / FILE).items():
            if name not in own or own[name].shape != tensor.shape:
                raise ModelError(f"{folder / FILE}: tensor {name} {tuple(tensor.shape)} does not fit the base model")
            own[name].data = tensor.to(own[name].device, None if exact else own[name].dtype)


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
