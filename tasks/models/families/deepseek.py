"""DeepSeek-R1's distilled models: Qwen or Llama by their weights, DeepSeek by their control tokens.

Their own template leaves thoughts (``<think>``) out of every reply that it writes; a reply's thoughts are learned with
``model.template=deepseek``, which has the same words and keeps them.

Source: tokenizer_config.json of DeepSeek-R1-Distill-Qwen and -Llama.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tasks.models import chat_template, templates
from tasks.models.rendering import Renderer

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LAYERS = "model.layers"
REFUSED: dict[str, str] = {}
_MARKS = {"<｜User｜>", "<｜Assistant｜>"}


def recognises(config: dict[str, Any], special_tokens: Collection[str]) -> bool:
    return config.get("model_type") in ("qwen2", "qwen3", "llama") and set(special_tokens) >= _MARKS


def renderer(tokenizer: Any, template: str | None = None) -> Renderer:
    return templates.renderer_for(
        tokenizer, template, lambda: chat_template.renderer(tokenizer, default="deepseek", stops=())
    )
