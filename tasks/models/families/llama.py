"""LLaMA 1 to 3 and what was made of it: Open-LLaMA, merged Chinese-LLaMA-Alpaca, BELLE, Yi, SmolLM.

Without a chat template (LLaMA 1 and base models) the layout is ``plain``: one text a line, a reply ended by ``</s>``.

Source of the end tokens: Llama 3's generation_config.json and the list of its control tokens (meta-llama/llama3).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tasks.models import chat_template, templates
from tasks.models.rendering import Renderer

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LAYERS = "model.layers"
REFUSED: dict[str, str] = {}
_STOPS = ("<|eot_id|>", "<|end_of_text|>", "<|eom_id|>")


def recognises(config: dict[str, Any], special_tokens: Collection[str]) -> bool:
    return config.get("model_type") == "llama"


def renderer(tokenizer: Any, template: str | None = None) -> Renderer:
    return templates.renderer_for(
        tokenizer, template, lambda: chat_template.renderer(tokenizer, default="plain", stops=_STOPS)
    )
