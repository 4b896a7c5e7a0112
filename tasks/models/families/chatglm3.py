"""ChatGLM3's layout on ``GlmForCausalLM``: ``[gMASK] sop``, then per message a role token, its metadata line, its text.

Source: the layout and the learned tokens of the official fine-tuning code (THUDM/ChatGLM3, finetune_hf.py): a role
token is never learned, a reply's text is, and so is the token after it (the next role token or the final ``</s>``).
Not reproduced: the official code also learns ``observation`` turns; here a message says itself what is learned.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from tasks.conversation import Message
from tasks.models.rendering import Piece, Renderer, encode_text

_START = ("[gMASK]", "sop")
_STOP = ("</s>", "<|user|>", "<|observation|>")


LORA_TARGETS = ("q_proj", "k_proj", "v_proj")
LAYERS = "model.layers"
REFUSED: dict[str, str] = {}


def recognises(config: dict[str, Any], special_tokens: Collection[str]) -> bool:
    return config.get("model_type") == "glm" and {*_START, *_STOP, "<|assistant|>"} <= set(special_tokens)


def renderer(tokenizer: Any, template: str | None = None) -> Renderer:
    return Renderer(tokenizer, layout, [tokenizer.convert_tokens_to_ids(t) for t in _STOP])


def layout(tokenizer: Any, messages: Sequence[Message], generate: bool) -> Iterator[Piece]:
    token = tokenizer.convert_tokens_to_ids
    yield [token(t) for t in _START], False
    after_reply = False  # the token after a learned reply is learned: it is how the model stops
    for message in messages:
        yield [token(f"<|{message.role}|>")], after_reply
        yield encode_text(tokenizer, message.metadata + "\n") + encode_text(tokenizer, message.content), message.learned
        after_reply = message.learned
    if generate:
        yield [token("<|assistant|>")], False
    else:
        yield [token("</s>")], after_reply
