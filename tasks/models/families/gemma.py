"""Gemma 1 to 3, the models for text alone; ``plain`` for base models, which have no chat template.

Gemma 3's larger models take images too (``model_type`` gemma3): their layers lie elsewhere, so they are ``generic``.

Source of the end tokens: generation_config.json of the Gemma chat models.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tasks.models import chat_template, templates
from tasks.models.rendering import Renderer

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LAYERS = "model.layers"
REFUSED: dict[str, str] = {}
_STOPS = ("<end_of_turn>", "<eos>")


def recognises(config: dict[str, Any], special_tokens: Collection[str]) -> bool:
    return config.get("model_type") in ("gemma", "gemma2", "gemma3_text")


def renderer(tokenizer: Any, template: str | None = None) -> Renderer:
    return templates.renderer_for(
        tokenizer, template, lambda: chat_template.renderer(tokenizer, default="plain", stops=_STOPS)
    )
