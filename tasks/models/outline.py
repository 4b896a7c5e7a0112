"""The names and shapes of a native model's parameters, read without torch: from headers, else from its config.json.

What a method trains and what training holds in memory follow from them exactly. A folder of safetensors says it itself;
for torch's files, and for hub forms before they are converted, config.json does, for the architectures known here.

Shapes: d hidden size, i inner size of the feed-forward part, a all query heads, k all key heads, v vocabulary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.models import families, resolving
from tasks.models.importing import tensors

Tensors = dict[str, tuple[int, ...]]
_INDEX = re.compile(r"\.(\d+)\.")
#: Parts of a layer's experts: a token passes through some of them only.
_EXPERTS = re.compile(r"\.experts?\b")
_LLAMA = ("llama", "mistral", "qwen2", "qwen3", "weitiao_baichuan", "internlm3", "gemma", "gemma2", "gemma3_text")
_GLM = ("glm", "glm4")
#: Types whose output layer is the embedding unless config.json says otherwise.
_TIED = ("gemma", "gemma2", "gemma3_text", "bloom", "falcon")


@dataclass(frozen=True)
class Linear:
    """A linear layer by its dotted name."""

    name: str
    inputs: int
    outputs: int

    @property
    def leaf(self) -> str:
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Outline:
    """A model's architecture.

    Attributes:
        tensors: name of a parameter -> its shape; a tied output layer is not listed.
        config: the native config.json, a text part's keys on top.
        family: name of the family's module, for the layers that its own code adapts.
        file_bytes: size of the weight files; 0 while there are none.
    """

    tensors: Tensors
    config: Mapping[str, Any]
    family: str
    file_bytes: int = 0

    @property
    def parameters(self) -> int:
        return sum(map(math.prod, self.tensors.values()))

    def number(self, *keys: str) -> int:
        """The first of the configuration's keys that is set, else 0."""
        return int(next((self.config[key] for key in keys if self.config.get(key)), 0))

    @property
    def hidden_size(self) -> int:
        return self.number("hidden_size", "n_embd", "dim_model")

    @property
    def vocabulary(self) -> int:
        return self.number("vocab_size")

    @property
    def heads(self) -> int:
        return self.number("num_attention_heads", "n_head", "num_heads")

    @property
    def head_size(self) -> int:
        return self.number("head_dim", "dim_head") or self.hidden_size // max(self.heads, 1)

    @property
    def key_value_heads(self) -> int:
        if self.config.get("model_type") == "falcon":
            return _falcon_groups(self.config)
        return self.number("num_key_value_heads") or self.heads

    @property
    def tied(self) -> bool:
        """The output layer is the embedding."""
        return self.head is None

    @property
    def head(self) -> str | None:
        """Name of the output layer's own weight; None where it is the embedding."""
        return next((n for n in self.tensors if n.rpartition(".")[0] in ("lm_head", "embed_out", "output")), None)

    @property
    def embedding(self) -> str | None:
        """Name of the embedding of tokens."""
        wide = [
            n for n, shape in self.tensors.items() if shape == (self.vocabulary, self.hidden_size) and n != self.head
        ]
        return wide[0] if wide else None

    @cached_property
    def layers(self) -> tuple[Tensors, ...]:
        """The parameters of each transformer layer."""
        lists: dict[str, dict[int, Tensors]] = {}
        for name, shape in self.tensors.items():
            if found := _INDEX.search(name):
                lists.setdefault(name[: found.start()], {}).setdefault(int(found[1]), {})[name] = shape
        if not lists:
            return ()
        largest = max(
            lists.values(), key=lambda one: sum(math.prod(s) for layer in one.values() for s in layer.values())
        )
        return tuple(largest[index] for index in sorted(largest))

    def linears(self, layer: int) -> list[Linear]:
        """The linear layers of one transformer layer; experts and their router are none that methods adapt."""
        found = self.layers[layer]
        routed = any(map(_EXPERTS.search, found))
        return [
            Linear(name.removesuffix(".weight"), shape[1], shape[0])
            for name, shape in found.items()
            if name.endswith(".weight")
            and len(shape) == 2
            and not _EXPERTS.search(name)
            and not (routed and name.endswith(".gate.weight"))
        ]

    @cached_property
    def active(self) -> tuple[int, ...]:
        """For each layer the numbers in its matrices that one token is multiplied with."""
        wanted = self.number("num_experts_per_tok", "num_experts_per_token")
        known = self.number("num_experts", "n_routed_experts", "num_local_experts")
        share = wanted / known if known else 1.0
        return tuple(
            sum(int(math.prod(s) * (share if _EXPERTS.search(n) else 1)) for n, s in layer.items() if len(s) > 1)
            for layer in self.layers
        )


def of_folder(folder: Path) -> Outline | None:
    """The outline of a native folder; None where neither its files nor its architecture tell.

    Raises:
        ModelError: a file cannot be read.
    """
    config = resolving.read_json(folder / "config.json")
    files = resolving.weight_files(folder)
    # by its configuration alone, as the methods tell it from a loaded model
    name, size = families.of_config(config), sum(file.stat().st_size for file in files)
    if all(file.suffix == ".safetensors" for file in files):
        return _checked(Outline(_from_headers(files, config), _flat(config), name, size))
    made = of_config(config, name)
    return replace(made, file_bytes=size) if made is not None else None


def of_config(config: Mapping[str, Any], family: str | None = None) -> Outline | None:
    """The outline of a native config.json; None for an architecture that is not known here."""
    kind = str(config.get("model_type"))
    makers = {**dict.fromkeys(_LLAMA, _llama), **dict.fromkeys(_GLM, _glm)}
    makers |= {"weitiao_chatglm": _chatglm, "gpt_neox": _gpt_neox, "bloom": _bloom, "falcon": _falcon}
    if kind not in makers:
        return None
    try:
        made = dict(makers[kind](Outline({}, config, ""), config))
    except KeyError:
        return None
    return Outline(made, config, family or families.of_config(dict(config)))


def before_import(folder: Path, family: str) -> Outline | None:
    """The outline of what a hub folder becomes when ``family`` converts it."""
    made = families.named(family).conversion(resolving.read_json(folder / "config.json"), folder)
    return of_config(made.config, family)


def _checked(outline: Outline) -> Outline | None:
    return outline if outline.layers and outline.hidden_size else None


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A model that also sees has its text part's keys one level down."""
    return {**config, **(config.get("text_config") or {})}


def _from_headers(files: list[Path], config: Mapping[str, Any]) -> Tensors:
    found: Tensors = {}
    for file in files:
        found |= {name: tuple(value["shape"]) for name, value in tensors.read_header(file).items()}
    kind = str(config.get("model_type"))
    if _flat(config).get("tie_word_embeddings", kind in _TIED):
        found.pop("lm_head.weight", None)
    return {n: s for n, s in found.items() if not n.endswith(("rotary_emb.inv_freq", ".attention.bias", "masked_bias"))}


Parts = Iterator[tuple[str, tuple[int, ...]]]


def _linear(name: str, outputs: int, inputs: int, bias: bool = False) -> Parts:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _norm(name: str, size: int, bias: bool = False) -> Parts:
    yield f"{name}.weight", (size,)
    if bias:
        yield f"{name}.bias", (size,)


def _attention(o: Outline, layer: str, biased: bool, out_biased: bool) -> Parts:
    """The four matrices of an attention that names queries, keys and values apart."""
    d, a, k = o.hidden_size, o.heads * o.head_size, o.key_value_heads * o.head_size
    yield from _linear(f"{layer}.self_attn.q_proj", a, d, biased)
    yield from _linear(f"{layer}.self_attn.k_proj", k, d, biased)
    yield from _linear(f"{layer}.self_attn.v_proj", k, d, biased)
    yield from _linear(f"{layer}.self_attn.o_proj", d, a, out_biased)


def _llama(o: Outline, config: Mapping[str, Any]) -> Parts:
    kind = str(config["model_type"])
    d, i, v = o.hidden_size, int(config["intermediate_size"]), o.vocabulary
    biased = bool(config.get("attention_bias", config.get("qkv_bias", kind == "qwen2")))
    out_biased = bool(config.get("attention_bias", config.get("bias", False))) and kind != "qwen2"
    mlp_biased = bool(config.get("mlp_bias", config.get("bias", False)))
    norms = ["input_layernorm", "post_attention_layernorm"]
    if kind in ("gemma2", "gemma3_text"):
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    yield "model.embed_tokens.weight", (v, d)
    for n in range(o.number("num_hidden_layers")):
        layer = f"model.layers.{n}"
        yield from _attention(o, layer, biased, out_biased)
        if kind in ("qwen3", "gemma3_text"):
            yield from _norm(f"{layer}.self_attn.q_norm", o.head_size)
            yield from _norm(f"{layer}.self_attn.k_norm", o.head_size)
        yield from _linear(f"{layer}.mlp.gate_proj", i, d, mlp_biased)
        yield from _linear(f"{layer}.mlp.up_proj", i, d, mlp_biased)
        yield from _linear(f"{layer}.mlp.down_proj", d, i, mlp_biased)
        for name in norms:
            yield from _norm(f"{layer}.{name}", d)
    yield from _norm("model.norm", d)
    if not config.get("tie_word_embeddings", kind in _TIED):
        yield "lm_head.weight", (v, d)


def _glm(o: Outline, config: Mapping[str, Any]) -> Parts:
    d, i, v = o.hidden_size, int(config["intermediate_size"]), o.vocabulary
    biased = bool(config.get("attention_bias"))
    norms = ["input_layernorm", "post_attention_layernorm"]
    if config["model_type"] == "glm4":
        norms += ["post_self_attn_layernorm", "post_mlp_layernorm"]
    yield "model.embed_tokens.weight", (v, d)
    for n in range(o.number("num_hidden_layers")):
        layer = f"model.layers.{n}"
        yield from _attention(o, layer, biased, False)
        yield from _linear(f"{layer}.mlp.gate_up_proj", 2 * i, d)
        yield from _linear(f"{layer}.mlp.down_proj", d, i)
        for name in norms:
            yield from _norm(f"{layer}.{name}", d)
    yield from _norm("model.norm", d)
    if not config.get("tie_word_embeddings"):
        yield "lm_head.weight", (v, d)


def _fused(
    o: Outline,
    list_name: str,
    attention: str,
    widths: tuple[int, int],
    norms: tuple[str, ...],
    bias: bool,
) -> Parts:
    """Layers whose query, key and value are one matrix, with a plain feed-forward part; ``widths`` are its and i."""
    d, (qkv, i) = o.hidden_size, widths
    for n in range(o.number("num_hidden_layers", "n_layer")):
        layer = f"{list_name}.{n}"
        yield from _linear(f"{layer}.{attention}.query_key_value", qkv, d, bias)
        yield from _linear(f"{layer}.{attention}.dense", d, o.heads * o.head_size, bias)
        yield from _linear(f"{layer}.mlp.dense_h_to_4h", i, d, bias)
        yield from _linear(f"{layer}.mlp.dense_4h_to_h", d, i, bias)
        for name in norms:
            yield from _norm(f"{layer}.{name}", d, bias=True)


_TWO_NORMS = ("input_layernorm", "post_attention_layernorm")


def _chatglm(o: Outline, config: Mapping[str, Any]) -> Parts:
    d = o.hidden_size
    yield "model.embed_tokens.weight", (o.vocabulary, d)
    yield from _fused(o, "model.layers", "self_attn", (3 * d, int(config["intermediate_size"])), _TWO_NORMS, True)
    yield from _norm("model.norm", d, bias=True)
    yield "lm_head.weight", (o.vocabulary, d)


def _gpt_neox(o: Outline, config: Mapping[str, Any]) -> Parts:
    d, bias = o.hidden_size, bool(config.get("attention_bias", True))
    yield "gpt_neox.embed_in.weight", (o.vocabulary, d)
    yield from _fused(o, "gpt_neox.layers", "attention", (3 * d, int(config["intermediate_size"])), _TWO_NORMS, bias)
    yield from _norm("gpt_neox.final_layer_norm", d, bias=True)
    if not config.get("tie_word_embeddings"):
        yield "lm_head.weight", (o.vocabulary, d)


def _bloom(o: Outline, config: Mapping[str, Any]) -> Parts:
    d = o.hidden_size
    yield "transformer.word_embeddings.weight", (o.vocabulary, d)
    yield from _norm("transformer.word_embeddings_layernorm", d, bias=True)
    yield from _fused(o, "transformer.h", "self_attention", (3 * d, 4 * d), _TWO_NORMS, True)
    yield from _norm("transformer.ln_f", d, bias=True)


def _falcon(o: Outline, config: Mapping[str, Any]) -> Parts:
    d, bias = o.hidden_size, bool(config.get("bias"))
    queries_and_more = (o.heads + 2 * _falcon_groups(config)) * o.head_size
    if config.get("new_decoder_architecture"):
        norms: tuple[str, ...] = ("ln_attn", "ln_mlp")
    else:
        norms = ("input_layernorm",) if config.get("parallel_attn", True) else _TWO_NORMS
    yield "transformer.word_embeddings.weight", (o.vocabulary, d)
    inner = int(config.get("ffn_hidden_size") or 4 * d)
    yield from _fused(o, "transformer.h", "self_attention", (queries_and_more, inner), norms, bias)
    yield from _norm("transformer.ln_f", d, bias=True)


def _falcon_groups(config: Mapping[str, Any]) -> int:
    heads = int(config.get("num_attention_heads") or config.get("n_head") or 0)
    if config.get("new_decoder_architecture"):
        return int(config.get("num_kv_heads") or heads)
    return 1 if config.get("multi_query", True) else heads
