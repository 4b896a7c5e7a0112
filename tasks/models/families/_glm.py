"""ChatGLM2, ChatGLM3 and GLM-4 in the hub's first form -> ``GlmForCausalLM``, exactly; and which of the three it is.

Also the turns of a dialogue, which ChatGLM3 and GLM-4 write alike.

Source: the key map and its check against the original code are described in tests/unit/models/test_conversions.py;
sizes and defaults are those of THUDM's configuration_chatglm.py.

Shapes: o output features of a linear layer, H heads, G key-value groups, e head size.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from tasks.conversation import Message
from tasks.errors import ModelError
from tasks.models.families._family import Conversion, Tensors
from tasks.models.families._mapping import Rule, refuse_quantized, refuse_unless, renaming, require, rows
from tasks.models.rendering import Piece, encode_text

ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
ROPE_BASE = 10_000.0
#: Vocabulary of GLM-4, padded; ChatGLM2 and 3 have 65024.
GLM4_VOCABULARY = 151552
_LAYER = r"transformer\.encoder\.layers\.(\d+)\."

#: key -> (value where absent, the only one that GlmForCausalLM computes).
_NEEDED = {
    "rmsnorm": (True, True),
    "post_layer_norm": (True, True),
    "apply_residual_connection_post_layernorm": (False, False),
    "original_rope": (True, True),
    "add_bias_linear": (False, False),
    "multi_query_attention": (False, True),
    "fp32_residual_connection": (False, False),
    # dropout that the native class does not have; every published model has none
    "hidden_dropout": (0.0, 0.0),
}


def turns(tokenizer: Any, start: Sequence[str], messages: Sequence[Message]) -> Generator[Piece, None, bool]:
    """``start``, then per message its role token, metadata line and text; returns whether the next token is learned.

    The token after a learned reply is: it is how the model stops.
    """
    token = tokenizer.convert_tokens_to_ids
    yield [token(t) for t in start], False
    after_reply = False
    for message in messages:
        yield [token(f"<|{message.role}|>")], after_reply
        yield encode_text(tokenizer, message.metadata + "\n") + encode_text(tokenizer, message.content), message.learned
        after_reply = message.learned
    return after_reply


def is_hub_form(config: dict[str, Any]) -> bool:
    """Whether a config.json is ChatGLM2's, ChatGLM3's or GLM-4's: their model_type is also the first version's."""
    return "padded_vocab_size" in config and "multi_query_attention" in config


def version(config: dict[str, Any], folder: Path | None) -> str | None:
    """Which of the families "chatglm2", "chatglm3" and "glm4" it is, by the files beside it; None: they do not tell.

    ChatGLM2 and ChatGLM3 have the same architecture and nearly the same files: their tokenizer's code, read as text,
    knows role tokens or does not; where it is missing, names tell.
    """
    tokenizer, code = _tokenizer_files(folder)
    if config.get("padded_vocab_size") == GLM4_VOCABULARY or "<sop>" in tokenizer or "ChatGLM4Tokenizer" in code:
        return "glm4"
    if "<|assistant|>" in tokenizer or "<|assistant|>" in code:
        return "chatglm3"
    if code:
        return "chatglm2"
    names = [str(config.get("_name_or_path", "")), _name_in(tokenizer), folder.name if folder else ""]
    for name in (name.lower().replace("-", "") for name in names):
        if "chatglm2" in name or "codegeex2" in name:
            return "chatglm2"
        if "chatglm3" in name:
            return "chatglm3"
    return None


def _tokenizer_files(folder: Path | None) -> tuple[str, str]:
    """The text of tokenizer_config.json and of the tokenizer's code, which is never run; empty where missing."""
    if folder is None:
        return "", ""
    files = [folder / "tokenizer_config.json", folder / "tokenization_chatglm.py"]
    config, code = (f.read_text(encoding="utf-8", errors="replace") if f.is_file() else "" for f in files)
    return config, code


def _name_in(tokenizer_config: str) -> str:
    try:
        value = json.loads(tokenizer_config or "{}")
    except ValueError:
        return ""  # the tokenizer's writer reports it
    return str(value.get("name_or_path", "")) if isinstance(value, dict) else ""


def _rope(ratio: float, interpolated: bool) -> dict[str, Any]:
    """Positions of the long-context models; the ratio is 16 in ChatGLM2-32k, 50 in ChatGLM3-32k, 500 in GLM-4."""
    if interpolated and ratio != 1:
        return {"rope_type": "linear", "factor": float(ratio), "rope_theta": ROPE_BASE}
    return {"rope_type": "default", "rope_theta": ROPE_BASE * ratio}


def conversion(
    config: dict[str, Any],
    *,
    full: str,
    eos: int | list[int],
    pad: int,
    interpolated: bool = False,
    assumed: tuple[str, ...] = (),
) -> Conversion:
    """The conversion to ``GlmForCausalLM``.

    Args:
        full: name of the model with whole weights, for the error about quantised ones.
        eos: end tokens of generation. pad: padding token where the configuration names none.
        interpolated: ``rope_ratio`` divides the positions, as in ChatGLM2's code; else it multiplies the base.

    Raises:
        ModelError: a setting that cannot be converted exactly.
    """
    refuse_quantized(config, full)
    if config.get("pre_seq_len"):
        raise ModelError(
            f"config.json: pre_seq_len={config['pre_seq_len']!r}: a P-Tuning v2 checkpoint, not a base model; import "
            "the base model and convert the prefix with python -m flows.convert"
        )
    refuse_unless(config, _NEEDED)
    head = int(require(config, "kv_channels"))
    heads, groups = int(require(config, "num_attention_heads")), int(require(config, "multi_query_group_num"))
    native = {
        "architectures": ["GlmForCausalLM"],
        "model_type": "glm",
        "vocab_size": require(config, "padded_vocab_size"),
        "hidden_size": require(config, "hidden_size"),
        "intermediate_size": require(config, "ffn_hidden_size"),
        "num_hidden_layers": require(config, "num_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": head,
        "hidden_act": "silu",
        "attention_bias": bool(config.get("add_qkv_bias", False)),
        "attention_dropout": config.get("attention_dropout", 0.0),
        "rms_norm_eps": require(config, "layernorm_epsilon"),
        "max_position_embeddings": require(config, "seq_length"),
        "rope_parameters": {**_rope(config.get("rope_ratio") or 1, interpolated), "partial_rotary_factor": 0.5},
        "tie_word_embeddings": False,
        "pad_token_id": pad if config.get("pad_token_id") is None else config["pad_token_id"],
        "eos_token_id": eos,
        "use_cache": True,
        **({"dtype": config["torch_dtype"]} if config.get("torch_dtype") else {}),
    }
    sizes = {"q": heads * head, "k": groups * head, "v": groups * head}

    def split(groups_: tuple[str, ...], tensor: Any) -> Tensors:
        layer, kind = groups_
        return rows(tensor, sizes, f"model.layers.{layer}.self_attn.{{}}_proj.{kind}")

    rules: list[Rule] = [
        (r"transformer\.embedding\.word_embeddings\.weight", "model.embed_tokens.weight"),
        (_LAYER + r"self_attention\.query_key_value\.(weight|bias)", split),
        (_LAYER + r"self_attention\.dense\.weight", "model.layers.{0}.self_attn.o_proj.weight"),
        # one matrix in both: its first half is gated by silu
        (_LAYER + r"mlp\.dense_h_to_4h\.weight", "model.layers.{0}.mlp.gate_up_proj.weight"),
        (_LAYER + r"mlp\.dense_4h_to_h\.weight", "model.layers.{0}.mlp.down_proj.weight"),
        (_LAYER + r"(input|post_attention)_layernorm\.weight", "model.layers.{0}.{1}_layernorm.weight"),
        (r"transformer\.encoder\.final_layernorm\.weight", "model.norm.weight"),
        (r"transformer\.output_layer\.weight", "lm_head.weight"),
        (r"transformer\.rotary_pos_emb\.inv_freq", None),  # computed
    ]
    generation = {"eos_token_id": eos, "pad_token_id": native["pad_token_id"]}
    return Conversion(native, renaming(rules, full), generation, assumed)
