"""LoRA adapters on the hub forms' fused layers, made into adapters on the native layers; exact.

A fused layer's rows are those of the native layers one after the other, and the update's rows are B's rows: each native
layer takes its rows of B and the whole of A. The number of trained values grows by the copies of A, the result does not
change.

Shapes: r rank, i input features, o output features.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.errors import ModelError
from tasks.models import loading
from tasks.models.adapters import peft_files
from tasks.models.adapters.peft_files import Adapter

_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
#: Hub form: (pattern of its layers, native layers, layer of the hub -> native layers whose rows it holds in turn).
_FORMS: tuple[tuple[str, str, Mapping[str, tuple[str, ...]]], ...] = (
    (  # ChatGLM2, ChatGLM3, CodeGeeX2, GLM-4
        r"transformer\.encoder\.layers\.(\d+)\.(.+)",
        "model.layers",
        {
            "self_attention.query_key_value": _QKV,
            "self_attention.dense": ("self_attn.o_proj",),
            "mlp.dense_h_to_4h": ("mlp.gate_up_proj",),
            "mlp.dense_4h_to_h": ("mlp.down_proj",),
        },
    ),
    (  # ChatGLM-6B: its native class keeps query_key_value fused
        r"transformer\.layers\.(\d+)\.(.+)",
        "model.layers",
        {
            "attention.query_key_value": ("self_attn.query_key_value",),
            "attention.dense": ("self_attn.dense",),
            "mlp.dense_h_to_4h": ("mlp.dense_h_to_4h",),
            "mlp.dense_4h_to_h": ("mlp.dense_4h_to_h",),
        },
    ),
    (  # Baichuan, and LLaMA
        r"model\.layers\.(\d+)\.(.+)",
        "model.layers",
        {
            "self_attn.W_pack": _QKV,
            **{name: (name,) for name in (*_QKV, "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")},
        },
    ),
)


def convert(source: Path, base: Path, model: Any, target: Path) -> dict[str, Any]:
    """Write the adapter in ``source`` as a LoRA checkpoint of this project.

    Args:
        model: the native base model, on the meta device.

    Raises:
        ModelError: it is of a kind that has no exact native form, or does not fit the base.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    adapter = peft_files.read(source)
    if adapter.copies:
        raise ModelError(
            f"{adapter.weights}: holds a full copy of {sorted(adapter.copies)[0]} (modules_to_save): merge it with "
            "python -m flows.convert chinese_llama where the base is LLaMA; other bases are not supported"
        )
    tensors = dict(_converted(adapter, model))
    targets = _targets({name.rpartition(".lora_")[0] for name in tensors}, model)
    config = adapter.config
    r, dropout = int(config["r"]), float(config.get("lora_dropout") or 0.0)
    LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(base),
        r=r,
        lora_alpha=config["lora_alpha"],
        lora_dropout=dropout,
        use_rslora=bool(config.get("use_rslora")),
        target_modules=targets,
        inference_mode=True,
    ).save_pretrained(target)
    save_file(
        {f"base_model.model.{name}": tensor for name, tensor in tensors.items()},
        target / peft_files.WEIGHTS[0],
        metadata={"format": "pt"},
    )
    method = {
        "name": "lora",
        "r": r,
        "lora_alpha": config["lora_alpha"],
        "lora_dropout": dropout,
        "target_modules": targets,
    }
    # "": the base was not hashed; its place is what counts when the adapter is loaded
    loading.describe(target, method=method, base=base, base_fingerprint="", step=0)
    return {"kind": "lora", "modules": [len(adapter.pairs), len(tensors) // 2], "target_modules": targets}


def _converted(adapter: Adapter, model: Any) -> Iterator[tuple[str, Any]]:
    """The native tensors, ``MODULE.lora_A.weight`` [r, i] and ``MODULE.lora_B.weight`` [o, r]."""
    layers = dict(model.named_modules())
    with adapter.opened() as read:
        for module, pair in adapter.pairs.items():
            native = _native(adapter, module)
            missing = [name for name in native if name not in layers]
            if missing:
                raise ModelError(
                    f"{adapter.weights}: {module} becomes {missing[0]}, which {type(model).__name__} does not have: "
                    "base is another model than the adapter's"
                )
            rows, inner = [layers[name].out_features for name in native], layers[native[0]].in_features
            if (pair.b.shape[0], pair.a.shape[1]) != (sum(rows), inner):
                raise ModelError(
                    f"{adapter.weights}: {module} is [{pair.b.shape[0]}, {pair.a.shape[1]}], the base's "
                    f"{' + '.join(native)} [{' + '.join(map(str, rows))}, {inner}]: base is another model"
                )
            a, parts = read(pair.a), read(pair.b).split(rows)
            for name, b in zip(native, parts, strict=True):
                yield f"{name}.lora_A.weight", a.clone()  # a file holds no tensor under two names
                yield f"{name}.lora_B.weight", b.contiguous()


def _native(adapter: Adapter, module: str) -> list[str]:
    """The native layers of one of the hub's."""
    for pattern, native, names in _FORMS:
        found = re.fullmatch(pattern, module)
        if found and found[2] in names:
            return [f"{native}.{found[1]}.{name}" for name in names[found[2]]]
    known = sorted({name.rpartition(".")[2] for _, _, names in _FORMS for name in names})
    raise ModelError(f"{adapter.weights}: {module}: not a layer that can be converted; known: {', '.join(known)}")


def _targets(modules: set[str], model: Any) -> list[str]:
    """How ``target_modules`` says which layers are updated: by last names where all of those are, else in full."""
    short = {name.rpartition(".")[2] for name in modules}
    every = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in short}
    return sorted(short if every == modules else modules)
