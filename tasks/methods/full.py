"""Full fine-tuning: every parameter of the model is trained and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tasks.methods._method import MethodConfig
from tasks.methods._tensors import load_trainable, save_trainable
from tasks.schema import Field

MERGES = True


class Config(MethodConfig):
    name: Literal["full"] = Field(doc="Name of the method module.")


def attach(model: Any, config: Config) -> Any:
    model.requires_grad_(True)
    return model


def save(model: Any, folder: Path) -> None:
    save_trainable(model, folder)


def load(model: Any, folder: Path, config: Config, *, trainable: bool) -> Any:
    if trainable:
        model = attach(model, config)
    load_trainable(model, folder)
    return model


def merge(model: Any) -> Any:
    return model
