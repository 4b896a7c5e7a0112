"""QLoRA: LoRA over a base whose weights are held in 8 or 4 bits; everything else is :mod:`tasks.methods.lora`.

The update cannot be folded into integers: merging folds it into what quantisation left of the weights.

Source: Dettmers et al. 2023, https://arxiv.org/abs/2305.14314.
"""

from __future__ import annotations

from typing import Literal

from tasks.methods import lora
from tasks.methods.lora import MERGES, attach, learning_rate_scales, load, merge, save
from tasks.schema import Field

__all__ = ["MERGES", "Config", "attach", "learning_rate_scales", "load", "merge", "save"]


class Config(lora.Config):
    name: Literal["qlora"] = Field(doc="Name of the method module.")  # type: ignore[assignment]
