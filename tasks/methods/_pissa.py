"""PiSSA: updates that start at a layer's largest singular values, and are saved as an ordinary LoRA of the base.

While training a layer is W - s B0 A0 + s B A, where s B0 A0 is the best approximation of rank r of its weight W. The
saved update is the difference s (B A - B0 A0) = s [B, -B0] [A; A0], a LoRA of rank 2 r for the untouched base: nothing
that loads, merges or serves it needs to know. Going on with training splits it again, which loses no bit.

In bf16 or fp16 the layers' rests are rounded anew, so the trained model and base + saved update differ by as much.

Shapes: o outputs, i inputs, r rank. Source: Meng et al. 2024, https://arxiv.org/abs/2404.02948.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from peft.tuners.lora.layer import Linear
from safetensors.torch import save_file
from torch import Tensor

from tasks.errors import ModelError

_ADAPTER = "default"


def start(model: Any, how: str) -> None:
    """Move the largest singular values of each updated layer of a PEFT model from the layer into its update.

    Args:
        how: "pissa", or "pissa_niter_N" for N rounds of an approximation, drawn from torch's generator.
    """
    for _, layer in _layers(model):
        weight, r = layer.base_layer.weight.detach().float(), layer.r[_ADAPTER]
        if how == "pissa":
            u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        else:
            u, s, v = torch.svd_lowrank(weight, q=r, niter=int(how.rpartition("_")[2]))
            vh = v.t()
        root = (s[:r] / layer.scaling[_ADAPTER]).sqrt()
        a, b = (root[:, None] * vh[:r]).contiguous(), (u[:, :r] * root).contiguous()  # [r, i], [o, r]
        with torch.no_grad():
            layer.lora_A[_ADAPTER].weight.copy_(a)
            layer.lora_B[_ADAPTER].weight.copy_(b)
        _take_out(layer, a, b)


def started(model: Any) -> bool:
    return any(hasattr(layer, "initial_A") for _, layer in _layers(model))


def save(model: Any, folder: Path, file: Path) -> None:
    """Write the PEFT adapter of rank 2 r that gives the untouched base what the model has learned."""
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    for name, layer in _layers(model):
        a, b = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
        tensors[a] = torch.cat([tensors[a], layer.initial_A.to(tensors[a])])
        tensors[b] = torch.cat([tensors[b], -layer.initial_B.to(tensors[b])], dim=1)
    settings = copy.deepcopy(model.peft_config[_ADAPTER])
    settings.r *= 2
    settings.lora_alpha *= 2**0.5 if settings.use_rslora else 2  # the same scale with twice the rank
    settings.inference_mode = True
    settings.base_model_name_or_path = model.get_base_model().name_or_path or None
    folder.mkdir(parents=True, exist_ok=True)
    settings.save_pretrained(folder)
    save_file({n: t.detach().clone().contiguous().cpu() for n, t in tensors.items()}, file, metadata={"format": "pt"})


def resume(model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring a fresh base into the form that :func:`save` was called in; returns the trained tensors, of rank r.

    Raises:
        ModelError: the tensors are of another rank, or not of PiSSA.
    """
    result = dict(tensors)
    for name, layer in _layers(model):
        a, b, r = f"{name}.lora_A.weight", f"{name}.lora_B.weight", layer.r[_ADAPTER]
        if a not in result or b not in result or result[a].shape[0] != 2 * r:
            raise ModelError(f"{a}: not the update of rank {2 * r} that PiSSA saves for method.r={r}")
        device = layer.base_layer.weight.device
        _take_out(layer, result[a][r:].to(device).contiguous(), -result[b][:, r:].to(device).contiguous())
        result[a], result[b] = result[a][:r].contiguous(), result[b][:, :r].contiguous()
    return result


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, Linear))


@torch.no_grad()
def _take_out(layer: Any, a: Tensor, b: Tensor) -> None:
    """Leave the layer W - s B0 A0, and remember A0 and B0 beside it."""
    weight = layer.base_layer.weight
    weight.data = (weight.float() - layer.scaling[_ADAPTER] * (b @ a)).to(weight.dtype)
    # no part of the state: save writes them its own way
    layer.register_buffer("initial_A", a, persistent=False)
    layer.register_buffer("initial_B", b, persistent=False)
