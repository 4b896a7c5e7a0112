"""Freeze: train the last layers of the model itself, all else stays. Only the trained tensors are saved.

Source: the freeze mode of liucongg/ChatGLM-Finetuning (last five layers of ChatGLM-6B).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tasks.errors import ConfigError
from tasks.methods import _layers
from tasks.methods._method import MethodConfig
from tasks.methods._tensors import load_trainable, merge, save
from tasks.schema import Field

__all__ = ["MERGES", "Config", "attach", "load", "merge", "save"]

MERGES = True


class Config(MethodConfig):
    name: Literal["freeze"] = Field(doc="Name of the method module.")
    trainable_layers: int = Field(5, ge=1, doc="How many of the last layers are trained.")


def attach(model: Any, config: Config) -> Any:
    _layers.refuse(model, "freeze")
    _layers.refuse_quantized(model, "freeze")
    _, layers = _layers.layer_list(model)
    if config.trainable_layers > len(layers):
        raise ConfigError(f"method.trainable_layers={config.trainable_layers}: the model has {len(layers)} layers")
    model.requires_grad_(False)
    for layer in layers[-config.trainable_layers :]:
        layer.requires_grad_(True)
    return model


def load(model: Any, folder: Path, config: Config, *, trainable: bool) -> Any:
    if trainable:
        model = attach(model, config)
    load_trainable(model, folder, exact=trainable)
    return model
