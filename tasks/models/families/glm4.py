"""GLM-4: the hub's first form (converted to ``GlmForCausalLM``), and the native types ``glm`` and ``glm4`` (0414).

``[gMASK] <sop>``, then per message a role token, its metadata line and its text, as in ChatGLM3. What ends a reply is
the next role token; after the last reply it is ``<|user|>``.

Source: THUDM/glm-4-9b-chat (tokenization_chatglm.py) and the official fine-tuning code of THUDM/GLM-4, which ends a
dialogue with ``<|user|>``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.conversation import Message
from tasks.models import templates
from tasks.models.families import _glm
from tasks.models.families._family import Conversion
from tasks.models.rendering import Piece, Renderer, stop_ids

_START = ("[gMASK]", "<sop>")
_STOP = ("<|endoftext|>", "<|user|>", "<|observation|>")
#: Their published ids; the first is the padding token's too.
_STOP_IDS = [151329, 151336, 151338]

LORA_TARGETS = ("q_proj", "k_proj", "v_proj")
LAYERS = "model.layers"
REFUSED: dict[str, str] = {}


def recognises(config: dict[str, Any], special_tokens: Collection[str]) -> bool:
    return config.get("model_type") in ("glm", "glm4") and {*_START, *_STOP, *_glm.ROLE_TOKENS} <= set(special_tokens)


def renderer(tokenizer: Any, template: str | None = None) -> Renderer:
    return templates.renderer_for(tokenizer, template, lambda: _own(tokenizer))


def _own(tokenizer: Any) -> Renderer:
    ends = map(tokenizer.convert_tokens_to_ids, {*_STOP, *_glm.ROLE_TOKENS})
    return Renderer(tokenizer, layout, stop_ids(tokenizer, _STOP), ends=ends)


def layout(tokenizer: Any, messages: Sequence[Message], generate: bool) -> Iterator[Piece]:
    token = tokenizer.convert_tokens_to_ids
    after_reply = yield from _glm.turns(tokenizer, _START, messages)
    if generate:
        yield [token("<|assistant|>")], False
    elif after_reply:
        yield [token("<|user|>")], True


def converts(config: dict[str, Any], folder: Path) -> bool:
    return _glm.is_hub_form(config) and _glm.version(config, folder) == "glm4"


def conversion(config: dict[str, Any], folder: Path | None = None) -> Conversion:
    eos = config.get("eos_token_id") or _STOP_IDS
    return _glm.conversion(config, full="THUDM/glm-4-9b-chat", eos=eos, pad=_STOP_IDS[0])


def write_tokenizer(source: Path, target: Path, config: dict[str, Any]) -> None:
    from tasks.models.tokenizers import glm4

    glm4.write(source, target)
