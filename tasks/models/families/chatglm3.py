"""ChatGLM3's layout on ``GlmForCausalLM``: ``[gMASK] sop``, then per message a role token, its metadata line, its text.

Source: the layout and the learned tokens of the official fine-tuning code (THUDM/ChatGLM3, finetune_hf.py): a role
token is never learned, a reply's text is, and so is the token after it (the next role token or the final ``</s>``).
The official code of today learns ``observation`` turns too, its older form for tools does not. Here a message says
itself what is learned, observations are not unless it says so; ``official`` gives the labels of today's code.

A tool's call is an assistant's message with the tool's name as its metadata, what the tool answers an observation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks.conversation import Message
from tasks.models import templates
from tasks.models.families import _glm
from tasks.models.families._family import Conversion
from tasks.models.rendering import Piece, Renderer, stop_ids

_START = ("[gMASK]", "sop")
_STOP = ("</s>", "<|user|>", "<|observation|>")

LORA_TARGETS = ("q_proj", "k_proj", "v_proj")
LAYERS = "model.layers"
REFUSED: dict[str, str] = {}


def recognises(config: dict[str, Any], special_tokens: Collection[str]) -> bool:
    return config.get("model_type") == "glm" and {*_START, *_STOP, "<|assistant|>"} <= set(special_tokens)


def renderer(tokenizer: Any, template: str | None = None) -> Renderer:
    return templates.renderer_for(tokenizer, template, lambda: _own(tokenizer))


def _own(tokenizer: Any) -> Renderer:
    token = tokenizer.convert_tokens_to_ids
    stops = sorted({*stop_ids(tokenizer), *map(token, _STOP)})
    return Renderer(tokenizer, layout, stops, ends=map(token, {"</s>", *_glm.ROLE_TOKENS}))


def official(messages: Sequence[Message]) -> list[Message]:
    """Messages that are learned as the official fine-tuning code does: observations too, where they do not say."""
    return [replace(m, learn=True) if m.role == "observation" and m.learn is None else m for m in messages]


def layout(tokenizer: Any, messages: Sequence[Message], generate: bool) -> Iterator[Piece]:
    token = tokenizer.convert_tokens_to_ids
    after_reply = yield from _glm.turns(tokenizer, _START, messages)
    if generate:
        yield [token("<|assistant|>")], False
    else:
        yield [token("</s>")], after_reply


def converts(config: dict[str, Any], folder: Path) -> bool:
    return _glm.is_hub_form(config) and _glm.version(config, folder) in (None, "chatglm3")


def conversion(config: dict[str, Any], folder: Path | None = None) -> Conversion:
    known = _glm.version(config, folder) is not None
    # role tokens end a reply; a smaller vocabulary than the published one has them elsewhere, if at all
    roles = [64795, 64797] if config.get("padded_vocab_size") == 65024 else []
    assumed = (
        "family chatglm3: the files do not tell ChatGLM3 from ChatGLM2, whose weights are alike; "
        "model.family=chatglm2 if it is that"
    )
    return _glm.conversion(
        config, full="THUDM/chatglm3-6b", eos=[2, *roles] if roles else 2, pad=0, assumed=() if known else (assumed,)
    )


def write_tokenizer(source: Path, target: Path, config: dict[str, Any]) -> None:
    from tasks.models.tokenizers import chatglm3

    chatglm3.write(source, target, roles=True)
