"""Models of a given shape with random weights, made on the device: for measurements of models that are not at hand."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

#: ChatGLM3-6B as its native class describes it.
CHATGLM3_6B = {
    "vocab_size": 65024,
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "num_hidden_layers": 28,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "attention_bias": True,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
_TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def in_place(values: Mapping[str, Any]) -> AbstractContextManager[Any]:
    """Where a shape is asked for, the model is made on the device in place of being read."""
    if not values.get("shape"):
        return nullcontext()
    from unittest import mock

    from tasks.models import loading

    def load_base(folder: Path, device: str, dtype: str, **_: Any) -> Any:
        return random_model(values, dtype)

    return mock.patch.object(loading, "load_base", load_base)


def load_model(values: Mapping[str, Any]) -> Any:
    """The base model on its device, in the type that its frozen weights have."""
    from tasks.models import loading

    dtype = _TYPES[values["precision"]]
    if values.get("shape"):
        return random_model(values, dtype)
    return loading.move(loading.load_base(Path(values["model"]), "cpu", dtype), values["device"])


def random_model(values: Mapping[str, Any], dtype: str) -> Any:
    """A model of the asked shape with random weights, made on the device."""
    import torch
    from transformers import GlmConfig, GlmForCausalLM, set_seed

    set_seed(values["seed"])
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(values["device"]):
            return GlmForCausalLM(GlmConfig(**values["shape"]))
    finally:
        torch.set_default_dtype(before)
