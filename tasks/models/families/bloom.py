"""BLOOM, and TigerBot-7B and BELLE-7B, which are made of it.

TigerBot's tokenizer has its headers as control tokens and gets their layout; else a model without a chat template is
``plain``, and BELLE-7B wants ``model.template=belle``, which its files do not tell.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tasks.models import chat_template, spelling, templates
from tasks.models.rendering import Renderer

LORA_TARGETS = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
LAYERS = "transformer.h"
REFUSED: dict[str, str] = {}
_TIGERBOT = "\n\n### Response:\n"


def recognises(config: dict[str, Any], special_tokens: Collection[str]) -> bool:
    return config.get("model_type") == "bloom"


def renderer(tokenizer: Any, template: str | None = None) -> Renderer:
    default = "tigerbot" if _TIGERBOT in spelling.of(tokenizer).control else "plain"
    return templates.renderer_for(tokenizer, template, lambda: chat_template.renderer(tokenizer, default=default))
