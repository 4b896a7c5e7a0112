"""LoRA: low-rank updates of the linear layers, by PEFT.

Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685; defaults are those of the ChatGLM3 fine-tuning demo.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tasks.methods._method import MethodConfig
from tasks.schema import Field

MERGES = True


class Config(MethodConfig):
    name: Literal["lora"] = Field(doc="Name of the method module.")
    r: int = Field(8, ge=1, le=1024, doc="Rank of each update; memory and capacity grow with it.")
    lora_alpha: int = Field(32, ge=1, doc="Scale of the update: it is multiplied by lora_alpha / r.")
    lora_dropout: float = Field(0.1, ge=0, lt=1, doc="Dropout on the input of each update while training.")
    target_modules: str | list[str] = Field(
        "all-linear", doc="Names of the linear layers to update, or all-linear for every one but the output layer."
    )


def attach(model: Any, config: Config) -> Any:
    from peft import LoraConfig, get_peft_model

    targets = config.target_modules if isinstance(config.target_modules, str) else list(config.target_modules)
    return get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=config.r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=targets,
        ),
    )


def save(model: Any, folder: Path) -> None:
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)


def load(model: Any, folder: Path, config: Config, *, trainable: bool) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(model, folder, is_trainable=trainable)


def merge(model: Any) -> Any:
    return model.merge_and_unload(safe_merge=True)
