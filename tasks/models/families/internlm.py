"""InternLM 1 and 2 (converted to LLaMA) and InternLM3 (native).

InternLM2 fuses a group's queries, key and value into one matrix; InternLM 1 is LLaMA with biases in attention. Chat
models of 2 and 3 use ChatML after ``<s>``, those of 1 ``<|User|>:`` and ``<|Bot|>:`` as text with ``<eoh>`` and
``<eoa>``; a base model gets plain text.

Source: internlm/internlm2-chat-7b (modeling_internlm2.py, tokenizer_config.json) and internlm/internlm-chat-7b
(modeling_internlm.py).

Shapes: o output features, i input features; G key-value groups of q queries each, e head size.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.conversation import Message
from tasks.errors import ModelError
from tasks.models import chat_template, spelling, templates
from tasks.models.families import _reserved
from tasks.models.families._family import Conversion, Tensors
from tasks.models.families._mapping import Rule, refuse_quantized, refuse_unless, renaming, require
from tasks.models.rendering import Piece, Renderer, stop_ids
from tasks.models.spelling import Span
from tasks.models.templates import full_text

#: Tokens that end a turn in the first version's chat models: their names in tokenizer_config.json.
_FIRST = {"heard_token": "<eoh>", "answered_token": "<eoa>"}

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LAYERS = "model.layers"
REFUSED: dict[str, str] = {}


def recognises(config: dict[str, Any], special_tokens: Collection[str]) -> bool:
    return config.get("model_type") == "internlm3"  # converted ones are LLaMA and say whose they are


def renderer(tokenizer: Any, template: str | None = None) -> Renderer:
    return templates.renderer_for(tokenizer, template, lambda: _own(tokenizer))


def _own(tokenizer: Any) -> Renderer:
    if getattr(tokenizer, "answered_token", None):
        return Renderer(tokenizer, layout, stop_ids(tokenizer, ["<eoa>"]))
    default = "chatml" if "<|im_start|>" in tokenizer.get_vocab() else "plain"
    return chat_template.renderer(tokenizer, default=default, stops=("<|im_end|>",))


def layout(tokenizer: Any, messages: Sequence[Message], generate: bool) -> Iterator[Piece]:
    """The first version's chat models."""
    speller = spelling.of(tokenizer)
    if tokenizer.bos_token_id is not None:
        yield [tokenizer.bos_token_id], False
    yield from speller.pieces(_spans(messages, generate))


def _spans(messages: Sequence[Message], generate: bool) -> Iterator[Span]:
    before = ""
    for message in messages:
        text = full_text(message)
        if message.role == "assistant":
            yield Span(f"{before}<|Bot|>:")
            yield Span(text, learned=message.learned, starts_reply=True)
            yield Span("<eoa>", own=True, learned=message.learned)
        elif message.role == "system":
            yield Span(f"{before}<|System|>:")
            yield Span(text, learned=message.learned)
        else:
            yield Span(f"{before}<|User|>:")
            yield Span(text, learned=message.learned)
            yield Span("<eoh>", own=True)
        before = "\n"
    if generate:
        yield Span(f"{before}<|Bot|>:")


def converts(config: dict[str, Any], folder: Path) -> bool:
    return config.get("model_type") in ("internlm", "internlm2")


def conversion(config: dict[str, Any], folder: Path | None = None) -> Conversion:
    refuse_quantized(config, "the model in 16 bits")
    refuse_unless(config, {"hidden_act": ("silu", "silu"), "tie_word_embeddings": (False, False)})
    heads, hidden = int(require(config, "num_attention_heads")), int(require(config, "hidden_size"))
    groups = int(config.get("num_key_value_heads") or heads)
    second = config.get("model_type") == "internlm2"
    native = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": require(config, "vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": require(config, "intermediate_size"),
        "num_hidden_layers": require(config, "num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "hidden_act": "silu",
        "rms_norm_eps": require(config, "rms_norm_eps"),
        "max_position_embeddings": require(config, "max_position_embeddings"),
        "rope_parameters": _rope(config),
        # in both versions on all four projections of attention and nowhere else
        "attention_bias": bool(config.get("bias", not second)),
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "pad_token_id": config.get("pad_token_id"),
        "bos_token_id": config.get("bos_token_id"),
        "eos_token_id": require(config, "eos_token_id"),
        "use_cache": True,
        **({"dtype": config["torch_dtype"]} if config.get("torch_dtype") else {}),
    }
    rules = _second_rules(groups, heads // groups, hidden // heads) if second else _first_rules()
    generation = {key: native[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return Conversion(native, renaming(rules, "InternLM2" if second else "InternLM"), generation)


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Both versions stretch positions as transformers' ``dynamic`` and ``linear`` do; the first under other names."""
    if "rotary" in config:  # InternLM 1, second revision
        rotary = config["rotary"]
        kind = {"origin": "default"}.get(rotary.get("type"), rotary.get("type"))
        base, factor = rotary.get("base", 10000), rotary.get("scaling_factor", 1.0)
        where = "rotary"
    else:
        scaling = config.get("rope_scaling") or {}
        kind, factor = scaling.get("type", "default"), scaling.get("factor", 1.0)
        base, where = config.get("rope_theta", 10000), "rope_scaling"
    if kind not in ("default", "dynamic", "linear"):
        raise ModelError(f"config.json: {where}={config[where]!r}: cannot be converted exactly; dynamic and linear can")
    scaled = {} if kind == "default" else {"factor": float(factor)}
    return {"rope_type": kind, "rope_theta": float(base), **scaled}


def _first_rules() -> list[Rule]:
    return [
        (r"(model\.(?:embed_tokens|norm)\.weight|lm_head\.weight)", "{0}"),
        (r"(model\.layers\.\d+\.self_attn\.[qkvo]_proj\.(?:weight|bias))", "{0}"),
        (r"(model\.layers\.\d+\.mlp\.(?:gate|up|down)_proj\.weight)", "{0}"),
        (r"(model\.layers\.\d+\.(?:input|post_attention)_layernorm\.weight)", "{0}"),
        (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq", None),  # computed
    ]


def _second_rules(groups: int, queries: int, head: int) -> list[Rule]:
    layer = r"model\.layers\.(\d+)\."

    def split(names: tuple[str, ...], tensor: Any) -> Tensors:
        """Rows [G * (q + 2) * e]: for each group its queries, its key, its value."""
        number, kind = names
        rows = groups * (queries + 2) * head
        if tensor.shape[0] != rows:
            raise ModelError(f"layer {number}: wqkv has {tensor.shape[0]} rows, config.json asks for {rows}")
        grouped = tensor.unflatten(0, (groups, queries + 2, head))
        for name, part in (("q", grouped[:, :-2]), ("k", grouped[:, -2]), ("v", grouped[:, -1])):
            yield f"model.layers.{number}.self_attn.{name}_proj.{kind}", part.reshape(-1, *tensor.shape[1:])

    return [
        (r"model\.tok_embeddings\.weight", "model.embed_tokens.weight"),
        (r"model\.norm\.weight", "model.norm.weight"),
        (r"output\.weight", "lm_head.weight"),
        (layer + r"attention\.wqkv\.(weight|bias)", split),
        (layer + r"attention\.wo\.(weight|bias)", "model.layers.{0}.self_attn.o_proj.{1}"),
        (layer + r"feed_forward\.w1\.weight", "model.layers.{0}.mlp.gate_proj.weight"),
        (layer + r"feed_forward\.w3\.weight", "model.layers.{0}.mlp.up_proj.weight"),
        (layer + r"feed_forward\.w2\.weight", "model.layers.{0}.mlp.down_proj.weight"),
        (layer + r"attention_norm\.weight", "model.layers.{0}.input_layernorm.weight"),
        (layer + r"ffn_norm\.weight", "model.layers.{0}.post_attention_layernorm.weight"),
        (layer + r"attention\.rotary_emb\.inv_freq", None),  # computed
    ]


def write_tokenizer(source: Path, target: Path, config: dict[str, Any]) -> None:
    from tasks.models.tokenizers import sentencepiece

    sentencepiece.write(source, target)
    if {*_FIRST.values()} <= {*_reserved.pieces(target).values()}:
        _reserved.name(target, _FIRST)
