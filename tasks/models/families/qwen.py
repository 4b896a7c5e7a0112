"""Qwen 2, 2.5 and 3, dense and mixture of experts; ChatML where the tokenizer has no chat template of its own.

Qwen3's template writes an empty thought before a reply that has none: so does every prompt here, which is what the
model knows as its mode without thinking. A reply that begins with ``<think>`` is learned from that tag on.

Source of the end tokens: generation_config.json of the Qwen2.5 and Qwen3 chat models.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tasks.models import chat_template, templates
from tasks.models.rendering import Renderer

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LAYERS = "model.layers"
REFUSED: dict[str, str] = {}
_STOPS = ("<|im_end|>", "<|endoftext|>")
_TYPES = ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe")


def recognises(config: dict[str, Any], special_tokens: Collection[str]) -> bool:
    return config.get("model_type") in _TYPES


def renderer(tokenizer: Any, template: str | None = None) -> Renderer:
    return templates.renderer_for(
        tokenizer, template, lambda: chat_template.renderer(tokenizer, default="chatml", stops=_STOPS)
    )
