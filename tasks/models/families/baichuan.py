"""Baichuan 7B (LLaMA with a fused projection), 13B and Baichuan2 13B (ALiBi), Baichuan2 7B.

A base model gets plain text. A chat model has one reserved token before a user's text and one before a reply. Its
replies end with ``</s>``, but it sees earlier ones without: there the user's token ends them and is learned instead.

Source: baichuan-inc/Baichuan2-13B-Chat (generation_utils.py, generation_config.json) and the official fine-tuning code
of Baichuan2; the system text stands in front, without a token of its own.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.conversation import Message
from tasks.errors import ModelError
from tasks.models import templates
from tasks.models.families import _reserved
from tasks.models.families._family import Conversion, Tensors
from tasks.models.families._mapping import Rule, refuse_quantized, refuse_unless, renaming, require, rows
from tasks.models.rendering import Piece, Renderer, encode_text, stop_ids
from tasks.models.templates import full_text

#: Baichuan2's vocabulary: its output layer is normalised, the first generation's (64000 tokens) is not.
_BAICHUAN2_VOCABULARY = 125696
_LAYER = r"model\.layers\.(\d+)\."
#: Names of the reserved tokens in tokenizer_config.json -> their keys in generation_config.json.
_ROLES = {"user_token": "user_token_id", "assistant_token": "assistant_token_id"}

LORA_TARGETS = ("q_proj", "k_proj", "v_proj")
LAYERS = "model.layers"
REFUSED: dict[str, str] = {}


def recognises(config: dict[str, Any], special_tokens: Collection[str]) -> bool:
    return config.get("model_type") == "weitiao_baichuan"  # the others are plain LLaMA and say whose they are


def renderer(tokenizer: Any, template: str | None = None) -> Renderer:
    return templates.renderer_for(tokenizer, template, lambda: _own(tokenizer))


def _own(tokenizer: Any) -> Renderer:
    roles = _role_tokens(tokenizer)
    if roles is None:
        return templates.named(tokenizer, "plain")
    return Renderer(tokenizer, layout, stop_ids(tokenizer, roles[:1]))


def _role_tokens(tokenizer: Any) -> tuple[str, str] | None:
    """A chat model's reserved tokens (user, assistant)."""
    user, assistant = (getattr(tokenizer, name, None) for name in _ROLES)
    return None if user is None or assistant is None else (str(user), str(assistant))


def layout(tokenizer: Any, messages: Sequence[Message], generate: bool) -> Iterator[Piece]:
    """A chat model."""
    user, assistant = map(tokenizer.convert_tokens_to_ids, _role_tokens(tokenizer) or ())
    after_reply = False  # the user's token ends a learned reply: nothing else stands there
    for message in messages:
        if message.role == "assistant":
            yield [assistant], False
        elif message.role != "system":
            yield [user], after_reply
        yield encode_text(tokenizer, full_text(message)), message.learned
        after_reply = message.role == "assistant" and message.learned
    if generate:
        yield [assistant], False
    elif messages and messages[-1].role == "assistant":
        yield [tokenizer.eos_token_id], after_reply


def converts(config: dict[str, Any], folder: Path) -> bool:
    return config.get("model_type") == "baichuan"  # all other keys are LLaMA's


def conversion(config: dict[str, Any], folder: Path | None = None) -> Conversion:
    refuse_quantized(config, "baichuan-inc/Baichuan2-13B-Chat")
    refuse_unless(config, {"hidden_act": ("silu", "silu"), "tie_word_embeddings": (False, False)})
    # only the models with rotary positions name the length for which their tables are built
    alibi = "max_position_embeddings" not in config
    hidden, heads = int(require(config, "hidden_size")), int(require(config, "num_attention_heads"))
    native = {
        "architectures": ["BaichuanForCausalLM" if alibi else "LlamaForCausalLM"],
        "model_type": "weitiao_baichuan" if alibi else "llama",
        "vocab_size": require(config, "vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": require(config, "intermediate_size"),
        "num_hidden_layers": require(config, "num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "hidden_act": "silu",
        "rms_norm_eps": require(config, "rms_norm_eps"),
        "max_position_embeddings": config.get("max_position_embeddings") or require(config, "model_max_length"),
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "pad_token_id": config.get("pad_token_id"),
        "bos_token_id": config.get("bos_token_id"),
        "eos_token_id": require(config, "eos_token_id"),
        "use_cache": True,
        **({"dtype": config["torch_dtype"]} if config.get("torch_dtype") else {}),
    }

    def split(groups: tuple[str, ...], tensor: Any) -> Tensors:
        return rows(tensor, dict.fromkeys("qkv", hidden), f"model.layers.{groups[0]}.self_attn.{{}}_proj.weight")

    normalised = native["vocab_size"] == _BAICHUAN2_VOCABULARY or "z_loss_weight" in config
    rules: list[Rule] = [
        (_LAYER + r"self_attn\.W_pack\.weight", split),
        (r"lm_head\.weight", _normalised if normalised else "lm_head.weight"),
        (_LAYER + r"self_attn\.rotary_emb\.inv_freq", None),  # computed
        (r"(model\.embed_tokens\.weight|model\.norm\.weight)", "{0}"),
        (r"(model\.layers\.\d+\.(?:self_attn\.o_proj|mlp\.(?:gate|up|down)_proj)\.weight)", "{0}"),
        (r"(model\.layers\.\d+\.(?:input|post_attention)_layernorm\.weight)", "{0}"),
    ]
    generation = {key: native[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if folder is not None and (ids := _role_ids(folder)):
        generation["eos_token_id"] = [native["eos_token_id"], ids["user_token"]]
    assumed = ("the output layer is normalised once, as it is used; training changes it as a plain layer",)
    return Conversion(native, renaming(rules, "Baichuan"), generation, assumed if normalised else ())


def _normalised(groups: tuple[str, ...], tensor: Any) -> Tensors:
    """Baichuan2's output layer: rows of length 1, computed in float32."""
    import torch

    yield "lm_head.weight", torch.nn.functional.normalize(tensor.float(), dim=-1).to(tensor.dtype)


def write_tokenizer(source: Path, target: Path, config: dict[str, Any]) -> None:
    """The tokenizer; a chat model's reserved tokens get names in it, by which :func:`renderer` finds them."""
    from tasks.models.tokenizers import sentencepiece

    sentencepiece.write(source, target)
    ids = _role_ids(source)
    if ids is None:
        return
    pieces = _reserved.pieces(target)
    unknown = [name for name, number in ids.items() if number not in pieces]
    if unknown:
        raise ModelError(
            f"{source / 'generation_config.json'}: {_ROLES[unknown[0]]}={ids[unknown[0]]}: no such token; "
            "the file belongs to another model than tokenizer.model"
        )
    _reserved.name(target, {name: pieces[number] for name, number in ids.items()})


def _role_ids(folder: Path) -> dict[str, int] | None:
    """Ids of a chat model's reserved tokens by their names; None: a base model."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        ids = {name: value.get(key) for name, key in _ROLES.items()}
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{path}: not a generation configuration ({error})") from error
    return None if None in ids.values() else ids
