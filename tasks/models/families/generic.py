"""Whatever transformers loads natively and no other module knows: the tokenizer's own chat template, or ``plain``.

What is assumed is told by :func:`assumed`, because nobody has checked it against the model.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tasks.models import chat_template, templates
from tasks.models.rendering import Renderer

LORA_TARGETS = ("all-linear",)
LAYERS = ""  # found by its length: see tasks.methods._layers
REFUSED: dict[str, str] = {}


def recognises(config: dict[str, Any], special_tokens: Collection[str]) -> bool:
    return True


def renderer(tokenizer: Any, template: str | None = None) -> Renderer:
    return templates.renderer_for(tokenizer, template, lambda: chat_template.renderer(tokenizer, default="plain"))


def assumed(tokenizer: Any) -> str:
    """One line for people: which layout a model of no known family gets."""
    if not getattr(tokenizer, "chat_template", None):
        return (
            f"no family module knows this model and its tokenizer has no chat template: texts one a line, a reply "
            f"ended by {tokenizer.eos_token}; name a layout with model.template={'|'.join(sorted(templates.NAMED))}"
        )
    own = chat_template.ChatTemplate(tokenizer)
    thoughts = "" if own.keeps_thoughts else "; it leaves thoughts (<think>) out of replies"
    return (
        f"no family module knows this model: its tokenizer's chat template is used as it is, a reply ended by "
        f"{own.end}{thoughts}"
    )
