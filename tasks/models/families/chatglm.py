"""ChatGLM-6B, the first version: the query as plain text, then ``[gMASK] <sop>`` and the reply, ended by ``<eop>``.

The model sees everything before ``<sop>`` in both directions, so only the last reply can be learned: an earlier one is
context, whatever its message says.

Source: THUDM/chatglm-6b: modeling_chatglm.py (chat, rounds counted from 0; one round is the query alone),
tokenization_chatglm.py, and the official P-Tuning code (query and reply are tokenised on their own).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.conversation import Message
from tasks.models import templates
from tasks.models.families._family import Conversion
from tasks.models.families._mapping import Rule, refuse_quantized, refuse_unless, renaming, require
from tasks.models.families._rounds import Round, rounds
from tasks.models.rendering import Piece, Renderer, encode_text, stop_ids

_START = ("[gMASK]", "<sop>")
_END = "<eop>"
_LAYER = r"transformer\.layers\.(\d+)\."

LORA_TARGETS = ("query_key_value",)
LAYERS = "model.layers"
REFUSED: dict[str, str] = {}


def recognises(config: dict[str, Any], special_tokens: Collection[str]) -> bool:
    return config.get("model_type") == "weitiao_chatglm"


def renderer(tokenizer: Any, template: str | None = None) -> Renderer:
    return templates.renderer_for(
        tokenizer, template, lambda: Renderer(tokenizer, layout, stop_ids(tokenizer, [_END]), learns_history=False)
    )


def layout(tokenizer: Any, messages: Sequence[Message], generate: bool) -> Iterator[Piece]:
    turns = rounds(messages)
    last = turns[-1].reply if turns and not generate else None
    yield encode_text(tokenizer, _text(turns, last)), False
    yield [tokenizer.convert_tokens_to_ids(t) for t in _START], False
    if last is not None:
        yield [*encode_text(tokenizer, turns[-1].answer), tokenizer.convert_tokens_to_ids(_END)], last.learned


def _text(turns: Sequence[Round], last: Message | None) -> str:
    """The context's text; ``last`` is the reply that stands behind it."""
    if len(turns) == 1 and turns[0].reply is last:
        return turns[0].query
    text = ""
    for number, turn in enumerate(turns):
        text += f"[Round {number}]\n问：{turn.query}\n答："
        if turn.reply is not None and turn.reply is not last:
            text += f"{turn.answer}\n"
    return text


def converts(config: dict[str, Any], folder: Path) -> bool:
    return "position_encoding_2d" in config or "inner_hidden_size" in config


def conversion(config: dict[str, Any], folder: Path | None = None) -> Conversion:
    refuse_quantized(config, "THUDM/chatglm-6b")
    refuse_unless(config, {"position_encoding_2d": (True, True), "pre_seq_len": (None, None)})
    native = {
        "architectures": ["ChatGLMForCausalLM"],
        "model_type": "weitiao_chatglm",
        "vocab_size": require(config, "vocab_size"),
        "hidden_size": require(config, "hidden_size"),
        "intermediate_size": require(config, "inner_hidden_size"),
        "num_hidden_layers": require(config, "num_layers"),
        "num_attention_heads": require(config, "num_attention_heads"),
        "max_position_embeddings": require(config, "max_sequence_length"),
        "layer_norm_eps": require(config, "layernorm_epsilon"),
        "pad_token_id": require(config, "pad_token_id"),
        "bos_token_id": require(config, "bos_token_id"),
        "eos_token_id": require(config, "eos_token_id"),
        "mask_token_id": require(config, "mask_token_id"),
        "gmask_token_id": require(config, "gmask_token_id"),
        "tie_word_embeddings": False,
        "use_cache": True,
        **({"dtype": config["torch_dtype"]} if config.get("torch_dtype") else {}),
    }
    rules: list[Rule] = [
        (r"transformer\.word_embeddings\.weight", "model.embed_tokens.weight"),
        (
            _LAYER + r"attention\.(query_key_value|dense)\.(weight|bias)",
            "model.layers.{0}.self_attn.{1}.{2}",
        ),
        (_LAYER + r"mlp\.(dense_h_to_4h|dense_4h_to_h)\.(weight|bias)", "model.layers.{0}.mlp.{1}.{2}"),
        (_LAYER + r"(input|post_attention)_layernorm\.(weight|bias)", "model.layers.{0}.{1}_layernorm.{2}"),
        (r"transformer\.final_layernorm\.(weight|bias)", "model.norm.{0}"),
        (r"lm_head\.weight", "lm_head.weight"),
        (_LAYER + r"attention\.rotary_emb\.inv_freq", None),  # computed
    ]
    generation = {key: native[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return Conversion(native, renaming(rules, "THUDM/chatglm-6b"), generation)


def write_tokenizer(source: Path, target: Path, config: dict[str, Any]) -> None:
    from tasks.models.tokenizers import chatglm

    chatglm.write(source, target)
