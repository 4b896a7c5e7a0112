"""LoRA: low-rank updates of the linear layers, by PEFT.

Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685; defaults are those of the ChatGLM3 fine-tuning demo.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from tasks.errors import ConfigError
from tasks.methods import _layers
from tasks.methods._method import MethodConfig
from tasks.schema import Field

MERGES = True
_ALL = "all-linear"


class Config(MethodConfig):
    name: Literal["lora"] = Field(doc="Name of the method module.")
    r: int = Field(8, ge=1, le=1024, doc="Rank of each update; memory and capacity grow with it.")
    lora_alpha: int = Field(32, ge=1, doc="Scale of the update: it is multiplied by lora_alpha / r.")
    lora_dropout: float = Field(0.1, ge=0, lt=1, doc="Dropout on the input of each update while training.")
    target_modules: str | list[str] = Field(
        _ALL,
        doc="Names of the linear layers to update; all-linear for every one but the output layer, family for those "
        "that the model family's own fine-tuning code updates.",
    )


def attach(model: Any, config: Config) -> Any:
    from peft import LoraConfig, get_peft_model

    _layers.refuse(model, "lora")
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets(model, config.target_modules),
    )
    return get_peft_model(model, settings)


def targets(model: Any, wanted: str | list[str]) -> str | list[str]:
    """What PEFT is to update: names, ``all-linear``, or a pattern of whole dotted names.

    Raises:
        ConfigError: the model has no such layer.
    """
    names = list(_layers.family(model).LORA_TARGETS) if wanted == "family" else wanted
    if names == _ALL or _ALL in names:
        return _ALL
    layers = [
        name for name, module in model.named_modules() if getattr(getattr(module, "weight", None), "ndim", 0) == 2
    ]
    known = {name.rpartition(".")[2] for name in layers}
    if isinstance(names, str) and names not in known:
        missing = None if any(re.fullmatch(names, layer) for layer in layers) else names
    else:
        names = [names] if isinstance(names, str) else names  # PEFT takes a string for a pattern
        missing = next((name for name in names if name.rpartition(".")[2] not in known), None)
    if missing is not None:
        raise ConfigError(
            f"method.target_modules={wanted!r}: {type(model).__name__} has no layer {missing}; "
            f"its own: {', '.join(sorted(known))}; or all-linear, or family"
        )
    return names


def save(model: Any, folder: Path) -> None:
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)


def load(model: Any, folder: Path, config: Config, *, trainable: bool) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(model, folder, is_trainable=trainable)


def merge(model: Any) -> Any:
    return model.merge_and_unload(safe_merge=True)
