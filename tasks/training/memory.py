"""The memory that training needs, by component, from the model's outline: nothing is loaded.

What autograd keeps for the backward pass is counted operation by operation, as the model's layers and this project's
objective compute it: b rows of s tokens, t = b x s tokens at once.

Shapes: d hidden size, i inner size of the feed-forward part, a all query heads, k all key heads, v vocabulary, w bytes
of a number in the compute type.
Source: the approach of Korthikanti et al. 2022 (https://arxiv.org/abs/2205.05198), section 4; the terms are those that
torch 2.13 and transformers 5.23 keep, compared with measured peaks in tests/benchmarks/results/cpu/memory.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from tasks.models.outline import Linear, Outline
from tasks.training.trainable import LORA, Trained, trainable_parameters, trained

__all__ = ["MemoryEstimate", "Setting", "estimate", "trainable_parameters"]

_WIDTHS = {"fp32": 4, "bf16": 2, "fp16": 2}
#: Bytes of a weight that is quantised, with its constants.
_QUANTIZED = {"int8": 1.0 + 4 / 4096, "nf4": 0.5 + 1 / 64 + 4 / (64 * 256)}
#: Bytes of both moments of a parameter; 8-bit ones have a float32 scale for every 256.
_MOMENTS = {"adamw": 8.0, "adamw_8bit": 2 + 8 / 256, "paged_adamw_8bit": 2 + 8 / 256}
#: Learned tokens whose logits exist at one time: tasks.training.objective.CHUNK, which needs torch to be read.
CHUNK = 1024
#: Resident size of a training process on a CPU before it holds a model, and what its threads and kernels add.
_CPU_IMPORTS = 443 << 20
_CPU_RUNTIME = 95 << 20
#: mimalloc rounds sizes up to steps of an eighth: this share of the activations was added to them.
_ROUNDING = 0.12
#: glibc's heap keeps holes (see tasks.allocator): beside kept activations this share of them, else so many times what a
#: layer takes while it is computed anew. Blocks from 32 MiB on are mapped one by one and leave none.
_HOLES, _HOLES_PER_LAYER = 0.3, 3.0
_MAPPED_BYTES = 32 << 20
#: Of a CUDA process: its context and kernels, which its own counter of allocated memory leaves out.
_CUDA_CONTEXT = 600 << 20
#: Of the memory that torch reserves on a GPU this share is lost between blocks.
_FRAGMENTED = 0.05

#: Names of linear layers by what they read; those of one group read the same tensor.
_GROUPS = {
    "attention": ("q_proj", "k_proj", "v_proj", "query_key_value", "qkv_proj", "project_q", "project_k", "project_v"),
    "projection": ("o_proj", "dense", "attention_out", "out_proj"),
    "inner": ("gate_proj", "up_proj", "gate_up_proj", "dense_h_to_4h", "w_0", "w_1", "fc1"),
    "outer": ("down_proj", "dense_4h_to_h", "w_out", "fc2"),
}
_GROUP_OF = {leaf: group for group, leaves in _GROUPS.items() for leaf in leaves}
_GATED = ("gate_proj", "gate_up_proj", "w_0")
#: Architectures whose norms are torch's own, which keep their input only.
_NATIVE_NORMS = ("gpt_neox", "bloom", "falcon", "weitiao_chatglm")
#: Architectures whose attention holds the scores of all pairs of tokens.
_WITH_SCORES = ("bloom", "cpmant")


@dataclass(frozen=True)
class Setting:
    """How training computes, as far as its memory depends on it.

    Attributes:
        tokens: computed at once, padding included; length: of the longest row among them.
        learned: tokens among them whose logits are needed; None for all.
        checkpointing: "none", "full" or "selective".
        accumulates: a step has several micro-batches, so that gradients are there while the next one is computed.
        allocator: of a CPU's memory: "mimalloc" or "system".
    """

    tokens: int
    length: int
    learned: int | None = None
    precision: str = "fp32"
    quantization: str = "none"
    checkpointing: str = "none"
    optimizer: str = "adamw"
    strategy: str = "ddp"
    offload: bool = False
    processes: int = 1
    device: str = "cpu"
    packed: bool = True
    accumulates: bool = True
    allocator: str = "system"

    @property
    def width(self) -> int:
        return _WIDTHS[self.precision]


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one training process.

    Attributes:
        weights, gradients, optimizer: of parameters; activations: kept for the backward pass; logits: of the loss.
        work: of the operations that are running; holes: that the allocator cannot use; fixed: libraries.
        loading: peak while the model is loaded.
        reserve: that must be free besides, though the process does not count it as its own.
        peak: the most at one time, as the process measures it: resident on a CPU, allocated on a GPU.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    work: int
    holes: int
    fixed: int
    loading: int
    reserve: int
    peak: int

    @property
    def needed(self) -> int:
        """Memory that the device must have."""
        return self.peak + self.reserve

    def components(self) -> dict[str, int]:
        """The parts by name; gradients and activations need not be there at the same time."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def estimate(outline: Outline, method: Mapping[str, Any], setting: Setting) -> MemoryEstimate:
    """Memory of one process that trains ``method``, with the keys of its configuration, on the model."""
    what = trained(outline, method)
    setting = _with_prompt(setting, what)
    weights, frozen = _weights(outline, what, setting)
    count = what.parameters(outline)
    sharded = setting.processes if setting.strategy in ("zero2", "zero3") else 1
    gradients = count * 4 // sharded
    # ZeRO holds its part of the parameters once more, as what its optimiser updates
    moments = _MOMENTS[setting.optimizer] + (4 if setting.strategy != "ddp" else 0)
    optimizer = 0 if setting.offload else int(count * moments) // sharded
    activations, work = _activations(outline, method, what, setting)
    logits = _logits(outline, what, setting)
    cpu = setting.device == "cpu"
    fixed = _CPU_IMPORTS + _CPU_RUNTIME if cpu else 0
    whole, _ = _activations(outline, method, what, replace(setting, checkpointing="none"))
    holes = _holes(outline, setting, activations, whole, work) if cpu else 0
    held = weights + optimizer + fixed + holes
    # a forward pass, its loss and the start of its backward pass; then the end of the backward pass, and the update
    forward = held + activations + max(logits, work) + (gradients if setting.accumulates else 0)
    update = held + gradients + work
    loading = _CPU_IMPORTS + frozen if cpu else 0
    peak = max(forward, update, loading)
    return MemoryEstimate(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        logits=logits,
        work=work,
        holes=holes,
        fixed=fixed,
        loading=loading,
        reserve=0 if cpu else _CUDA_CONTEXT + int(peak * _FRAGMENTED),
        peak=peak,
    )


def _holes(outline: Outline, setting: Setting, kept: int, whole: int, work: int) -> int:
    """Bytes that a CPU's allocator holds beyond what is in use; ``whole``: what ``kept`` is without recomputation."""
    if setting.allocator == "mimalloc":
        return int(kept * _ROUNDING)
    hidden = setting.tokens * outline.hidden_size * setting.width
    inner = setting.tokens * max(_width_inside(outline), outline.hidden_size) * setting.width
    heap = ((hidden < _MAPPED_BYTES) + (inner < _MAPPED_BYTES)) / 2
    # computing anew leaves no more holes than keeping everything
    return int(heap * min(whole * _HOLES, math.inf if setting.checkpointing == "none" else work * _HOLES_PER_LAYER))


def _width_inside(outline: Outline) -> int:
    """The inner size of the feed-forward part."""
    return max((one.inputs for one in outline.linears(0) if _GROUP_OF.get(one.leaf) == "outer"), default=0)


def kept(outline: Outline, method: Mapping[str, Any], setting: Setting) -> int:
    """Bytes of the tensors that a forward pass leaves for the backward pass."""
    what = trained(outline, method)
    return _activations(outline, method, what, _with_prompt(setting, what))[0]


def _with_prompt(setting: Setting, what: Trained) -> Setting:
    """Virtual tokens in the text make every row longer."""
    if not what.in_text:
        return setting
    rows = -(-setting.tokens // setting.length)
    more = what.virtual_tokens
    return replace(setting, tokens=setting.tokens + rows * more, length=setting.length + more)


def _weights(outline: Outline, what: Trained, setting: Setting) -> tuple[int, int]:
    """Bytes of all weights while training, and of the files and weights while they are loaded."""
    sizes = {name: _product(shape) for name, shape in outline.tensors.items()}
    linear = {f"{one.name}.weight" for n in range(len(outline.layers)) for one in outline.linears(n)}
    quantized = _QUANTIZED.get(setting.quantization)
    base = trained_in_place = 0.0
    for name, size in sizes.items():
        wide = quantized if quantized is not None and name in linear else float(setting.width)
        if name in what.own:
            trained_in_place += size * 4
        else:
            base += size * wide
    mine = trained_in_place + 4 * (what.total(outline) - outline.parameters)
    # under half precision a product makes a copy of each trained weight in the compute type
    copies = 0 if setting.width == 4 else what.parameters(outline) * setting.width
    shared = setting.processes if setting.strategy == "zero3" else 1
    loaded = sum(sizes.values()) * setting.width
    stored = outline.file_bytes
    # files in the compute type are mapped, so that they are the weights; others are read beside them
    loading = loaded + (stored if abs(stored - loaded) > loaded // 100 else 0)
    return int((base + mine) / shared + copies), int(loading)


def _product(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


# --- activations ----------------------------------------------------------------------------------------------------


def _activations(outline: Outline, method: Mapping[str, Any], what: Trained, setting: Setting) -> tuple[int, int]:
    """Bytes kept from the forward pass, and the most that one layer's computation takes besides."""
    d, w, t = outline.hidden_size, setting.width, setting.tokens
    first = what.first_layer(outline)
    whole = [_layer(outline, n, method, what, setting) for n in range(first, len(outline.layers))]
    passing = max((_passing(outline, n, setting) for n in range(len(outline.layers))), default=0.0) * t
    # where all is trained, what the last norm multiplies and what it gives; rotary tables
    ends = t * (2 * d * 4 if outline.embedding in what.own else 0) + 8 * t * outline.head_size
    if setting.checkpointing == "none":
        # the last norm's input takes the place of the first layer's, which has no gradient
        return int(sum(whole) + ends), int(passing)
    kept = float((len(outline.layers) * w + 4) * t * d)
    if setting.checkpointing == "selective":
        kept += sum(_products(outline, n, method, what, setting) for n in range(len(outline.layers)))
    return int(kept + ends), int(max(whole, default=0.0) + passing)


def _layer(outline: Outline, n: int, method: Mapping[str, Any], what: Trained, setting: Setting) -> float:
    """Bytes that layer ``n`` keeps for its backward pass."""
    linears = outline.linears(n)
    w, t = setting.width, setting.tokens
    saved = {group: 0 for group in _GROUPS}
    for one in linears:
        if _reads(outline, one, what):
            group = _GROUP_OF.get(one.leaf, one.leaf)
            saved[group] = max(saved.get(group, 0), one.inputs)
    token = float(sum(saved.values())) * w + _norms(outline, n, what, w) + _inner(linears) * w
    token += _updates(linears, method, what.adapted[n] if what.adapted else frozenset(), setting)
    return token * t + _attention(outline, n, what, setting)


def _reads(outline: Outline, linear: Linear, what: Trained) -> bool:
    """Whether the layer's input is kept: its own weight, or its update's, is trained."""
    return f"{linear.name}.weight" in what.own or any(linear.name in layer for layer in what.adapted)


def _norms(outline: Outline, n: int, what: Trained, w: int) -> float:
    """Norms keep their input in float32; trained ones what they multiply too."""
    token = 0.0
    heads = {outline.head_size: (outline.heads, outline.key_value_heads)}
    names = [(name, s[0]) for name, s in outline.layers[n].items() if len(s) == 1 and name.endswith("norm.weight")]
    small = [size for _, size in names if size != outline.hidden_size]
    for index, size in enumerate(small):  # of queries and keys, head by head
        token += size * heads.get(size, (1, 1))[index % 2] * 4
    wide = [name for name, size in names if size == outline.hidden_size]
    # layers whose two parts stand side by side read one tensor
    read = (
        1 if outline.config.get("use_parallel_residual", outline.config.get("model_type") == "gpt_neox") else len(wide)
    )
    trained_ones = 0 if outline.config.get("model_type") in _NATIVE_NORMS else sum(name in what.own for name in wide)
    return token + outline.hidden_size * (read * 4 + trained_ones * w)


def _inner(linears: list[Linear]) -> int:
    """Numbers a token that the feed-forward part's activation keeps."""
    inner = sum(one.inputs for one in linears if _GROUP_OF.get(one.leaf) == "outer")
    # gate, what the activation makes of it, and up; else the activation's input
    return inner * (3 if any(one.leaf in _GATED for one in linears) else 1)


def _attention(outline: Outline, n: int, what: Trained, setting: Setting) -> float:
    """Bytes of queries, keys, values and the result, as the kernels keep them."""
    t, w, s = setting.tokens, setting.width, setting.length
    a, k = outline.heads * outline.head_size, outline.key_value_heads * outline.head_size
    fused = any(one.leaf in ("query_key_value", "qkv_proj") for one in outline.linears(n))
    # on a CPU, and behind a mask, keys and values are repeated for the query heads that share them
    repeated = a if setting.device == "cpu" or not setting.packed else k
    places = float(t)
    if what.virtual_tokens and not what.in_text:
        places += -(-t // s) * what.virtual_tokens  # every row has the prefix before its own keys
        repeated = repeated if setting.device == "cpu" else k
    values = 2 * t * a + 2 * places * repeated
    if fused and places == t:
        values += t * (a + 2 * k) - t * repeated  # the product stays whole: its last part is the values
    if outline.config.get("model_type") in _WITH_SCORES:
        return values * w + t * s * outline.heads * (4 + 2 * w)
    if setting.device == "cpu" and what.virtual_tokens and not what.in_text:
        values += places * s  # a mask as numbers for every row
    return values * w + t * outline.heads * 4


def _updates(linears: list[Linear], method: Mapping[str, Any], adapted: frozenset[str], setting: Setting) -> float:
    """Bytes a token that LoRA's updates keep beside their shared inputs."""
    if method["name"] not in LORA:
        return 0.0
    rank, dropout = int(method.get("r", 8)), float(method.get("lora_dropout", 0.0))
    plain = setting.quantization == "none" and not method.get("use_dora")
    token = 0.0
    for one in linears:
        if one.name not in adapted:
            continue
        token += rank * setting.width
        if dropout:
            # one byte of mask; PEFT's own layers keep the input once more, and on a CPU the mask as numbers
            own = 0 if plain else 4
            token += one.inputs * (1 + own + (3 if own and setting.device == "cpu" else 0))
        if method.get("use_dora"):
            token += 2 * one.outputs * setting.width
    return token


def _products(outline: Outline, n: int, method: Mapping[str, Any], what: Trained, setting: Setting) -> float:
    """Bytes that selective checkpointing keeps of a layer: the results of matrix products and of attention."""
    token = float(sum(one.outputs for one in outline.linears(n)) + outline.heads * outline.head_size)
    if what.adapted:
        rank = int(method.get("r", 8))
        token += sum(rank for one in outline.linears(n) if one.name in what.adapted[n])
    return (token * setting.width + outline.heads * 4) * setting.tokens


def _passing(outline: Outline, n: int, setting: Setting) -> float:
    """Bytes a token of the gradients and results that exist for a moment in a layer's backward pass."""
    linears = outline.linears(n)
    inner = sum(one.inputs for one in linears if _GROUP_OF.get(one.leaf) == "outer")
    return float(3 * inner + 2 * outline.hidden_size) * setting.width


def _logits(outline: Outline, what: Trained, setting: Setting) -> int:
    """Bytes of the loss: float32 logits and their logarithms for a chunk of learned tokens, hidden states for all."""
    learned = setting.tokens if setting.learned is None else min(setting.learned, setting.tokens)
    chunk = min(learned, CHUNK)
    head = outline.head or outline.embedding
    copies = (3 if head in what.own else 2) * 4 + (setting.width if setting.width < 4 else 0)
    return int(chunk * outline.vocabulary * copies + 2 * learned * outline.hidden_size * setting.width)
