"""Falcon: native, or with the configuration of its first publication (RefinedWeb, RefinedWebModel).

Only the configuration's names changed between the two; the weights are the same. Dialogues follow the tokenizer's own
chat template where there is one, else ``User: ...`` and ``Assistant: ...`` with an empty line between, the form that
the instruct models were published with.

Source: tiiuae/falcon-7b-instruct and falcon-40b (configuration_RW.py, modelling_RW.py, tokenizer_config.json).
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.conversation import Message
from tasks.errors import ModelError
from tasks.models import chat_template, spelling, templates
from tasks.models.families._family import Conversion
from tasks.models.families._mapping import Rule, refuse_quantized, refuse_unless, renaming, require
from tasks.models.rendering import Piece, Renderer, stop_ids
from tasks.models.spelling import Span
from tasks.models.templates import full_text

_NAMES = {"system": "System", "user": "User", "assistant": "Assistant", "observation": "User"}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

LORA_TARGETS = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
LAYERS = "transformer.h"
REFUSED: dict[str, str] = {}  # no method is known to fail


def recognises(config: dict[str, Any], special_tokens: Collection[str]) -> bool:
    return config.get("model_type") == "falcon"


def renderer(tokenizer: Any, template: str | None = None) -> Renderer:
    return templates.renderer_for(tokenizer, template, lambda: _own(tokenizer))


def _own(tokenizer: Any) -> Renderer:
    if getattr(tokenizer, "chat_template", None):
        return chat_template.renderer(tokenizer, default="plain")
    return Renderer(tokenizer, layout, stop_ids(tokenizer), lead=" ")


def layout(tokenizer: Any, messages: Sequence[Message], generate: bool) -> Iterator[Piece]:
    return spelling.of(tokenizer).pieces(_spans(str(tokenizer.eos_token), messages, generate))


def _spans(end: str, messages: Sequence[Message], generate: bool) -> Iterator[Span]:
    for message in messages:
        learned, reply = message.learned, message.role == "assistant"
        yield Span(f"{_NAMES[message.role]}:")
        # the space belongs to the reply's first token, which the model makes
        yield Span(f" {full_text(message)}", learned=learned, starts_reply=reply)
        yield Span(end, own=True, learned=learned) if reply else Span("\n\n")
    if generate:
        yield Span("Assistant:")


def converts(config: dict[str, Any], folder: Path) -> bool:
    return config.get("model_type") in ("RefinedWeb", "RefinedWebModel")


def conversion(config: dict[str, Any], folder: Path | None = None) -> Conversion:
    refuse_quantized(config, "the model in 16 bits")
    refuse_unless(config, {"apply_residual_connection_post_layernorm": (False, False)})
    grouped = "n_head_kv" in config  # 40B: groups of queries share a key and a value
    native = {
        "architectures": ["FalconForCausalLM"],
        "model_type": "falcon",
        "vocab_size": require(config, "vocab_size"),
        "hidden_size": config.get("hidden_size") or require(config, "n_embed"),
        "num_hidden_layers": require(config, "n_layer"),
        "num_attention_heads": require(config, "n_head"),
        "new_decoder_architecture": grouped,
        "num_kv_heads": config["n_head_kv"] if grouped else None,
        "multi_query": bool(config.get("multi_query", grouped)),
        "parallel_attn": bool(config.get("parallel_attn", grouped)),
        "bias": bool(config.get("bias", False)),
        "alibi": bool(config.get("alibi", False)),
        "layer_norm_epsilon": config.get("layer_norm_epsilon", 1e-5),
        "hidden_dropout": config.get("hidden_dropout", 0.0),
        "attention_dropout": config.get("attention_dropout", 0.0),
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": True,
        "bos_token_id": config.get("bos_token_id"),
        "eos_token_id": require(config, "eos_token_id"),
        "pad_token_id": config.get("pad_token_id"),
        "use_cache": True,
        **({"dtype": config["torch_dtype"]} if config.get("torch_dtype") else {}),
    }
    rules: list[Rule] = [
        (r"(transformer\.word_embeddings\.weight)", "{0}"),
        (r"lm_head\.weight", None),  # the embedding once more
        (r"(transformer\.h\.\d+\.self_attention\.(?:query_key_value|dense)\.(?:weight|bias))", "{0}"),
        (r"(transformer\.h\.\d+\.mlp\.(?:dense_h_to_4h|dense_4h_to_h)\.(?:weight|bias))", "{0}"),
        (r"(transformer\.h\.\d+\.(?:input_layernorm|post_attention_layernorm|ln_attn|ln_mlp)\.(?:weight|bias))", "{0}"),
        (r"(transformer\.ln_f\.(?:weight|bias))", "{0}"),
        (r"transformer\.h\.\d+\.self_attention\.(?:maybe_rotary|rotary)\.inv_freq", None),  # computed
    ]
    generation = {key: native[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return Conversion(native, renaming(rules, "Falcon"), generation)


def write_tokenizer(source: Path, target: Path, config: dict[str, Any]) -> None:
    """Falcon was published with a fast tokenizer: its files are taken as they are."""
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
        elif name == "tokenizer.json":
            raise ModelError(f"{source / name}: missing; download the tokenizer's files too")
