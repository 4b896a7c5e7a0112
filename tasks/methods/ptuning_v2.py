"""P-Tuning v2: trained key and value vectors in front of every layer's attention, by PEFT's prefix tuning.

Source: Liu et al. 2022, https://arxiv.org/abs/2110.07602. The prefix cannot be merged into weights: the model is served
as base + prefix. PEFT's prefix cannot be combined with gradient checkpointing; the configuration refuses it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tasks.errors import ModelError
from tasks.methods import _tensors
from tasks.methods._method import MethodConfig
from tasks.schema import Field

MERGES = False


class Config(MethodConfig):
    name: Literal["ptuning_v2"] = Field(doc="Name of the method module.")
    num_virtual_tokens: int = Field(128, ge=1, le=4096, doc="Length of the prefix; each costs memory in every layer.")
    prefix_projection: bool = Field(
        False, doc="Make the prefix with a two-layer network while training: steadier, far more parameters."
    )
    encoder_hidden_size: int | None = Field(
        None, ge=1, doc="Width of that network; null takes the model's hidden size. No effect without projection."
    )


def attach(model: Any, config: Config) -> Any:
    from peft import PrefixTuningConfig, get_peft_model

    return get_peft_model(
        model,
        PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=config.num_virtual_tokens,
            prefix_projection=config.prefix_projection,
            encoder_hidden_size=config.encoder_hidden_size or model.config.hidden_size,
        ),
    )


def save(model: Any, folder: Path) -> None:
    model.save_pretrained(folder, safe_serialization=True)
    # PEFT saves the prefix as the projection makes it, from which training could not go on
    _tensors.save(model, folder)


def load(model: Any, folder: Path, config: Config, *, trainable: bool) -> Any:
    from peft import PeftModel

    if not trainable:
        return PeftModel.from_pretrained(model, folder)
    model = attach(model, config)
    _tensors.load_trainable(model, folder, exact=True)
    return model


def merge(model: Any) -> Any:
    raise ModelError("method ptuning_v2 cannot be merged into weights; it is served as base + prefix")
