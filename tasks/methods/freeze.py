"""Freeze: train some parameters of the model itself, all else stays. Only the trained tensors are saved.

The saved file knows some values of the tensors that were not trained: on another base it is refused.

Source: the freeze mode of liucongg/ChatGLM-Finetuning (last five layers of ChatGLM-6B; in its later version, parameters
whose names contain a given text, by default ``layers.27.``).
"""

from __future__ import annotations

import re
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
    trainable_layers: int = Field(5, ge=1, doc="How many of the last layers are trained; no effect with names.")
    trainable_modules: list[str] = Field(
        [],
        doc="What is trained instead of the last layers: parts of dotted parameter names, as layers.27 or "
        "self_attn.q_proj, or regular expressions that are found in them.",
    )


def attach(model: Any, config: Config) -> Any:
    _layers.refuse(model, "freeze")
    _layers.refuse_quantized(model, "freeze")
    model.requires_grad_(False)
    if config.trainable_modules:
        for parameter in _named(model, config.trainable_modules):
            parameter.requires_grad_(True)
        return model
    _, layers = _layers.layer_list(model)
    if config.trainable_layers > len(layers):
        raise ConfigError(f"method.trainable_layers={config.trainable_layers}: the model has {len(layers)} layers")
    for layer in layers[-config.trainable_layers :]:
        layer.requires_grad_(True)
    return model


def _named(model: Any, wanted: list[str]) -> list[Any]:
    """The parameters whose names hold one of the parts or expressions.

    Raises:
        ConfigError: one of them is in no name, or no expression.
    """
    own = list(model.named_parameters(remove_duplicate=False))  # a tied head has its name, too
    found: list[Any] = []
    for pattern in wanted:
        try:
            matches = expression(pattern).search
        except re.error as error:
            raise ConfigError(f"method.trainable_modules: {pattern!r} is no regular expression: {error}") from None
        these = [parameter for name, parameter in own if matches(name)]
        if not these:
            names = {re.sub(r"\.\d+\.", ".0.", name) for name, _ in own}
            raise ConfigError(
                f"method.trainable_modules: {pattern!r} matches no parameter of {type(model).__name__}; "
                f"its own: {', '.join(sorted(names)[:40])}"
            )
        found += these
    return found


def expression(pattern: str) -> re.Pattern[str]:
    """A plain dotted name stands for whole parts of a name: layers.2 is not in layers.27."""
    plain = pattern.strip(".")
    if plain and re.fullmatch(r"[\w.]+", plain):
        return re.compile(rf"(?:^|\.){re.escape(plain)}(?:\.|$)")
    return re.compile(pattern)


def load(model: Any, folder: Path, config: Config, *, trainable: bool) -> Any:
    if trainable:
        model = attach(model, config)
    load_trainable(model, folder, exact=trainable)
    return model
