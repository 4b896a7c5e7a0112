"""CPM-Ant, a base model: ``plain``. Its class is made causal in tasks.models.architectures.cpmant."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tasks.models import chat_template, templates
from tasks.models.rendering import Renderer

LORA_TARGETS = ("project_q", "project_k", "project_v", "attention_out", "w_0", "w_1", "w_out")
LAYERS = "cpmant.encoder.layers"
REFUSED: dict[str, str] = {}


def recognises(config: dict[str, Any], special_tokens: Collection[str]) -> bool:
    return config.get("model_type") == "cpmant"


def renderer(tokenizer: Any, template: str | None = None) -> Renderer:
    return templates.renderer_for(
        tokenizer, template, lambda: chat_template.renderer(tokenizer, default="plain", stops=())
    )
