"""Mistral and Mixtral; ``plain`` for base models, which have no chat template."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tasks.models import chat_template, templates
from tasks.models.rendering import Renderer

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LAYERS = "model.layers"
REFUSED: dict[str, str] = {}


def recognises(config: dict[str, Any], special_tokens: Collection[str]) -> bool:
    return config.get("model_type") in ("mistral", "mixtral")


def renderer(tokenizer: Any, template: str | None = None) -> Renderer:
    return templates.renderer_for(
        tokenizer, template, lambda: chat_template.renderer(tokenizer, default="plain", stops=())
    )
