"""ChatGLM2 and CodeGeeX2 on ``GlmForCausalLM``: ``[gMASK] sop``, then numbered rounds as one text.

Earlier replies stand inside that text and no token ends them, so only the last reply is learned, as in the official
code; ``model.template=chatglm2`` ends and learns every reply.

Source: build_prompt of THUDM/chatglm2-6b (tokenization_chatglm.py) and its official P-Tuning code: the rounds are one
text, the reply to learn is tokenised on its own and ends with ``</s>``. Of THUDM/chatglm2-6b-32k, modeling_chatglm.py:
its positions are interpolated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.conversation import Message
from tasks.models import templates
from tasks.models.families import _glm
from tasks.models.families._family import Conversion
from tasks.models.families._rounds import rounds
from tasks.models.rendering import Piece, Renderer, encode_text, stop_ids

_START = ("[gMASK]", "sop")
_EOS = 2

LORA_TARGETS = ("q_proj", "k_proj", "v_proj")
LAYERS = "model.layers"
REFUSED: dict[str, str] = {}


def recognises(config: dict[str, Any], special_tokens: Collection[str]) -> bool:
    tokens = set(special_tokens)
    return config.get("model_type") == "glm" and {*_START} <= tokens and "<|assistant|>" not in tokens


def renderer(tokenizer: Any, template: str | None = None) -> Renderer:
    return templates.renderer_for(
        tokenizer, template, lambda: Renderer(tokenizer, layout, stop_ids(tokenizer), learns_history=False)
    )


def layout(tokenizer: Any, messages: Sequence[Message], generate: bool) -> Iterator[Piece]:
    yield [tokenizer.convert_tokens_to_ids(t) for t in _START], False
    turns = rounds(messages)
    last = turns[-1].reply if turns and not generate else None
    text = ""
    for number, turn in enumerate(turns, 1):
        text += f"[Round {number}]\n\n问：{turn.query}\n\n答："
        if turn.reply is not None and turn.reply is not last:
            text += f"{turn.answer}\n\n"
    yield encode_text(tokenizer, text), False
    if last is not None:
        yield [*encode_text(tokenizer, turns[-1].answer), tokenizer.eos_token_id], last.learned


def converts(config: dict[str, Any], folder: Path) -> bool:
    return _glm.is_hub_form(config) and _glm.version(config, folder) == "chatglm2"


def conversion(config: dict[str, Any], folder: Path | None = None) -> Conversion:
    return _glm.conversion(config, full="THUDM/chatglm2-6b", eos=_EOS, pad=0, interpolated=True)


def write_tokenizer(source: Path, target: Path, config: dict[str, Any]) -> None:
    from tasks.models.tokenizers import chatglm3

    chatglm3.write(source, target, roles=False)
