"""Full fine-tuning: every parameter of the model is trained and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tasks.methods import _layers
from tasks.methods._method import MethodConfig
from tasks.methods._tensors import load_trainable, merge, save
from tasks.schema import Field

__all__ = ["MERGES", "Config", "attach", "load", "merge", "save"]

MERGES = True


class Config(MethodConfig):
    name: Literal["full"] = Field(doc="Name of the method module.")


def attach(model: Any, config: Config) -> Any:
    _layers.refuse(model, "full")
    _layers.refuse_quantized(model, "full")
    model.requires_grad_(True)
    return model


def load(model: Any, folder: Path, config: Config, *, trainable: bool) -> Any:
    if trainable:
        model = attach(model, config)
    load_trainable(model, folder, exact=trainable)
    return model
